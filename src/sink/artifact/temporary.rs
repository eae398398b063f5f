//! A file that has its name only when it is complete: written under a temporary name in the same folder, synced, renamed.
//!
//! The temporary file is locked (flock) as long as its writer lives, whatever kills it. So what a dead run left behind is
//! told from what another run is writing, and is removed when the next run starts in that folder.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::NamedTempFile;

/// What all temporary names begin and end with.
const PREFIX: &str = ".smolfreeze-";
const SUFFIX: &str = ".partial";

/// How often a fresh file may lose its name to another run that sweeps before it is locked.
const CREATE_TRIES: usize = 8;

/// Where the run `run` writes what will be at `target`.
#[must_use]
pub fn unfinished(target: &Path, run: u64) -> PathBuf {
    let mut name = std::hash::DefaultHasher::new();
    target.file_name().hash(&mut name);
    folder_of(target).join(format!("{PREFIX}{run:016x}{:016x}{SUFFIX}", name.finish()))
}

/// A file on its way to its name. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Temporary {
    file: NamedTempFile,
    target: PathBuf,
}

impl Temporary {
    /// An empty file beside `target`, whose folder exists.
    pub(super) fn beside(target: &Path, run: u64) -> io::Result<Self> {
        let path = unfinished(target, run);
        for _ in 0..CREATE_TRIES {
            let mut named = tempfile::Builder::new();
            // Read and write for all, as far as the umask lets: what a plain `create` gives.
            let named = named.permissions(fs::Permissions::from_mode(0o666)).rand_bytes(0);
            let file = named.prefix(path.file_name().unwrap_or_default()).tempfile_in(folder_of(target))?;
            flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)?;
            if file.as_file().metadata()?.nlink() > 0 {
                return Ok(Self { file, target: target.to_owned() });
            }
        }
        Err(io::Error::other("its temporary file was removed again and again by another run"))
    }

    /// Where the bytes are for now.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// A handle to write with.
    pub(super) fn handle(&self) -> io::Result<File> {
        self.file.as_file().try_clone()
    }

    /// Gives the file its name, in place of what had it; the name outlives a crash of the host.
    pub(super) fn publish(self) -> io::Result<()> {
        let folder = File::open(folder_of(&self.target))?;
        self.file.persist(&self.target).map_err(|failed| failed.error)?;
        folder.sync_all()
    }

    /// Removes the file.
    pub(super) fn discard(self) -> io::Result<()> {
        self.file.close()
    }
}

/// Removes what dead runs left in `folder`, and says how many files that were. What can't be removed stays: it is in
/// nobody's way.
pub(super) fn sweep(folder: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if !ours || !entry.file_type()?.is_file() {
            continue;
        }
        // Unlinked while locked, so that a run which has just created it sees that it has to begin again.
        let Ok(file) = File::open(entry.path()) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// The folder that `target` is in; a bare name is in the working directory.
pub(super) fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_name_appears_with_the_whole_content() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        fs::write(&target, "old").unwrap();
        let temporary = Temporary::beside(&target, 1).unwrap();
        temporary.handle().unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        temporary.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn only_what_a_dead_run_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let living = Temporary::beside(&folder.path().join("a"), 1).unwrap();
        fs::write(folder.path().join(".smolfreeze-dead00.partial"), "half").unwrap();
        fs::write(folder.path().join("kept.partial"), "whole").unwrap();
        assert_eq!(sweep(folder.path()).unwrap(), 1);
        assert!(living.path().exists());
        living.discard().unwrap();
        assert_eq!(names(folder.path()), ["kept.partial"]);
    }
}
