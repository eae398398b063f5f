//! Where layers go: each sink takes complete layers in any order, several at once, and an image at the very end.
//!
//! Nothing a reader could mistake for an image exists before [`commit`](registry::RegistrySink::commit): the tag or the
//! index entry is the last thing written.

pub mod registry;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::oci::{Descriptor, Digest};
use crate::progress::{Meters, Observer};
use crate::stop::Stop;

/// What a sink shares with the freeze it is part of.
#[derive(Clone)]
pub struct SinkContext {
    /// Told of parts that were confirmed and of retries.
    pub observer: Arc<dyn Observer>,
    /// `send` counts confirmed bytes and retries.
    pub meters: Arc<Meters>,
    /// Ends every wait and every request of the sink but those that clean up.
    pub stop: Stop,
}

impl fmt::Debug for SinkContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkContext").field("meters", &self.meters).finish_non_exhaustive()
    }
}

/// What became of a layer at a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The sink had the blob already; nothing was sent.
    Present,
    /// The blob was sent. `bytes_sent` counts what went over the wire, bytes sent twice twice.
    Sent {
        /// Body bytes of all requests.
        bytes_sent: u64,
    },
}

/// A finished image: all but the layers themselves.
#[derive(Debug, Clone)]
pub struct Image {
    /// The config blob, as it is stored.
    pub config: (Descriptor, Bytes),
    /// The manifest, as it is stored.
    pub manifest: (Descriptor, Bytes),
}

/// What a sink wrote.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Committed {
    /// The name under which the image can be found: a reference, or `oci:DIR:TAG`.
    pub name: String,
    /// The manifest's digest.
    pub digest: Digest,
}
