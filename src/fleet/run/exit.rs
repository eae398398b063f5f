//! What a run came to, as its exit code.

use crate::fleet::night::{Night, Standing};

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Every image is there.
    All,
    /// Every image is there, and something was left undone: a command after the run, or in a machine.
    Undone,
    /// Every image is there, and a file of earlier ones was not what it should have been.
    Alarm,
    /// Some images are not there.
    Some,
    /// None is.
    None,
    /// No machine was selected.
    NothingSelected,
}

impl Exit {
    /// Over the pairs of machines and destinations that the run was about, whenever in the night they were done.
    #[must_use]
    pub fn of(night: &Night, pairs: &[(String, String)], is_hopeless: bool) -> Self {
        let outcomes: Vec<_> =
            pairs.iter().filter_map(|(machine, destination)| night.outcome(machine, destination)).collect();
        let count = |state| outcomes.iter().filter(|outcome| outcome.state == state).count();
        // An image that was found wrong when it was read back is as good as none.
        let faulty =
            outcomes.iter().filter(|outcome| outcome.state == Standing::Done && outcome.good().is_none()).count();
        let failed = count(Standing::Failed) + count(Standing::Pending) + faulty + (pairs.len() - outcomes.len());
        // That somebody could not be told is no failure of the run.
        let troubles = night.runs.last().into_iter().flat_map(|run| &run.troubles).chain(&night.after.troubles);
        let troubles = troubles.filter(|trouble| trouble.kind != "notify").count();
        match (failed, count(Standing::Done) - faulty) {
            _ if pairs.is_empty() && is_hopeless => Self::None,
            _ if pairs.is_empty() => Self::NothingSelected,
            (1.., 0) => Self::None,
            (1.., _) => Self::Some,
            _ if outcomes.iter().any(|one| one.image.as_ref().is_some_and(|made| made.alarm.is_some())) => Self::Alarm,
            _ if troubles > 0 || outcomes.iter().any(|outcome| !outcome.remarks.is_empty()) => Self::Undone,
            _ => Self::All,
        }
    }

    /// The process's exit code, as README.md documents it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::All => 0,
            Self::Undone => 7,
            Self::Alarm => 8,
            Self::Some => 10,
            Self::None => 11,
            Self::NothingSelected => 12,
        }
    }
}

/// The exit code where another run is under way.
pub const BUSY: u8 = 14;
