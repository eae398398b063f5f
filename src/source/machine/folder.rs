//! The host's side of a transfer: a private folder (0700) in memory, where chunks land before they are checked.
//!
//! `/dev/shm` where there is one, else the folder for temporary files. A process that is killed leaves its folder behind;
//! the next one to make a folder removes it. Which folder is still in use is said by a lock, which dies with its process.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

const PREFIX: &str = "smolfreeze-";

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    folder: tempfile::TempDir,
    _lock: File,
}

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        let parent = Self::parent();
        sweep(&parent);
        let failed = |error: std::io::Error| {
            Error::source("making a folder for chunks", parent.display(), &error).because(error)
        };
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent).map_err(failed)?;
        let lock = File::create(folder.path().join("lock")).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(Self { folder, _lock: lock })
    }

    fn parent() -> PathBuf {
        let shm = Path::new("/dev/shm");
        if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() }
    }

    /// Bytes that are free where such folders are made.
    pub(crate) fn free_bytes() -> u64 {
        rustix::fs::statvfs(Self::parent()).map_or(0, |filesystem| filesystem.f_bavail * filesystem.f_frsize)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Removes what processes that were killed left behind. Best effort: a folder of somebody else's can't be opened.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join("lock")) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let (dead, alive) = (parent.path().join("smolfreeze-dead"), parent.path().join("smolfreeze-alive"));
        for folder in [&dead, &alive] {
            std::fs::create_dir(folder).unwrap();
            File::create(folder.join("lock")).unwrap();
        }
        let lock = File::open(alive.join("lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        sweep(parent.path());
        assert!(!dead.exists() && alive.exists());
    }
}
