//! Every way out of a run: hooks, locks, deadlines, interruptions, kills.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use smolfreeze::fleet::night::Standing;

use crate::desk::{Desk, LAYOUT, finish, is_done, outcome, until, why};
use crate::standin::Kind;

/// A layout for each machine, and a command after each run that says how it ended.
fn file(more: &str) -> String {
    format!(
        "{more}
[hooks]
after = \"echo $SMOLFREEZE_NIGHT $SMOLFREEZE_EXIT >>{{HOST}}after; test -e $SMOLFREEZE_OUTCOMES\"
{LAYOUT}[[policies]]
"
    )
}

fn signal(child: &std::process::Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_command_before_that_fails_ends_the_run_and_the_one_after_runs() {
    let desk = Desk::new(&[("a", Kind::Busybox)]);
    desk.write(&file("hooks.before = \"echo no disk >&2; exit 5\"").replace("\n[hooks]\nafter", "\nhooks.after"));
    let night = desk.night(11, &["--night", "n1"]);
    let (kind, text) = why(&night, "a", "disk");
    assert!(kind == "hook" && text.contains("exit code 5: no disk"), "{kind}: {text}");
    assert_eq!(fs::read_to_string(desk.host.path("after")).unwrap(), "n1 11\n");
    desk.write(&file("hooks.before = \"exit 0\"").replace("\n[hooks]\nafter", "\nhooks.after"));
    assert!(is_done(&desk.night(0, &["--night", "n1"]), "a", "disk"));
    // One that fails afterwards takes nothing back.
    desk.write(&file("").replace("test -e", "test ! -e"));
    let night = desk.night(7, &["--night", "n2"]);
    assert!(is_done(&night, "a", "disk") && night.runs[0].troubles[0].kind == "hook");
    // One that hangs is ended.
    desk.write(
        &file("hooks.before = \"sleep 1000\"\nhooks.limit = \"1s\"").replace("\n[hooks]\nafter", "\nhooks.after"),
    );
    assert!(why(&desk.night(11, &["--night", "n3"]), "a", "disk").1.contains("within 1s"));
}

#[test]
fn two_runs_do_not_meet() {
    let desk = Desk::new(&[("a", Kind::Busybox)]);
    desk.write(&file("hooks.before = \"touch {HOST}begun; sleep 3\"").replace("\n[hooks]\nafter", "\nhooks.after"));
    let first = desk.begin(&["--night", "n1"]);
    until("the first run begins", || desk.host.path("begun").exists());
    let second = desk.run(&["--night", "n1"]);
    assert_eq!(second.status.code(), Some(14));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("process {}", first.id())), "{said}");
    assert!(finish(first).status.success());
    assert_eq!(fs::read_to_string(desk.host.path("after")).unwrap(), "n1 0\n");
}

#[test]
fn deadlines_end_a_machine_and_a_run() {
    let desk = Desk::new(&[("a", Kind::Busybox), ("hangs", Kind::Busybox)]);
    desk.wrap("\"machine exec --name hangs \"*) exec sleep 1000;;");
    desk.write(&file("").replace("[defaults]\n", "[defaults]\ndeadline = \"4s\"\n"));
    let night = desk.night(10, &["--night", "n1"]);
    assert!(is_done(&night, "a", "disk"));
    let (kind, text) = why(&night, "hangs", "disk");
    assert!(kind == "deadline" && text.contains("its deadline of 4s"), "{kind}: {text}");
    desk.write(&file("concurrency = 1\ndeadline = \"6s\""));
    // What hangs took longest: it comes first, and the other one gets no turn.
    let night = desk.night(11, &["--night", "n2", "--force"]);
    assert_eq!(why(&night, "hangs", "disk").0, "deadline");
    let after = fs::read_to_string(desk.host.path("after")).unwrap();
    assert!(after.contains("n2 1"), "{after}");
    assert!(night.runs[0].troubles[0].text.contains("the run's deadline of 6s"), "{:?}", night.runs[0].troubles);
}

#[test]
fn an_interrupted_run_is_gone_on_with() {
    let desk = Desk::new(&[("a", Kind::Busybox), ("b", Kind::Busybox)]);
    desk.stop("b");
    desk.write(&(file("") + "stopped = \"start\"\n[policies.guest]\nbefore = \"sleep 5\"\n"));
    let run = desk.begin(&["--night", "n1"]);
    until("both have their turn", || {
        desk.is_running("b") && desk.nights().read("n1").unwrap().is_some_and(|night| night.outcomes.len() == 2)
    });
    std::thread::sleep(Duration::from_millis(500));
    signal(&run, Signal::TERM);
    assert_eq!(finish(run).status.code(), Some(143));
    let night = desk.remembered("n1");
    assert!(night.outcomes.iter().all(|outcome| outcome.state == Standing::Pending), "{:#?}", night.outcomes);
    assert_eq!(night.runs[0].exit, Some(130));
    assert_eq!(fs::read_to_string(desk.host.path("after")).unwrap(), "n1 130\n");
    assert!(!desk.is_running("b"), "it is stopped again");
    desk.machine("a").assert_clean();
    let night = desk.night(0, &["--night", "n1"]);
    assert!(is_done(&night, "a", "disk") && is_done(&night, "b", "disk"));
    assert_eq!(outcome(&night, "a", "disk").attempts, 2);
}

#[test]
fn a_killed_run_leaves_no_lock_and_no_machine_running() {
    let desk = Desk::new(&[("a", Kind::Busybox), ("b", Kind::Busybox)]);
    desk.stop("b");
    desk.write(&(file("") + "stopped = \"start\"\n[policies.guest]\nbefore = \"sleep 3\"\n"));
    let run = desk.begin(&["--night", "n1"]);
    until("b was started", || desk.is_running("b"));
    signal(&run, Signal::KILL);
    finish(run);
    assert_eq!(desk.remembered("n1").started, ["b"]);
    // Of another night, and of no more than this machine.
    let night = desk.night(0, &["--night", "n2", "--only", "a"]);
    assert!(is_done(&night, "a", "disk"));
    assert!(!desk.is_running("b"));
    assert!(desk.remembered("n1").started.is_empty());
    assert!(is_done(&desk.night(0, &["--night", "n1"]), "b", "disk"));
}
