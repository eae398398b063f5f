//! Layers that are stacked by somebody who knows no marks: smolvm unpacks each layer of an artifact into a folder of its
//! own and lays the folders over each other, so that `.wh.x` is a file and what it deletes comes back.
//!
//! Layers are seen from the top down: what hides an entry is known before the entry comes. What an upper layer has under
//! the same name and kind hides it in any case, and stays; what is deleted, lies below such, or is a folder in one layer
//! and something else in another is left out. Of names only hashes are kept, of a key that nobody knows: at most 21 bytes
//! for each name of the image, 31 while a table grows, for at most [`NAMES_MAX`] names.

mod layer;
mod rewrite;

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;

pub(crate) use layer::{Meaning, Names, check, has_marks, is_mark, meaning};
pub(crate) use rewrite::{Output, look, rewrite};

use super::cut::path::parent;
use super::walk::Entry;
use crate::text;

/// What is mounted over the image's own: its entries go elsewhere, each name once.
pub(crate) const WORKSPACE: &[u8] = b"workspace";
/// Names of an image, folders above them counted: about 170 MiB of hashes.
const NAMES_MAX: usize = 8 << 20;
/// Bytes of links into lower layers, and of folders' headers, that may wait.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// What happens to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Alive,
    /// An upper layer has another of its name and kind.
    Replaced,
    /// Nobody may see it.
    Dead,
}

/// A hard link whose file lies in a lower layer: it goes there.
#[derive(Debug, Clone)]
struct Foreign {
    path: Vec<u8>,
    target: Vec<u8>,
    entry: Entry,
}

/// What the layers so far, from the top down, mean for those below.
#[derive(Debug, Clone, Default)]
pub(crate) struct Above {
    hashes: RandomState,
    files: HashSet<u64>,
    folders: HashSet<u64>,
    /// Deleted names, and those of links that wait.
    gone: HashSet<u64>,
    opaque: HashSet<u64>,
    /// Folders of which there were entries, but not they themselves.
    bare: HashSet<u64>,
    waiting: Vec<Foreign>,
    /// Headers of folders that upper layers only imply: what they are like has to be said on top.
    crown: Vec<(Vec<u8>, Vec<u8>)>,
    waiting_bytes: usize,
}

impl Above {
    /// What takes the names of a layer in.
    pub(crate) fn names(&self) -> Names {
        Names::new(self.hashes.clone())
    }

    /// Nobody may see what lower layers have at `path` and below it.
    pub(crate) fn delete(&mut self, path: &[u8]) {
        let name = self.hash(path);
        self.gone.insert(name);
    }

    #[cfg(test)]
    pub(crate) fn is_deleted(&self, path: &[u8]) -> bool {
        self.gone.contains(&self.hash(path))
    }

    fn hash(&self, path: &[u8]) -> u64 {
        hash(&self.hashes, path)
    }

    /// Whether the layer can't go in as it is: something in it is dead, a mark, a link that points elsewhere, or has to go
    /// elsewhere.
    pub(crate) fn changes(&self, names: &Names) -> bool {
        let folders = || names.folders.iter().chain(&names.implied);
        names.marks
            || names.workspace
            || !names.foreign.is_empty()
            || names.files.iter().any(|name| self.gone.contains(name) || self.folders.contains(name))
            || folders().any(|name| self.gone.contains(name) || self.files.contains(name) || self.opaque.contains(name))
            || self.waiting.iter().any(|link| names.files.contains(&self.hash(&link.target)))
    }

    /// Whether the layer says what folders are like that upper ones only imply.
    pub(crate) fn wants_folders(&self, names: &Names) -> bool {
        names.folders.iter().any(|name| self.bare.contains(name))
    }

    fn fate(&self, path: &[u8], is_folder: bool) -> Fate {
        let hidden =
            |folder: u64| self.gone.contains(&folder) || self.files.contains(&folder) || self.opaque.contains(&folder);
        if parent(path).is_some_and(|parent| hashes(&self.hashes, parent).any(hidden)) {
            return Fate::Dead;
        }
        let name = self.hash(path);
        let (file, folder) = (self.files.contains(&name), self.folders.contains(&name));
        match (is_folder, file, folder) {
            _ if self.gone.contains(&name) => Fate::Dead,
            (true, true, _) | (false, _, true) => Fate::Dead,
            (true, false, true) if self.bare.contains(&name) => Fate::Alive,
            (true, false, true) | (false, true, false) => {
                if is_below(path, WORKSPACE) {
                    Fate::Dead
                } else {
                    Fate::Replaced
                }
            }
            (_, false, false) => Fate::Alive,
        }
    }

    /// What `names` has hides what is below from now on.
    pub(crate) fn take_in(&mut self, mut names: Names) -> io::Result<()> {
        for link in names.foreign.drain(..) {
            // It will lie in a lower layer, where nothing in between may hide it.
            let name = self.hash(&link.path);
            names.files.remove(&name);
            if self.fate(&link.path, false) == Fate::Alive {
                self.gone.insert(name);
                self.waiting_bytes += link.entry.head.len() * 2 + link.path.len() + link.target.len();
                self.waiting.push(link);
            } else {
                names.files.insert(name);
            }
        }
        names.implied.retain(|name| !names.folders.contains(name));
        self.bare.retain(|name| !names.folders.contains(name));
        self.bare.extend(names.implied.iter().filter(|name| !self.folders.contains(name)));
        merge(&mut self.files, names.files);
        merge(&mut self.folders, names.folders);
        merge(&mut self.folders, names.implied);
        merge(&mut self.gone, names.gone);
        merge(&mut self.opaque, names.opaque);
        let count = self.files.len() + self.folders.len() + self.gone.len() + self.opaque.len();
        bounded(count, NAMES_MAX, "names in all its layers")?;
        bounded(self.waiting_bytes, WAITING_BYTES_MAX, "bytes of links between layers")
    }

    /// The layer that comes on top of all, without its end mark: folders that no upper layer describes.
    ///
    /// # Errors
    /// Where a link's file was in no layer.
    pub(crate) fn finish(mut self) -> io::Result<Vec<u8>> {
        if let Some(link) = self.waiting.first() {
            let (path, target) = (text::quoted(&link.path), text::quoted(&link.target));
            return Err(invalid(format!("{path} is a hard link to {target}, which is in no layer below it")));
        }
        self.crown.sort();
        Ok(self.crown.into_iter().flat_map(|(_, head)| head).collect())
    }
}

/// The hashes of a path and of all folders above it, the root's first. Each goes on from the one before it, so that a path
/// of half a million folders costs its length, and not the square of that.
pub(crate) fn hashes<'a>(key: &'a RandomState, path: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
    let root = key.hash_one(0_u64);
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    let below = parts.scan(root, |above, part| {
        *above = key.hash_one((*above, part));
        Some(*above)
    });
    std::iter::once(root).chain(below)
}

fn hash(key: &RandomState, path: &[u8]) -> u64 {
    hashes(key, path).last().unwrap_or_default()
}

fn merge(all: &mut HashSet<u64>, more: HashSet<u64>) {
    if all.is_empty() { *all = more } else { all.extend(more) }
}

fn bounded(count: usize, most: usize, what: &str) -> io::Result<()> {
    if count <= most { Ok(()) } else { Err(invalid(format!("the image has more than {most} {what}"))) }
}

/// Whether `path` is `folder` or lies below it.
pub(crate) fn is_below(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}
