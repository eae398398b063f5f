//! Several freezes at once: of one machine only one after the other, of two machines both.

use crate::desk::Desk;
use crate::host::{finish, one_line, until};
use crate::standin::Kind;

fn busy(desk: &Desk) -> std::process::Child {
    desk.machine.sh("dd if=/dev/urandom of=/root/random bs=1M count=12");
    desk.machine.faults("cp-slow 1000 400");
    let to = format!("oci:{}", desk.host.text("first"));
    let first = desk.command(&["--to", &to, "--quiet", "--chunk-size", "1MiB"]).spawn().unwrap();
    until("the first one is at work", || desk.machine.spool_bytes() > 1 << 20);
    first
}

#[test]
fn a_second_freeze_of_a_machine_is_refused_or_waits() {
    let desk = Desk::new(Kind::Busybox);
    let first = busy(&desk);
    let to = format!("oci:{}", desk.host.text("second"));
    desk.refuses(3, &["another freeze", "--wait"], &["--to", &to]);
    assert!(!desk.host.path("second").exists());
    let waiting = desk.command(&["--to", &to, "--quiet", "--wait", "60s"]).spawn().unwrap();
    for freeze in [first, waiting] {
        let output = finish(freeze);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    desk.host.verify(&format!("oci:{}", desk.host.text("first")));
    desk.host.verify(&to);
    desk.machine.assert_clean();
}

#[test]
fn a_wait_that_is_interrupted_disturbs_nobody() {
    let desk = Desk::new(Kind::Busybox);
    let first = busy(&desk);
    let to = format!("oci:{}", desk.host.text("second"));
    let waiting = desk.command(&["--to", &to, "--quiet", "--wait", "60s"]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let pid = rustix::process::Pid::from_child(&waiting);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = finish(waiting);
    assert!(one_line(&output).contains("interrupted"));
    assert_eq!(output.status.code(), Some(130));
    let output = finish(first);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    desk.machine.assert_clean();
}

#[test]
fn two_machines_at_once_both_freeze() {
    let desk = Desk::new(Kind::Busybox);
    let other = desk.machine.beside("m2", Kind::Bare);
    let first = busy(&desk);
    let to = format!("oci:{}", desk.host.text("second"));
    let second = finish(desk.command_for("m2", &["--to", &to, "--quiet"]).spawn().unwrap());
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    let output = finish(first);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    desk.host.verify(&to);
    desk.machine.assert_clean();
    other.assert_clean();
}
