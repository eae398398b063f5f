//! What a run does, and what it leaves to the next one.

use smolfreeze::fleet::night::Standing;

use crate::desk::{Desk, LAYOUT, is_done, outcome, why};
use crate::notify::Listener;
use crate::standin::Kind;

#[test]
fn a_night_is_done_once_and_again_by_force() {
    let desk = Desk::new(&[("a", Kind::Busybox), ("b", Kind::Bare), ("c", Kind::Busybox), ("other", Kind::Busybox)]);
    desk.stop("c");
    desk.write(&format!(
        "unselected = \"warn\"\nnight_begins = \"00:00\"\n{LAYOUT}[[policies]]\nmachines = [\"[a-c]\"]\n"
    ));
    let first = desk.night(0, &["--night", "n1", "--only", "a"]);
    assert!(is_done(&first, "a", "disk") && first.outcome("b", "disk").is_none());
    let second = desk.night(0, &["--night", "n1"]);
    assert!(is_done(&second, "b", "disk"));
    assert_eq!(outcome(&second, "a", "disk").began, outcome(&first, "a", "disk").began, "done is done");
    let skipped = outcome(&second, "c", "disk");
    assert_eq!((skipped.state, &skipped.trouble.as_ref().unwrap().kind[..]), (Standing::Skipped, "stopped"));
    assert_eq!(second.unselected, ["other"]);
    assert_eq!(second.runs.len(), 2);
    let calls = desk.machines[0].calls();
    let third = desk.night(0, &["--night", "n1", "--only", "a", "--only", "b"]);
    assert_eq!(desk.machines[0].calls() - calls, 1, "the list alone");
    let forced = desk.night(0, &["--night", "n1", "--only", "a", "--force"]);
    assert_ne!(outcome(&forced, "a", "disk").began, outcome(&third, "a", "disk").began);
    assert_eq!(outcome(&forced, "a", "disk").attempts, 1);
    assert!(forced.earlier.is_empty(), "one name, one image");
    let made = outcome(&forced, "a", "disk").image.as_ref().unwrap();
    let inspected = desk.host.command(&["verify", &outcome(&forced, "a", "disk").name]).output().unwrap();
    assert!(inspected.status.success() && made.entries > 0, "{}", String::from_utf8_lossy(&inspected.stderr));
    // By default a night is a date, and two runs of one day are one night.
    let by_date = desk.night(0, &["--only", "a"]);
    assert_eq!(
        by_date.night,
        jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::system()).date().to_string()
    );
    assert_eq!(desk.night(12, &["--only", "nobody"]).outcomes.len(), 1);
}

#[test]
fn a_dry_run_says_what_in_which_order_and_changes_nothing() {
    let desk = Desk::new(&[("a", Kind::Busybox), ("b", Kind::Debian)]);
    desk.write(&format!("{LAYOUT}[[policies]]\n"));
    let dry = |words: &[&str]| {
        let output = desk.run(&[&["--dry-run", "--json", "--night", "n2"], words].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    assert!(dry(&[])["seconds"].is_null());
    assert!(desk.nights().history().unwrap().nights.is_empty());
    desk.night(0, &["--night", "n1"]);
    let told = dry(&[]);
    let names: Vec<_> =
        told["machines"].as_array().unwrap().iter().map(|one| one["machine"].as_str().unwrap()).collect();
    assert_eq!(names, ["b", "a"], "the longest first");
    assert!(
        told["seconds"].as_f64().unwrap() > 0.0 && told["machines"][0]["last_read_bytes"].as_u64().unwrap() > 1 << 20
    );
    let to = told["machines"][0]["to"][0]["name"].as_str().unwrap();
    assert!(to.ends_with("images/b:n2"), "{to}");
    assert_eq!(desk.nights().history().unwrap().nights.len(), 1);
    let printed = desk.run(&["--dry-run", "--night", "n2"]);
    assert!(String::from_utf8_lossy(&printed.stdout).contains("by the last time"));
}

#[test]
fn a_stopped_machine_is_started_and_stopped_again() {
    let desk = Desk::new(&[("a", Kind::Busybox), ("b", Kind::Busybox)]);
    desk.stop("b");
    desk.write(&format!("{LAYOUT}[[policies]]\nstopped = \"start\"\n"));
    let night = desk.night(0, &["--night", "n1"]);
    assert!(is_done(&night, "a", "disk") && is_done(&night, "b", "disk"));
    assert!(desk.is_running("a") && !desk.is_running("b"));
    assert!(night.started.is_empty());
    // A machine that dies in the middle of it is no machine that was skipped.
    desk.wrap(&format!(
        "\"machine exec --name a \"*) '{}' machine stop --name a;;",
        desk.machines[0].smolvm_path().display()
    ));
    let skip = LAYOUT.replace("attempts = 1", "attempts = 2\npause = \"100ms\"");
    desk.write(&format!("{skip}[[policies]]\n"));
    let died = desk.night(11, &["--night", "died", "--only", "a"]);
    assert_eq!(why(&died, "a", "disk").0, "stopped");
    desk.machine("a").smolvm(&["machine", "start", "--name", "a"]);
    desk.write(&format!("{LAYOUT}[[policies]]\nstopped = \"start\"\n"));
    // Also where the freeze fails, and where the start does.
    desk.wrap("\"machine exec --name b\"*) echo 'Error: agent operation failed: it is ill' >&2; exit 1;;");
    let night = desk.night(10, &["--night", "n2"]);
    let (kind, text) = why(&night, "b", "disk");
    assert!(kind == "source" && text.contains("it is ill"), "{kind}: {text}");
    assert!(!desk.is_running("b"));
    desk.wrap("\"machine start --name b\") echo 'Error: no boot progress for 30 seconds' >&2; exit 1;;");
    let text = why(&desk.night(10, &["--night", "n3"]), "b", "disk").1.to_owned();
    assert!(text.contains("starting machine 'b' failed: no boot progress"), "{text}");
}

#[test]
fn what_may_help_is_tried_again_and_what_can_not_is_not() {
    let desk = Desk::new(&[("a", Kind::Busybox), ("b", Kind::Busybox)]);
    let retries = "[defaults.retries]\nattempts = 3\npause = \"200ms\"\n";
    let file = LAYOUT.replace("[defaults.retries]\nattempts = 1\n", retries);
    desk.write(&format!(
        "{file}[[policies]]\n[policies.guest]\nbefore = \"test -e /tmp/ready || {{ touch /tmp/ready; exit 3; }}\"\n"
    ));
    let night = desk.night(0, &["--night", "n1"]);
    assert_eq!([outcome(&night, "a", "disk").attempts, outcome(&night, "b", "disk").attempts], [2, 2]);
    desk.write(&format!("{file}[[policies]]\n[policies.guest]\nbefore = \"exit 3\"\n"));
    let night = desk.night(11, &["--night", "n2"]);
    assert_eq!(outcome(&night, "a", "disk").attempts, 3);
    assert!(why(&night, "a", "disk").1.contains('3'));
    desk.write(&format!("{file}[[policies]]\n[policies.freeze]\ninclude_mounts = [\"/nowhere\"]\n"));
    let night = desk.night(11, &["--night", "n3"]);
    assert_eq!((why(&night, "b", "disk").0, outcome(&night, "b", "disk").attempts), ("usage", 1));
}

#[test]
fn smolvms_other_folder_is_asked() {
    let desk = Desk::new(&[("a", Kind::Busybox)]);
    let folder = desk.host.path("machines");
    // The stand-in takes its folder from its environment; its words come before all others.
    desk.wrap(&format!(
        "\"--state-dir {} \"*) shift 2;;\n*) echo 'Error: another folder' >&2; exit 1;;",
        folder.display()
    ));
    desk.write(&format!("smolvm.state_dir = \"{}\"\n{LAYOUT}[[policies]]\n", folder.display()));
    assert!(is_done(&desk.night(0, &["--night", "n1"]), "a", "disk"));
}

#[test]
fn what_was_read_in_full_although_nights_were_wanted_is_said() {
    let (mut desk, listener) = (Desk::new(&[("a", Kind::Busybox)]), Listener::start(&[200]));
    desk.write(&format!(
        "{LAYOUT}[[policies]]\nfreeze = {{ guest_reader = \"tar\" }}\n[notify]\nping = \"http://{}/p\"\n",
        listener.address
    ));
    let why = "the guest's own tools read";
    let night = desk.night(0, &["--night", "n1"]);
    assert_eq!(outcome(&night, "a", "disk").image.as_ref().unwrap().in_full.as_deref(), Some(why));
    let status = |desk: &Desk, more: &[&str]| {
        let file = desk.host.text("fleet.toml");
        let words = [&["fleet", "status", "--file", &file], more].concat();
        String::from_utf8(desk.host.command(&words).output().unwrap().stdout).unwrap()
    };
    let shown = status(&desk, &[]);
    assert!(shown.contains("all of it was read") && shown.contains(why), "{shown}");
    let json: serde_json::Value = serde_json::from_str(&status(&desk, &["--json"])).unwrap();
    assert_eq!(json["pairs"][0]["in_full"], why);
    let log = listener.asked().pop().unwrap().1;
    assert!(log.contains(why), "{log}");
    let printed = desk.run(&["--night", "n2"]);
    assert!(String::from_utf8_lossy(&printed.stdout).contains(why), "{printed:?}");
    // Where nobody wants nights, or they can be had, there is nothing to say.
    desk.write(&format!("{LAYOUT}[[policies]]\nfreeze = {{ guest_reader = \"tar\", known = false }}\n"));
    assert_eq!(outcome(&desk.night(0, &["--night", "n3"]), "a", "disk").image.as_ref().unwrap().in_full, None);
    desk = desk.released();
    desk.bring_libraries("a");
    desk.write(&format!("{LAYOUT}[[policies]]\n"));
    assert_eq!(outcome(&desk.night(0, &["--night", "n4"]), "a", "disk").image.as_ref().unwrap().in_full, None);
    assert!(!status(&desk, &[]).contains("all of it was read"));
}
