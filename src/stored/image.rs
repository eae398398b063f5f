//! Images of registries and layouts: reading them back, and checking that they are what they say they are.

use crate::error::{Error, Kind, Result, Side};
use crate::image::LAYER_ANNOTATION;
use crate::layout::open_blob;
use crate::oci::json::{self, DOCUMENT_BYTES_MAX};
use crate::oci::{Descriptor, DiffId, Digest, Platform};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::io::ReaderStream;

use super::Verified;
use super::compare::compare;
use super::layer::{self, EndOnDrop, Source, Unpacked, Watch, layers_at_once};
use super::place::ImagePlace;
use super::seen::{Hearing, Seen};
use crate::night::index;
use crate::night::record::Reader;
use crate::progress::Observer;
use crate::stage::digest::DigestHasher;
use crate::stop::Stop;

/// Layers of an image; no runtime stacks half as many.
const LAYERS_MAX: usize = 1024;
/// Bytes that one read of a blob takes.
const READ_BYTES: usize = 256 << 10;

/// An image in a registry or in a layout.
pub struct StoredImage {
    /// Where it is.
    pub(super) place: ImagePlace,
    /// What it has to run on, where the user says so; else it is this host, where there is a choice.
    pub(super) platform: Option<Platform>,
    /// Bytes of tar that all its layers may unpack to.
    pub(super) tar_bytes_max: Option<u64>,
}

/// What `inspect` shows of an image.
#[derive(Debug, Clone, serde::Serialize)]
pub struct InspectedImage {
    /// The image's name.
    pub name: String,
    /// The manifest.
    pub manifest: Descriptor,
    /// The manifest's layers.
    pub layers: Vec<Descriptor>,
    /// The config, as it is stored.
    pub config: serde_json::Value,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<ManifestLayer>,
}

#[derive(Deserialize)]
struct ManifestLayer {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<DiffId>,
}

/// An image's manifest and config as they are stored, and its layers with the names that the config gives them.
pub(crate) struct Outline {
    pub(crate) manifest: (Descriptor, Bytes),
    pub(crate) config: (Descriptor, Bytes),
    pub(crate) layers: Vec<OutlineLayer>,
}

/// A layer that an image lists.
#[derive(Debug, Clone)]
pub(crate) struct OutlineLayer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: DiffId,
    /// Whether it holds what is in `/workspace` and nothing else.
    pub(crate) workspace: bool,
}

impl StoredImage {
    /// Manifest and config.
    ///
    /// # Errors
    /// When they can't be read, or are not those of an image.
    pub async fn inspect(&self, name: &str) -> Result<InspectedImage> {
        let (manifest, bytes) = self.manifest().await?;
        let parsed = read_manifest(&bytes, manifest.digest)?;
        let config = self.config(&parsed.config).await?;
        let config = parse(&config, "reading the config", parsed.config.digest)?;
        let layers = parsed.layers.into_iter().map(|layer| layer.descriptor).collect();
        Ok(InspectedImage { name: name.to_owned(), manifest, layers, config })
    }

    /// Reads every blob again: size, digest, diff_id, and whether each layer is a tar from its first byte to its last.
    /// Where the folder `indexes` has one of this image, all that is seen of the layers is compared with it. `observer` is
    /// told how many stored bytes there are, and of those that were read.
    ///
    /// # Errors
    /// When the image can't be read at all; what is wrong with it is in [`Verified::faults`].
    pub async fn verify(&self, indexes: Option<&Path>, observer: &Arc<dyn Observer>) -> Result<Verified> {
        let (manifest, bytes) = self.manifest().await?;
        let parsed = read_manifest(&bytes, manifest.digest)?;
        let config = self.config(&parsed.config).await?;
        let diff_ids = parse::<Config>(&config, "reading the config", parsed.config.digest)?.rootfs.diff_ids;
        let mut verified = Verified::default();
        if let Err(fault) = same_number(&parsed, &diff_ids) {
            verified.faults.push(fault);
        }
        let sizes = parsed.layers.iter().map(|layer| layer.descriptor.size);
        observer.expected(sizes.fold(0, u64::saturating_add));
        let end = EndOnDrop(Stop::new());
        let watch = self.watch(observer, &end.0);
        let digests: Vec<_> = parsed.layers.iter().map(|layer| layer.descriptor.digest).collect();
        let index = indexes.and_then(|folder| index::of_image(folder, &digests));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let layers = parsed.layers.iter().zip(&diff_ids).enumerate();
        let layers = layers.map(async |(number, (layer, diff_id))| {
            let hearing = Hearing::new(&seen, number, index.is_some());
            let (read, mut hearing) = layer::read(self, &layer.descriptor, *diff_id, hearing, &watch).await?;
            hearing.end();
            Ok::<_, Error>((number, read))
        });
        // A long one holds none of the others up.
        let reading = stream::iter(layers).buffer_unordered(layers_at_once());
        let mut read: Vec<_> = reading.try_collect().await?;
        read.sort_by_key(|(index, _)| *index);
        for (_, layer) in read {
            verified.add(layer);
        }
        let compared = tokio::task::spawn_blocking(move || look_through(&seen, index, verified));
        compared.await.map_err(|_| Error::hung_up("comparing"))?
    }

    /// What goes along with reading its layers.
    pub(crate) fn watch(&self, observer: &Arc<dyn Observer>, stop: &Stop) -> Watch {
        let unpacked = Unpacked::at_most(self.tar_bytes_max);
        Watch { observer: Arc::clone(observer), stop: stop.clone(), unpacked }
    }

    /// Manifest, config and the list of layers, none of which was read.
    ///
    /// # Errors
    /// When they can't be read, or are not those of an image.
    pub(crate) async fn outline(&self) -> Result<Outline> {
        let manifest = self.manifest().await?;
        let parsed = read_manifest(&manifest.1, manifest.0.digest)?;
        let config = self.config(&parsed.config).await?;
        let diff_ids = parse::<Config>(&config, "reading the config", parsed.config.digest)?.rootfs.diff_ids;
        let operation = "reading the manifest";
        same_number(&parsed, &diff_ids)
            .map_err(|fault| Error::new(Kind::Corrupt, Side::Sink, operation, manifest.0.digest, fault))?;
        let (annotation, workspace) = LAYER_ANNOTATION;
        let is_workspace =
            |layer: &ManifestLayer| layer.annotations.get(annotation).is_some_and(|value| value == workspace);
        let layers = parsed.layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
            let (descriptor, workspace) = (layer.descriptor.clone(), is_workspace(layer));
            OutlineLayer { descriptor, diff_id, workspace }
        });
        Ok(Outline { layers: layers.collect(), config: (parsed.config, config), manifest })
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let bytes = self.small_blob(descriptor).await?;
        self.is_wanted(descriptor.digest, &bytes)?;
        Ok(bytes)
    }

    /// A blob of a few megabytes at most, with its digest checked.
    pub(super) async fn small_blob(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let subject = descriptor.digest;
        let corrupt = |reason: String| Error::new(Kind::Corrupt, Side::Sink, "reading a blob", subject, reason);
        if descriptor.size > DOCUMENT_BYTES_MAX {
            return Err(corrupt(format!("{} bytes are too many for a manifest or config", descriptor.size)));
        }
        let mut blob = self.blob(descriptor)?;
        let mut bytes = Vec::new();
        while let Some(more) = blob.try_next().await? {
            bytes.extend_from_slice(&more);
            if bytes.len() as u64 > descriptor.size {
                return Err(corrupt(format!("it is longer than its {} bytes", descriptor.size)));
            }
        }
        let digest: Digest = DigestHasher::of(&bytes);
        if digest != descriptor.digest {
            return Err(corrupt(format!("its bytes are {digest}")));
        }
        Ok(bytes.into())
    }

    /// Where a blob's bytes come from, for a thread that may block.
    pub(super) fn source(&self, descriptor: &Descriptor) -> Source {
        match &self.place {
            ImagePlace::Registry(registry) => Source::Registry(Box::new(registry.blob(descriptor))),
            ImagePlace::Layout(name) => {
                Source::File(name.folder.join("blobs/sha256").join(descriptor.digest.hex()), None)
            }
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<BoxStream<'static, Result<Bytes>>> {
        match &self.place {
            ImagePlace::Registry(registry) => {
                let blob = registry.blob(descriptor);
                Ok(stream::try_unfold(blob, async |mut blob| Ok(blob.next().await?.map(|bytes| (bytes, blob)))).boxed())
            }
            ImagePlace::Layout(layout) => {
                let subject = descriptor.digest;
                let failed = move |error: std::io::Error| Error::sink("reading a blob", subject, &error).because(error);
                let file = tokio::fs::File::from_std(open_blob(&layout.folder, descriptor.digest)?);
                Ok(ReaderStream::with_capacity(file, READ_BYTES).map_err(failed).boxed())
            }
        }
    }
}

/// What is seen of all layers, beside the index; layers that are wrong are not compared.
fn look_through(
    seen: &Mutex<Seen>,
    index: Option<Reader<impl std::io::Read>>,
    mut verified: Verified,
) -> Result<Verified> {
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut covers = seen.covers();
    let Some(entries) = covers.entries() else { return Ok(verified) };
    verified.entries = entries;
    if let Some(index) = index.filter(|_| verified.faults.is_empty()) {
        let failed =
            |error: std::io::Error| Error::sink("reading the index", "the state folder", &error).because(error);
        let compared = compare(index, &mut covers).map_err(failed)?;
        verified.compared = Some(compared.entries);
        verified.faults = compared.faults;
        if let Some(more) = entries.checked_sub(compared.entries).filter(|more| *more > 0 && verified.faults.is_empty())
        {
            verified.faults.push(format!("{more} entries are in the image that the index does not have"));
        }
    }
    Ok(verified)
}

fn same_number(manifest: &Manifest, diff_ids: &[DiffId]) -> std::result::Result<(), String> {
    if diff_ids.len() == manifest.layers.len() {
        return Ok(());
    }
    Err(format!("the config has {} diff_ids for {} layers", diff_ids.len(), manifest.layers.len()))
}

/// What an image is made of, in bounds.
fn read_manifest(bytes: &[u8], digest: Digest) -> Result<Manifest> {
    let manifest: Manifest = parse(bytes, "reading the manifest", digest)?;
    let count = manifest.layers.len();
    if count > LAYERS_MAX {
        let reason = format!("it lists {count} layers, and more than {LAYERS_MAX} are not read");
        return Err(Error::new(Kind::Corrupt, Side::Sink, "reading the manifest", digest, reason));
    }
    Ok(manifest)
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], operation: &str, digest: Digest) -> Result<T> {
    json::read(bytes).map_err(|error| Error::new(Kind::Corrupt, Side::Sink, operation, digest, error))
}
