//! A fleet whose nights are written by the test, with a clock that it sets.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use smolfreeze::fleet::after::{self, Assumed, Context, Step};
use smolfreeze::fleet::file::File;
use smolfreeze::fleet::night::{Made, Night, Nights, Outcome, Run, Snapshot, Standing, Verified, snapshots};
use smolfreeze::fleet::run::{Clock, Host, Watcher};
use smolfreeze::oci::Digest;
use smolfreeze::source::machine::Reader;
use smolfreeze::state::Id;
use smolfreeze::stop::Stop;

/// A clock that is set, in a zone with two changes of the hour.
pub struct Set(pub Mutex<Timestamp>);

impl Clock for Set {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn zone(&self) -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

/// Remembers what it was told.
#[derive(Default)]
pub struct Ears(pub Mutex<Vec<String>>);

impl Watcher for Ears {
    fn said(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

pub struct Keeper {
    folder: tempfile::TempDir,
    pub file: File,
    pub nights: Nights,
    pub host: Host,
    pub clock: Set,
    pub ears: Ears,
}

impl Keeper {
    /// `{HERE}` in the file is the keeper's own folder.
    pub fn new(file: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("fleet-")
            .tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/var/tmp" })
            .unwrap();
        let here = folder.path().display().to_string();
        let file = File::parse(&file.replace("{HERE}", &here)).map_err(|all| all[0].to_string()).unwrap();
        let state = folder.path().join("state");
        let nights = Nights::at(&state, &file.name);
        nights.make_folder().unwrap();
        std::fs::create_dir_all(state.join("records")).unwrap();
        let host = Host {
            name: "host".to_owned(),
            state,
            known: None,
            smolvm: PathBuf::from("/bin/false").into(),
            reader: Reader::Tools,
        };
        let clock = Set(Mutex::new("2026-01-01T00:00:00Z".parse().unwrap()));
        Self { folder, file, nights, host, clock, ears: Ears::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn context(&self) -> Context<'_> {
        let Self { file, nights, host, clock, ears, .. } = self;
        Context { file, nights, host, clock, watcher: ears, blob_age_min: Duration::ZERO }
    }

    pub fn set(&self, time: Timestamp) {
        *self.clock.0.lock().unwrap() = time;
    }

    /// The night of this name, as it is on disk, or a new one.
    pub fn night(&self, name: &str) -> Night {
        let began = self.clock.now();
        let mut night = self.nights.read(name).unwrap().unwrap_or_else(|| Night::new(&self.file.name, name, "host"));
        night.runs.push(Run { began, ended: None, exit: None, pid: 1, troubles: Vec::new() });
        night
    }

    /// All that is done after the freezes of a night.
    pub async fn after(&self, mut night: Night) -> Night {
        self.nights.write(&night).unwrap();
        after::carry_out(&self.context(), &mut night, &Stop::new()).await;
        self.nights.write(&night).unwrap();
        night
    }

    pub async fn preview(&self, night: &Night, assumed: &[Assumed<'_>]) -> Vec<Step> {
        after::preview(&self.context(), night, assumed, &Stop::new()).await.unwrap()
    }

    /// What the nights on disk say is there.
    pub fn known(&self) -> Vec<Snapshot> {
        snapshots(self.nights.history().unwrap().nights.iter())
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.known().into_iter().map(|snapshot| snapshot.name).collect();
        names.sort();
        names
    }
}

/// What became of a machine at a destination: an image, or none.
pub fn outcome((machine, destination): (&str, &str), name: &str, at: Timestamp, made: Option<Digest>) -> Outcome {
    Outcome {
        machine: machine.to_owned(),
        policy: "all".to_owned(),
        destination: destination.to_owned(),
        name: name.to_owned(),
        state: if made.is_some() { Standing::Done } else { Standing::Failed },
        trouble: None,
        attempts: 1,
        began: Some(at),
        ended: Some(at + jiff::SignedDuration::from_secs(60)),
        seconds: 60.0,
        image: made.map(|digest| of(digest, None)),
        remarks: Vec::new(),
        verified: None,
    }
}

pub fn of(digest: Digest, record: Option<Id>) -> Made {
    Made {
        digest,
        record,
        entries: 1,
        tar_bytes: 1,
        read_bytes: 1,
        sent_bytes: 1,
        link_bytes: 1,
        stored_bytes: 1,
        slowest_stage: String::new(),
        retries: 0,
        held_bytes_peak: 1,
        alarm: None,
        in_full: None,
    }
}

pub fn found(at: Timestamp, fault: Option<&str>) -> Verified {
    Verified { at, fault: fault.map(str::to_owned) }
}

/// Puts an outcome in the place of the pair's last, as a run does.
pub fn put(night: &mut Night, outcome: Outcome) {
    if let Some(at) = night.outcomes.iter().position(|last| last.is_of(&outcome.machine, &outcome.destination)) {
        let last = night.outcomes.remove(at);
        if last.state == Standing::Done && last.name != outcome.name {
            night.earlier.push(last);
        }
    }
    night.outcomes.push(outcome);
}

/// What a snapshot that can be read back is found to be.
pub async fn faults(image: &str) -> Vec<String> {
    use smolfreeze::stored::{Stored, StoredName, Wanted};
    let name: StoredName = image.parse().unwrap();
    let context = smolfreeze::sink::SinkContext {
        observer: std::sync::Arc::new(smolfreeze::progress::Silent),
        meters: std::sync::Arc::default(),
        stop: Stop::new(),
    };
    let wanted = Wanted { name: &name, platform: None, tar_bytes_max: None };
    let stored = Stored::open(wanted, smolfreeze::sink::registry::RegistryOptions::default(), context).await.unwrap();
    let observer: std::sync::Arc<dyn smolfreeze::progress::Observer> =
        std::sync::Arc::new(smolfreeze::progress::Silent);
    stored.verify(None, &observer).await.unwrap().faults
}

/// `2026-01-01T02:30:00+01:00`, where only the instant counts.
pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// On the clock of the keeper's zone.
pub fn local(time: Timestamp) -> ZonedDateTime {
    time.to_zoned_datetime(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap())
}

impl Keeper {
    /// A night of January 2026 in which `db` was frozen to `there`, by its day; nothing is done afterwards.
    pub fn froze(&self, day: i8, name: &str, digest: Digest) -> Night {
        let time = at(&format!("2026-01-{day:02}T02:30:00+01:00"));
        self.set(time);
        let mut night = self.night(&format!("2026-01-{day:02}"));
        put(&mut night, outcome(("db", "there"), name, time, Some(digest)));
        self.nights.write(&night).unwrap();
        night
    }

    /// What was removed, by its name.
    pub fn removed(night: &Night) -> Vec<&str> {
        night.after.removed.iter().map(|removed| &removed.name[..]).collect()
    }
}

/// A fleet of one destination, with these rules and more of its policy.
pub fn file(to: &str, rules: &str) -> String {
    format!(
        "[destinations.there]\n{to}\n[[policies]]\nname = \"all\"\nto = [\"there\"]\n[policies.retention]\n{rules}\n"
    )
}
