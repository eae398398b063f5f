//! Runs that begin late: by chance, or because the host slept.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use smolfreeze::fleet::file::File;
use smolfreeze::fleet::night::{Night, Nights};
use smolfreeze::fleet::run::{Around, Asked, Clock, Host, Ran, Unwatched, run};
use smolfreeze::source::machine::Reader;
use smolfreeze::stop::Stop;

use crate::desk::{Desk, LAYOUT, is_done, outcome};
use crate::standin::Kind;

/// A clock that is set.
struct Set {
    now: Mutex<Timestamp>,
    slept: Mutex<Vec<Duration>>,
    first: First,
}

/// The first who sleeps.
#[derive(PartialEq)]
enum First {
    /// Wakes at once, that much later.
    Jumps,
    /// Sleeps for ever.
    Stays,
    /// Is as all others.
    Sleeps,
}

impl Set {
    fn at(time: &str, first: First) -> Self {
        Self { now: Mutex::new(time.parse().unwrap()), slept: Mutex::default(), first }
    }
}

impl Clock for Set {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    fn zone(&self) -> TimeZone {
        TimeZone::UTC
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut slept = self.slept.lock().unwrap();
        slept.push(time);
        if slept.len() > 1 || self.first == First::Sleeps {
            return Box::pin(tokio::time::sleep(time));
        }
        if self.first == First::Stays {
            return Box::pin(std::future::pending());
        }
        *self.now.lock().unwrap() += time;
        Box::pin(std::future::ready(()))
    }
}

fn host(state: &Path, smolvm: PathBuf) -> Host {
    Host { name: "host".to_owned(), state: state.to_owned(), known: None, smolvm: smolvm.into(), reader: Reader::Tools }
}

fn asked(now: bool) -> Asked {
    Asked { now, ..Asked::default() }
}

async fn ran(file: &File, host: &Host, now: bool, clock: &Set) -> Night {
    let around = Around { clock, watcher: &Unwatched };
    match run(file, host, &asked(now), around, &Stop::new()).await.unwrap() {
        Ran::Finished(finished) => finished.night,
        Ran::Busy(who) => panic!("{who}"),
    }
}

/// A host whose smolvm has no machines.
fn empty() -> (tempfile::TempDir, Host) {
    let folder = tempfile::tempdir().unwrap();
    let smolvm = folder.path().join("smolvm");
    std::fs::write(&smolvm, "#!/bin/sh\necho '[]'\n").unwrap();
    std::fs::set_permissions(&smolvm, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let host = host(&folder.path().join("state"), smolvm);
    (folder, host)
}

/// A host with one, 'a'.
fn with_a_machine(file: &str) -> (Desk, File, Host) {
    let desk = Desk::new(&[("a", Kind::Busybox)]);
    let file = File::parse(&file.replace("{HOST}", &desk.host.text(""))).unwrap();
    let host = host(&desk.host.path("state"), desk.host.path("smolvm"));
    (desk, file, host)
}

const JITTER: &str =
    "jitter = \"1h\"\n[destinations.d]\nto = \"oci:/nowhere/{machine}:x\"\n[[policies]]\nto = [\"d\"]\n";

#[tokio::test]
async fn a_run_waits_for_a_part_of_the_jitter() {
    let (_folder, host) = empty();
    let file = File::parse(JITTER).unwrap();
    let mut waits = Vec::new();
    for _ in 0..20 {
        let clock = Set::at("2026-11-29T02:30:00Z", First::Jumps);
        let night = ran(&file, &host, false, &clock).await;
        let wait = clock.slept.lock().unwrap()[0];
        // The run begins, for whoever reads of it, when it has waited.
        assert_eq!(night.runs.last().unwrap().began, clock.now());
        waits.push(wait);
    }
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(3600)), "{waits:?}");
    assert!(waits.iter().any(|wait| wait.abs_diff(waits[0]) > Duration::from_secs(60)), "{waits:?}");
    // A timer has waited already.
    let clock = Set::at("2026-11-29T02:30:00Z", First::Sleeps);
    ran(&file, &host, true, &clock).await;
    let slept = clock.slept.lock().unwrap();
    assert!(slept.iter().all(|time| *time > Duration::from_secs(3600)), "{slept:?}");
}

#[tokio::test]
async fn who_waits_can_be_interrupted_and_has_done_nothing() {
    let (_folder, host) = empty();
    let (file, stop) = (File::parse(JITTER).unwrap(), Stop::new());
    let clock = Set::at("2026-11-29T02:30:00Z", First::Stays);
    let (asked, around) = (asked(false), Around { clock: &clock, watcher: &Unwatched });
    let running = Box::pin(run(&file, &host, &asked, around, &stop));
    let interrupt = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.interrupt();
    };
    let (told, ()) =
        tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(running, interrupt) }).await.unwrap();
    assert!(told.is_err());
    assert!(Nights::at(&host.state, "fleet").history().unwrap().nights.is_empty());
    // Nor has it left its lock.
    ran(&file, &host, true, &Set::at("2026-11-29T02:30:00Z", First::Sleeps)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_deadline_counts_the_wait() {
    let file = format!("jitter = \"12h\"\ndeadline = \"1m\"\n{LAYOUT}[[policies]]\ndeadline = \"1m\"\n");
    let (_desk, file, host) = with_a_machine(&file);
    // Nor does the wait change whose night it is.
    let night = ran(&file, &host, false, &Set::at("2026-11-29T23:00:00Z", First::Jumps)).await;
    assert!(is_done(&night, "a", "disk"), "{night:#?}");
    assert_eq!(night.night, "2026-11-29");
}

/// What a timer of systemd's does: with `Persistent=` it begins a run as soon as the host is up, if the host was down when one
/// was due; and `RandomizedDelaySec=` has each one begin later.
#[tokio::test(flavor = "multi_thread")]
async fn a_night_that_was_missed_is_caught_up_once() {
    let (desk, file, host) = with_a_machine(&format!("schedule.at = \"02:30\"\n{LAYOUT}[[policies]]\n"));
    let mut made = 0;
    for (time, name, is_new) in [
        ("2026-11-28T02:34:00Z", "2026-11-28", true),
        // Down in the night of the 29th, and up again just before the next one is due; then started once more.
        ("2026-11-30T00:40:00Z", "2026-11-29", true),
        ("2026-11-30T01:10:00Z", "2026-11-29", false),
        ("2026-11-30T02:41:00Z", "2026-11-30", true),
        // Down for two nights, of which one is left to catch up.
        ("2026-12-02T09:00:00Z", "2026-12-02", true),
        ("2026-12-02T23:59:00Z", "2026-12-02", false),
        ("2026-12-03T02:30:00Z", "2026-12-03", true),
    ] {
        let clock = Set::at(time, First::Sleeps);
        let night = ran(&file, &host, true, &clock).await;
        assert_eq!(night.night, name, "{time}");
        assert!(is_done(&night, "a", "disk"), "{time}: {night:#?}");
        assert_eq!(outcome(&night, "a", "disk").began == Some(clock.now()), is_new, "{time}");
        made += usize::from(is_new);
    }
    let history = Nights::at(&host.state, "fleet").history().unwrap();
    assert_eq!(history.nights.len(), made);
    assert_eq!(crate::after::images::tags(&desk.host.path("images/a")).len(), made);
}
