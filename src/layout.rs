//! An OCI image layout folder on disk (OCI image specification, image-layout.md): what all who write one share.
//!
//! A blob gets its name once it is complete and safe; the index, written beside and renamed, is the last thing that
//! changes. A crash leaves the old index, and at most temporary files that the next writer removes.
//!
//! Two locks, both `flock`. The marker `oci-layout` is held shared by whoever writes blobs: temporary files and blobs
//! without a name in the index belong to somebody as long as anybody else holds it. The folder `blobs` is held, for a
//! moment, by whoever changes the index, or removes something.
//!
//! A blob that has its name is nobody's own: another freeze, or another program, may count on it. So no freeze takes one
//! back. What no image needs is removed by [`collect`], which asks the index (`reach`).

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::oci::Digest;

pub mod collect;
mod index;
mod proof;
mod reach;

pub use index::{Wanted, find, open_blob, open_file};
use proof::Proofs;
pub use reach::reach;

/// Temporary files of ours begin like this; a writer that died leaves them behind.
const TEMPORARY: &str = ".smolfreeze-";

/// A layout folder, locked as one that is in use.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
    marker: File,
    /// What was not there before, the outermost first.
    made: Vec<PathBuf>,
    proofs: Proofs,
}

/// A layout whose index nobody else changes, and from which nobody else removes anything.
#[derive(Debug)]
pub struct Locked<'a> {
    layout: &'a Layout,
    _lock: File,
}

impl Layout {
    /// Makes folders and marker where they are missing, and locks the layout. What a dead writer left is removed,
    /// unless another one is alive.
    ///
    /// # Errors
    /// When the folder can't be written to, or is something else than an image layout.
    pub fn make(folder: &Path) -> Result<Self> {
        if folder.is_dir()
            && !folder.join("oci-layout").exists()
            && fs::read_dir(folder).is_ok_and(|mut any| any.next().is_some())
        {
            let reason = "the folder is neither empty nor an OCI image layout";
            return Err(failed("opening the layout", folder, reason).hint("name another folder"));
        }
        loop {
            let mut made = Vec::new();
            if let Err(error) = make_folders(folder, &mut made).and_then(|()| sync_names(&made)) {
                let _ = take_back(&made);
                return Err(error);
            }
            let layout = Self { made, ..Self::open(folder)? };
            // Whoever made it may have taken it back before we had it.
            if layout.is_there() {
                layout.lock()?.alone(|| layout.remove_leftovers())?;
                return Ok(layout);
            }
        }
    }

    /// Locks a layout that is there, and changes nothing in it.
    ///
    /// # Errors
    /// When the folder is no image layout.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("oci-layout");
        let marker = File::open(&path).map_err(|error| io_failed("opening the layout", &path, error))?;
        flock(&marker, FlockOperation::LockShared)
            .map_err(|error| io_failed("locking the layout", &path, error.into()))?;
        Ok(Self { folder: folder.to_owned(), marker, made: Vec::new(), proofs: Proofs::default() })
    }

    /// Whether the marker that we hold is the one in the folder.
    fn is_there(&self) -> bool {
        let file = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let named = fs::metadata(self.folder.join("oci-layout")).map(file);
        matches!((named, self.marker.metadata().map(file)), (Ok(named), Ok(held)) if named == held)
    }

    /// Waits until nobody else changes the index.
    ///
    /// # Errors
    /// When the folder is gone, or its filesystem has no locks.
    pub fn lock(&self) -> Result<Locked<'_>> {
        let path = self.folder.join("blobs");
        let wrap = |error| io_failed("locking the layout", &path, error);
        let lock = File::open(&path).map_err(wrap)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| wrap(error.into()))?;
        Ok(Locked { layout: self, _lock: lock })
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
        index::read(&self.folder).map(|index| index::manifests(&index))
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
        self.lock()?.change(change)
    }

    /// Takes a layout back that [`Self::make`] made, where no image ever was: if nobody else uses it, and nothing lies in it
    /// but what it was made of and the blobs `written`. Else only temporary files go.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn unmake(&self, written: &[PathBuf]) -> Result<()> {
        let blobs = self.folder.join("blobs/sha256");
        let done = self.lock()?.alone(|| {
            self.remove_leftovers();
            let folders = [&self.folder, &self.folder.join("blobs"), &blobs];
            let mut inside = folders.into_iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
            if !inside.all(|entry| entry.is_ok_and(|entry| is_among(&entry.path(), [&self.made, written]))) {
                return Ok(());
            }
            take_back(written).and_then(|()| take_back(&self.made))
        })?;
        done.unwrap_or(Ok(())).map_err(|error| io_failed("taking the layout back", &self.folder, error))
    }

    /// Our temporary files: each belongs to a writer that is alive, or to nobody.
    fn leftovers(&self) -> Vec<PathBuf> {
        let folders = [self.folder.clone(), self.folder.join("blobs/sha256")];
        let entries = folders.into_iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let ours = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()));
        ours.map(|entry| entry.path()).collect()
    }

    fn remove_leftovers(&self) {
        for path in self.leftovers() {
            let _ = fs::remove_file(path);
        }
    }
}

impl Locked<'_> {
    /// The manifests that the index lists; none where there is no index yet.
    ///
    /// # Errors
    /// When the index can't be read, or is none.
    pub fn manifests(&self) -> Result<Vec<Value>> {
        self.layout.manifests()
    }

    /// See [`Layout::change_index`].
    ///
    /// # Errors
    /// As there.
    pub fn change<T, E: From<Error>>(
        &self,
        change: impl FnOnce(&mut Vec<Value>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let folder = &self.layout.folder;
        let path = folder.join("index.json");
        let wrap = |error| io_failed("writing the index", &path, error);
        // What else is in it stays: annotations, say.
        let mut index = index::read(folder)?;
        let before = index::manifests(&index);
        let mut manifests = before.clone();
        let changed = change(&mut manifests)?;
        if manifests == before && path.exists() {
            return Ok(changed);
        }
        index.insert("manifests".to_owned(), manifests.into());
        let mut file = temporary(folder).map_err(wrap)?;
        serde_json::to_writer_pretty(&mut file, &index).map_err(|error| wrap(error.into()))?;
        file.as_file().sync_all().map_err(wrap)?;
        file.persist(&path).map_err(|error| wrap(error.error))?;
        sync_folder(folder)?;
        Ok(changed)
    }

    /// Does what must not happen while anybody else uses the layout; none if somebody does. It is held as before
    /// afterwards. Only under this lock: asking gives our own share up for a moment (flock(2)), and whoever else could have
    /// the layout alone meanwhile would have to hold this lock.
    ///
    /// # Errors
    /// When the filesystem has no locks.
    pub fn alone<T>(&self, work: impl FnOnce() -> T) -> Result<Option<T>> {
        let Layout { marker, folder, .. } = self.layout;
        let is_alone = flock(marker, FlockOperation::NonBlockingLockExclusive).is_ok();
        let done = is_alone.then(work);
        flock(marker, FlockOperation::LockShared)
            .map_err(|error| io_failed("locking the layout", &folder.join("oci-layout"), error.into()))?;
        Ok(done)
    }
}

fn is_among(path: &Path, lists: [&[PathBuf]; 2]) -> bool {
    lists.iter().any(|list| list.iter().any(|listed| listed == path))
}

/// Removes files and folders, the last first, up to one that can't be: a folder that something else went into.
fn take_back(made: &[PathBuf]) -> std::io::Result<()> {
    for path in made.iter().rev() {
        let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Makes the folders and the marker of a layout, the marker first: a folder without it is not ours.
fn make_folders(folder: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    let create = |path: PathBuf, made: &mut Vec<PathBuf>| {
        let missing =
            path.ancestors().filter(|path| !path.as_os_str().is_empty() && !path.exists()).map(Path::to_owned);
        made.extend(missing.collect::<Vec<_>>().into_iter().rev());
        fs::create_dir_all(&path).map_err(|error| io_failed("making the layout", &path, error))
    };
    create(folder.to_owned(), made)?;
    let marker = folder.join("oci-layout");
    if !marker.exists() {
        made.push(marker.clone());
        let written = File::create(&marker).and_then(|mut file| {
            file.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#)?;
            file.sync_all()
        });
        written.map_err(|error| io_failed("making the layout", &marker, error))?;
    }
    create(folder.join("blobs/sha256"), made)
}

/// Makes the names of what was made safe: a blob is as safe as the folders above it.
fn sync_names(made: &[PathBuf]) -> Result<()> {
    let parents = made.iter().filter_map(|path| path.parent());
    parents.map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }).try_for_each(sync_folder)
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
