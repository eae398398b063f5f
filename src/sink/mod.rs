//! Where layers go: each sink takes complete layers in any order, several at once, and an image at the very end.
//!
//! Nothing a reader could mistake for an image exists before [`commit`](registry::RegistrySink::commit): the tag or the
//! index entry is the last thing written.

pub mod artifact;
pub mod registry;

use bytes::Bytes;

use crate::oci::{Descriptor, Digest};

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
