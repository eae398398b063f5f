//! What all nights together know of the snapshots that they made and have not removed. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Drilled, History, Made, Night, Outcome, Trouble, Verified};
use crate::oci::Digest;
use crate::state::Id;

/// An image that a night made, under a name that no later night gave to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The night's name.
    pub night: String,
    /// The machine.
    pub machine: String,
    /// The destination's name in the file.
    pub destination: String,
    /// Its name there.
    pub name: String,
    /// Its manifest's digest.
    pub digest: Digest,
    /// The freeze's record.
    pub record: Option<Id>,
    /// When the freeze began: what retention counts by, as `prune` does.
    pub at: Timestamp,
    /// When it had its name.
    written: Timestamp,
    /// How it was found when it was last read back.
    pub verified: Option<Verified>,
}

impl Snapshot {
    fn of(night: &Night, outcome: &Outcome, made: &Made) -> Option<Self> {
        let at = outcome.began.or(outcome.ended)?;
        Some(Self {
            night: night.night.clone(),
            machine: outcome.machine.clone(),
            destination: outcome.destination.clone(),
            name: outcome.name.clone(),
            digest: made.digest,
            record: made.record.clone(),
            at,
            written: outcome.ended.unwrap_or(at),
            verified: outcome.verified.clone(),
        })
    }

    /// One of which no more is known than this.
    #[must_use]
    pub fn new((machine, destination): (&str, &str), name: &str, digest: Digest, at: Timestamp) -> Self {
        Self {
            night: String::new(),
            machine: machine.to_owned(),
            destination: destination.to_owned(),
            name: name.to_owned(),
            digest,
            record: None,
            at,
            written: at,
            verified: None,
        }
    }

    /// What was wrong with it, when it was last read back.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.verified.as_ref()?.fault.as_deref()
    }

    /// Whether it is of this pair.
    #[must_use]
    pub fn is_of(&self, machine: &str, destination: &str) -> bool {
        self.machine == machine && self.destination == destination
    }

    /// When somebody last looked at all of it: when it was made, or read back.
    #[must_use]
    pub fn seen(&self) -> Timestamp {
        self.verified.as_ref().map_or(self.written, |verified| verified.at.max(self.written))
    }
}

/// All snapshots of these nights, oldest first. A name that several gave is that of the newest: of the others nothing is left.
#[must_use]
pub fn snapshots<'a>(nights: impl Iterator<Item = &'a Night> + Clone) -> Vec<Snapshot> {
    let mut by_name = BTreeMap::<String, Snapshot>::new();
    for (night, (outcome, made)) in nights.clone().flat_map(|night| night.made().map(move |made| (night, made))) {
        let Some(snapshot) = Snapshot::of(night, outcome, made) else { continue };
        if by_name.get(&snapshot.name).is_none_or(|other| other.written < snapshot.written) {
            by_name.insert(snapshot.name.clone(), snapshot);
        }
    }
    for night in nights {
        for again in &night.after.verified {
            if let Some(snapshot) = by_name.get_mut(&again.name)
                && snapshot.digest == again.digest
                && again.verified.at >= snapshot.seen()
            {
                snapshot.verified = Some(again.verified.clone());
            }
        }
        for removed in &night.after.removed {
            let is_it = |there: &Snapshot| there.digest == removed.digest && removed.at >= there.written;
            if by_name.get(&removed.name).is_some_and(is_it) {
                by_name.remove(&removed.name);
            }
        }
    }
    let mut snapshots: Vec<_> = by_name.into_values().collect();
    snapshots.sort_by(|one, other| (one.at, &one.name).cmp(&(other.at, &other.name)));
    snapshots
}

/// The newest of these snapshots of `machine` at `destination` that was not found damaged.
#[must_use]
pub fn newest_good<'a>(snapshots: &'a [Snapshot], machine: &str, destination: &str) -> Option<&'a Snapshot> {
    snapshots.iter().rfind(|snapshot| snapshot.is_of(machine, destination) && snapshot.fault().is_none())
}

/// A failure, and when.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// The night's name.
    pub night: &'a str,
    /// When it failed, where that is known.
    pub at: Option<Timestamp>,
    /// Why.
    pub trouble: &'a Trouble,
}

impl History {
    /// All that are there, oldest first.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        snapshots(self.nights.iter())
    }

    /// When a snapshot of `machine` at `destination` was last read back, whatever became of it.
    #[must_use]
    pub fn last_verification(&self, machine: &str, destination: &str) -> Option<Timestamp> {
        let again = self.nights.iter().flat_map(|night| &night.after.verified);
        let again = again.filter(|again| again.machine == machine && again.destination == destination);
        let made = self.nights.iter().flat_map(Night::made).filter(|(outcome, _)| outcome.is_of(machine, destination));
        let first = made.filter_map(|(outcome, _)| outcome.verified.as_ref());
        again.map(|again| &again.verified).chain(first).map(|verified| verified.at).max()
    }

    /// Why `machine` has no image at `destination` of the newest night in which it should have had one and has none.
    #[must_use]
    pub fn last_failure(&self, machine: &str, destination: &str) -> Option<Failure<'_>> {
        self.nights.iter().rev().find_map(|night| {
            let outcome = night.outcome(machine, destination)?;
            let trouble = outcome.trouble.as_ref()?;
            Some(Failure { night: &night.night, at: outcome.ended.or(night.ended()), trouble })
        })
    }

    /// The newest drill of `machine` from `destination`.
    #[must_use]
    pub fn last_drill(&self, machine: &str, destination: &str) -> Option<&Drilled> {
        let all = self.nights.iter().flat_map(|night| &night.after.drills);
        all.filter(|drill| drill.machine == machine && drill.destination == destination).max_by_key(|drill| drill.at)
    }
}
