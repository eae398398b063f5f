//! Stopping a freeze, from anywhere, once, with the cause kept.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// A switch that all parts of one freeze share. The first cause given is kept, as [`Error::first_cause`] ranks them.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    cause: Arc<Mutex<Option<Error>>>,
}

impl Stop {
    /// A switch that nobody has thrown.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops everything that shares this switch, because of `cause`.
    pub fn stop(&self, cause: Error) {
        let mut slot = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(match slot.take() {
            Some(earlier) => Error::first_cause(earlier, cause),
            None => cause,
        });
        drop(slot);
        self.token.cancel();
    }

    /// Stops everything because a person or a signal asked for it.
    pub fn interrupt(&self) {
        self.stop(Error::interrupted());
    }

    /// Whether somebody threw the switch.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.token.is_cancelled()
    }

    /// An early way out of a loop on a thread.
    ///
    /// # Errors
    /// A hang-up once stopped: whoever threw the switch gave the cause.
    pub fn check(&self) -> Result<()> {
        if self.is_stopped() { Err(Error::hung_up("the freeze")) } else { Ok(()) }
    }

    /// Returns once stopped; never, if nobody does.
    pub async fn stopped(&self) {
        self.token.cancelled().await;
    }

    /// The cause, taken out.
    pub(crate) fn take_cause(&self) -> Option<Error> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
