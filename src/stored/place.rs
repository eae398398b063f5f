//! Where an image is, and the way from its name to its manifest: through indexes, by platform, in layouts and registries
//! alike.

use bytes::Bytes;
use serde_json::Value;

use super::StoredImage;
use crate::error::{Error, Kind, Result, Side};
use crate::layout::{self, Wanted};
use crate::oci::index::{Document, pick};
use crate::oci::{Descriptor, Digest, Platform, json};
use crate::plan::LayoutName;
use crate::sink::registry::RegistryReader;

/// Indexes in indexes; tools make two at most.
const DEPTH_MAX: usize = 8;

/// Where an image is.
pub(super) enum ImagePlace {
    /// In a layout folder.
    Layout(LayoutName),
    /// In a registry.
    Registry(RegistryReader),
}

impl StoredImage {
    /// The image's manifest as it is stored; of an index, that of the platform.
    pub(super) async fn manifest(&self) -> Result<(Descriptor, Bytes)> {
        let host = Platform::host();
        let platform = self.platform.as_ref().unwrap_or(&host);
        let (mut descriptor, mut bytes) = match &self.place {
            ImagePlace::Registry(registry) => registry.manifest().await?,
            ImagePlace::Layout(LayoutName { folder, tag, digest }) => {
                let wanted = Wanted { tag: tag.as_deref(), digest: *digest };
                let descriptor = layout::find(folder, wanted, platform)?;
                let bytes = self.small_blob(&descriptor).await?;
                (descriptor, bytes)
            }
        };
        for _ in 0..=DEPTH_MAX {
            let entries = match Document::read(&bytes, &descriptor.media_type) {
                Ok(Document::Index(entries)) => entries,
                Ok(Document::Image(media_type)) => return Ok((Descriptor { media_type, ..descriptor }, bytes)),
                Err(reason) => return Err(corrupt("reading the manifest", descriptor.digest, &reason)),
            };
            let entry = pick(&entries.iter().collect::<Vec<_>>(), platform).map_err(|why| {
                let error = Error::sink("reading the index", descriptor.digest, format!("it {why}"));
                error.hint("--platform OS/ARCH[/VARIANT] takes another one")
            })?;
            (descriptor, bytes) = match &self.place {
                ImagePlace::Registry(registry) => (entry.clone(), registry.manifest_of(entry).await?),
                ImagePlace::Layout(_) => (entry.clone(), self.small_blob(entry).await?),
            };
        }
        let reason = format!("more than {DEPTH_MAX} indexes lead to it");
        Err(corrupt("reading the index", descriptor.digest, &reason))
    }

    /// An only image says itself what it runs on.
    pub(super) fn is_wanted(&self, digest: Digest, config: &[u8]) -> Result<()> {
        let Some(wanted) = &self.platform else { return Ok(()) };
        let config: Value = json::read(config).map_err(|reason| corrupt("reading the config", digest, &reason))?;
        match Platform::read(&config).filter(|platform| wanted.distance(platform).is_none()) {
            Some(other) => {
                let reason = format!("the image is for {other}, and --platform says {wanted}");
                Err(Error::usage("finding the image", digest, reason))
            }
            None => Ok(()),
        }
    }
}

fn corrupt(operation: &str, digest: Digest, reason: &str) -> Error {
    Error::new(Kind::Corrupt, Side::Sink, operation, digest, reason)
}
