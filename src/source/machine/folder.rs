//! The host's side of a transfer: a private folder (0700) in memory, where chunks land before they are checked.
//!
//! `/dev/shm` where one can be made there, else the folder for temporary files. A process that is killed leaves its folder
//! behind; the next one to make a folder removes it. Which folder is still in use is said by a lock, which dies with its
//! process. So the folder also tells whether a freeze lives: its name is in the freeze's [id](Folder::id).

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use md5::Digest as _;

use crate::error::{Error, Result};
use crate::place::{Place, free_bytes};

const PREFIX: &str = "smolfreeze-";

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    place: Place,
    parent: PathBuf,
    run: u64,
}

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        let run = fastrand::u64(..);
        let made = |parent: PathBuf| Place::below(&parent, PREFIX, run).map(|place| Self { place, parent, run });
        let [first, second] = Self::parents();
        made(first.clone()).or_else(|error| if second == first { Err(error) } else { made(second) }).map_err(|error| {
            Error::source("making a folder for chunks", first.display(), &error)
                .because(error)
                .hint("make room there, or name another folder with TMPDIR")
        })
    }

    fn parents() -> [PathBuf; 2] {
        let (shm, temporary) = (Path::new("/dev/shm"), std::env::temp_dir());
        [if shm.is_dir() { shm.to_owned() } else { temporary.clone() }, temporary]
    }

    /// Bytes that are free where such folders are made.
    pub(crate) fn free_bytes() -> u64 {
        free_bytes(&Self::parents()[0]).unwrap_or(0)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// What a guest knows this freeze by: 16 hex digits for the place where folders like this one are, 16 for this one.
    pub(crate) fn id(&self) -> String {
        format!("{:016x}{:016x}", self.home(), self.run)
    }

    /// Whether the freeze with this id was one of this host and user, and its process is dead. Of others nothing is known.
    pub(crate) fn knows_dead(&self, id: &str) -> bool {
        let whole = Some(id).filter(|id| id.len() == 32).and_then(|id| id.split_at_checked(16));
        let halves = whole.map(|(home, run)| (u64::from_str_radix(home, 16), u64::from_str_radix(run, 16)));
        match halves {
            Some((Ok(home), Ok(run))) => home == self.home() && !Place::is_alive(&self.parent, PREFIX, run),
            _ => false,
        }
    }

    /// The same for all that can see each other's folders, and for nobody else: of one user, under one running kernel (a
    /// restart of it stops the machines, too), in one folder.
    fn home(&self) -> u64 {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let folder = self.parent.metadata().map(|metadata| (metadata.dev(), metadata.ino())).unwrap_or_default();
        let user = rustix::process::geteuid().as_raw();
        let sum = md5::Md5::digest(format!("{boot} {folder:?} {user}"));
        sum.iter().take(8).fold(0, |home, byte| home << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_of_its_own_kind_it_knows_who_is_dead() {
        let (living, other) = (Folder::new().unwrap(), Folder::new().unwrap());
        let id = living.id();
        assert_eq!(id.len(), 32);
        assert!(!other.knows_dead(&id));
        drop(living);
        assert!(other.knows_dead(&id));
        let elsewhere = format!("{:016x}{}", other.home() ^ 1, &id[16..]);
        for unknown in [&elsewhere, "", "0123456789abcdef", "\u{e4}".repeat(16).as_str(), &format!("{id}0")[..31]] {
            assert!(!other.knows_dead(unknown), "{unknown}");
        }
    }
}
