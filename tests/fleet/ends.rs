//! Every way out of a run: hooks, locks, deadlines, interruptions, kills.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use smolfreeze::fleet::night::Standing;

use crate::desk::{Desk, LAYOUT, finish, is_done, outcome, until, why};
use crate::standin::Kind;
use crate::support::sidecar;

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

#[test]
fn a_machine_that_could_not_be_stopped_is_stopped_by_a_later_turn_or_run() {
    let desk = Desk::new(&[("a", Kind::Busybox), ("b", Kind::Busybox)]);
    desk.stop("b");
    let policy = format!("{}stopped = \"start\"\n", file(""));
    desk.write(&policy);
    let fails = "\"machine stop --name b\") echo 'Error: it is busy' >&2; exit 1;;";
    desk.wrap(fails);
    let night = desk.night(7, &["--night", "n1"]);
    assert!(is_done(&night, "b", "disk") && desk.is_running("b"));
    assert!(outcome(&night, "b", "disk").remarks[0].contains("stopping it failed: it is busy"), "{night:#?}");
    assert_eq!(night.started, ["b"]);
    // Whoever comes next tries, and says so where it fails again.
    let night = desk.night(7, &["--night", "n2", "--only", "a"]);
    assert!(night.runs[0].troubles[0].text.contains("stopping machine 'b' failed"), "{:?}", night.runs[0].troubles);
    assert_eq!((night.started, desk.remembered("n1").started.len()), (vec!["b".to_owned()], 0));
    desk.wrap("");
    let night = desk.night(0, &["--night", "n3", "--only", "a"]);
    assert!(night.started.is_empty() && desk.remembered("n2").started.is_empty() && !desk.is_running("b"));
    // In the same run it is the next turn that does.
    desk.wrap(&format!("\"machine stop --name b\") test -e {0} || {{ touch {0}; exit 1; }};;", desk.host.text("once")));
    let again = policy.replace("attempts = 1", "attempts = 2\npause = \"100ms\"");
    desk.write(&format!("{again}[policies.guest]\nbefore = \"test -e /tmp/b || {{ touch /tmp/b; exit 3; }}\"\n"));
    let night = desk.night(0, &["--night", "n4", "--only", "b"]);
    assert!(desk.host.path("once").exists() && outcome(&night, "b", "disk").attempts == 2);
    assert!(night.started.is_empty() && !desk.is_running("b"));
    // One that is gone, or stopped whatever smolvm says of it, is nobody's business any more.
    desk.wrap(fails);
    let mut night = desk.remembered("n4");
    night.started = vec!["gone".to_owned(), "b".to_owned()];
    desk.nights().write(&night).unwrap();
    desk.night(0, &["--night", "n5", "--only", "a"]);
    assert!(desk.remembered("n4").started.is_empty() && desk.remembered("n5").started.is_empty());
}

#[test]
fn what_follows_the_freezes_has_an_end() {
    let desk = Desk::new(&[("a", Kind::Busybox)]);
    let agent = sidecar::agent(&desk.host.path(".")).display().to_string();
    let file = |command: &str| {
        let file = file("after_limit = \"3s\"")
            .replace("[defaults.freeze]", &format!("[defaults.freeze]\nagent_rootfs = \"{agent}\""));
        format!("{file}[policies.drill]\nevery = \"1day\"\ncommand = \"{command}\"\n")
    };
    desk.write(&file("sleep 1000"));
    let night = desk.night(7, &["--night", "n1"]);
    assert!(is_done(&night, "a", "disk") && night.after.drills.is_empty(), "{night:#?}");
    let trouble = &night.runs[0].troubles[0];
    assert!(trouble.kind == "deadline" && trouble.text.contains("after_limit, which is 3s"), "{trouble:?}");
    assert_eq!(fs::read_to_string(desk.host.path("after")).unwrap(), "n1 7\n");
    let listed = desk.machines[0].smolvm(&["machine", "ls"]).stdout;
    assert!(!String::from_utf8_lossy(&listed).contains("smolfreeze-drill-"), "its machine is gone");
    // The next run goes on with it.
    desk.write(&file("true").replace("after_limit = \"3s\"", ""));
    let night = desk.night(0, &["--night", "n1"]);
    assert!(night.after.drills.len() == 1 && night.after.drills[0].trouble.is_none(), "{night:#?}");
}
