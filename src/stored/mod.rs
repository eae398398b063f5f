//! What is stored, read back: images of registries and layouts, and artifacts. `inspect` shows it, `verify` checks it.

#[doc(hidden)]
pub mod artifact;
mod aside;
mod compare;
mod image;
mod layer;
mod name;
mod place;
mod seen;

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::oci::Platform;
use crate::progress::Observer;
use crate::sink::SinkContext;
use crate::sink::registry::{RegistryOptions, RegistryReader};

pub use artifact::{InspectedArtifact, InspectedLayer, StoredArtifact};
pub use image::{InspectedImage, StoredImage};
pub(crate) use image::{Outline, OutlineLayer};
pub(crate) use layer::{EndOnDrop, Listen, Watch, layers_at_once, read as read_layer};
pub use name::StoredName;
use place::ImagePlace;

/// Something stored that was found.
pub enum Stored {
    /// An image in a registry or in a layout.
    Image(StoredImage),
    /// A `.smolmachine` file.
    Artifact(StoredArtifact),
}

/// What `inspect` shows.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(untagged)]
pub enum Inspected {
    /// Of an image.
    Image(InspectedImage),
    /// Of an artifact.
    Artifact(InspectedArtifact),
}

/// What a whole image or artifact was found to be.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Verified {
    /// Layers that were read.
    pub layers: usize,
    /// Entries that are seen of them, what upper ones hide left out; of an artifact, and where there are more than two
    /// million names, those of all layers together.
    pub entries: u64,
    /// Entries of this host's index of the image, if it has one: each was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<u64>,
    /// Stored bytes that were read.
    pub stored_bytes: u64,
    /// Bytes of tar that they held.
    pub tar_bytes: u64,
    /// Everything that is not what it says it is; empty is good.
    pub faults: Vec<String>,
}

impl Verified {
    fn add(&mut self, layer: layer::LayerRead) {
        self.layers += 1;
        self.entries += layer.entries;
        self.stored_bytes += layer.stored_bytes;
        self.tar_bytes += layer.tar_bytes;
        self.faults.extend(layer.faults);
    }
}

/// What is to be opened.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a StoredName,
    /// The platform, where an image is for several; this host's by default.
    pub platform: Option<&'a Platform>,
    /// An image whose layers unpack to more bytes of tar is refused.
    pub tar_bytes_max: Option<u64>,
}

impl Stored {
    /// What is stored under a name.
    ///
    /// # Errors
    /// When nothing answers there.
    pub async fn open(wanted: Wanted<'_>, options: RegistryOptions, context: SinkContext) -> Result<Self> {
        let place = match wanted.name {
            StoredName::Artifact(path) => {
                let artifact = StoredArtifact::open(path, context.stop).await?;
                let refuse = |option: &str, reason: &str| {
                    Err(Error::usage(format!("reading {option}"), wanted.name, reason).hint("leave it out"))
                };
                if wanted.platform.is_some() {
                    return refuse("--platform", "an artifact is for one platform, and it chooses among several");
                }
                if wanted.tar_bytes_max.is_some() {
                    return refuse("--max-size", "it bounds what images unpack to, and this is an artifact");
                }
                return Ok(Self::Artifact(artifact));
            }
            StoredName::Layout(layout) => ImagePlace::Layout(layout.clone()),
            StoredName::Registry(reference) => {
                ImagePlace::Registry(RegistryReader::connect(reference, options, context).await?)
            }
        };
        let (platform, tar_bytes_max) = (wanted.platform.cloned(), wanted.tar_bytes_max);
        Ok(Self::Image(StoredImage { place, platform, tar_bytes_max }))
    }

    /// What it says about itself.
    ///
    /// # Errors
    /// When that can't be read, or is not what it should be.
    pub async fn inspect(&self, name: &str) -> Result<Inspected> {
        match self {
            Self::Image(image) => Ok(Inspected::Image(image.inspect(name).await?)),
            Self::Artifact(artifact) => Ok(Inspected::Artifact(artifact.inspect(name))),
        }
    }

    /// Reads all of it again, and holds it against what it says about itself, and an image against its index, if one is in
    /// the folder `indexes`. `observer` is told how many stored bytes
    /// there are, and of those that were read.
    ///
    /// # Errors
    /// When it can't be read at all; what is wrong with it is in [`Verified::faults`].
    pub async fn verify(&self, indexes: Option<&Path>, observer: &Arc<dyn Observer>) -> Result<Verified> {
        match self {
            Self::Image(image) => image.verify(indexes, observer).await,
            Self::Artifact(artifact) => artifact.verify(observer).await,
        }
    }
}
