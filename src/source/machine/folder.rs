//! The host's side of a transfer: a private folder (0700) in memory, where chunks land before they are checked.
//!
//! `/dev/shm` where there is one, else the folder for temporary files. A process that is killed leaves its folder behind;
//! the next one to make a folder removes it. Which folder is still in use is said by a lock, which dies with its process.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::place::{Place, free_bytes};

const PREFIX: &str = "smolfreeze-";

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder(Place);

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        let parent = Self::parent();
        let made = Place::below(&parent, PREFIX, fastrand::u64(..));
        let failed = |error| Error::source("making a folder for chunks", parent.display(), &error).because(error);
        made.map(Self).map_err(failed)
    }

    fn parent() -> PathBuf {
        let shm = Path::new("/dev/shm");
        if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() }
    }

    /// Bytes that are free where such folders are made.
    pub(crate) fn free_bytes() -> u64 {
        free_bytes(&Self::parent()).unwrap_or(0)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
