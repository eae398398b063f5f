//! Images of registries and layouts: reading them back, and checking that they are what they say they are.

use std::collections::HashMap;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::error::{Error, Kind, Result, Side};
use crate::image::LAYER_ANNOTATION;
use crate::layout::REF_NAME;
use crate::oci::{Compression, Descriptor, DiffId, Digest};
use crate::pipeline::gather::LivePiece;
use crate::plan::{DEFAULT_TAG, LayoutName};
use crate::sink::registry::RegistryReader;
use crate::stage::digest::{DiffIdHasher, DigestHasher};
use crate::text;

use super::Verified;
use super::hashing::{Hashing, take};

/// Bytes of config that are read at most.
const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Bytes that one read of a blob takes.
const READ_BYTES: usize = 256 << 10;
/// Layers that are checked at a time.
const LAYERS_AT_ONCE: usize = 4;

/// An image in a registry or in a layout.
pub enum StoredImage {
    /// An image in a layout folder.
    Layout(LayoutName),
    /// An image in a registry.
    Registry(RegistryReader),
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

/// One layer that was read to its end.
#[derive(Debug, Default)]
pub(crate) struct LayerRead {
    pub(crate) entries: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) tar_bytes: u64,
    pub(crate) faults: Vec<String>,
    /// What the first fault is, where it is not that the layer is another one than it says.
    pub(crate) kind: Option<Kind>,
}

impl StoredImage {
    /// Manifest and config.
    ///
    /// # Errors
    /// When they can't be read, or are not those of an image.
    pub async fn inspect(&self, name: &str) -> Result<InspectedImage> {
        let (manifest, bytes) = self.manifest().await?;
        let parsed: Manifest = parse(&bytes, "reading the manifest", manifest.digest)?;
        let config = self.config(&parsed.config).await?;
        let config = parse(&config, "reading the config", parsed.config.digest)?;
        let layers = parsed.layers.into_iter().map(|layer| layer.descriptor).collect();
        Ok(InspectedImage { name: name.to_owned(), manifest, layers, config })
    }

    /// Reads every blob again: size, digest, diff_id, and whether each layer is a tar from its first byte to its last.
    /// `checked` is told of each layer that is done.
    ///
    /// # Errors
    /// When the image can't be read at all; what is wrong with it is in [`Verified::faults`].
    pub async fn verify(&self, checked: &(dyn Fn(usize, usize) + Sync)) -> Result<Verified> {
        let (manifest, bytes) = self.manifest().await?;
        let parsed: Manifest = parse(&bytes, "reading the manifest", manifest.digest)?;
        let config = self.config(&parsed.config).await?;
        let diff_ids = parse::<Config>(&config, "reading the config", parsed.config.digest)?.rootfs.diff_ids;
        let mut verified = Verified::default();
        if let Err(fault) = same_number(&parsed, &diff_ids) {
            verified.faults.push(fault);
        }
        let total = parsed.layers.len();
        let layers = parsed.layers.iter().zip(&diff_ids);
        let layers = layers.map(|(layer, diff_id)| self.read_layer(&layer.descriptor, *diff_id, None));
        let mut reading = stream::iter(layers).buffered(LAYERS_AT_ONCE);
        while let Some(layer) = reading.next().await {
            verified.add(layer?);
            checked(verified.layers, total);
        }
        Ok(verified)
    }

    /// Manifest, config and the list of layers, none of which was read.
    ///
    /// # Errors
    /// When they can't be read, or are not those of an image.
    pub(crate) async fn outline(&self) -> Result<Outline> {
        let manifest = self.manifest().await?;
        let parsed: Manifest = parse(&manifest.1, "reading the manifest", manifest.0.digest)?;
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

    /// Reads one layer to its end, and holds it against its descriptor and its diff_id. `tap` gets the stored bytes as
    /// they come: good for nothing before this has returned without a fault.
    ///
    /// # Errors
    /// When reading can't go on, but for what is wrong with this layer alone: that is among its faults.
    pub(crate) async fn read_layer(
        &self,
        layer: &Descriptor,
        diff_id: DiffId,
        tap: Option<&mpsc::Sender<LivePiece>>,
    ) -> Result<LayerRead> {
        let mut found = LayerRead::default();
        let Some(compression) = Compression::from_media_type(&layer.media_type) else {
            let media_type = text::line(&layer.media_type);
            found.faults.push(format!("layer {}: media type '{media_type}' is none of a layer", layer.digest));
            return Ok(found);
        };
        let blob = match self.blob(layer).await {
            Ok(blob) => blob,
            Err(error) if matches!(error.kind(), Kind::Sink | Kind::Corrupt) => {
                (found.faults, found.kind) = (vec![error.to_string()], Some(error.kind()));
                return Ok(found);
            }
            Err(error) => return Err(error),
        };
        let blob = match tap {
            Some(tap) => tapped(blob, tap.clone()),
            None => blob,
        };
        let (stored, digest) =
            Hashing::new(StreamReader::new(blob.map_err(std::io::Error::other)), DigestHasher::default());
        let stored = BufReader::with_capacity(READ_BYTES, stored);
        let plain: Box<dyn AsyncRead + Send + Unpin> = match compression {
            Compression::Zstd => Box::new(whole(ZstdDecoder::new(stored), |decoder| decoder.multiple_members(true))),
            Compression::Gzip => Box::new(whole(GzipDecoder::new(stored), |decoder| decoder.multiple_members(true))),
            Compression::None => Box::new(stored),
        };
        let (plain, tar) = Hashing::new(plain, DiffIdHasher::default());
        match read_tar(plain).await {
            Ok(entries) => found.entries = entries,
            Err(_) if tap.is_some_and(mpsc::Sender::is_closed) => return Err(Error::hung_up("the artifact")),
            Err(error) => {
                found.kind = kind_within(&error);
                found.faults.push(format!("layer {}: {}", layer.digest, innermost(&error)));
            }
        }
        let ((found_digest, size), (found_diff_id, tar_bytes)) = (take(&digest).finish(), take(&tar).finish());
        (found.stored_bytes, found.tar_bytes) = (size, tar_bytes);
        if found.faults.is_empty() {
            let mut compare = |what: &str, stated: String, is: String| {
                if stated != is {
                    found.faults.push(format!("layer {}: {what} should be {stated}, and is {is}", layer.digest));
                }
            };
            compare("the size", layer.size.to_string(), size.to_string());
            compare("the digest", layer.digest.to_string(), found_digest.to_string());
            compare("the diff_id", diff_id.to_string(), found_diff_id.to_string());
        }
        Ok(found)
    }

    async fn manifest(&self) -> Result<(Descriptor, Bytes)> {
        match self {
            Self::Registry(registry) => registry.manifest().await,
            Self::Layout(layout) => {
                let descriptor = find(layout).await?;
                let bytes = self.small_blob(&descriptor).await?;
                Ok((descriptor, bytes))
            }
        }
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Bytes> {
        self.small_blob(descriptor).await
    }

    /// A blob of a few megabytes at most, with its digest checked.
    async fn small_blob(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let subject = descriptor.digest;
        let corrupt = |reason: String| Error::new(Kind::Corrupt, Side::Sink, "reading a blob", subject, reason);
        if descriptor.size > CONFIG_BYTES_MAX {
            return Err(corrupt(format!("{} bytes are too many for a manifest or config", descriptor.size)));
        }
        let mut blob = self.blob(descriptor).await?;
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

    async fn blob(&self, descriptor: &Descriptor) -> Result<BoxStream<'static, Result<Bytes>>> {
        match self {
            Self::Registry(registry) => {
                let blob = registry.blob(descriptor);
                Ok(stream::try_unfold(blob, async |mut blob| Ok(blob.next().await?.map(|bytes| (bytes, blob)))).boxed())
            }
            Self::Layout(layout) => {
                let path = layout.folder.join("blobs/sha256").join(descriptor.digest.hex());
                let failed = move |error: std::io::Error| {
                    Error::sink("reading a blob", format_args!("'{}'", path.display()), &error).because(error)
                };
                let path = layout.folder.join("blobs/sha256").join(descriptor.digest.hex());
                let file = tokio::fs::File::open(path).await.map_err(&failed)?;
                Ok(ReaderStream::with_capacity(file, READ_BYTES).map_err(failed).boxed())
            }
        }
    }
}

/// Reads all entries and what follows them; how many there were.
async fn read_tar(plain: impl AsyncRead + Send + Unpin) -> std::io::Result<u64> {
    let mut archive = tokio_tar::ArchiveBuilder::new(plain).set_ignore_zeros(false).build();
    let mut entries = 0;
    let mut listed = archive.entries()?;
    while let Some(entry) = listed.try_next().await? {
        let mut entry = entry;
        entry.path()?;
        tokio::io::copy(&mut entry, &mut tokio::io::sink()).await?;
        entries += 1;
    }
    drop(listed);
    let mut rest = archive.into_inner().map_err(|_| std::io::Error::other("an entry is still being read"))?;
    let mut block = vec![0; READ_BYTES];
    loop {
        let read = rest.read(&mut block).await?;
        if read == 0 {
            return Ok(entries);
        }
        if block[..read].iter().any(|byte| *byte != 0) {
            return Err(std::io::Error::other("there is more after the tar's end mark"));
        }
    }
}

/// Who made an I/O error, in its own words.
fn innermost(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return "the tar, or its compression, ends early; it was cut off".to_owned();
    }
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The same stream, of which `tap` gets everything first. Who listens there may stop listening.
fn tapped(blob: BoxStream<'static, Result<Bytes>>, tap: mpsc::Sender<LivePiece>) -> BoxStream<'static, Result<Bytes>> {
    blob.and_then(move |bytes| {
        let tap = tap.clone();
        async move {
            tap.send(LivePiece::Bytes(bytes.clone())).await.map_err(|_| Error::hung_up("the artifact"))?;
            Ok(bytes)
        }
    })
    .boxed()
}

fn same_number(manifest: &Manifest, diff_ids: &[DiffId]) -> std::result::Result<(), String> {
    if diff_ids.len() == manifest.layers.len() {
        return Ok(());
    }
    Err(format!("the config has {} diff_ids for {} layers", diff_ids.len(), manifest.layers.len()))
}

/// The kind of this crate's error that an I/O error was made from.
fn kind_within(error: &std::io::Error) -> Option<Kind> {
    let mut cause = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(inner) = cause {
        if let Some(ours) = inner.downcast_ref::<Error>() {
            return Some(ours.kind());
        }
        let io = inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = io.map(|inner| inner as &(dyn std::error::Error + 'static)).or(inner.source());
    }
    None
}

/// Sets a decoder up before it is boxed.
fn whole<D>(mut decoder: D, set: impl FnOnce(&mut D)) -> D {
    set(&mut decoder);
    decoder
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], operation: &str, digest: Digest) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(Kind::Corrupt, Side::Sink, operation, digest, &error).because(error))
}

/// The manifest that a layout's index has under this name. Without one it is `latest`, or the only one there is.
async fn find(layout: &LayoutName) -> Result<Descriptor> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        #[serde(flatten)]
        descriptor: Descriptor,
        #[serde(default)]
        annotations: HashMap<String, String>,
    }
    let path = layout.folder.join("index.json");
    let failed = |reason: &dyn std::fmt::Display| {
        Error::sink("reading the layout", format_args!("'{}'", path.display()), reason)
    };
    let text = tokio::fs::read(&path).await.map_err(|error| failed(&error))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let name_of = |named: &Named| named.annotations.get(REF_NAME).cloned();
    let known: Vec<_> =
        index.manifests.iter().map(|named| name_of(named).unwrap_or(format!("@{}", named.descriptor.digest))).collect();
    let is_only = index.manifests.len() == 1;
    let wanted = layout.tag.as_deref().unwrap_or(DEFAULT_TAG);
    let position = match layout.digest {
        // Like a registry: the digest says which, and the tag is for people.
        Some(digest) => index.manifests.iter().position(|named| named.descriptor.digest == digest),
        None => index.manifests.iter().position(|named| name_of(named).as_deref() == Some(wanted)),
    };
    let position = position.or((layout.tag.is_none() && layout.digest.is_none() && is_only).then_some(0));
    let found = position.and_then(|at| index.manifests.into_iter().nth(at));
    let wanted = layout.digest.map_or(wanted.to_owned(), |digest| digest.to_string());
    found
        .map(|named| named.descriptor)
        .ok_or_else(|| failed(&format!("it has no image '{wanted}', only: {}", known.join(", "))))
}
