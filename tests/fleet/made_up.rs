//! A history of nights that never were: fourteen machines, two destinations, and what may go wrong in a month.

use std::path::Path;

use jiff::civil::Date;
use jiff::{Span, Timestamp};
use sha2::{Digest as _, Sha256};
use smolfreeze::fleet::night::{Drilled, Made, Night, Nights, Outcome, Run, Standing, Trouble, Verified};

/// Their names, the size of each on the first night, and how much it grows in a month, in MiB.
pub const MACHINES: [(&str, f64, f64); 14] = [
    ("api-eu-west", 1400.0, 60.0),
    ("build-runner-with-a-name-that-is-much-longer-than-anybody-should-have-chosen-0001", 3900.0, 300.0),
    ("cache", 420.0, 4.0),
    ("db-primary", 8200.0, 2900.0),
    ("db-replica", 8100.0, 2850.0),
    ("edge", 230.0, 0.0),
    ("git", 5200.0, 700.0),
    ("mail", 6100.0, 410.0),
    ("metrics", 2600.0, 2400.0),
    ("old-crm", 1900.0, 2.0),
    ("staging", 2100.0, -350.0),
    ("web-1", 760.0, 12.0),
    ("web-2", 760.0, 14.0),
    ("wiki", 940.0, 40.0),
];

/// Policies and destinations for them.
pub const FILE: &str = r#"
name = "fleet"
unselected = "warn"
[destinations.registry]
to = "registry.example/machines/{machine}:{date}"
[destinations.disk]
to = "oci:/srv/smolfreeze/{machine}:{date}"
[defaults]
to = ["registry", "disk"]
max_age = "36h"
[[policies]]
name = "databases"
machines = ["db-*"]
[[policies]]
name = "all-others"
"#;

const NIGHTS: i64 = 30;
/// Counted from the oldest, 0: nobody was there, the registry was down, the run was killed.
const MISSED: i64 = 9;
const DOWN: i64 = 15;
const KILLED: i64 = 21;

/// Numbers that look like chance and are the same each time.
struct Chance(u64);

impl Chance {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 33).unwrap()) / f64::from(1_u32 << 31)
    }
}

/// The nights until `last`, oldest first.
pub fn nights(last: Date) -> Vec<Night> {
    let mut chance = Chance(7);
    (0..NIGHTS).filter(|night| *night != MISSED).map(|night| self::night(night, last, &mut chance)).collect()
}

/// Writes them where the fleet of [`FILE`] is remembered.
pub fn write(state: &Path, nights: &[Night]) {
    let folder = Nights::at(state, "fleet");
    folder.make_folder().unwrap();
    for night in nights {
        folder.write(night).unwrap();
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes of machines")]
fn bytes(mebibytes: f64) -> u64 {
    (mebibytes * 1_048_576.0) as u64
}

fn night(index: i64, last: Date, chance: &mut Chance) -> Night {
    let date = last.checked_sub(Span::new().days(NIGHTS - 1 - index)).unwrap();
    let began = date.at(2, 30, 4, 0).in_tz("UTC").unwrap().timestamp();
    let mut night = Night::new("fleet", &date.to_string(), "rack-7");
    let mut now = began;
    for (place, machine) in MACHINES.into_iter().enumerate() {
        let seconds = 20.0 + machine.1 / 60.0 * (0.6 + chance.next());
        let (from, until) = (now, now + std::time::Duration::from_secs_f64(seconds));
        for destination in ["registry", "disk"] {
            let mut outcome = outcome(machine, destination, index, chance);
            (outcome.name, outcome.seconds) = (name(machine.0, destination, date), seconds);
            if outcome.state != Standing::Skipped && outcome.state != Standing::Pending {
                (outcome.began, outcome.ended) = (Some(from), Some(until));
            }
            night.outcomes.push(outcome);
        }
        if place % 2 == 1 {
            now = until;
        }
    }
    let failed = night.outcomes.iter().filter(|outcome| outcome.state == Standing::Failed).count();
    let is_killed = index == KILLED;
    let run = |began: Timestamp, ended: Option<Timestamp>| Run {
        began,
        ended,
        exit: ended.map(|_| if failed > 0 { 10 } else { 0 }),
        pid: 4711,
        troubles: Vec::new(),
    };
    night.runs = vec![run(began, (!is_killed).then_some(now + Span::new().seconds(70)))];
    if index == NIGHTS - 1 {
        night.unselected = vec!["scratch-with-no-policy".to_owned()];
        let text = "the command after the run failed: exit code 1: rsync: connection unexpectedly closed";
        night.runs[0].troubles.push(Trouble::new("hook", text));
        drills(&mut night, now);
    }
    night
}

fn drills(night: &mut Night, at: Timestamp) {
    for (machine, trouble) in [("db-primary", None), ("git", Some("the command printed 'fatal', not 'ok'"))] {
        let name = night.outcome(machine, "registry").unwrap().name.clone();
        night.after.drills.push(Drilled {
            machine: machine.to_owned(),
            destination: "registry".to_owned(),
            name,
            at,
            seconds: 41.0,
            trouble: trouble.map(|text| Trouble::new("drill", text)),
        });
    }
}

fn name(machine: &str, destination: &str, date: Date) -> String {
    match destination {
        "registry" => format!("registry.example/machines/{machine}:{date}"),
        _ => format!("oci:/srv/smolfreeze/{machine}:{date}"),
    }
}

/// Why a pair has no image of a night, if it has none.
fn trouble(
    machine: &str,
    destination: &str,
    index: i64,
    chance: &mut Chance,
) -> Option<(Standing, &'static str, String)> {
    let (failed, newest) = (Standing::Failed, NIGHTS - 1);
    match (machine, destination) {
        ("edge", _) if index > 3 => Some((Standing::Skipped, "stopped", "it does not run (state 'stopped')".to_owned())),
        ("wiki", _) if index > newest - 3 => Some((
            failed,
            "source",
            "reading the machine failed: 'wiki': the disk of the machine is full, so no chunk fits in /var/tmp; free some \
             space, or give a smaller chunk_size"
                .to_owned(),
        )),
        ("old-crm", "registry") if index == newest => {
            let text = "sending a blob failed: registry.example: 401 Unauthorized; log in again";
            Some((failed, "unauthorized", text.to_owned()))
        }
        ("mail", _) if index == newest || (index < newest - 1 && chance.next() < 0.12) => {
            Some((failed, "deadline", "not done within the policy's deadline of 1h".to_owned()))
        }
        (_, "registry") if index == DOWN => {
            Some((failed, "sink", "asking the registry failed: registry.example: connection refused".to_owned()))
        }
        ("staging" | "web-1" | "web-2", _) if index == KILLED => Some((Standing::Pending, "", String::new())),
        _ => None,
    }
}

fn outcome((machine, size, growth): (&str, f64, f64), destination: &str, index: i64, chance: &mut Chance) -> Outcome {
    let trouble = trouble(machine, destination, index, chance);
    let part = f64::from(i32::try_from(index).unwrap()) / f64::from(i32::try_from(NIGHTS).unwrap());
    let size = size + growth * part;
    // The first night reads everything; later ones what changed, and now and then much.
    let changed =
        if index == 0 { 1.0 } else { 0.004 + 0.03 * chance.next() + if chance.next() < 0.06 { 0.25 } else { 0.0 } };
    let digest = Sha256::digest(format!("{machine} {destination} {index}"));
    let digest = digest.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let slowest = if size > 5000.0 {
        "reading"
    } else if destination == "registry" {
        "sending"
    } else {
        "compressing"
    };
    let made = Made {
        digest: format!("sha256:{digest}").parse().unwrap(),
        record: None,
        entries: bytes(size) / 40_000,
        tar_bytes: bytes(size),
        read_bytes: bytes(size * changed),
        sent_bytes: bytes(size * changed * 0.41),
        link_bytes: bytes(size * changed * 1.01),
        stored_bytes: bytes(size * 0.38),
        slowest_stage: slowest.to_owned(),
        retries: 0,
        held_bytes_peak: 90 << 20,
        alarm: None,
        in_full: None,
    };
    let state = trouble.as_ref().map_or(Standing::Done, |(state, ..)| *state);
    let verified = Verified { at: "2026-11-01T04:00:00Z".parse().unwrap(), fault: None };
    Outcome {
        machine: machine.to_owned(),
        policy: if machine.starts_with("db-") { "databases" } else { "all-others" }.to_owned(),
        destination: destination.to_owned(),
        name: String::new(),
        state,
        trouble: trouble.filter(|(_, kind, _)| !kind.is_empty()).map(|(_, kind, text)| Trouble::new(kind, text)),
        attempts: match state {
            Standing::Done => 1,
            Standing::Failed => 3,
            Standing::Skipped | Standing::Pending => 0,
        },
        began: None,
        ended: None,
        seconds: 0.0,
        image: (state == Standing::Done).then_some(made),
        remarks: Vec::new(),
        verified: (state == Standing::Done && destination == "disk").then_some(verified),
    }
}
