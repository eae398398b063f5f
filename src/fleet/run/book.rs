//! The night's file while a run writes it: whole, after every outcome.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::fleet::night::{Night, Nights, Outcome, Standing, Trouble};

/// The night that is under way.
pub(super) struct Book {
    nights: Nights,
    night: Mutex<Night>,
    /// The first time that it could not be written.
    unwritten: Mutex<Option<Error>>,
}

impl Book {
    pub(super) fn new(nights: Nights, night: Night) -> Self {
        Self { nights, night: Mutex::new(night), unwritten: Mutex::default() }
    }

    /// The night as it is now.
    pub(super) fn night(&self) -> MutexGuard<'_, Night> {
        self.night.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the night and writes it. What can't be written costs no freeze: it is said at the end.
    pub(super) fn change(&self, change: impl FnOnce(&mut Night)) {
        let mut night = self.night();
        change(&mut night);
        if let Err(error) = self.nights.write(&night) {
            self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// Changes one outcome.
    pub(super) fn outcome(&self, machine: &str, destination: &str, change: impl FnOnce(&mut Outcome)) {
        self.change(|night| {
            if let Some(outcome) = night.outcomes.iter_mut().find(|outcome| outcome.is_of(machine, destination)) {
                change(outcome);
            }
        });
    }

    /// Puts an outcome in the place of the last one of its pair; what that one made is kept until another image has its name.
    pub(super) fn replace(night: &mut Night, outcome: Outcome) {
        let last = night.outcomes.iter().position(|last| last.is_of(&outcome.machine, &outcome.destination));
        let last = last.map(|at| night.outcomes.remove(at));
        night.earlier.extend(last.filter(|last| last.state == Standing::Done));
        night.outcomes.push(outcome);
    }

    /// What concerns no machine.
    pub(super) fn trouble(&self, trouble: Trouble) {
        self.change(|night| {
            if let Some(run) = night.runs.last_mut() {
                run.troubles.push(trouble);
            }
        });
    }

    /// Why the file is not as it should be.
    pub(super) fn unwritten(&self) -> Option<Error> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
