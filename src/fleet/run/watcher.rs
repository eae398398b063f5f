//! What may be observed while a run is under way.

use std::sync::Arc;
use std::time::Duration;

use crate::fleet::night::Outcome;
use crate::progress::{Observer, Silent};

/// Watches a run. Every method has an empty body; none may block.
pub trait Watcher: Send + Sync {
    /// So many machines are to be frozen.
    fn began(&self, _machines: usize) {}
    /// It is a machine's turn, for the `attempt`th time; what happens to it is told to the observer.
    fn machine_began(&self, _machine: &str, _attempt: u32) -> Arc<dyn Observer> {
        Arc::new(Silent)
    }
    /// Its turn is over: how it stands at its destinations, and when it is tried again, if it is.
    fn machine_ended(&self, _machine: &str, _outcomes: &[Outcome], _again_in: Option<Duration>) {}
    /// Something that concerns no machine.
    fn said(&self, _text: &str) {}
}

/// Watches nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watcher for Unwatched {}
