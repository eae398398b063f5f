//! What a walk takes of a folder: [`Wanted`], carried out, and without this freeze's own outputs.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::links::File;
use super::meta::{Id, Meta};
use crate::error::Result;
use crate::exclude::Exclude;
use crate::source::wanted::Wanted;
use crate::stage::cut::is_within;

/// The rules of one walk. Paths are relative to the root, without slashes around them.
#[derive(Debug)]
pub(super) struct Rules {
    exclude: Exclude,
    include: Vec<Vec<u8>>,
    hollow: Vec<Vec<u8>>,
    apart: Vec<Vec<u8>>,
    /// Where a folder appears, and that folder.
    placed: Option<(Vec<u8>, OwnedFd)>,
    own_outputs: Vec<PathBuf>,
}

/// How much of a folder's contents is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    /// All, as far as the rules go.
    Whole,
    /// Only what leads to an included mount, if anything does.
    Hollow(Reason),
}

/// Why a folder's contents are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Another filesystem is mounted there.
    Mount,
    /// It is to be, or a folder above it is.
    Hollow,
}

impl Rules {
    pub(super) fn new(wanted: &Wanted, root: &OwnedFd, own_outputs: &[PathBuf]) -> Result<Self> {
        let relative = |path: &PathBuf| path.as_os_str().as_bytes().to_vec();
        let all = |paths: &[PathBuf]| paths.iter().map(relative).collect();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |(at, folder): &(PathBuf, PathBuf)| {
            let open = rustix::fs::openat(root, folder, flags, Mode::empty());
            open.map(|open| (relative(at), open))
                .map_err(|error| super::unreadable("opening", &relative(folder), error))
        };
        Ok(Self {
            exclude: Exclude::new(&wanted.exclude)?,
            include: all(&wanted.include),
            hollow: all(&wanted.hollow),
            apart: all(&wanted.apart),
            placed: wanted.placed.as_ref().map(open).transpose()?,
            own_outputs: own_outputs.to_vec(),
        })
    }

    /// Steps into the folder at `path`, whose last name is `name`, from the open one above it.
    pub(super) fn step_into(&self, above: &OwnedFd, path: &[u8], name: &[u8]) -> Result<OwnedFd, Errno> {
        match self.placed(path) {
            Some(folder) => super::meta::step_into(folder, b"."),
            None => super::meta::step_into(above, name),
        }
    }

    /// The folder that is at `path` although it lies elsewhere.
    pub(super) fn placed(&self, path: &[u8]) -> Option<&OwnedFd> {
        self.placed.as_ref().and_then(|(at, folder)| (at == path).then_some(folder))
    }

    pub(super) fn excludes(&self, path: &[u8]) -> bool {
        self.exclude.matches(path)
    }

    /// The outputs that are there by now.
    pub(super) fn outputs(&self) -> Vec<Id> {
        self.own_outputs.iter().filter_map(|path| Meta::of_path(path).ok()).map(|meta| meta.id).collect()
    }

    /// Whether another filesystem than `mount`, which the folder above is on, is mounted on the entry, and nobody asked for
    /// it.
    pub(super) fn is_foreign(&self, path: &[u8], meta: &Meta, mount: u64) -> bool {
        meta.mount != mount && !self.include.iter().any(|included| included == path)
    }

    /// The file that a name of the inode `id` belongs to in the tar.
    pub(super) fn file(&self, id: Id, path: &[u8]) -> File {
        File { id, apart: self.apart.iter().position(|folder| is_within(path, folder)) }
    }

    /// How much is wanted of the folder at `path`, which is in a folder of which `above` is wanted and which is on `mount`.
    pub(super) fn contents(&self, path: &[u8], meta: &Meta, (above, mount): (Contents, u64)) -> Contents {
        if self.include.iter().any(|included| included == path) {
            Contents::Whole
        } else if above != Contents::Whole || self.hollow.iter().any(|hollow| hollow == path) {
            Contents::Hollow(Reason::Hollow)
        } else if self.is_foreign(path, meta, mount) {
            Contents::Hollow(Reason::Mount)
        } else {
            Contents::Whole
        }
    }

    /// Whether an included folder is at `path` or below it.
    pub(super) fn leads_to_included(&self, path: &[u8]) -> bool {
        self.include.iter().any(|included| is_within(included, path))
    }
}

/// Whether the folder at `path` looks like the root of a Linux system.
pub(super) fn is_root_filesystem(path: &Path, meta: &Meta) -> bool {
    let is_the_root = Meta::of_path(Path::new("/")).is_ok_and(|root| root.id == meta.id && root.mount == meta.mount);
    let entry = |name: &str| path.join(name).symlink_metadata();
    let is_folder = |name| entry(name).is_ok_and(|entry| entry.is_dir());
    // With a merged /usr these are links.
    let leads_to_folder = |name| entry(name).is_ok_and(|entry| entry.is_dir() || entry.is_symlink());
    let has_its_folders = || ["etc", "usr"].into_iter().all(is_folder);
    is_the_root || (has_its_folders() && ["bin", "sbin", "lib", "var"].into_iter().any(leads_to_folder))
}
