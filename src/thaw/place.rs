//! Where an artifact waits that is gone when the machine is made: a folder of its own, on a disk with room for it.
//!
//! The folder holds a file that is locked (flock) as long as its run lives, whatever kills it. So what a dead run left
//! behind is told from what another run is using, and is removed when the next run starts.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statvfs};
use tempfile::TempDir;

use crate::error::{Error, Result};

/// What all such folders begin with.
const PREFIX: &str = "thaw-";
/// The file that is locked.
const LOCK: &str = "lock";
/// The artifact in it.
const ARTIFACT: &str = "made.smolmachine";

/// A folder for one artifact; it goes with it.
#[derive(Debug)]
pub(super) struct Place {
    folder: TempDir,
    /// Locked.
    _lock: File,
}

impl Place {
    /// A fresh one in `folder`, which is made where it is missing.
    pub(super) fn below(folder: &Path) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::sink("making room for the artifact", format_args!("'{}'", folder.display()), &error).because(error)
        };
        fs::create_dir_all(folder).map_err(failed)?;
        sweep(folder);
        let fresh = tempfile::Builder::new().prefix(PREFIX).tempdir_in(folder).map_err(failed)?;
        let lock = File::create_new(fresh.path().join(LOCK)).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(error.into()))?;
        Ok(Self { folder: fresh, _lock: lock })
    }

    /// Where the artifact goes.
    pub(super) fn artifact(&self) -> PathBuf {
        self.folder.path().join(ARTIFACT)
    }
}

/// Removes what dead runs left in `folder`. What can't be removed is in nobody's way.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = OpenOptions::new().write(true).open(entry.path().join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Bytes that are free for us on the disk of `folder`, or of the nearest folder above it that is there.
pub(super) fn free_bytes(folder: &Path) -> Result<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let disk = statvfs(there).map_err(|error| {
        Error::sink("asking for free space", format_args!("'{}'", there.display()), error).because(error)
    })?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn only_what_a_dead_run_left_is_swept() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("cache/thaw");
        let living = Place::below(&folder).unwrap();
        fs::write(living.artifact(), "half").unwrap();
        fs::create_dir(folder.join("thaw-dead")).unwrap();
        fs::write(folder.join("thaw-dead/lock"), "").unwrap();
        fs::write(folder.join("thaw-dead/made.smolmachine"), "half").unwrap();
        let other = Place::below(&folder).unwrap();
        assert_eq!(names(&folder).len(), 2);
        assert!(living.artifact().exists());
        drop((living, other));
        assert!(names(&folder).is_empty());
    }

    #[test]
    fn free_space_is_that_of_the_nearest_folder() {
        let home = tempfile::tempdir().unwrap();
        assert!(free_bytes(&home.path().join("not/there")).unwrap() > 0);
    }
}
