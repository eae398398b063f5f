//! What all freezes of a run share at a destination: its bandwidth, its uploads, and that it was found to be down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::fleet::file::{Destination, File};
use crate::fleet::night::Trouble;
use crate::plan::{OutputSpec, Reach};
use crate::sink::registry::{Pace, RegistryOptions};
use crate::stop::Stop;

/// A destination that did not answer is not asked again for so long.
const DOWN_FOR: Duration = Duration::from_secs(20);

/// One destination.
pub(super) struct Lane {
    pub(super) destination: Destination,
    registry: RegistryOptions,
    down: Mutex<Option<(Instant, Trouble)>>,
}

/// All destinations, by their names.
pub(super) struct Lanes(BTreeMap<String, Lane>);

impl Lanes {
    pub(super) fn new(file: &File) -> Self {
        Self(file.destinations.iter().map(|(name, destination)| (name.clone(), Lane::new(destination))).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Lane> {
        self.0.get(name)
    }
}

impl Lane {
    fn new(destination: &Destination) -> Self {
        let Destination { uploads, bandwidth, ca_cert, plain_http, patience, .. } = destination;
        let registry = RegistryOptions {
            ca_cert: ca_cert.clone(),
            plain_http: *plain_http,
            pace: bandwidth.map(|bandwidth| Pace::new(bandwidth.0, Stop::new())),
            turns: uploads.map(|uploads| Arc::new(Semaphore::new(usize::from(uploads)))),
            ..RegistryOptions::default().with_patience(patience.map(|patience| patience.0))
        };
        Self { destination: destination.clone(), registry, down: Mutex::default() }
    }

    /// How a freeze speaks to it.
    pub(super) fn reach(&self, output: &OutputSpec) -> Option<Reach> {
        let is_registry = matches!(output, OutputSpec::Registry(_));
        is_registry.then(|| Reach { output: output.clone(), registry: self.registry.clone() })
    }

    /// Why it is not asked now, if it was asked a moment ago. Who tries again after `pause` asks again.
    pub(super) fn down(&self, pause: Duration) -> Option<Trouble> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |at: &Instant| at.elapsed() < DOWN_FOR.min(pause / 2);
        down.as_ref().filter(|(at, _)| is_fresh(at)).map(|(_, trouble)| trouble.clone())
    }

    /// It could not be reached.
    pub(super) fn is_down(&self, trouble: Trouble) {
        *self.down.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), trouble));
    }
}
