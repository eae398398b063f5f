//! A year of nights: missed, failed, forced and faulty ones, and two changes of the hour. What is kept has to be what the rules
//! say, said once more here as sets; and what restic 0.14 kept of the good ones (`restic.tsv`, made as tests/record's).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use jiff::{Span, Timestamp, ZonedDateTime};
use smolfreeze::fleet::after::{Assumed, What};
use smolfreeze::record::retention::{Count, Policy};

use super::images::{Small, blobs, tags};
use super::keeper::{Keeper, at, faults, found, local, outcome, put};
use crate::support::docker_registry::DockerRegistry;

/// When, in which night, and what came of it.
const YEAR: &str = include_str!("year.tsv");
/// A policy, up to when, and what restic keeps of the good ones until then.
const RESTIC: &str = include_str!("restic.tsv");

/// Months, days and hours.
type Within = Option<(i64, i64, i64)>;
/// How many are kept of which periods.
type Rule<'a> = (Count, &'a dyn Fn(&ZonedDateTime) -> String);

/// Rules as the file has them, and how far `keep_within` reaches.
const POLICIES: &[(&str, &str, Within)] = &[
    ("last 7", "keep_last = 7", None),
    ("hourly 30", "keep_hourly = 30", None),
    ("daily 14", "keep_daily = 14", None),
    ("last 3;daily 7;weekly 4;monthly 12", "keep_last = 3\nkeep_daily = 7\nkeep_weekly = 4\nkeep_monthly = 12", None),
    ("weekly 5;yearly 2", "keep_weekly = 5\nkeep_yearly = 2", None),
    ("within 2m10d", "keep_within = \"2m10d\"", Some((2, 10, 0))),
    ("daily 3;within 36h", "keep_daily = 3\nkeep_within = \"36h\"", Some((0, 0, 36))),
];

struct Event {
    time: Timestamp,
    night: &'static str,
    what: &'static str,
}

impl Event {
    fn all() -> Vec<Self> {
        let event = |line: &'static str| {
            let [time, night, what] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            Self { time: at(time), night, what }
        };
        YEAR.lines().map(event).collect()
    }

    fn is_made(&self) -> bool {
        self.what != "failed"
    }

    fn tag(&self) -> String {
        format!("db-{}-{}", self.night, local(self.time).strftime("%H%M%S"))
    }

    fn image(&self) -> Small {
        Small::new("db", &self.night[..7], &self.tag())
    }
}

/// The rules as sets: of each of the newest periods that have one the newest; all that are young; and the oldest, while a rule
/// has room.
fn kept(times: &BTreeSet<Timestamp>, policy: &Policy, within: Within) -> BTreeSet<Timestamp> {
    let zoned: Vec<_> = times.iter().map(|time| local(*time)).collect();
    let week = |time: &ZonedDateTime| {
        let week = time.date().iso_week_date();
        format!("{}-{:02}", week.year(), week.week())
    };
    let rules: [Rule<'_>; 6] = [
        (policy.last, &|time| time.timestamp().to_string()),
        (policy.hourly, &|time| time.strftime("%Y-%m-%d %H").to_string()),
        (policy.daily, &|time| time.strftime("%Y-%m-%d").to_string()),
        (policy.weekly, &week),
        (policy.monthly, &|time| time.strftime("%Y-%m").to_string()),
        (policy.yearly, &|time| time.strftime("%Y").to_string()),
    ];
    let mut kept = BTreeSet::new();
    for (count, period) in rules {
        let mut newest = BTreeMap::new();
        // The later one replaces the earlier.
        newest.extend(zoned.iter().map(|time| (period(time), time.timestamp())));
        kept.extend(newest.values().rev().take(count.0 as usize));
        if newest.len() < count.0 as usize {
            kept.extend(times.first());
        }
    }
    if let (Some((months, days, hours)), Some(newest)) = (within, zoned.last()) {
        let since = newest.checked_sub(Span::new().months(months).days(days).hours(hours)).unwrap().timestamp();
        kept.extend(times.iter().filter(|time| **time > since));
    }
    kept
}

/// What there has to be of a year, night by night.
#[derive(Default)]
struct Ledger {
    good: BTreeMap<Timestamp, String>,
    faulty: BTreeMap<Timestamp, String>,
}

impl Ledger {
    /// After a night: what goes.
    fn judge(&mut self, policy: &Policy, within: Within) -> BTreeSet<String> {
        let good: BTreeSet<_> = self.good.keys().copied().collect();
        let all: BTreeSet<_> = self.faulty.keys().copied().chain(good.iter().copied()).collect();
        let (of_good, of_all) = (kept(&good, policy, within), kept(&all, policy, within));
        let goes = |from: &BTreeMap<Timestamp, String>, kept: &BTreeSet<Timestamp>| {
            from.iter().filter(|(time, _)| !kept.contains(time)).map(|(_, name)| name.clone()).collect::<Vec<_>>()
        };
        let gone = goes(&self.good, &of_good).into_iter().chain(goes(&self.faulty, &of_all)).collect();
        self.good.retain(|time, _| of_good.contains(time));
        self.faulty.retain(|time, _| of_all.contains(time));
        gone
    }

    fn names(&self) -> BTreeSet<String> {
        self.good.values().chain(self.faulty.values()).cloned().collect()
    }
}

/// Where the images of a year go.
enum Place {
    Layout(PathBuf),
    Registry(DockerRegistry),
}

impl Place {
    fn name(&self, tag: &str) -> String {
        match self {
            Self::Layout(folder) => format!("oci:{}:{tag}", folder.display()),
            Self::Registry(registry) => format!("{}/fleet:{tag}", registry.address),
        }
    }

    async fn take(&self, tag: &str, image: &Small) {
        match self {
            Self::Layout(folder) => image.to_layout(folder, tag),
            Self::Registry(_) => image.to_registry(&self.name(tag)).await,
        }
    }

    fn tags(&self) -> BTreeSet<String> {
        match self {
            Self::Layout(folder) => tags(folder).into_iter().collect(),
            Self::Registry(registry) => {
                let tags = fs::read_dir(registry.repository("fleet").join("_manifests/tags")).unwrap().flatten();
                // What is deleted leaves a folder without a link.
                let named = tags.filter(|tag| tag.path().join("current/link").exists());
                named.map(|tag| tag.file_name().into_string().unwrap()).collect()
            }
        }
    }
}

/// Lives through the nights until `until`, and looks at all of it after each.
async fn live(keeper: &Keeper, place: &Place, within: Within, until: &str) -> Ledger {
    let policy = keeper.file.policies[0].retention.as_ref().unwrap().policy();
    let (mut ledger, mut removed, mut month) = (Ledger::default(), 0, "");
    // Neither is the fleet's: a user's own, and one whose machine no night knows.
    let others = BTreeSet::from(["mine".to_owned(), "db-2025-12-31-023000".to_owned()]);
    for tag in &others {
        place.take(tag, &Small::new("other", tag, tag)).await;
    }
    for event in Event::all().iter().filter(|event| event.night <= until) {
        keeper.set(event.time);
        let (tag, image) = (event.tag(), event.image());
        let name = place.name(&tag);
        let mut night = keeper.night(event.night);
        let assumed = Assumed { machine: "db", policy: "all", destination: "there", name: &name };
        let said = keeper.preview(&night, &[assumed]).await;
        let said: BTreeSet<_> = said.into_iter().map(|step| (step.snapshot.name, step.what)).collect();
        if event.is_made() {
            place.take(&tag, &image).await;
        }
        let made = event.is_made().then(|| image.digest());
        let mut outcome = outcome(("db", "there"), &name, event.time, made);
        let faulty = event.what == "faulty";
        outcome.verified = faulty.then(|| found(event.time, Some("bits")));
        put(&mut night, outcome);
        let before = night.after.removed.len();
        let night = keeper.after(night).await;
        assert!(night.after.troubles.is_empty(), "{:?}", night.after);
        let went: BTreeSet<_> = night.after.removed[before..].iter().map(|gone| gone.name.clone()).collect();
        match (event.is_made(), faulty) {
            (true, false) => {
                ledger.good.insert(event.time, tag);
                let goes: BTreeSet<_> = ledger.judge(&policy, within).iter().map(|tag| place.name(tag)).collect();
                assert_eq!(went, goes, "{}: what went, and what goes by the rules", event.night);
                let would: BTreeSet<_> = goes.iter().map(|name| (name.clone(), What::Removes)).collect();
                assert_eq!(said, would, "{}: the dry run", event.night);
            }
            (true, true) => drop(ledger.faulty.insert(event.time, tag)),
            (false, _) => {}
        }
        assert!(went.is_empty() || (event.is_made() && !faulty), "{}: because of a failed night", event.night);
        removed += went.len();
        let there: BTreeSet<_> = ledger.names().union(&others).cloned().collect();
        assert_eq!(place.tags(), there, "{}", event.night);
        let own: Vec<_> = ledger.names().iter().map(|tag| place.name(tag)).collect();
        assert_eq!(keeper.names(), own, "{}: what the nights say", event.night);
        if month != &event.night[..7] {
            month = &event.night[..7];
            all_is_whole(place, &there).await;
        }
    }
    all_is_whole(place, &place.tags()).await;
    assert!(removed > 20, "{removed}");
    ledger
}

async fn all_is_whole(place: &Place, tags: &BTreeSet<String>) {
    for tag in tags {
        assert_eq!(faults(&place.name(tag)).await, Vec::<String>::new(), "{tag}");
    }
}

fn file(to: &str, rules: &str) -> String {
    format!(
        "[destinations.there]\nto = \"{to}:{{machine}}-{{night}}-{{time}}\"\n[[policies]]\nname = \"all\"\nto = [\"there\"]\n\
         [policies.retention]\n{rules}\n"
    )
}

/// What restic keeps of the good ones, at some days of the year.
fn restic(policy: &str) -> BTreeMap<&'static str, BTreeSet<Timestamp>> {
    let row = |line: &'static str| {
        let mut cells = line.split('\t');
        (cells.next().unwrap() == policy).then(|| (cells.next().unwrap(), cells.map(at).collect()))
    };
    RESTIC.lines().filter_map(row).collect()
}

async fn in_a_layout(number: usize, until: &str) -> Ledger {
    let (_, rules, within) = POLICIES[number];
    let keeper = Keeper::new(&file("oci:{HERE}/layout", rules));
    let folder = keeper.path("layout");
    let ledger = live(&keeper, &Place::Layout(folder.clone()), within, until).await;
    // Not a blob more than the images that are there need: three layers each, of which some are shared.
    let images: Vec<_> = Event::all().into_iter().filter(|event| ledger.names().contains(&event.tag())).collect();
    let needed: BTreeSet<_> = images
        .iter()
        .map(Event::image)
        .chain(["mine", "db-2025-12-31-023000"].map(|tag| Small::new("other", tag, tag)))
        .flat_map(|small| {
            let layers = small.layers.iter().map(|(layer, _)| layer.digest);
            layers.chain([small.image.config.0.digest, small.digest()]).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(blobs(&folder), needed.len());
    ledger
}

#[tokio::test]
async fn a_year_in_a_layout_keeps_what_the_rules_say_and_nothing_else_goes() {
    in_a_layout(3, "2026-12-31").await;
}

#[tokio::test]
async fn the_youngest_and_days_over_both_changes_of_the_hour() {
    in_a_layout(6, "2026-11-02").await;
}

#[tokio::test]
async fn a_quarter_in_a_registry_keeps_what_the_rules_say_and_nothing_else_goes() {
    let registry = DockerRegistry::start();
    let to = format!("{}/fleet", registry.address);
    let keeper = Keeper::new(&file(&to, POLICIES[3].1));
    live(&keeper, &Place::Registry(registry), None, "2026-04-02").await;
}

/// All policies, without places: what the judge says night by night comes to what restic says of all nights at once.
#[test]
fn night_by_night_it_comes_to_what_restic_keeps() {
    use smolfreeze::fleet::after::{Verdict, judge};
    use smolfreeze::fleet::night::Snapshot;
    let mut compared = 0;
    for (name, rules, within) in POLICIES {
        let keeper = Keeper::new(&file("oci:{HERE}/layout", rules));
        let policy = keeper.file.policies[0].retention.as_ref().unwrap().policy();
        let (table, zone) = (restic(name), smolfreeze::fleet::run::Clock::zone(&keeper.clock));
        let (mut there, mut ledger) = (Vec::<Snapshot>::new(), Ledger::default());
        let events = Event::all();
        for (number, event) in events.iter().enumerate() {
            if ["done", "forced"].contains(&event.what) {
                let tonight = Snapshot::new(("db", "there"), &event.tag(), event.image().digest(), event.time);
                there.push(tonight.clone());
                ledger.good.insert(event.time, event.tag());
                ledger.judge(&policy, *within);
                let verdicts = judge(&there, &tonight, &policy, &zone);
                let mut verdicts = verdicts.iter();
                there.retain(|_| *verdicts.next().unwrap() != Verdict::Goes);
                let kept: BTreeSet<_> = there.iter().map(|snapshot| snapshot.name.clone()).collect();
                assert_eq!(kept, ledger.names(), "{name}: {}", event.night);
            }
            let is_last = events.get(number + 1).is_none_or(|next| next.night != event.night);
            if let Some(expected) = table.get(event.night).filter(|_| is_last) {
                compared += 1;
                // The oldest stays while there is room: a rule of later releases of restic.
                let mut kept: BTreeSet<_> = there.iter().map(|snapshot| snapshot.at).collect();
                let oldest = *kept.first().unwrap();
                if !expected.contains(&oldest) {
                    kept.remove(&oldest);
                }
                assert_eq!(&kept, expected, "{name}: {}", event.night);
            }
        }
    }
    assert_eq!(compared, RESTIC.lines().count());
}
