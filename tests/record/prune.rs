//! `ls`, `rm` and `prune`, on records made to order.

use std::fs;

use serde_json::{Value, json};

use crate::host::finish;
use crate::remembered::Desk;

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[test]
fn a_list_is_for_people_and_for_programs() {
    let desk = Desk::new();
    let (newer, artifact) = desk.remember("dev", "20260102T030405Z", None);
    let (older, _) = desk.remember("dev", "20260101T030405Z", None);
    let (other, _) = desk.remember("other", "20260103T030405Z", None);
    fs::remove_file(&artifact).unwrap();
    let said = desk.says(&["ls"]);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["ID", "TIME", "AGE", "SOURCE", "SIZE", "READ", "SENT", "OUTPUTS"]
    );
    for (line, id) in lines[1..].iter().zip([&older, &newer, &other]) {
        assert!(line.starts_with(id), "the newest is last: {line}");
        assert_eq!(line.ends_with("(missing)"), *id == newer, "{line}");
    }
    assert!(lines[1].contains("2026-01-01 03:04  ") && lines[1].contains("  dev  ") && lines[1].contains("8 B"));
    let list = desk.json(&["ls", "dev", "--json"]);
    assert_eq!(ids(&list), [&older, &newer]);
    assert_eq!((&list[0]["missing"], &list[1]["missing"]), (&json!(false), &json!(true)));
    assert_eq!(list[1]["outputs"][0]["path"], json!(artifact));
}

#[test]
fn removing_takes_a_record_and_its_own_artifact() {
    let desk = Desk::new();
    let (first, one) = desk.remember("dev", "20260101T030405Z", None);
    let (second, two) = desk.remember("dev", "20260102T030405Z", None);
    let (third, three) = desk.remember("dev", "20260103T030405Z", None);
    for (words, cause) in [
        (&["rm", "nope"][..], "'nope': there is none"),
        (&["rm", &first, "2026010"], "'2026010': 3 records begin so"),
        (&["rm", ""], "'': there is none"),
    ] {
        let line = desk.refuses(words);
        assert!(line.contains(cause), "{line}");
    }
    assert_eq!(desk.names().len(), 3, "all or nothing");
    let said = desk.says(&["rm", "20260102", &first, &second]);
    assert_eq!(said, format!("removed {first}, {}\nremoved {second}, {}\n", one.display(), two.display()));
    assert_eq!(desk.names(), [format!("{third}.json")]);
    assert!(!one.exists() && !two.exists() && three.exists());
    // Gone by other hands.
    fs::remove_file(&three).unwrap();
    assert_eq!(desk.says(&["rm", &third]), format!("removed {third}\n"));
}

#[test]
fn what_the_user_put_elsewhere_stays_unless_asked_for() {
    let desk = Desk::new();
    let place = desk.host.path("backup/dev.smolmachine");
    let (older, _) = desk.remember("dev", "20260101T030405Z", Some(place.clone()));
    let (newer, _) = desk.remember("dev", "20260102T030405Z", Some(place.clone()));
    let (single, _) = desk.remember("single", "20260102T030405Z", Some(desk.host.path("backup/single.smolmachine")));
    let to = format!("oci:{}", desk.host.text("layout"));
    let image = desk.host.freeze(&[&desk.tree, "--to", &to]).record.unwrap().to_string();

    // The file is the newer freeze's, whichever record names it.
    assert!(desk.says(&["ls", "dev"]).lines().any(|line| line.starts_with(&older) && line.ends_with("(replaced)")));
    assert_eq!(desk.says(&["rm", &older, "--artifacts"]), format!("removed {older}\n"));
    assert!(place.exists());
    let stays = format!("removed {newer}; still there: {}\n", place.display());
    assert_eq!(desk.says(&["rm", &newer]), stays);
    assert!(place.exists());
    let elsewhere = desk.host.path("backup/single.smolmachine");
    assert_eq!(desk.says(&["rm", &single, "--artifacts"]), format!("removed {single}, {}\n", elsewhere.display()));
    assert!(!elsewhere.exists());
    let said = desk.says(&["rm", &image, "--artifacts"]);
    assert!(said.ends_with(&format!("; still there: {to}:latest\n")), "{said}");
    desk.host.verify(&to);
}

#[test]
fn rules_keep_what_they_say_source_by_source() {
    let desk = Desk::new();
    let times = ["20260105T120000Z", "20260104T120000Z", "20260104T090000Z", "20251231T120000Z", "20251230T120000Z"];
    let [newest, sunday, earlier, new_year, december] = times.map(|time| desk.remember("dev", time, None));
    let other = desk.remember("other", "20240101T000000Z", None);
    let rules = ["prune", "--keep-last", "1", "--keep-daily", "2", "--keep-monthly", "2"];

    let dry = desk.json(&[&rules[..], &["--dry-run", "--json"]].concat());
    assert_eq!(ids(&dry["removed"]), [&december.0, &earlier.0]);
    let reasons = |at: usize| (dry["kept"][at]["id"].as_str().unwrap(), dry["kept"][at]["reasons"].clone());
    assert_eq!(reasons(0), (&*new_year.0, json!(["monthly"])));
    assert_eq!(reasons(1), (&*sunday.0, json!(["daily"])));
    assert_eq!(reasons(2), (&*newest.0, json!(["last", "daily", "monthly"])));
    assert_eq!(reasons(3), (&*other.0, json!(["last", "daily", "monthly"])));
    assert_eq!((desk.names().len(), &dry["dry_run"]), (6, &json!(true)));
    assert!(desk.says(&[&rules[..], &["-n"]].concat()).contains(&format!("would remove {}", earlier.0)));

    let said = desk.says(&[&rules[..], &["dev"]].concat());
    assert!(said.contains(&format!("kept {}  last, daily, monthly\n", newest.0)), "{said}");
    assert!(said.contains(&format!("removed {}, {}\n", earlier.0, earlier.1.display())), "{said}");
    assert_eq!(desk.names().len(), 4);
    for (gone, (_, artifact)) in [(false, &newest), (false, &other), (true, &earlier), (true, &december)] {
        assert_eq!(artifact.exists(), !gone, "{}", artifact.display());
    }
    assert_eq!(desk.json(&[&rules[..], &["--json"]].concat())["removed"], json!([]), "once more, nothing");
}

#[test]
fn days_are_those_of_the_users_clock() {
    let desk = Desk::new();
    let (evening, _) = desk.remember("dev", "20260101T103000Z", None);
    let (morning, _) = desk.remember("dev", "20260101T113000Z", None);
    let rules = ["prune", "--keep-daily", "1", "--keep-within", "1h", "-n", "--json"];
    let mut command = desk.host.command(&["prune", "--keep-daily", "2", "-n", "--json"]);
    let output = finish(command.env("TZ", "NZDT-13").spawn().unwrap());
    let east: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(east["kept"][0], json!({"id": evening, "source": "dev", "reasons": ["daily"]}));
    let utc = desk.json(&rules);
    assert_eq!((ids(&utc["kept"]), ids(&utc["removed"])), (vec![&*morning], vec![&*evening]));
}

#[test]
fn what_is_gone_takes_nobodys_place() {
    let desk = Desk::new();
    let (whole, _) = desk.remember("dev", "20260101T000000Z", None);
    let (gone, artifact) = desk.remember("dev", "20260102T000000Z", None);
    let (unplugged, removed) = desk.remember("dev", "20260103T000000Z", Some(desk.host.path("disk/dev.smolmachine")));
    fs::remove_file(artifact).unwrap();
    fs::remove_file(removed).unwrap();
    let report = desk.json(&["prune", "--keep-last", "2", "--json"]);
    assert_eq!((ids(&report["kept"]), ids(&report["removed"])), (vec![&*whole, &*unplugged], vec![&*gone]));
}

#[test]
fn without_a_rule_nothing_is_removed() {
    let desk = Desk::new();
    desk.remember("dev", "20260101T000000Z", None);
    for words in [
        &["prune"][..],
        &["prune", "--keep-last", "0"],
        &["prune", "--keep-last", "-1"],
        &["prune", "--keep-within", "1w"],
    ] {
        desk.refuses(words);
    }
    assert_eq!(desk.names().len(), 1);
}
