//! The one loop that tries again, and the one verdict on whether to.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};

use super::Options;
use super::link::Link;
use crate::error::{Error, Result};
use crate::progress::{Meters, Observer};
use crate::smolvm::Trouble;

/// The first pause, about; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A call that hangs may last longer than all patience: it still is made this often.
const TRIES_MIN: u32 = 3;

/// Who watches a transfer, from the moment on at which there is a freeze that it is of.
#[derive(Clone, Default)]
pub(super) struct Watchers(Arc<OnceLock<Watching>>);

type Watching = (Arc<Meters>, Arc<dyn Observer>);

impl Watchers {
    /// From now on it is these.
    pub(super) fn set(&self, meters: Arc<Meters>, observer: Arc<dyn Observer>) {
        let _ = self.0.set((meters, observer));
    }

    pub(super) fn meters(&self) -> Option<&Meters> {
        self.0.get().map(|(meters, _)| &**meters)
    }

    fn retrying(&self, doing: &str, trouble: &str, pause: Duration) {
        if let Some((meters, observer)) = self.0.get() {
            meters.source.retried();
            observer.retrying(doing, trouble, pause);
        }
    }
}

/// Makes calls until they work or patience ends.
pub(super) struct Trying<'a, L> {
    pub(super) link: &'a L,
    pub(super) machine: &'a str,
    /// How long one thing may go on failing.
    pub(super) patience: Duration,
    /// Who is told of it.
    pub(super) watchers: Watchers,
}

impl<'a, L: Link> Trying<'a, L> {
    /// Before there is a freeze that could tell of it.
    pub(super) fn quietly(link: &'a L, machine: &'a str, options: &Options) -> Self {
        Self { link, machine, patience: options.patience, watchers: Watchers::default() }
    }

    /// The machine, as errors name it.
    pub(super) fn subject(&self) -> String {
        format!("machine '{}'", self.machine)
    }

    /// Tries again, with growing pauses, until `attempt` works. A machine that is not running any more, or a smolvm that
    /// can't be started, ends it at once.
    ///
    /// # Errors
    /// The last trouble, with how hard it was tried.
    pub(super) async fn until_it_works<T>(
        &self,
        doing: &str,
        mut attempt: impl AsyncFnMut() -> Result<T, Trouble>,
    ) -> Result<T> {
        let pauses = ExponentialBuilder::new().with_min_delay(PAUSE_MIN).with_max_delay(PAUSE_MAX).with_jitter();
        let mut pauses = pauses.without_max_times().build();
        let began = Instant::now();
        let mut tries = 0_u32;
        loop {
            let trouble = match attempt().await {
                Ok(result) => return Ok(result),
                Err(trouble) => trouble,
            };
            tries += 1;
            if let Some(state) = self.not_running().await {
                let error = Error::source(doing, self.subject(), format!("{trouble}; the machine is {state}"));
                return Err(error.hint(format!("start it with `smolvm machine start --name {}`", self.machine)));
            }
            if matches!(trouble, Trouble::NotStarted(_)) || tries >= TRIES_MIN && began.elapsed() >= self.patience {
                let reason = format!("{trouble} ({tries} tries in {} s)", began.elapsed().as_secs());
                return Err(Error::source(doing, self.subject(), reason));
            }
            let pause = pauses.next().unwrap_or(PAUSE_MAX);
            self.watchers.retrying(&format!("{doing} of {}", self.subject()), &trouble.to_string(), pause);
            tokio::time::sleep(pause).await;
        }
    }

    /// Counts and tells of something wrong that is tried again at once.
    pub(super) fn wrong(&self, doing: &str, complaint: &str) {
        self.watchers.retrying(&format!("{doing} of {}", self.subject()), complaint, Duration::ZERO);
    }

    /// The machine's state, where smolvm says that it does not run; nothing, where it runs or nobody knows.
    async fn not_running(&self) -> Option<String> {
        match self.link.listed().await {
            Ok(None) => Some("gone from `smolvm machine ls`".to_owned()),
            Ok(Some(machine)) => {
                let state = machine["state"].as_str().unwrap_or("running");
                matches!(state, "stopped" | "created").then(|| state.to_owned())
            }
            Err(_) => None,
        }
    }
}
