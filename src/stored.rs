//! Images as they are stored: reading them back, and checking that they are what they say they are.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader, ReadBuf};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::error::{Error, Kind, Result, Side};
use crate::oci::{Compression, Descriptor, DiffId, Digest};
use crate::plan::OutputSpec;
use crate::sink::SinkContext;
use crate::sink::registry::{RegistryOptions, RegistryReader};
use crate::stage::digest::{DiffIdHasher, DigestHasher};

/// Bytes of config that are read at most.
const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Bytes that one read of a blob takes.
const READ_BYTES: usize = 256 << 10;
/// Layers that are checked at a time.
const LAYERS_AT_ONCE: usize = 4;

/// An image in a registry or in a layout.
pub enum Stored {
    /// An image in a layout folder: the folder and the tag.
    Layout(PathBuf, String),
    /// An image in a registry.
    Registry(RegistryReader),
}

/// What `inspect` shows.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Inspected {
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
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<DiffId>,
}

/// What a whole image was found to be.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Verified {
    /// Layers that were read.
    pub layers: usize,
    /// Entries in them.
    pub entries: u64,
    /// Stored bytes that were read.
    pub stored_bytes: u64,
    /// Bytes of tar that they held.
    pub tar_bytes: u64,
    /// Everything that is not what it says it is; empty is good.
    pub faults: Vec<String>,
}

impl Stored {
    /// The image named `name`: a reference, `oci:DIR[:TAG]`, or `oci:DIR:NAME:TAG` in a layout that was served.
    ///
    /// # Errors
    /// When the name is none, or nothing answers there.
    pub async fn open(name: &str, options: RegistryOptions, context: SinkContext) -> Result<Self> {
        match name.parse()? {
            OutputSpec::Layout { folder, tag } => {
                let (folder, tag) = in_layout(folder, tag);
                Ok(Self::Layout(folder, tag))
            }
            OutputSpec::Artifact(path) => {
                let reason = "an artifact is no image; smolvm reads it";
                Err(Error::usage("reading an image", path.display(), reason))
            }
            OutputSpec::Registry(reference) => {
                Ok(Self::Registry(RegistryReader::connect(&reference, options, context).await?))
            }
        }
    }

    /// Manifest and config.
    ///
    /// # Errors
    /// When they can't be read, or are not those of an image.
    pub async fn inspect(&self, name: &str) -> Result<Inspected> {
        let (manifest, bytes) = self.manifest().await?;
        let parsed: Manifest = parse(&bytes, "reading the manifest", manifest.digest)?;
        let config = self.config(&parsed.config).await?;
        let config = parse(&config, "reading the config", parsed.config.digest)?;
        Ok(Inspected { name: name.to_owned(), manifest, layers: parsed.layers, config })
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
        if diff_ids.len() != parsed.layers.len() {
            let words = format!("the config has {} diff_ids for {} layers", diff_ids.len(), parsed.layers.len());
            verified.faults.push(words);
        }
        let total = parsed.layers.len();
        let layers = parsed.layers.iter().zip(&diff_ids).map(|(layer, diff_id)| self.check_layer(layer, *diff_id));
        let mut reading = stream::iter(layers).buffered(LAYERS_AT_ONCE);
        while let Some(layer) = reading.next().await {
            let layer = layer?;
            verified.layers += 1;
            verified.entries += layer.entries;
            verified.stored_bytes += layer.stored_bytes;
            verified.tar_bytes += layer.tar_bytes;
            verified.faults.extend(layer.faults);
            checked(verified.layers, total);
        }
        Ok(verified)
    }

    async fn check_layer(&self, layer: &Descriptor, diff_id: DiffId) -> Result<Verified> {
        let mut found = Verified::default();
        let Some(compression) = Compression::from_media_type(&layer.media_type) else {
            found.faults.push(format!(
                "layer {}: media type '{}' is none of a layer",
                layer.digest,
                layer.media_type.escape_debug()
            ));
            return Ok(found);
        };
        let blob = match self.blob(layer).await {
            Ok(blob) => blob,
            Err(error) if matches!(error.kind(), Kind::Sink | Kind::Corrupt) => {
                found.faults.push(error.to_string());
                return Ok(found);
            }
            Err(error) => return Err(error),
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
            Err(error) => found.faults.push(format!("layer {}: {}", layer.digest, innermost(&error))),
        }
        let (found_digest, size) = take(&digest).finish();
        let (found_diff_id, tar_bytes) = take(&tar).finish();
        (found.layers, found.stored_bytes, found.tar_bytes) = (1, size, tar_bytes);
        if found.faults.is_empty() {
            let wrong = |what: &str, stated: &dyn std::fmt::Display, is: &dyn std::fmt::Display| {
                format!("layer {}: {what} should be {stated}, and is {is}", layer.digest)
            };
            if size != layer.size {
                found.faults.push(wrong("the size", &layer.size, &size));
            }
            if found_digest != layer.digest {
                found.faults.push(wrong("the digest", &layer.digest, &found_digest));
            }
            if found_diff_id != diff_id {
                found.faults.push(wrong("the diff_id", &diff_id, &found_diff_id));
            }
        }
        Ok(found)
    }

    async fn manifest(&self) -> Result<(Descriptor, Bytes)> {
        match self {
            Self::Registry(registry) => registry.manifest().await,
            Self::Layout(folder, tag) => {
                let descriptor = find_tag(folder, tag).await?;
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
            Self::Layout(folder, _) => {
                let path = folder.join("blobs/sha256").join(descriptor.digest.hex());
                let failed = move |error: std::io::Error| {
                    Error::sink("reading a blob", format_args!("'{}'", path.display()), &error).because(error)
                };
                let path = folder.join("blobs/sha256").join(descriptor.digest.hex());
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

/// Sets a decoder up before it is boxed.
fn whole<D>(mut decoder: D, set: impl FnOnce(&mut D)) -> D {
    set(&mut decoder);
    decoder
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], operation: &str, digest: Digest) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(Kind::Corrupt, Side::Sink, operation, digest, &error).because(error))
}

/// What is pushed to a served layout is named `NAME:TAG` there. That reads as a folder `DIR:NAME`, unless there is none.
fn in_layout(folder: PathBuf, tag: String) -> (PathBuf, String) {
    let is_layout = |folder: &Path| folder.join("oci-layout").exists();
    let text = folder.to_string_lossy();
    if !is_layout(&folder) {
        for (at, _) in text.match_indices(':') {
            if is_layout(Path::new(&text[..at])) {
                return (text[..at].into(), format!("{}:{tag}", &text[at + 1..]));
            }
        }
    }
    (folder, tag)
}

async fn find_tag(folder: &Path, tag: &str) -> Result<Descriptor> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        #[serde(flatten)]
        descriptor: Descriptor,
        #[serde(default)]
        annotations: std::collections::HashMap<String, String>,
    }
    let path = folder.join("index.json");
    let failed = |reason: &dyn std::fmt::Display| {
        Error::sink("reading the layout", format_args!("'{}'", path.display()), reason)
    };
    let text = tokio::fs::read(&path).await.map_err(|error| failed(&error))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let name_of = |named: &Named| named.annotations.get("org.opencontainers.image.ref.name").cloned();
    let known: Vec<_> = index.manifests.iter().filter_map(name_of).collect();
    let found = index.manifests.into_iter().find(|named| name_of(named).as_deref() == Some(tag));
    found
        .map(|named| named.descriptor)
        .ok_or_else(|| failed(&format!("it has no image '{tag}', only: {}", known.join(", "))))
}

/// Passes bytes on and hashes them. The hash is shared with who asks for it at the end.
struct Hashing<R, H> {
    reader: R,
    hasher: Arc<Mutex<H>>,
}

trait Update {
    fn take_in(&mut self, bytes: &[u8]);
}

impl Update for DigestHasher {
    fn take_in(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl Update for DiffIdHasher {
    fn take_in(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl<R, H> Hashing<R, H> {
    fn new(reader: R, hasher: H) -> (Self, Arc<Mutex<H>>) {
        let hasher = Arc::new(Mutex::new(hasher));
        (Self { reader, hasher: Arc::clone(&hasher) }, hasher)
    }
}

fn take<H: Default>(hasher: &Mutex<H>) -> H {
    std::mem::take(&mut *hasher.lock().unwrap_or_else(PoisonError::into_inner))
}

impl<R: AsyncRead + Unpin, H: Update> AsyncRead for Hashing<R, H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.reader).poll_read(context, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.hasher.lock().unwrap_or_else(PoisonError::into_inner).take_in(&buffer.filled()[before..]);
        }
        polled
    }
}
