//! Nights as they are told of: one line each. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::night::{Night, Standing};

/// A night in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Sums {
    /// The night's name.
    pub night: String,
    /// When its first run began.
    pub began: Option<Timestamp>,
    /// When its last run ended.
    pub ended: Option<Timestamp>,
    /// What its runs took together; one that was killed counts as nothing.
    pub seconds: f64,
    /// The last run's exit code.
    pub exit_code: Option<u8>,
    /// Machines at destinations whose image was made.
    pub done: usize,
    /// That failed.
    pub failed: usize,
    /// That were left alone.
    pub skipped: usize,
    /// That were not reached.
    pub pending: usize,
    /// Bytes of tar in the images, each machine counted once.
    pub size_bytes: u64,
    /// Bytes of tar that were read, each machine counted once.
    pub read_bytes: u64,
    /// Bytes that all destinations were sent.
    pub sent_bytes: u64,
    /// Snapshots that were removed afterwards.
    pub removed: usize,
    /// What failed without concerning a machine.
    pub troubles: usize,
}

impl Night {
    /// In numbers.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let count = |standing| self.outcomes.iter().filter(|outcome| outcome.state == standing).count();
        // A freeze reads a machine once for all its destinations.
        let mut machines: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        let mut sent_bytes = 0;
        for (outcome, made) in self.made() {
            let (size, read) = machines.entry(&outcome.machine).or_default();
            (*size, *read) = ((*size).max(made.tar_bytes), (*read).max(made.read_bytes));
            sent_bytes += made.sent_bytes;
        }
        let took = self.runs.iter().filter_map(|run| Some(run.ended?.duration_since(run.began).as_secs_f64()));
        Sums {
            night: self.night.clone(),
            began: self.began(),
            ended: self.ended(),
            seconds: took.sum(),
            exit_code: self.runs.last().and_then(|run| run.exit),
            done: count(Standing::Done),
            failed: count(Standing::Failed),
            skipped: count(Standing::Skipped),
            pending: count(Standing::Pending),
            size_bytes: machines.values().map(|(size, _)| size).sum(),
            read_bytes: machines.values().map(|(_, read)| read).sum(),
            sent_bytes,
            removed: self.after.removed.len(),
            troubles: self.after.troubles.len() + self.runs.iter().map(|run| run.troubles.len()).sum::<usize>(),
        }
    }
}
