//! Where layers go: each sink takes complete layers in any order, several at once, and an image at the very end.
//!
//! Nothing a reader could mistake for an image exists before [`commit`](registry::RegistrySink::commit): the tag or the
//! index entry is the last thing written.

pub mod artifact;
pub mod layout;
pub mod packed;
pub mod registry;
mod spare;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Kind, Result, Side};
use crate::oci::{Compression, Descriptor, Digest};
use crate::pipeline::gather::{Layer, LiveLayer};
use crate::pipeline::memory::{Memory, Reserved};
use crate::progress::{Meters, Observer};
use crate::stop::Stop;

pub(crate) use spare::Spare;

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

impl Put {
    /// Body bytes that went over the wire.
    #[must_use]
    pub fn bytes_sent(self) -> u64 {
        match self {
            Self::Present => 0,
            Self::Sent { bytes_sent } => bytes_sent,
        }
    }
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
    /// The name under which the image can be found: a reference, `oci:DIR:TAG`, or an artifact's path.
    pub name: String,
    /// The manifest's digest.
    pub digest: Digest,
    /// Bytes of the file, where it is an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_bytes: Option<u64>,
    /// The executable beside the file, where smolvm packed it and it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<PathBuf>,
}

/// One destination of a freeze.
pub enum Sink {
    /// An OCI image layout folder.
    Layout(layout::LayoutSink),
    /// An OCI registry.
    Registry(registry::RegistrySink),
    /// A `.smolmachine` artifact.
    Artifact {
        /// What is written.
        artifact: artifact::ArtifactSink,
        /// What a machine made from it is like.
        machine: artifact::MachineSettings,
    },
    /// A `.smolmachine` artifact that smolvm packs.
    Packed(Box<packed::PackedSink>),
    /// One of these that the others go on without, once it fails.
    Spare(Box<Spare>),
}

impl Sink {
    /// The name under which the image will be found.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Layout(layout) => layout.name(),
            Self::Registry(registry) => registry.name(),
            Self::Artifact { artifact, .. } => artifact.name(),
            Self::Packed(packed) => packed.name(),
            Self::Spare(spare) => spare.sink().name(),
        }
    }

    /// Whether nothing is ever there before it is put: every layer has to be packed for it.
    #[must_use]
    pub fn is_always_new(&self) -> bool {
        matches!(self, Self::Artifact { .. } | Self::Packed(_))
    }

    /// Why the others go on without it, if they do.
    #[must_use]
    pub fn lost(&self) -> Option<&Error> {
        match self {
            Self::Spare(spare) => spare.lost(),
            Self::Layout(_) | Self::Registry(_) | Self::Artifact { .. } | Self::Packed(_) => None,
        }
    }

    /// Whether the sink has this blob.
    ///
    /// # Errors
    /// When the sink does not answer.
    pub async fn has(&self, blob: &Descriptor) -> Result<bool> {
        match self {
            Self::Layout(layout) => Ok(layout.has(blob).await),
            Self::Registry(registry) => registry.has(blob).await,
            Self::Artifact { .. } | Self::Packed(_) => Ok(false),
            Self::Spare(spare) => spare.has(blob).await,
        }
    }

    /// The registry, as long as a layer that one of its repositories has may be had for another one without being sent.
    #[must_use]
    pub fn mounting(&self) -> Option<&str> {
        match self {
            Self::Registry(registry) => registry.mounting(),
            Self::Spare(spare) => spare.sink().mounting().filter(|_| spare.lost().is_none()),
            Self::Layout(_) | Self::Artifact { .. } | Self::Packed(_) => None,
        }
    }

    /// Sends a complete layer; several may be under way at once.
    ///
    /// # Errors
    /// When the sink does not take it, however often it was tried.
    pub async fn put(&self, layer: &Arc<Layer>) -> Result<Put> {
        match self {
            Self::Layout(layout) => layout.put(layer).await,
            Self::Registry(registry) => registry.put(layer).await,
            Self::Artifact { artifact, .. } if layer.workspace => artifact.put_workspace(layer).await,
            Self::Artifact { artifact, .. } => artifact.put(layer).await,
            Self::Packed(packed) => packed.put(layer).await,
            Self::Spare(spare) => spare.put(layer).await,
        }
    }

    /// Sends a layer that is still being made.
    ///
    /// # Errors
    /// As [`Sink::put`]; there is no second try once the sink lost what it had.
    pub async fn put_live(&self, layer: LiveLayer) -> Result<Descriptor> {
        match self {
            Self::Layout(layout) => layout.put_live(layer).await,
            Self::Registry(registry) => registry.put_live(layer).await,
            Self::Artifact { artifact, .. } => artifact.put_live(layer).await,
            Self::Packed(packed) => packed.put_live(layer).await,
            Self::Spare(spare) => spare.put_live(layer).await,
        }
    }

    /// Whether a layer of this compression that is made live can be read again from what the sink wrote. Those of
    /// `/workspace` can't.
    #[must_use]
    pub fn keeps(&self, compression: Compression) -> bool {
        matches!(self, Self::Artifact { .. }) && compression == Compression::Zstd
    }

    /// Takes a layer that is still being made, and gives it back complete: its bytes lie in what the sink wrote, and are
    /// read into buffers of `memory`. Only of a sink that [`Self::keeps`].
    ///
    /// # Errors
    /// As [`Sink::put`].
    pub async fn keep(&self, layer: LiveLayer, memory: Memory) -> Result<Layer> {
        match self {
            Self::Artifact { artifact, .. } => artifact.keep(layer, memory).await,
            other => Err(other.keeps_nothing()),
        }
    }

    /// The same for a layer that is complete; `reserved` is held as long as it is.
    ///
    /// # Errors
    /// As [`Sink::put`].
    pub async fn keep_whole(&self, layer: &Arc<Layer>, memory: Memory, reserved: Arc<Reserved>) -> Result<Layer> {
        match self {
            Self::Artifact { artifact, .. } => artifact.keep_whole(layer, memory, reserved).await,
            other => Err(other.keeps_nothing()),
        }
    }

    fn keeps_nothing(&self) -> Error {
        let reason = "it keeps no layers; this is a bug in smolfreeze";
        Error::new(Kind::Internal, Side::Sink, "keeping a layer", self.name(), reason)
    }

    /// Does what can fail without showing yet, where that is possible: of an artifact all but its name.
    ///
    /// # Errors
    /// When the sink can't take the image.
    pub async fn prepare(&self, image: &Image) -> Result<()> {
        match self {
            Self::Layout(_) | Self::Registry(_) | Self::Spare(_) => Ok(()),
            Self::Artifact { artifact, machine } => artifact.prepare(image, machine).await,
            Self::Packed(packed) => packed.prepare(image).await,
        }
    }

    /// Writes config, manifest and, last, the name: the image exists from then on. None where the others go on without it.
    ///
    /// # Errors
    /// When the sink does not take them.
    pub async fn commit(&self, image: &Image) -> Result<Option<Committed>> {
        match self {
            Self::Layout(layout) => layout.commit(image).await.map(Some),
            Self::Registry(registry) => registry.commit(image).await.map(Some),
            Self::Artifact { artifact, .. } => artifact.publish(image).map(Some),
            Self::Packed(packed) => packed.publish(image).map(Some),
            Self::Spare(spare) => spare.commit(image).await,
        }
    }

    /// Leaves nothing unfinished at the sink.
    ///
    /// # Errors
    /// When something could not be taken back.
    pub async fn abort(&self) -> Result<()> {
        match self {
            Self::Layout(layout) => layout.abort(),
            Self::Registry(registry) => registry.abort().await,
            Self::Artifact { artifact, .. } => artifact.abort().await,
            Self::Packed(packed) => packed.abort().await,
            Self::Spare(spare) => Box::pin(spare.sink().abort()).await,
        }
    }
}
