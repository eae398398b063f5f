//! The snapshots that a fleet's nights made and have not removed. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::fleet::night::{Made, Night, Outcome, Verified};
use crate::oci::Digest;
use crate::state::Id;

/// An image that a night made, under a name that no later night gave to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
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
    fn of(outcome: &Outcome, made: &Made) -> Option<Self> {
        let at = outcome.began.or(outcome.ended)?;
        Some(Self {
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
    for (outcome, made) in nights.clone().flat_map(Night::made) {
        let Some(snapshot) = Snapshot::of(outcome, made) else { continue };
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
