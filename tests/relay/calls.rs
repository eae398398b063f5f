//! The table of calls, run against the stand-in; `SMOLFREEZE_CALLS_SMOLVM` and `SMOLFREEZE_CALLS_MACHINE` (and
//! `SMOLFREEZE_CALLS_KIND`, `i` or `b`) run it against the real smolvm and a running machine of its own.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::rig::{Kind, Rig};

const TABLE: &str = include_str!("../calls/table.tsv");

fn check(smolvm: &Path, kind: char, machine: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (number, line) in TABLE.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [kinds, exit, stdout, stderr, arguments] = columns[..] else { panic!("line {}: {line}", number + 1) };
        if !kinds.contains(['n', kind]) {
            continue;
        }
        let to = folder.path().join(number.to_string());
        let filled =
            |text: &str| text.replace("NAME", machine).replace("OUT", &to.to_string_lossy()).replace("\\s", " ");
        let output = Command::new(smolvm).args(arguments.split(' ').map(filled)).output().unwrap();
        let code = output.status.code().unwrap_or(-1).to_string();
        let holds =
            |printed: &[u8], wanted: &str| wanted == "-" || String::from_utf8_lossy(printed).contains(&filled(wanted));
        if code != exit || !holds(&output.stdout, stdout) || !holds(&output.stderr, stderr) {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            wrong.push(format!("{}: {arguments}: exit code {code}, {words}", number + 1));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_stand_in_answers_as_the_table_says() {
    for (kind, letter) in [(Kind::Debian, 'i'), (Kind::Bare, 'b')] {
        let rig = Rig::start(kind);
        check(rig.smolvm_path(), letter, rig.name);
    }
}

#[test]
#[ignore = "needs the real smolvm and a running machine"]
fn the_real_smolvm_answers_as_the_table_says() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("set {name}"));
    let kind = variable("SMOLFREEZE_CALLS_KIND").chars().next().unwrap();
    check(Path::new(&variable("SMOLFREEZE_CALLS_SMOLVM")), kind, &variable("SMOLFREEZE_CALLS_MACHINE"));
}

/// As the real one's: whatever kills the host's side of an exec, what runs in the guest ends too.
#[test]
fn a_killed_exec_takes_its_command_along() {
    let rig = Rig::start(Kind::Debian);
    let mark = rig.root().join("var/tmp/mark");
    let script = "while :; do date +%s%N >/var/tmp/mark; sleep 0.02; done";
    let mut exec = Command::new(rig.smolvm_path());
    let mut exec =
        exec.args(["machine", "exec", "--name", rig.name, "-u", "0", "--", "sh", "-c", script]).spawn().unwrap();
    let written = || std::fs::read_to_string(&mark).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(20);
    while written().is_empty() {
        assert!(Instant::now() < deadline, "it never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    exec.kill().unwrap();
    exec.wait().unwrap();
    loop {
        let before = written();
        std::thread::sleep(Duration::from_millis(500));
        if written() == before {
            return;
        }
        assert!(Instant::now() < deadline, "it runs on");
    }
}
