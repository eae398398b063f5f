//! A machine of some size takes no more memory than a small one, at the source as well.

use std::fs;
use std::process::Command;

use smolfreeze::report::Snapshot;

use crate::desk::Desk;
use crate::host::finish;
use crate::standin::Kind;

#[test]
fn a_machine_of_400_megabytes_stays_within_256_mib() {
    let desk = Desk::new(Kind::Busybox);
    desk.fill(
        "srv",
        "for i in {1..16}; do mkdir $i; for j in {1..5}; do head -c 5000000 /dev/urandom >$i/$j; done; done",
    );
    let (report, peak, to) = (desk.host.path("report.json"), desk.host.path("peak"), desk.host.text("layout"));
    // GNU time tells the most that any process below it had, and smolvm's calls have little.
    let mut command = Command::new("/usr/bin/time");
    command.args(["-f", "%M", "-o"]).arg(&peak).arg(env!("CARGO_BIN_EXE_smolfreeze"));
    command.args(["freeze", "--quiet", "m1", "--to", &format!("oci:{to}"), "--report"]).arg(&report);
    command.env("SMOLFREEZE_SMOLVM", desk.machine.smolvm_path());
    let output = finish(desk.host.surround(&mut command).spawn().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kibibytes: u64 = fs::read_to_string(&peak).unwrap().trim().parse().unwrap();
    let report: Snapshot = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert!(report.tar_bytes > 400_000_000);
    assert!(kibibytes <= 256 << 10, "{} MiB resident", kibibytes >> 10);
    assert!(report.memory_bytes_max <= 256 << 20 && report.held_bytes_peak <= report.memory_bytes_max);
    assert!(report.scratch_bytes_peak <= report.scratch_bytes_max);
    desk.machine.assert_clean();
}
