//! What can't be frozen is refused in one line that names machine and cause.

use crate::desk::Desk;
use crate::standin::Kind;

#[test]
fn a_machine_that_cannot_be_frozen() {
    let desk = Desk::new(Kind::Busybox);
    let layout = desk.host.text("layout");
    let to = format!("oci:{layout}");
    let words = ["--to", &*to];
    let smolvm = desk.machine.smolvm_path().display().to_string();
    let line = desk.host.refuses(3, "'m9'", &["m9", "--smolvm", &smolvm, "--to", &to]);
    assert!(line.contains("no machine of this name") && line.contains("machine ls"), "{line}");
    let line = desk.host.refuses(3, "'m1'", &["m1", "--smolvm", "/nowhere/smolvm", "--to", &to]);
    assert!(line.contains("/nowhere/smolvm") && line.contains("No such file"), "{line}");
    desk.refuses(2, &["zstd"], &["--to", &to, "--guest-compression", "zstd"]);

    desk.machine.faults("cp-fail 1000000");
    let mut impatient = desk.command(&["--to", &to, "--quiet", "--pre-exec", "echo no >&2; exit 3"]);
    let line = crate::host::one_line(&impatient.output().unwrap());
    assert!(line.contains("'m1'") && line.contains("pre-exec") && line.contains("no"), "{line}");
    desk.machine.faults("");

    desk.machine.smolvm(&["machine", "stop", "--name", "m1"]);
    desk.refuses(3, &["it is stopped", "machine start --name m1"], &words);
    desk.machine.smolvm(&["machine", "start", "--name", "m1"]);
    desk.machine.assert_clean();
    desk.machine.sh("rm /bin/sh");
    desk.refuses(3, &["no shell"], &words);
    assert!(!std::path::Path::new(&layout).exists());
}

#[test]
fn what_a_command_line_must_not_say() {
    let desk = Desk::new(Kind::Busybox);
    let to = format!("oci:{}", desk.host.text("layout"));
    let smolvm = desk.machine.smolvm_path().display().to_string();
    let with = |words: &[&'static str]| [&["m1", "--smolvm", &smolvm, "--to", &to], words].concat().join("\n");
    for (subject, words) in [
        ("chunk size", vec!["--chunk-size", "1000"]),
        ("chunk size", vec!["--chunk-size", "2GiB"]),
        ("/srv", vec!["--include-mount", "/srv"]),
    ] {
        desk.host.refuses(2, subject, &with(&words).split('\n').collect::<Vec<_>>());
    }
    desk.host.refuses(2, "{name}", &["dir:/srv", "--to", "oci:/nowhere/{name}"]);
    desk.host.refuses(2, "m 1", &["m 1", "--to", &to]);
}
