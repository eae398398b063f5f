//! One folder frozen in several ways in turns: each goes on from its own last image, and an alarm is one for all.

use std::fs;
use std::process::Output;

use serde_json::Value;

use crate::between::interrupted_by;
use crate::host::Host;
use crate::rule::{SETTLED, change_behind_the_rules_back, frozen, on_a_disk};

/// Freezes to where `words` say, and nowhere else: what was read of what.
fn try_freeze(host: &Host, words: &[&str]) -> (Output, Value) {
    let (output, report) = host.try_freeze_to(&[&["--reread", "0%"], words].concat());
    (output, report["night"].clone())
}

fn freeze(host: &Host, words: &[&str]) -> Value {
    let (output, night) = try_freeze(host, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    night
}

fn layout(host: &Host, name: &str) -> String {
    format!("oci:{}", host.path(name).display())
}

#[test]
fn ways_take_turns_without_reading_anew() {
    let host = frozen();
    let [one, other, third] = ["one", "other", "third"].map(|name| layout(&host, name));
    let (tagged, packing) = (format!("{one}:tomorrow"), host.packing());
    let packing: Vec<&str> = packing.iter().map(String::as_str).collect();
    let ways: [&[&str]; 4] = [
        &["--to", &one],
        &["--to", &one, "--exclude", "*.pyc"],
        &["--to", &one, "--to", &third, "--level", "2"],
        &packing,
    ];
    for way in ways {
        assert_eq!(freeze(&host, way)["why_all"], "it was not frozen in this way before", "{way:?}");
    }
    for round in 0..2 {
        std::thread::sleep(SETTLED);
        host.shell(&format!("echo new >tree/new{round}"));
        for way in ways {
            let night = freeze(&host, way);
            assert!(night["why_all"].is_null() && night["new"] == 1, "{way:?}: {night}");
            assert!(night["rewritten"] == 0 && night["layers_kept"].as_u64() >= Some(1), "{way:?}: {night}");
        }
    }
    // A name of every day is no other way, and where the entries are the same, what an output lacks is all that is read.
    let night = freeze(&host, &["--to", &tagged]);
    assert!(night["why_all"].is_null() && night["rewritten"] == 0, "{night}");
    let night = freeze(&host, &["--to", &other]);
    assert!(night["why_all"].is_null() && night["rewritten"] == night["listed"], "{night}");
}

/// The bound keeps those that were used last, and other sources are not counted among them.
#[test]
fn of_many_ways_the_last_ones_are_remembered() {
    let host = frozen();
    let to = layout(&host, "one");
    let of = |number: usize| freeze(&host, &["--to", &to, "--exclude", &format!("name-{number}")]);
    for number in 0..3 {
        of(number);
    }
    std::thread::sleep(SETTLED);
    assert!(of(0)["why_all"].is_null());
    of(3);
    of(4);
    let folder = host.index().parent().unwrap().to_owned();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 4);
    let name = host.index().file_name().unwrap().to_str().unwrap().to_owned();
    fs::write(folder.join(name.split('-').next().unwrap()), "of an earlier version").unwrap();
    assert!(of(0)["why_all"].is_null() && of(2)["why_all"].is_null());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 4, "what an earlier version has left is none of them");
    assert!(of(1)["why_all"].is_string());
}

/// What one way has passed over, all may have passed over.
#[test]
fn an_alarm_makes_each_way_read_everything_and_tell() {
    let host = on_a_disk();
    let [one, other, third] = ["one", "other", "third"].map(|name| layout(&host, name));
    let words = |to| ["--to", to, "--compression", "gzip", "--exclude"];
    let [one, other, third] =
        [(&one, "1"), (&other, "2"), (&third, "3")].map(|(to, name)| [&words(to)[..], &[name]].concat());
    let [one, other, third]: [&[&str]; 3] = [&one, &other, &third];
    for way in [one, other, third] {
        freeze(&host, way);
    }
    change_behind_the_rules_back(&host);
    let alarmed = |way: &[&str]| {
        let (output, night) = try_freeze(&host, way);
        assert_eq!(output.status.code(), Some(8), "{way:?}: {output:?}");
        assert!(night["alarm"] == "file" && night["why_all"].is_string(), "{way:?}: {night}");
        let layout = way[1].strip_prefix("oci:").unwrap();
        host.shell(&format!("rm -rf it; umoci raw unpack --image {layout}:latest it; cmp it/file tree/file"));
    };
    alarmed(other);
    // Told there, that is done with; it is still to be told by the others, by each for itself, whatever comes between.
    for _ in 0..2 {
        let night = freeze(&host, other);
        assert!(night["alarm"].is_null() && night["why_all"].is_null(), "{night}");
    }
    let (output, _) = try_freeze(&host, &[one, &["--max-size", "1"]].concat());
    assert!(String::from_utf8_lossy(&output.stderr).contains("'file' had other bytes"), "{output:?}");
    alarmed(one);
    alarmed(third);
    assert_eq!(host.try_freeze(&[]).0.status.code(), Some(8), "the way in which the folder was frozen first");
    for way in [one, other, third] {
        let night = freeze(&host, way);
        assert!(night["alarm"].is_null() && night["why_all"].is_null(), "{way:?}: {night}");
    }
    let left = fs::read_dir(host.index().parent().unwrap()).unwrap().count();
    host.shell("umount tree");
    assert_eq!(left, 4, "no alarm is left");
}

/// One that was under way when another found it wrong is not counted on, and that it was to be told is not lost.
#[test]
fn a_freeze_under_way_does_not_undo_an_alarm() {
    let host = on_a_disk();
    host.shell("echo the first, which is always compared >tree/a");
    let other = layout(&host, "other");
    let other = ["--to", &other, "--exclude", "nothing"];
    std::thread::sleep(SETTLED);
    host.freeze(&[]);
    freeze(&host, &other);
    change_behind_the_rules_back(&host);
    let mut found = None;
    let meanwhile = interrupted_by(&host, || {
        found = Some(host.try_freeze_to(&[&other[..], &["--reread", "all"]].concat()).0);
    });
    let (told, next) = host.try_freeze(&["--reread", "0%"]);
    let differences = host.differences();
    host.shell("umount tree");
    assert_eq!(found.unwrap().status.code(), Some(8));
    let night = meanwhile.night.unwrap();
    assert!(night.why_all.is_none() && night.alarm.is_none(), "it had gone by the first file: {night:?}");
    assert!(night.trouble.unwrap().contains("found an earlier image wrong"));
    assert!(told.status.code() == Some(8) && next["night"]["alarm"] == "file", "{next}");
    assert_eq!(differences, Vec::<String>::new());
}
