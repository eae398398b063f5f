//! What a nightly freeze of a machine meets, as its user hears of it.

use std::time::{Duration, Instant};

use smolfreeze::report::Snapshot;

use crate::desk::Desk;
use crate::host::{Host, finish, one_line, until};
use crate::reader::released;
use crate::standin::{Kind, Standin};

#[test]
fn what_fails_after_a_complete_capture_is_said_and_the_image_kept() {
    let desk = Desk::new(Kind::Busybox);
    let (report, to) = (desk.host.text("report.json"), format!("oci:{}", desk.host.text("layout")));
    let began = Instant::now();
    for (command, reason) in [("echo no >&2; exit 3", "no"), ("sleep 600", "--exec-timeout")] {
        let words = ["--to", &to, "--quiet", "--report", &report, "--exec-timeout", "3s", "--post-exec", command];
        let output = desk.command(&words).output().unwrap();
        let line = one_line(&output);
        assert_eq!(output.status.code(), Some(7), "{line}");
        for part in ["the image is complete", "post-exec", "'m1'", reason] {
            assert!(line.contains(part), "'{part}' is not in: {line}");
        }
        let report: Snapshot = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        assert!(report.undone.len() == 1 && report.undone[0].contains("post-exec"), "{:?}", report.undone);
        assert!(report.summary().contains("undone      post-exec"), "{}", report.summary());
        desk.host.verify(&to);
        desk.machine.assert_clean();
    }
    assert!(began.elapsed() < Duration::from_secs(120), "an hour is the default, and 3 s were given");
    // Where the capture failed, that is the cause.
    let layout = desk.host.text("other");
    let words = ["--to", &format!("oci:{layout}"), "--pre-exec", "exit 4", "--post-exec", "exit 3"];
    desk.refuses(3, &["pre-exec 'exit 4'", "post-exec 'exit 3'"], &words);
}

#[test]
fn a_full_disk_under_our_own_reader_is_said() {
    let machine = Standin::with(Kind::Debian, &serde_json::json!({"var_tmp_bytes": 80 << 20}));
    let desk = released(Desk { host: Host::new(), machine });
    desk.machine.sh("mkdir -p /srv; dd if=/dev/urandom of=/srv/a bs=1M count=60 2>/dev/null");
    desk.machine.faults("cp-slow 1000 400");
    let to = format!("oci:{}", desk.host.text("layout"));
    let words = ["--to", &to, "--quiet", "--chunk-size", "1MiB", "--window", "8", "--exclude", "/usr"];
    let freeze = desk.command(&words).spawn().unwrap();
    let at_work = |entry: std::fs::DirEntry| ["reader", "c.1"].iter().all(|name| entry.path().join(name).exists());
    until("our reader is at work", || desk.machine.root().join("var/tmp").read_dir().unwrap().flatten().any(at_work));
    // Whatever becomes free is taken: the slots are there, and what tells of a chunk needs little.
    let fill = "while :; do cat /dev/zero >>/var/tmp/full; done 2>/dev/null";
    desk.machine.smolvm(&["machine", "exec", "--name", "m1", "-u", "0", "-d", "--", "sh", "-c", fill]);
    let output = finish(freeze);
    let line = one_line(&output);
    assert_eq!(output.status.code(), Some(3), "{line}");
    assert!(line.contains("'m1'") && line.contains("free space in the machine's /var/tmp"), "{line}");
    assert_eq!(desk.machine.sh("ls -A /var/tmp"), "full\n");
}
