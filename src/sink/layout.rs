//! An OCI image layout folder as a sink (OCI image specification, image-layout.md).
//!
//! Blobs get their names once they are complete and safe; the index, written beside and renamed, is the last thing that
//! changes. A crash leaves the old index, and at most temporary files that the next freeze removes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::{Committed, Image, Put};
use crate::error::{Error, Kind, Result, Side};
use crate::gather::{Layer, LiveEnd, LiveLayer, LivePiece};
use crate::oci::{Descriptor, Digest};
use crate::progress::Observer;
use crate::stage::digest::DigestHasher;

/// Temporary files of ours begin like this; a freeze that died leaves them behind.
const TEMPORARY: &str = ".smolfreeze-";

/// Bytes that one write takes from a layer.
const WRITE_BYTES: u64 = 4 << 20;

/// A layout folder that is being written to.
pub struct LayoutSink {
    folder: PathBuf,
    tag: String,
    /// Held shared while the freeze runs, so that two freezes never clean up each other's blobs.
    lock: File,
    created: Vec<PathBuf>,
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
    /// When the folder can't be written to, or is something else than an image layout.
    pub fn open(folder: &Path, tag: &str, observer: Arc<dyn Observer>) -> Result<Self> {
        if folder.is_dir()
            && !folder.join("oci-layout").exists()
            && fs::read_dir(folder).is_ok_and(|mut any| any.next().is_some())
        {
            let reason = "the folder is neither empty nor an OCI image layout";
            return Err(failed("opening the layout", folder, reason).hint("name another folder"));
        }
        let mut created = Vec::new();
        if let Err(error) = make_folders(folder, &mut created) {
            take_back(&created);
            return Err(error);
        }
        let marker = folder.join("oci-layout");
        let lock = File::open(&marker).map_err(|error| io_failed("opening the layout", &marker, error))?;
        let written = Arc::default();
        let sink = Self { folder: folder.to_owned(), tag: tag.to_owned(), lock, created, written, observer };
        if flock(&sink.lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            sink.remove_leftovers();
        }
        flock(&sink.lock, FlockOperation::LockShared)
            .map_err(|error| io_failed("locking the layout", &marker, error.into()))?;
        Ok(sink)
    }

    /// `oci:DIR:TAG`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("oci:{}:{}", self.folder.display(), self.tag)
    }

    /// Whether the blob is there, in its full size.
    #[must_use]
    pub fn has(&self, blob: &Descriptor) -> bool {
        fs::metadata(self.blob_path(blob.digest))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == blob.size)
    }

    /// Writes a layer.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn put(&self, layer: &Layer) -> Result<Put> {
        if self.has(&layer.descriptor) {
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
            if !self.has(descriptor) {
                let (blob, bytes) = (self.blob()?, bytes.clone());
                let blob = off_the_runtime(move || blob.append(&[bytes])).await?;
                self.publish(blob, descriptor.digest).await?;
            }
        }
        sync_folder(&self.folder.join("blobs/sha256"))?;
        self.write_index(image)?;
        self.close();
        Ok(Committed { name: self.name(), digest: image.manifest.0.digest, artifact_bytes: None })
    }

    /// Takes back what this freeze wrote, unless another one is using the layout.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn abort(&self) -> Result<()> {
        if self.written.lock().unwrap_or_else(PoisonError::into_inner).closed {
            return Ok(());
        }
        let paths = self.close();
        // Another freeze may have found these blobs and counts on them.
        if flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        self.remove_leftovers();
        paths.iter().try_for_each(|path| remove(path))?;
        take_back(&self.created);
        Ok(())
    }

    /// From now on nothing gets a name; what got one so far. After a commit that is nothing any more.
    fn close(&self) -> Vec<PathBuf> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.closed = true;
        std::mem::take(&mut written.paths)
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    fn blob(&self) -> Result<Blob> {
        let folder = self.folder.join("blobs/sha256");
        let file = temporary(&folder).map_err(|error| io_failed("writing a blob", &folder, error))?;
        Ok(Blob { file, folder: self.folder.clone(), digest: DigestHasher::default() })
    }

    /// Gives a blob its name, once its bytes are safe and are what they should be.
    async fn publish(&self, blob: Blob, digest: Digest) -> Result<()> {
        let (path, written) = (self.blob_path(digest), Arc::clone(&self.written));
        off_the_runtime(move || {
            let complete = blob.complete(digest)?;
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            if written.closed {
                return Err(Error::hung_up("the freeze"));
            }
            complete.persist(&path).map_err(|error| io_failed("writing a blob", &path, error.error))?;
            written.paths.push(path);
            Ok(())
        })
        .await
    }

    fn write_index(&self, image: &Image) -> Result<()> {
        let path = self.folder.join("index.json");
        let wrap = |error| io_failed("writing the index", &path, error);
        // One writer at a time from reading the old index to renaming the new one.
        let guard = OpenOptions::new().read(true).open(self.folder.join("blobs")).map_err(wrap)?;
        flock(&guard, FlockOperation::LockExclusive).map_err(|error| wrap(error.into()))?;
        let mut manifests = read_index(&path)?;
        let tag =
            |manifest: &Value| manifest["annotations"]["org.opencontainers.image.ref.name"].as_str().map(str::to_owned);
        manifests.retain(|manifest| tag(manifest).as_deref() != Some(self.tag.as_str()));
        let manifest = &image.manifest.0;
        manifests.push(json!({
            "mediaType": manifest.media_type,
            "digest": manifest.digest,
            "size": manifest.size,
            "annotations": { "org.opencontainers.image.ref.name": self.tag },
        }));
        let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests });
        let mut file = temporary(&self.folder).map_err(wrap)?;
        serde_json::to_writer_pretty(&mut file, &index).map_err(|error| wrap(error.into()))?;
        file.as_file().sync_all().map_err(wrap)?;
        file.persist(&path).map_err(|error| wrap(error.error))?;
        sync_folder(&self.folder)
    }

    fn remove_leftovers(&self) {
        for folder in [self.folder.clone(), self.folder.join("blobs/sha256")] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}

/// Makes the folders and the marker of a layout, the marker first: a folder without it is not ours. What was not there
/// before is added to `created`.
fn make_folders(folder: &Path, created: &mut Vec<PathBuf>) -> Result<()> {
    let make = |path: PathBuf, created: &mut Vec<PathBuf>| {
        let missing =
            path.ancestors().filter(|path| !path.as_os_str().is_empty() && !path.exists()).map(Path::to_owned);
        created.extend(missing.collect::<Vec<_>>().into_iter().rev());
        fs::create_dir_all(&path).map_err(|error| io_failed("making the layout", &path, error))
    };
    make(folder.to_owned(), created)?;
    let marker = folder.join("oci-layout");
    if !marker.exists() {
        created.push(marker.clone());
        let written = fs::write(&marker, r#"{"imageLayoutVersion":"1.0.0"}"#);
        written.map_err(|error| io_failed("making the layout", &marker, error))?;
    }
    make(folder.join("blobs/sha256"), created)
}

/// Removes what this freeze made, the last first. A folder that something else went into in the meantime stays.
fn take_back(created: &[PathBuf]) {
    for path in created.iter().rev() {
        let _ = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    }
}

/// The manifests that an index lists; none where there is no index yet.
fn read_index(path: &Path) -> Result<Vec<Value>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_failed("reading the index", path, error)),
    };
    let index: Value = serde_json::from_slice(&text).map_err(|error| failed("reading the index", path, error))?;
    index["manifests"].as_array().cloned().ok_or_else(|| failed("reading the index", path, "it lists no manifests"))
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

/// A file as readable as the user's umask lets it be, unlike other temporary files: it will be renamed.
fn temporary(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new().prefix(TEMPORARY).permissions(fs::Permissions::from_mode(0o666)).tempfile_in(folder)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_failed("removing a blob", path, error)),
        _ => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| io_failed("writing the layout", folder, error))
}

async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::hung_up("a write"))?
}

fn failed(operation: &str, path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::sink(operation, format_args!("'{}'", path.display()), reason)
}

fn io_failed(operation: &str, path: &Path, error: std::io::Error) -> Error {
    failed(operation, path, &error).because(error)
}
