//! A machine at work: what changed while it was read is told, and does not break the freeze.

use std::io::Write;

use smolfreeze::progress::NoticeKind;
use smolfreeze::report::Snapshot;

use crate::desk::Desk;
use crate::host::{finish, until};
use crate::standin::Kind;

/// One chunk in the guest at a time, of little, and slowly: tar is in the middle of a file for a while.
const SLOWLY: [&str; 4] = ["--chunk-size", "1MiB", "--window", "1"];

#[test]
fn changes_are_named_in_summary_and_report() {
    for kind in [Kind::Debian, Kind::Busybox] {
        let desk = Desk::new(kind);
        desk.machine
            .sh("mkdir -p /srv; dd if=/dev/urandom of=/srv/a-log bs=1M count=12; echo x > /srv/gone; echo x > '/srv/gone too'");
        desk.machine.faults("cp-slow 12 100");
        let (report, to) = (desk.host.text("report.json"), format!("oci:{}", desk.host.text("layout")));
        let little = ["--exclude", "/usr", "--exclude", "/bin", "--exclude", "/etc"];
        let words =
            [&["--to", &to, "--report", &report][..], &SLOWLY, if kind == Kind::Debian { &little } else { &[] }];
        let freeze = desk.command(&words.concat()).spawn().unwrap();
        until("the listing is over", || desk.machine.spool_bytes() > 1 << 20);
        let root = desk.machine.root();
        for name in ["srv/gone", "srv/gone too"] {
            std::fs::remove_file(root.join(name)).unwrap();
        }
        let mut log = std::fs::File::options().append(true).open(root.join("srv/a-log")).unwrap();
        for _ in 0..30 {
            log.write_all(b"more\n").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let output = finish(freeze);
        assert!(output.status.success(), "{kind:?}: {}", String::from_utf8_lossy(&output.stderr));
        let report: Snapshot = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        let named = |kind| -> Vec<&str> {
            let of_kind = report.notices.named().iter().filter(|notice| notice.kind == kind);
            of_kind.map(|notice| notice.path.as_str()).collect()
        };
        assert_eq!(named(NoticeKind::Vanished), ["srv/gone", "srv/gone too"], "{kind:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("2 vanished before being read (srv/gone, srv/gone too)"), "{kind:?}: {said}");
        // busybox's tar does not look again.
        if kind == Kind::Debian {
            assert_eq!(named(NoticeKind::Changed), ["srv/a-log"]);
            assert!(said.contains("1 changed while being read (srv/a-log)"), "{said}");
        }
        desk.machine.assert_clean();
        desk.host.verify(&to);
    }
}
