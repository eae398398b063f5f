//! What one layer has, taken in while it is read.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::io::{self, Read};

use super::{Foreign, NAMES_MAX, WAITING_BYTES_MAX, WORKSPACE, bounded, hash, hashes, invalid, is_below};
use crate::stage::cut::path::{WHITEOUT, parent};
use crate::stage::header::Kind;
use crate::stage::walk::{Entry, Walk};
use crate::text;

/// All that lower layers have in this folder is deleted.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names of aufs's own; they mean nothing to anybody else.
const AUFS: &[u8] = b".wh..wh.";

/// The hashes of a layer's names.
#[derive(Debug)]
pub(crate) struct Names {
    hashes: RandomState,
    last_parent: Option<Vec<u8>>,
    pub(super) files: HashSet<u64>,
    pub(super) folders: HashSet<u64>,
    /// Folders above entries.
    pub(super) implied: HashSet<u64>,
    pub(super) gone: HashSet<u64>,
    pub(super) opaque: HashSet<u64>,
    pub(super) foreign: Vec<Foreign>,
    linked_below: HashSet<u64>,
    foreign_bytes: usize,
    pub(super) marks: bool,
    pub(super) workspace: bool,
}

/// What a name of a layer is.
pub(crate) enum Meaning {
    Entry,
    /// Deletes this.
    Gone(Vec<u8>),
    /// Deletes all in this.
    Opaque(Vec<u8>),
    Nothing,
}

impl Names {
    pub(super) fn new(hashes: RandomState) -> Self {
        Self {
            hashes,
            last_parent: None,
            files: HashSet::new(),
            folders: HashSet::new(),
            implied: HashSet::new(),
            gone: HashSet::new(),
            opaque: HashSet::new(),
            foreign: Vec::new(),
            linked_below: HashSet::new(),
            foreign_bytes: 0,
            marks: false,
            workspace: false,
        }
    }

    /// Takes the next entry in.
    pub(crate) fn add(&mut self, entry: &Entry) -> io::Result<()> {
        let path = entry.path()?;
        match meaning(&path) {
            Meaning::Entry => self.entry(path, entry)?,
            Meaning::Gone(path) => drop(self.gone.insert(hash(&self.hashes, &path))),
            Meaning::Opaque(path) => drop(self.opaque.insert(hash(&self.hashes, &path))),
            Meaning::Nothing => {}
        }
        self.marks |= !matches!(meaning(&entry.path()?), Meaning::Entry);
        bounded(self.count(), NAMES_MAX, "names in one layer")
    }

    fn count(&self) -> usize {
        self.files.len() + self.folders.len() + self.implied.len() + self.gone.len() + self.opaque.len()
    }

    /// Whether many layers may wait with what this one holds of memory: about 3 MiB.
    pub(crate) fn is_small(&self) -> bool {
        self.count() <= NAMES_MAX >> 7 && self.foreign_bytes <= WAITING_BYTES_MAX >> 5
    }

    fn entry(&mut self, path: Vec<u8>, entry: &Entry) -> io::Result<()> {
        let name = hash(&self.hashes, &path);
        self.workspace |= is_below(&path, WORKSPACE) && path != WORKSPACE;
        if let Some(above) = parent(&path).filter(|above| self.last_parent.as_deref() != Some(above)) {
            self.implied.extend(hashes(&self.hashes, above));
            self.last_parent = Some(above.to_vec());
        }
        if entry.is_folder() {
            self.folders.insert(name);
            return Ok(());
        }
        if entry.kind == Kind::HardLink {
            let target = entry.link_path()?;
            if !self.files.contains(&hash(&self.hashes, &target)) {
                self.foreign_bytes += entry.head.len() * 2 + path.len() + target.len();
                bounded(self.foreign_bytes, WAITING_BYTES_MAX, "bytes of links between layers")?;
                self.linked_below.insert(name);
                self.foreign.push(Foreign { path, target, entry: entry.clone() });
            }
        }
        self.files.insert(name);
        Ok(())
    }

    /// Whether this is a link to a file of a lower layer.
    pub(super) fn is_foreign(&self, path: &[u8]) -> bool {
        self.linked_below.contains(&hash(&self.hashes, path))
    }

    pub(super) fn has(&self, path: &[u8]) -> bool {
        self.files.contains(&hash(&self.hashes, path))
    }
}

/// Whether an entry stays below the root, and what it links to or deletes as well.
///
/// # Errors
/// The entry, and what it would touch.
pub(crate) fn check(entry: &Entry) -> io::Result<()> {
    let path = entry.path()?;
    if entry.kind == Kind::HardLink {
        entry.link_path()?;
    }
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match name.strip_prefix(WHITEOUT) {
        Some(b"" | b"." | b"..") => Err(invalid(format!("{} deletes a name that is none", text::quoted(&entry.name)))),
        _ => Ok(()),
    }
}

/// Whether a layer's tar has marks of deletions.
pub(crate) fn has_marks(tar: impl Read) -> io::Result<bool> {
    let mut walk = Walk::new(tar);
    while let Some(entry) = walk.next()? {
        if is_mark(&entry.path()?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an entry at `path` is no entry, but a mark.
pub(crate) fn is_mark(path: &[u8]) -> bool {
    !matches!(meaning(path), Meaning::Entry)
}

pub(crate) fn meaning(path: &[u8]) -> Meaning {
    let folder = parent(path).unwrap_or_default();
    let name = path.strip_prefix(folder).unwrap_or(path);
    let name = name.strip_prefix(b"/").unwrap_or(name);
    match name.strip_prefix(WHITEOUT) {
        None => Meaning::Entry,
        Some(_) if name == OPAQUE => Meaning::Opaque(folder.to_vec()),
        Some(_) if name.starts_with(AUFS) => Meaning::Nothing,
        Some(deleted) if folder.is_empty() => Meaning::Gone(deleted.to_vec()),
        Some(deleted) => Meaning::Gone([folder, b"/", deleted].concat()),
    }
}
