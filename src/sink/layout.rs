//! An OCI image layout folder as a sink.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde_json::json;

use super::{Committed, Image, Put};
use crate::error::{Error, Kind, Result, Side};
use crate::layout::{Layout, io_failed};
use crate::oci::index::REF_NAME;
use crate::oci::{Descriptor, Digest};
use crate::pipeline::gather::{Layer, LiveEnd, LiveLayer, LivePiece};
use crate::progress::Observer;
use crate::stage::digest::DigestHasher;

/// Bytes that one write takes from a layer.
const WRITE_BYTES: u64 = 4 << 20;

/// A layout folder that is being written to.
pub struct LayoutSink {
    /// Held shared while the freeze runs, so that nobody collects its blobs before an image names them.
    layout: Arc<Layout>,
    tag: String,
    written: Arc<Mutex<Written>>,
    observer: Arc<dyn Observer>,
}

/// The blobs that this freeze gave names to.
#[derive(Default)]
struct Written {
    paths: Vec<PathBuf>,
    /// The freeze is over: a write that is still under way must not name anything any more.
    closed: bool,
}

impl LayoutSink {
    /// The layout at `folder`, made if it is not there; the image will be tagged `tag`.
    ///
    /// # Errors
    /// When the folder can't be written to, is something else than an image layout, or has an index that can't be read:
    /// that is better known now than when everything is packed.
    pub fn open(folder: &Path, tag: &str, observer: Arc<dyn Observer>) -> Result<Self> {
        let layout = Layout::make(folder)?;
        layout.manifests()?;
        Ok(Self { layout: Arc::new(layout), tag: tag.to_owned(), written: Arc::default(), observer })
    }

    /// `oci:DIR:TAG`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("oci:{}:{}", self.layout.folder().display(), self.tag)
    }

    /// Whether the blob is there, and its bytes are those of its name: they are hashed, once, unless this freeze wrote them.
    pub async fn has(&self, blob: &Descriptor) -> bool {
        let (layout, digest, size) = (Arc::clone(&self.layout), blob.digest, blob.size);
        off_the_runtime(move || Ok(layout.has(digest, size))).await.unwrap_or(false)
    }

    /// Writes a layer.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn put(&self, layer: &Layer) -> Result<Put> {
        if self.has(&layer.descriptor).await {
            self.observer.part_sent(layer.index, layer.descriptor.size);
            return Ok(Put::Present);
        }
        let mut blob = self.blob()?;
        let mut offset = 0;
        while offset < layer.body.len() {
            let slices = layer.body.slice(offset, WRITE_BYTES).await?;
            let length: u64 = slices.iter().map(|bytes| bytes.len() as u64).sum();
            blob = off_the_runtime(move || blob.append(&slices)).await?;
            offset += length;
            self.observer.part_sent(layer.index, length);
        }
        self.publish(blob, layer.descriptor.digest).await?;
        Ok(Put::Sent { bytes_sent: offset })
    }

    /// Writes a layer that is still being made.
    ///
    /// # Errors
    /// As [`LayoutSink::put`], and when the packer hung up.
    pub async fn put_live(&self, mut layer: LiveLayer) -> Result<Descriptor> {
        let mut blob = self.blob()?;
        let mut offset = 0;
        while offset < layer.head.len() {
            let slices = layer.head.slice(offset, WRITE_BYTES).await?;
            offset += slices.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            blob = off_the_runtime(move || blob.append(&slices)).await?;
        }
        self.observer.part_sent(layer.index, offset);
        loop {
            match layer.tail.recv().await {
                Some(LivePiece::Bytes(bytes)) => {
                    let length = bytes.len() as u64;
                    blob = off_the_runtime(move || blob.append(&[bytes])).await?;
                    self.observer.part_sent(layer.index, length);
                }
                Some(LivePiece::End(LiveEnd { descriptor, .. })) => {
                    self.publish(blob, descriptor.digest).await?;
                    return Ok(descriptor);
                }
                None => return Err(Error::hung_up("a packer")),
            }
        }
    }

    /// Writes config and manifest, then names the image in the index.
    ///
    /// # Errors
    /// When the disk does not take it, or the index that is there can't be read.
    pub async fn commit(&self, image: &Image) -> Result<Committed> {
        for (descriptor, bytes) in [&image.config, &image.manifest] {
            if !self.has(descriptor).await {
                let (blob, bytes) = (self.blob()?, bytes.clone());
                let blob = off_the_runtime(move || blob.append(&[bytes])).await?;
                self.publish(blob, descriptor.digest).await?;
            }
        }
        self.layout.sync_blobs()?;
        self.write_index(image)?;
        Ok(Committed { name: self.name(), digest: image.manifest.0.digest, artifact_bytes: None, launcher: None })
    }

    /// Leaves no temporary file, and no layout that this freeze made and nobody needs. Blobs in any other layout stay: who
    /// else counts on them, nobody knows.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn abort(&self) -> Result<()> {
        self.layout.unmake(&self.close())
    }

    /// From now on nothing gets a name; what got one so far.
    fn close(&self) -> Vec<PathBuf> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.closed = true;
        std::mem::take(&mut written.paths)
    }

    fn blob(&self) -> Result<Blob> {
        let file = self.layout.temporary_blob()?;
        Ok(Blob { file, folder: self.layout.folder().to_owned(), digest: DigestHasher::default() })
    }

    /// Gives a blob its name, once its bytes are safe and are what they should be.
    async fn publish(&self, blob: Blob, digest: Digest) -> Result<()> {
        let (layout, written) = (Arc::clone(&self.layout), Arc::clone(&self.written));
        off_the_runtime(move || {
            let complete = blob.complete(digest)?;
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            if written.closed {
                return Err(Error::hung_up("the freeze"));
            }
            let path = layout.blob_path(digest);
            complete.persist(&path).map_err(|error| io_failed("writing a blob", &path, error.error))?;
            layout.wrote(digest);
            written.paths.push(path);
            Ok(())
        })
        .await
    }

    /// No image gets a name without its layers: another program that removes blobs, or writes to them, knows none of our
    /// locks. Each was hashed before, so it is only read again where it was touched since.
    fn check_layers(&self, image: &Image) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Listed {
            layers: Vec<Descriptor>,
        }
        let (operation, manifest) = ("naming the image", &image.manifest);
        let listed: Listed = serde_json::from_slice(&manifest.1)
            .map_err(|error| Error::new(Kind::Internal, Side::Sink, operation, manifest.0.digest, error))?;
        let Some(missing) = listed.layers.iter().find(|layer| !self.layout.has(layer.digest, layer.size)) else {
            return Ok(());
        };
        let reason = format!("{} is not in the layout any more, or not whole", missing.digest);
        Err(Error::sink(operation, format_args!("'{}'", self.name()), reason)
            .hint("another program removed it, or wrote to it; freeze again, and collect blobs with `smolfreeze gc`"))
    }

    fn write_index(&self, image: &Image) -> Result<()> {
        self.layout.change_index(|manifests| {
            self.check_layers(image)?;
            manifests.retain(|manifest| manifest["annotations"][REF_NAME].as_str() != Some(self.tag.as_str()));
            let manifest = &image.manifest.0;
            manifests.push(json!({
                "mediaType": manifest.media_type,
                "digest": manifest.digest,
                "size": manifest.size,
                "annotations": { REF_NAME: self.tag },
            }));
            Ok(())
        })
    }
}

/// A blob on its way; its temporary file goes with it if it is dropped.
struct Blob {
    file: tempfile::NamedTempFile,
    folder: PathBuf,
    digest: DigestHasher,
}

impl Blob {
    fn append(mut self, slices: &[Bytes]) -> Result<Self> {
        for bytes in slices {
            self.file.write_all(bytes).map_err(|error| io_failed("writing a blob", &self.folder, error))?;
            self.digest.update(bytes);
        }
        Ok(self)
    }

    /// The file, once its bytes are safe and are what they should be.
    fn complete(self, expected: Digest) -> Result<tempfile::NamedTempFile> {
        let (digest, _) = self.digest.finish();
        if digest != expected {
            let reason = format!("its bytes are {digest}; they changed on their way");
            return Err(Error::new(Kind::Internal, Side::Sink, "writing a blob", expected, reason));
        }
        self.file.as_file().sync_data().map_err(|error| io_failed("writing a blob", &self.folder, error))?;
        Ok(self.file)
    }
}

async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::hung_up("a write"))?
}
