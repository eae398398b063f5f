//! A blob that another repository of the registry has is mounted from there, and not sent.
//!
//! Where blobs are is only what this host remembers of its own freezes. A registry that answers with anything but 201 is not
//! asked again in this run: what it says otherwise is that of any upload.

use std::sync::Arc;

use super::failure::{Cause, Failure};
use super::report::Report;
use super::wire::{Opened, Wire};
use crate::oci::{Descriptor, Digest};
use crate::pipeline::known::KnownStore;

/// What is remembered of one registry's repositories, as one of them sees it.
#[derive(Debug, Clone)]
pub(super) struct Neighbours {
    pub(super) known: Arc<KnownStore>,
    pub(super) registry: String,
    pub(super) repository: String,
}

impl Neighbours {
    /// Another repository that was given the blob.
    fn with(&self, digest: &Digest) -> Option<String> {
        self.known.repository_with(*digest, &self.registry, &self.repository)
    }

    /// The repository has this blob.
    pub(super) fn remember(&self, digest: &Digest) {
        self.known.is_in(*digest, &self.registry, &self.repository);
    }
}

/// What became of a mount.
pub(super) enum Mounted {
    /// The repository has the blob.
    There(Descriptor),
    /// The registry wants it sent, in this session.
    Opened(Opened),
    /// Nothing was asked, or nothing came of it.
    Nothing,
}

pub(super) async fn mount(wire: &impl Wire, report: &Report, blob: &Descriptor) -> Result<Mounted, Failure> {
    let others = report.neighbours.as_ref().filter(|_| report.habits.mounts());
    let from = others.and_then(|others| others.with(&blob.digest));
    let Some(from) = from else { return Ok(Mounted::Nothing) };
    let answer = match wire.mount(&blob.digest, &from).await {
        Ok(None) => return Ok(Mounted::There(blob.clone())),
        Ok(Some(opened)) => Mounted::Opened(opened),
        Err(Failure { cause: Cause::Status { .. } | Cause::Nonsense, .. }) => Mounted::Nothing,
        Err(failure) => return Err(failure),
    };
    report.habits.mounts_nothing();
    Ok(answer)
}
