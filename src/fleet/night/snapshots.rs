//! What all nights together know of the snapshots of one machine at one destination.

use jiff::Timestamp;

use super::{Drilled, History, Made, Night, Outcome, Trouble, Verified};

/// A snapshot that a night made, and what later nights have to say of it.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// The night's name.
    pub night: &'a str,
    /// How it was made.
    pub outcome: &'a Outcome,
    /// What there is of it.
    pub made: &'a Made,
    /// How it was found when it was last read back.
    pub verified: Option<&'a Verified>,
    /// Whether it is there no more: it was removed, or a later one was given its name.
    pub is_gone: bool,
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

impl Snapshot<'_> {
    /// When the freeze began: what the snapshot holds is from then on.
    #[must_use]
    pub fn taken(&self) -> Option<Timestamp> {
        self.outcome.began.or(self.outcome.ended)
    }

    /// Whether it is there, and was not found damaged.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.is_gone && self.verified.is_none_or(|verified| verified.fault.is_none())
    }
}

impl History {
    /// All snapshots of `machine` at `destination`, oldest first.
    #[must_use]
    pub fn snapshots<'a>(&'a self, machine: &str, destination: &str) -> Vec<Snapshot<'a>> {
        let of_pair = |night: &'a Night| {
            night.made().filter(move |(outcome, _)| outcome.is_of(machine, destination)).map(move |made| (night, made))
        };
        let known = |(night, (outcome, made)): (&'a Night, (&'a Outcome, &'a Made))| Snapshot {
            night: &night.night,
            outcome,
            made,
            verified: self.last_verified(outcome, made),
            is_gone: self.was_removed(outcome, made),
        };
        let mut all: Vec<_> = self.nights.iter().flat_map(of_pair).map(known).collect();
        all.sort_by_key(|snapshot| snapshot.outcome.ended);
        for at in 0..all.len() {
            let (earlier, later) = all.split_at_mut(at + 1);
            let name = &earlier[at].outcome.name;
            earlier[at].is_gone |= later.iter().any(|later| later.outcome.name == *name);
        }
        all
    }

    /// The newest of those that are there and were not found damaged.
    #[must_use]
    pub fn last_good(&self, machine: &str, destination: &str) -> Option<Snapshot<'_>> {
        self.snapshots(machine, destination).into_iter().rev().find(Snapshot::is_good)
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

    fn last_verified<'a>(&'a self, outcome: &'a Outcome, made: &Made) -> Option<&'a Verified> {
        let later = self.nights.iter().flat_map(|night| &night.after.verified);
        let later = later.filter(|later| {
            outcome.is_of(&later.machine, &later.destination)
                && later.name == outcome.name
                && later.digest == made.digest
        });
        later.map(|later| &later.verified).chain(&outcome.verified).max_by_key(|verified| verified.at)
    }

    fn was_removed(&self, outcome: &Outcome, made: &Made) -> bool {
        self.nights.iter().flat_map(|night| &night.after.removed).any(|removed| {
            outcome.is_of(&removed.machine, &removed.destination)
                && removed.name == outcome.name
                && removed.digest == made.digest
                // The same image may be given the same name again later.
                && outcome.ended.is_none_or(|made| removed.at >= made)
        })
    }
}
