//! An OCI image layout folder on disk (OCI image specification, image-layout.md): what all who write one share.
//!
//! A blob gets its name once it is complete and safe; the index, written beside and renamed, is the last thing that
//! changes. A crash leaves the old index, and at most temporary files that the next writer removes.
//!
//! Two locks, both `flock`. The marker `oci-layout` is held shared by whoever writes blobs: temporary files and blobs
//! without a name in the index belong to somebody as long as anybody else holds it. The folder `blobs` is held, for a
//! moment, by whoever changes the index.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::oci::Digest;

/// The annotation that names an entry of the index (OCI image specification, annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Temporary files of ours begin like this; a writer that died leaves them behind.
const TEMPORARY: &str = ".smolfreeze-";

/// A layout folder, locked as one that is in use.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
    marker: File,
}

impl Layout {
    /// Makes folders and marker where they are missing, and locks the layout. What a dead writer left is removed,
    /// unless another one is alive. What was not there before is added to `created`, and taken back on an error.
    ///
    /// # Errors
    /// When the folder can't be written to, or is something else than an image layout.
    pub fn make(folder: &Path, created: &mut Vec<PathBuf>) -> Result<Self> {
        if folder.is_dir()
            && !folder.join("oci-layout").exists()
            && fs::read_dir(folder).is_ok_and(|mut any| any.next().is_some())
        {
            let reason = "the folder is neither empty nor an OCI image layout";
            return Err(failed("opening the layout", folder, reason).hint("name another folder"));
        }
        if let Err(error) = make_folders(folder, created).and_then(|()| sync_names(created)) {
            take_back(created);
            return Err(error);
        }
        let layout = Self::unlocked(folder)?;
        if layout.is_ours_alone() {
            layout.remove_leftovers();
        }
        layout.share()?;
        Ok(layout)
    }

    /// Locks a layout that is there, and changes nothing in it.
    ///
    /// # Errors
    /// When the folder is no image layout.
    pub fn open(folder: &Path) -> Result<Self> {
        let layout = Self::unlocked(folder)?;
        layout.share()?;
        Ok(layout)
    }

    fn unlocked(folder: &Path) -> Result<Self> {
        let marker = folder.join("oci-layout");
        let file = File::open(&marker).map_err(|error| io_failed("opening the layout", &marker, error))?;
        Ok(Self { folder: folder.to_owned(), marker: file })
    }

    /// Takes the lock for us alone, if nobody else uses the layout. After it, whatever it says, [`Self::share`] has to
    /// follow before anything is written.
    #[must_use]
    pub fn is_ours_alone(&self) -> bool {
        flock(&self.marker, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// Holds the layout as one of its users.
    ///
    /// # Errors
    /// When the filesystem has no locks.
    pub fn share(&self) -> Result<()> {
        flock(&self.marker, FlockOperation::LockShared)
            .map_err(|error| io_failed("locking the layout", &self.folder.join("oci-layout"), error.into()))
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a blob is, or will be.
    #[must_use]
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// A file for a blob that is not complete yet; it goes away if it is dropped.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn temporary_blob(&self) -> Result<NamedTempFile> {
        let folder = self.folder.join("blobs/sha256");
        temporary(&folder).map_err(|error| io_failed("writing a blob", &folder, error))
    }

    /// Makes the names of all blobs safe.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync_blobs(&self) -> Result<()> {
        sync_folder(&self.folder.join("blobs/sha256"))
    }

    /// The manifests that the index lists; none where there is no index yet.
    ///
    /// # Errors
    /// When the index can't be read, or is none.
    pub fn manifests(&self) -> Result<Vec<Value>> {
        read_index(&self.folder.join("index.json"))
    }

    /// Changes the list of manifests in the index, one writer at a time from reading the old index to renaming the new
    /// one. Where `change` fails, or changes nothing, the index stays as it is.
    ///
    /// # Errors
    /// What `change` fails with; when the old index can't be read or the new one not be written.
    pub fn change_index<T, E: From<Error>>(
        &self,
        change: impl FnOnce(&mut Vec<Value>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let path = self.folder.join("index.json");
        let wrap = |error| io_failed("writing the index", &path, error);
        let guard = File::open(self.folder.join("blobs")).map_err(wrap)?;
        flock(&guard, FlockOperation::LockExclusive).map_err(|error| wrap(error.into()))?;
        let before = read_index(&path)?;
        let mut manifests = before.clone();
        let changed = change(&mut manifests)?;
        if manifests == before && path.exists() {
            return Ok(changed);
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
        });
        let mut file = temporary(&self.folder).map_err(wrap)?;
        serde_json::to_writer_pretty(&mut file, &index).map_err(|error| wrap(error.into()))?;
        file.as_file().sync_all().map_err(wrap)?;
        file.persist(&path).map_err(|error| wrap(error.error))?;
        sync_folder(&self.folder)?;
        Ok(changed)
    }

    /// Removes temporary files; to be called by whoever has the layout for itself alone.
    pub fn remove_leftovers(&self) {
        for folder in [self.folder.clone(), self.folder.join("blobs/sha256")] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}

/// Removes what [`Layout::make`] made, the last first. A folder that something else went into in the meantime stays.
pub fn take_back(created: &[PathBuf]) {
    for path in created.iter().rev() {
        let _ = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    }
}

/// Makes the folders and the marker of a layout, the marker first: a folder without it is not ours.
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
        let written = File::create(&marker).and_then(|mut file| {
            file.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#)?;
            file.sync_all()
        });
        written.map_err(|error| io_failed("making the layout", &marker, error))?;
    }
    make(folder.join("blobs/sha256"), created)
}

/// Makes the names of what was made safe: a blob is as safe as the folders above it.
fn sync_names(created: &[PathBuf]) -> Result<()> {
    let parents = created.iter().filter_map(|path| path.parent());
    parents.map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }).try_for_each(sync_folder)
}

fn read_index(path: &Path) -> Result<Vec<Value>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_failed("reading the index", path, error)),
    };
    let index: Value = serde_json::from_slice(&text).map_err(|error| failed("reading the index", path, error))?;
    index["manifests"].as_array().cloned().ok_or_else(|| failed("reading the index", path, "it lists no manifests"))
}

/// A file as readable as the user's umask lets it be, unlike other temporary files: it will be renamed.
fn temporary(folder: &Path) -> std::io::Result<NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new().prefix(TEMPORARY).permissions(fs::Permissions::from_mode(0o666)).tempfile_in(folder)
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| io_failed("writing the layout", folder, error))
}

fn failed(operation: &str, path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::sink(operation, format_args!("'{}'", path.display()), reason)
}

/// An error of the disk's, with the path it is about.
#[must_use]
pub fn io_failed(operation: &str, path: &Path, error: std::io::Error) -> Error {
    failed(operation, path, &error).because(error)
}
