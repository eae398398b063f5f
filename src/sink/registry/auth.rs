//! What a registry granted for the user's credentials.

use std::sync::{PoisonError, RwLock};

use reqwest::header::HeaderValue;

use super::credentials::Credentials;

/// What the registry granted so far: a header that goes with every request to it.
#[derive(Debug)]
pub(super) struct Auth {
    pub(super) credentials: Credentials,
    /// `repository:NAME:pull,push`, or without push.
    pub(super) scope: String,
    granted: RwLock<(u64, Option<HeaderValue>)>,
    /// Held while a token is fetched, so that many refused requests fetch one.
    pub(super) renewing: tokio::sync::Mutex<()>,
}

impl Auth {
    pub(super) fn new(credentials: Credentials, scope: String) -> Self {
        Self { credentials, scope, granted: RwLock::default(), renewing: tokio::sync::Mutex::default() }
    }

    /// The header, and which one in a row it is.
    pub(super) fn granted(&self) -> (u64, Option<HeaderValue>) {
        self.granted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn grant(&self, mut header: HeaderValue) {
        header.set_sensitive(true);
        let mut granted = self.granted.write().unwrap_or_else(PoisonError::into_inner);
        *granted = (granted.0 + 1, Some(header));
    }
}
