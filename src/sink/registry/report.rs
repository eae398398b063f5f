//! Choices for a registry, and the way to tell about it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Pace;
use super::habits::Habits;
use super::mount::Neighbours;
use crate::pipeline::known::KnownStore;
use crate::sink::SinkContext;
use crate::stop::Stop;

/// Gives any number from 0 to 1: the jitter of delays.
pub type Random = Arc<dyn Fn() -> f64 + Send + Sync>;

/// Nobody answers in less.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// The first question is asked again for so long.
const FIRST_CONTACT: Duration = Duration::from_secs(10);

/// How long a failing operation is tried again. Patience starts anew with every byte the registry acknowledges.
#[derive(Clone)]
pub struct Patience {
    /// Failures in a row before giving up. 8.
    pub tries_max: usize,
    /// The first delay's bound; each further one is twice the one before. 500 ms.
    pub first_delay: Duration,
    /// No delay of ours is longer; a registry's wish may be. 30 s.
    pub longest_delay: Duration,
    /// Time from the first failure in a row. A registry that asks for more is given up. 10 min.
    pub total: Duration,
    /// So often a blob is sent again from its first byte. 8.
    pub restarts_max: u32,
    /// The part of a delay's bound that is waited: full jitter, so that many hosts don't come back at once.
    pub random: Random,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries_max: 8,
            first_delay: Duration::from_millis(500),
            longest_delay: Duration::from_secs(30),
            total: Duration::from_secs(600),
            restarts_max: 8,
            random: Arc::new(fastrand::f64),
        }
    }
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tries_max, first_delay, longest_delay, total, restarts_max, random: _ } = self;
        f.debug_struct("Patience")
            .field("tries_max", tries_max)
            .field("first_delay", first_delay)
            .field("longest_delay", longest_delay)
            .field("total", total)
            .field("restarts_max", restarts_max)
            .finish_non_exhaustive()
    }
}

/// Choices for a registry; all have defaults.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// A PEM file with further certificate authorities. With it, loopback is reached over TLS alone.
    pub ca_cert: Option<PathBuf>,
    /// Http without TLS. Loopback hosts need no such choice.
    pub plain_http: bool,
    /// A layer that is sent while it is made goes in parts of this size, in bytes, where the registry keeps parts; it may
    /// want larger ones. As much of it is kept to be sent again. 8 MiB.
    pub part_bytes: u64,
    /// A request in which nothing moves for so long has failed. 60 s.
    pub stall_timeout: Duration,
    /// Folders with a folder `HOST[:PORT]` of certificates for each registry; none for those of Docker and Podman.
    pub certificate_folders: Option<Vec<PathBuf>>,
    /// Files to find credentials in; none for those of Docker and Podman.
    pub auth_files: Option<Vec<PathBuf>>,
    /// Bounds what is sent; clones of one bound several registries together. None by default.
    pub pace: Option<Pace>,
    /// Bounds how many complete layers are sent at a time; clones bound several freezes together. A layer that is sent while
    /// it is made waits for nobody: who makes it would wait as well, and hold memory. None by default.
    pub turns: Option<Arc<Semaphore>>,
    /// How hard failures are tried again.
    pub patience: Patience,
    /// Where blobs are that other repositories of the registry have: they are mounted from there. Not by default.
    pub known: Option<Arc<KnownStore>>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            ca_cert: None,
            plain_http: false,
            part_bytes: 8 << 20,
            stall_timeout: Duration::from_secs(60),
            certificate_folders: None,
            auth_files: None,
            pace: None,
            turns: None,
            patience: Patience::default(),
            known: None,
        }
    }
}

impl RegistryOptions {
    /// Gives up what fails, or stands still, for as long as `total`, instead of 10 min.
    #[must_use]
    pub fn with_patience(mut self, total: Option<Duration>) -> Self {
        self.patience.total = total.unwrap_or(self.patience.total).max(PATIENCE_MIN);
        self
    }
}

/// Who is told, and what names the registry to people.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) registry: String,
    /// Where the credentials came from.
    pub(super) credentials: String,
    pub(super) part_bytes: u64,
    pub(super) habits: Arc<Habits>,
    pub(super) neighbours: Option<Neighbours>,
    pub(super) patience: Patience,
    pub(super) stop: Stop,
    context: SinkContext,
}

impl Report {
    pub(super) fn new(options: &RegistryOptions, context: SinkContext, registry: String, credentials: String) -> Self {
        Self {
            registry,
            credentials,
            part_bytes: options.part_bytes.max(1),
            neighbours: None,
            habits: Arc::new(Habits::new(options.part_bytes.max(1))),
            patience: options.patience.clone(),
            stop: context.stop.clone(),
            context,
        }
    }

    /// For the first request: a typo in a name must not cost minutes.
    pub(super) fn first_contact(&self) -> Self {
        let mut report = self.clone();
        report.patience.tries_max = report.patience.tries_max.min(3);
        report.patience.total = report.patience.total.min(FIRST_CONTACT);
        report
    }

    /// For a clean-up: two tries, and nothing stops it but its time.
    pub(super) fn hurried(&self, stop: Stop, total: Duration) -> Self {
        let mut report = Self { stop, ..self.clone() };
        report.patience.tries_max = 1;
        report.patience.total = total;
        report
    }

    pub(super) fn retrying(&self, subject: &str, reason: &str, delay: Duration) {
        self.context.meters.send.retried();
        let subject = if subject.is_empty() { self.registry.clone() } else { format!("{}: {subject}", self.registry) };
        self.context.observer.retrying(&subject, reason, delay);
    }

    /// So many bytes more than ever before went to the registry, or were there.
    pub(super) fn sent(&self, index: Option<usize>, bytes: u64) {
        if let Some(index) = index {
            self.context.observer.part_sent(index, bytes);
        }
    }
}
