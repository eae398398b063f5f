//! What a run said, for those who are told of it afterwards.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Clock, Watcher};
use crate::fleet::night::{Outcome, Standing};
use crate::progress::Observer;
use crate::text;

/// Of a longer log its end is kept.
const LOG_BYTES_MAX: usize = 64 << 10;

/// Passes all on, and keeps it as lines.
pub(super) struct Log<'a> {
    watcher: &'a dyn Watcher,
    clock: &'a dyn Clock,
    lines: Mutex<String>,
}

impl<'a> Log<'a> {
    pub(super) fn new(watcher: &'a dyn Watcher, clock: &'a dyn Clock) -> Self {
        Self { watcher, clock, lines: Mutex::default() }
    }

    pub(super) fn lines(&self) -> MutexGuard<'_, String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, said: &str) {
        let (now, mut lines) = (self.clock.local(), self.lines());
        let _ = writeln!(lines, "{} {}", now.strftime("%H:%M:%S"), text::line(said));
        if lines.len() > LOG_BYTES_MAX {
            let half = lines.len() - LOG_BYTES_MAX / 2;
            let begin =
                lines.as_bytes()[half..].iter().position(|byte| *byte == b'\n').map_or(half, |at| half + at + 1);
            lines.drain(..begin);
        }
    }
}

impl Watcher for Log<'_> {
    fn began(&self, machines: usize) {
        self.add(&format!("{machines} machines"));
        self.watcher.began(machines);
    }

    fn machine_began(&self, machine: &str, attempt: u32) -> Arc<dyn Observer> {
        self.watcher.machine_began(machine, attempt)
    }

    fn machine_ended(&self, machine: &str, outcomes: &[Outcome], again_in: Option<Duration>) {
        for outcome in outcomes {
            let why = outcome.trouble.as_ref().map_or("", |trouble| trouble.text.as_str());
            let destination = &outcome.destination;
            self.add(&match (outcome.state, again_in) {
                (Standing::Done, _) => {
                    let in_full = outcome.in_full().map_or_else(String::new, |why| format!("; {why}"));
                    format!("{machine} to {destination}: done in {:.1} s{in_full}", outcome.seconds)
                }
                (Standing::Failed, Some(_)) => format!("{machine} to {destination}: tried again later: {why}"),
                (Standing::Failed, None) => format!("{machine} to {destination}: failed: {why}"),
                (Standing::Skipped, _) => format!("{machine} to {destination}: skipped: {why}"),
                (Standing::Pending, _) => format!("{machine} to {destination}: not done"),
            });
        }
        self.watcher.machine_ended(machine, outcomes, again_in);
    }

    fn said(&self, said: &str) {
        self.add(said);
        self.watcher.said(said);
    }
}
