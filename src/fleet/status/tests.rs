use super::*;
use crate::fleet::night::{Made, Outcome, Removed, Reverified, Standing as Became, Verified};

const FILE: &str = r#"
    unselected = "fail"
    [destinations.main]
    to = "registry.example/{machine}:{date}"
    [destinations.disk]
    to = "oci:/srv/{machine}:{date}"
    [defaults]
    to = ["main"]
    max_age = "36h"
    [[policies]]
    name = "databases"
    machines = ["db"]
    to = ["main", "disk"]
    max_age = "12h"
    [[policies]]
    name = "others"
    machines = ["web*"]
"#;

fn file() -> File {
    File::parse(FILE).unwrap()
}

fn outcome(machine: &str, destination: &str, policy: &str, state: Became, began: &str) -> Outcome {
    let began: Timestamp = began.parse().unwrap();
    let made = Made::of_a_test(&format!("{machine}{destination}{began}"));
    Outcome {
        machine: machine.to_owned(),
        policy: policy.to_owned(),
        destination: destination.to_owned(),
        name: format!("registry.example/{machine}:{}", began.strftime("%F")),
        state,
        trouble: (state == Became::Failed).then(|| Trouble::new("sink", "no room")),
        attempts: 1,
        began: Some(began),
        ended: Some(began + Duration::from_secs(60)),
        seconds: 60.0,
        image: (state == Became::Done).then_some(made),
        remarks: Vec::new(),
        verified: None,
    }
}

fn night(name: &str, outcomes: Vec<Outcome>) -> Night {
    let mut night = Night::new("fleet", name, "host");
    let began: Timestamp = format!("{name}T02:00:00Z").parse().unwrap();
    night.runs = vec![Run { began, ended: Some(began), exit: Some(0), pid: 1, troubles: Vec::new() }];
    night.outcomes = outcomes;
    night
}

fn listed(names: &[&str]) -> Vec<Listed> {
    names.iter().map(|name| Listed { name: (*name).to_owned(), ..Listed::default() }).collect()
}

fn history() -> History {
    let nights = vec![
        night(
            "2026-11-27",
            vec![
                outcome("db", "main", "databases", Became::Done, "2026-11-27T02:00:00Z"),
                outcome("db", "disk", "databases", Became::Failed, "2026-11-27T02:00:00Z"),
                outcome("web", "main", "others", Became::Failed, "2026-11-27T02:10:00Z"),
            ],
        ),
        night(
            "2026-11-28",
            vec![
                outcome("db", "main", "databases", Became::Failed, "2026-11-28T02:00:00Z"),
                outcome("db", "disk", "databases", Became::Failed, "2026-11-28T02:00:00Z"),
                outcome("web", "main", "others", Became::Done, "2026-11-28T02:10:00Z"),
            ],
        ),
    ];
    History { nights, unreadable: Vec::new() }
}

fn status(history: &History, machines: Result<&[&str], &str>, now: &str) -> Status {
    Status::of(&file(), history, machines.map(listed).map_err(str::to_owned), now.parse().unwrap()).unwrap()
}

fn standings(status: &Status) -> Vec<(&str, &str, Standing)> {
    status.pairs.iter().map(|pair| (&pair.machine[..], &pair.destination[..], pair.standing)).collect()
}

#[test]
fn a_pair_is_judged_by_its_last_good_snapshot_and_its_own_policy() {
    let status = status(&history(), Ok(&["db", "web", "web-new"]), "2026-11-28T14:10:00Z");
    let expected = [
        ("db", "main", Standing::Old),
        ("db", "disk", Standing::Never),
        ("web", "main", Standing::Good),
        ("web-new", "main", Standing::Never),
    ];
    assert_eq!(standings(&status), expected);
    assert!(!status.is_right);
    let good = status.pairs[0].last_good.as_ref().unwrap();
    assert_eq!((&good.night[..], good.age_seconds), ("2026-11-27", 36 * 3600 + 600));
    assert!(!status.pairs[0].last_error.as_ref().unwrap().is_mended);
    assert!(status.pairs[2].last_error.as_ref().unwrap().is_mended, "it worked the next night");
    assert!(status.pairs[3].last_error.is_none());
}

#[test]
fn the_limit_is_the_last_second_that_is_allowed() {
    let only_web = |now: &str| status(&history(), Ok(&["web"]), now);
    assert!(only_web("2026-11-29T14:10:00Z").is_right);
    assert!(!only_web("2026-11-29T14:10:01Z").is_right);
    assert!(only_web("2026-11-20T00:00:00Z").is_right, "a clock that was set back makes nothing older");
}

#[test]
fn a_machine_without_a_policy_matters_as_the_file_says() {
    let history = history();
    let judged = |means: Unselected| {
        let file = File { unselected: means, ..file() };
        let now = "2026-11-28T03:00:00Z".parse().unwrap();
        Status::of(&file, &history, Ok(listed(&["web", "nobodys"])), now).unwrap()
    };
    assert_eq!(judged(Unselected::Fail).unselected, ["nobodys"]);
    assert!(!judged(Unselected::Fail).is_right);
    assert!(judged(Unselected::Warn).is_right && judged(Unselected::Ignore).is_right);
}

#[test]
fn where_smolvm_can_not_be_asked_the_nights_say_which_machines_there_are() {
    let mut history = history();
    // A night of one machine alone must not hide the others.
    let alone = outcome("web", "main", "others", Became::Done, "2026-11-28T20:00:00Z");
    history.nights.push(night("2026-11-29", Vec::new()));
    history.nights[2].outcomes = vec![alone];
    let status = status(&history, Err("smolvm is not there"), "2026-11-28T20:30:00Z");
    assert_eq!(status.smolvm.as_deref(), Some("smolvm is not there"));
    let expected = [("db", "disk", Standing::Never), ("db", "main", Standing::Old), ("web", "main", Standing::Good)];
    assert_eq!(standings(&status), expected);
    let nothing = self::status(&History::default(), Err("smolvm is not there"), "2026-11-28T20:30:00Z");
    assert!(!nothing.is_right, "who knows of no machine can't say that all is well");
    assert!(self::status(&History::default(), Ok(&[]), "2026-11-28T20:30:00Z").is_right);
}

#[test]
fn what_is_damaged_or_gone_is_no_good_snapshot() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let last =
        |history: &History| newest_good(&history.snapshots(), "web", "main").map(|snapshot| snapshot.night.clone());
    let mut history = history();
    history
        .nights
        .push(night("2026-11-29", vec![outcome("web", "main", "others", Became::Done, "2026-11-29T02:00:00Z")]));
    assert_eq!(last(&history).as_deref(), Some("2026-11-29"));
    let of = |history: &History, night: usize| {
        let outcome = history.nights[night].outcome("web", "main").unwrap();
        (outcome.name.clone(), outcome.image.as_ref().unwrap().digest)
    };
    let fault = Verified { at: at("2026-11-29T03:00:00Z"), fault: Some("a blob is missing".to_owned()) };
    history.nights[2].outcomes[0].verified = Some(fault.clone());
    assert_eq!(last(&history).as_deref(), Some("2026-11-28"));
    let (name, digest) = of(&history, 1);
    let removed = Removed {
        machine: "web".to_owned(),
        destination: "main".to_owned(),
        name: name.clone(),
        digest,
        at: at("2026-11-29T04:00:00Z"),
    };
    history.nights[2].after.removed.push(removed);
    assert_eq!(last(&history), None);
    let (name, digest) = of(&history, 2);
    let verified = Verified { at: at("2026-11-30T03:00:00Z"), fault: None };
    let (machine, destination) = ("web".to_owned(), "main".to_owned());
    history.nights[2].after.verified.push(Reverified { machine, destination, name: name.clone(), digest, verified });
    assert_eq!(last(&history).as_deref(), Some("2026-11-29"), "the last word on it is that it is well");
    // A later one with the same name took its place.
    let mut replacing = outcome("web", "main", "others", Became::Done, "2026-11-29T20:00:00Z");
    replacing.name = name;
    replacing.verified = Some(fault);
    history.nights.push(night("2026-11-30", vec![replacing]));
    assert_eq!(last(&history), None);
}
