//! A folder for what a run needs only while it lives, on a disk with room for it.
//!
//! The folder holds a file that is locked (flock) as long as its run lives, whatever kills it. So what a dead run left
//! behind is told from what another run is using, and is removed when the next run starts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, statvfs};
use tempfile::TempDir;

use crate::error::{Error, Result};

/// The file that is locked.
const LOCK: &str = "lock";
/// So often a run that sweeps may come between the making of a folder and its locking.
const TRIES: usize = 8;

/// The folder of one run; it goes with this.
#[derive(Debug)]
pub(crate) struct Place {
    folder: TempDir,
    /// Locked.
    _lock: File,
}

impl Place {
    /// A fresh one in `parent`, which is made where it is missing: [`place_of`] names it. Removes what dead runs left there
    /// under names with this prefix.
    pub(crate) fn below(parent: &Path, prefix: &str, run: u64) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::sink("making a temporary folder", format_args!("'{}'", parent.display()), &error).because(error)
        };
        fs::create_dir_all(parent).map_err(failed)?;
        sweep(parent, prefix);
        let mut made = Self::make(parent, prefix, run);
        for _ in 1..TRIES {
            made = made.or_else(|_| Self::make(parent, prefix, run));
        }
        made.map_err(failed)
    }

    fn make(parent: &Path, prefix: &str, run: u64) -> io::Result<Self> {
        let name = format!("{prefix}{run:016x}");
        // What lies in it is nobody else's to read, whatever the umask.
        let private = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix(&name).rand_bytes(0).permissions(private).tempdir_in(parent)?;
        let lock = File::create_new(folder.path().join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        // One that sweeps may have had the lock first, and be gone again, with the folder.
        let there = fs::symlink_metadata(folder.path().join(LOCK))?;
        if there.ino() != lock.metadata()?.ino() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { folder, _lock: lock })
    }

    /// Whether the run `run`, of this user's, has its place in `parent`, and lives.
    pub(crate) fn is_alive(parent: &Path, prefix: &str, run: u64) -> bool {
        let folder = place_of(parent, prefix, run);
        lock_of(&folder).is_some_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes it, and says so if it can't be.
    pub(crate) fn close(self) -> Result<()> {
        let path = self.folder.path().to_owned();
        let closed = self.folder.close();
        closed.map_err(|error| {
            Error::sink("removing a temporary folder", format_args!("'{}'", path.display()), &error).because(error)
        })
    }
}

/// Where the run `run` has its place in `parent`.
pub(crate) fn place_of(parent: &Path, prefix: &str, run: u64) -> PathBuf {
    parent.join(format!("{prefix}{run:016x}"))
}

/// Removes what dead runs left in `parent`. What can't be removed is in nobody's way.
fn sweep(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let Some(lock) = lock_of(&entry.path()) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The lock of a place of ours. Anybody may have put something else, of anybody's, where places are made.
fn lock_of(folder: &Path) -> Option<File> {
    let is_ours = |there: &fs::Metadata| there.uid() == rustix::process::geteuid().as_raw();
    fs::symlink_metadata(folder).ok().filter(|there| there.is_dir() && is_ours(there))?;
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let lock = File::from(rustix::fs::open(folder.join(LOCK), flags, Mode::empty()).ok()?);
    lock.metadata().ok().filter(|there| there.is_file() && is_ours(there))?;
    Some(lock)
}

/// Bytes that are free for us on the disk of `folder`, or of the nearest folder above it that is there.
pub(crate) fn free_bytes(folder: &Path) -> Result<u64> {
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
        let living = Place::below(&folder, "thaw-", 1).unwrap();
        assert_eq!(living.path(), place_of(&folder, "thaw-", 1));
        assert_eq!(living.path().metadata().unwrap().mode() & 0o777, 0o700);
        fs::write(living.path().join("artifact"), "half").unwrap();
        fs::create_dir(folder.join("thaw-dead")).unwrap();
        fs::write(folder.join("thaw-dead/lock"), "").unwrap();
        fs::write(folder.join("thaw-dead/artifact"), "half").unwrap();
        let other = Place::below(&folder, "thaw-", 2).unwrap();
        assert_eq!(names(&folder).len(), 2);
        assert!(living.path().join("artifact").exists());
        assert!(Place::is_alive(&folder, "thaw-", 1) && !Place::is_alive(&folder, "thaw-", 3));
        drop(living);
        assert!(!Place::is_alive(&folder, "thaw-", 1));
        other.close().unwrap();
        assert!(names(&folder).is_empty());
    }

    /// Each sweeps what the others are just making.
    #[test]
    fn many_at_once_all_get_their_place() {
        let home = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let folder = home.path();
                scope.spawn(move || {
                    for run in 0..100 {
                        let place = Place::below(folder, "run-", thread * 1000 + run).unwrap();
                        assert!(place.path().join(LOCK).exists());
                    }
                });
            }
        });
    }

    #[test]
    fn what_others_put_there_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("sh")
            .args(["-c", "mkdir x-1 x-2 elsewhere; mkfifo x-1/lock; touch elsewhere/lock; ln -s ../elsewhere/lock x-2; ln -s elsewhere x-3"])
            .current_dir(home.path())
            .status();
        assert!(made.unwrap().success());
        let place = Place::below(home.path(), "x-", 7).unwrap();
        assert_eq!(names(home.path()).len(), 5, "and it did not wait for the FIFO's reader");
        place.close().unwrap();
    }

    #[test]
    fn free_space_is_that_of_the_nearest_folder() {
        let home = tempfile::tempdir().unwrap();
        assert!(free_bytes(&home.path().join("not/there")).unwrap() > 0);
    }
}
