//! What of a folder is wanted: exclusions, other mounts, a running system's volatile folders, this freeze's outputs.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::links::File;
use super::meta::{Id, Meta};
use crate::exclude::Exclude;
use crate::source::Selection;

/// Folders of a root filesystem whose contents belong to the running system, not to its image.
const VOLATILE: [&[u8]; 6] = [b"dev", b"proc", b"run", b"sys", b"tmp", b"var/tmp"];

/// The rules of one walk.
#[derive(Debug)]
pub(super) struct Rules {
    exclude: Exclude,
    /// Relative to the root, without slashes around them.
    included_mounts: Vec<Vec<u8>>,
    own_outputs: Vec<PathBuf>,
    /// Relative to the root, without slashes around them.
    apart: Vec<Vec<u8>>,
    mount: u64,
    is_root_filesystem: bool,
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
    Mount,
    Volatile,
    /// A folder above it is hollow.
    Above,
}

impl Rules {
    pub(super) fn new(selection: &Selection, root: &Meta, is_root_filesystem: bool) -> Self {
        let relative = |path: &PathBuf| {
            let names: Vec<&[u8]> = path
                .as_os_str()
                .as_bytes()
                .split(|byte| *byte == b'/')
                .filter(|name| !matches!(*name, b"" | b"."))
                .collect();
            names.join(&b'/')
        };
        Self {
            exclude: selection.exclude.clone(),
            included_mounts: selection.include_mounts.iter().map(relative).collect(),
            own_outputs: selection.own_outputs.clone(),
            apart: selection.apart.iter().map(relative).collect(),
            mount: root.mount,
            is_root_filesystem,
        }
    }

    pub(super) fn excludes(&self, path: &[u8]) -> bool {
        self.exclude.matches(path)
    }

    /// The outputs that are there by now.
    pub(super) fn outputs(&self) -> Vec<Id> {
        self.own_outputs.iter().filter_map(|path| Meta::of_path(path).ok()).map(|meta| meta.id).collect()
    }

    /// Whether another filesystem, which nobody asked for, is mounted on the entry.
    pub(super) fn is_foreign(&self, path: &[u8], meta: &Meta) -> bool {
        meta.mount != self.mount && !self.included_mounts.iter().any(|included| is_within(path, included))
    }

    /// The file that a name of the inode `id` belongs to in the tar.
    pub(super) fn file(&self, id: Id, path: &[u8]) -> File {
        File { id, apart: self.apart.iter().position(|folder| is_within(path, folder)) }
    }

    /// How much is wanted of the folder at `path`, which is in a folder of which `above` is wanted.
    pub(super) fn contents(&self, path: &[u8], meta: &Meta, above: Contents) -> Contents {
        let is_asked_for = self.included_mounts.iter().any(|included| included == path);
        if is_asked_for {
            Contents::Whole
        } else if self.is_root_filesystem && VOLATILE.contains(&path) {
            Contents::Hollow(Reason::Volatile)
        } else if above != Contents::Whole {
            Contents::Hollow(Reason::Above)
        } else if self.is_foreign(path, meta) {
            Contents::Hollow(Reason::Mount)
        } else {
            Contents::Whole
        }
    }

    /// Whether an included mount is at `path` or below it.
    pub(super) fn leads_to_included(&self, path: &[u8]) -> bool {
        self.included_mounts.iter().any(|included| is_within(included, path))
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

fn is_within(path: &[u8], folder: &[u8]) -> bool {
    match path.strip_prefix(folder) {
        Some(rest) => rest.is_empty() || folder.is_empty() || rest[0] == b'/',
        None => false,
    }
}
