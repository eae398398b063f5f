//! The first question to a registry, and whether it was asked in the right way.

use super::failure::{Cause, Failure, Io};
use super::http::Client;
use super::retry::{Attempt, Recovery};

/// `GET /v2/`, of which the first answer is there already.
pub(super) struct Contact<'a> {
    pub(super) client: &'a Client,
    pub(super) first: Option<Result<(), Failure>>,
}

impl Attempt for Contact<'_> {
    type Output = ();

    async fn attempt(&mut self, _: Recovery) -> Result<(), Failure> {
        match self.first.take() {
            Some(first) => first,
            None => self.client.ping().await,
        }
    }
}

/// Whether a plain question failed as it does at a server of TLS: Go's and nginx answer 400, others hang up.
pub(super) fn is_of_a_tls_server(failure: &Failure) -> bool {
    matches!(failure.cause, Cause::Status { status: 400, .. } | Cause::Io(Io::Cut | Io::NoHttp))
}

/// Whether the answer to a question over TLS came over TLS, or would have if its certificate were trusted.
pub(super) fn speaks_tls(answer: &Result<(), Failure>) -> bool {
    match answer {
        Ok(()) => true,
        Err(failure) => matches!(failure.cause, Cause::Status { .. } | Cause::Io(Io::Untrusted)),
    }
}
