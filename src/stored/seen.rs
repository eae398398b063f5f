//! What is seen of layers that lie on each other: the topmost entry of each name, unless something above it hides it.
//!
//! Layers are taken in in any order. Of names hashes are kept, of a key that nobody knows: 55 bytes each, more while the table
//! grows. Past [`NAMES_MAX`] names nothing is told any more.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::layer::Listen;
use crate::stage::header::Kind;
use crate::stage::stack::{Meaning, hashes, meaning};
use crate::stage::sum::Sum;
use crate::stage::walk::Entry;

/// Names of an image, folders above them counted: about 110 MiB.
const NAMES_MAX: usize = 2 << 20;

/// All layers of an image.
#[derive(Default)]
pub(super) struct Seen {
    key: RandomState,
    names: HashMap<u64, Name>,
    is_full: bool,
}

/// One name. Layers are counted from 1, the lowest; 0 is none.
#[derive(Debug, Clone, Copy, Default)]
struct Name {
    above: u64,
    /// The topmost layer that has an entry of this name, and that has one which is no folder.
    top: u16,
    file: u16,
    /// The topmost one that deletes it, or all in it.
    gone: u16,
    opaque: u16,
    found: Found,
}

/// What an entry was found to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Of kind, permissions, owner, time and device number.
    pub(super) meta: u32,
    /// Of attributes and a symbolic link's text.
    pub(super) extra: u32,
    /// The checksum of the content, if that was asked for and there is any.
    pub(super) check: Option<u64>,
}

/// The layers up to which names are hidden by what is above them.
pub(super) struct Covers<'a> {
    seen: &'a Seen,
    known: HashMap<u64, u16>,
}

impl Seen {
    /// Where the name at `path` is kept; none once there are too many.
    fn place(&mut self, path: &[u8]) -> Option<u64> {
        let (mut above, mut last) = (0, 0);
        for hash in hashes(&self.key, path) {
            self.names.entry(hash).or_insert(Name { above, ..Name::default() });
            (above, last) = (hash, hash);
        }
        if self.names.len() > NAMES_MAX {
            (self.names, self.is_full) = (HashMap::new(), true);
        }
        (!self.is_full).then_some(last)
    }

    /// Layer `layer` has this entry, or mark; where its content belongs, if it has some.
    fn take(&mut self, layer: u16, entry: &Entry, found: Found) -> io::Result<Option<u64>> {
        let path = entry.path()?;
        let (named, meaning) = match meaning(&path) {
            Meaning::Entry => (path.clone(), Meaning::Entry),
            Meaning::Gone(path) => (path, Meaning::Gone(Vec::new())),
            Meaning::Opaque(path) => (path, Meaning::Opaque(Vec::new())),
            Meaning::Nothing => return Ok(None),
        };
        let Some(place) = (!self.is_full).then(|| self.place(&named)).flatten() else { return Ok(None) };
        let Some(name) = self.names.get_mut(&place) else { return Ok(None) };
        match meaning {
            Meaning::Gone(_) => name.gone = name.gone.max(layer),
            Meaning::Opaque(_) => name.opaque = name.opaque.max(layer),
            Meaning::Entry | Meaning::Nothing => {
                if !entry.is_folder() {
                    name.file = name.file.max(layer);
                }
                if layer >= name.top {
                    (name.top, name.found) = (layer, found);
                }
                return Ok((entry.size > 0 && entry.kind == Kind::File).then_some(place));
            }
        }
        Ok(None)
    }

    fn content(&mut self, place: u64, layer: u16, check: u64) {
        if let Some(name) = self.names.get_mut(&place).filter(|name| name.top == layer) {
            name.found.check = Some(check);
        }
    }

    pub(super) fn covers(&self) -> Covers<'_> {
        Covers { seen: self, known: HashMap::new() }
    }
}

impl Covers<'_> {
    /// How many entries can be seen, if that can be told.
    pub(super) fn entries(&mut self) -> Option<u64> {
        if self.seen.is_full {
            return None;
        }
        let places = self.seen.names.iter().filter(|(place, name)| self.shows(**place, name)).count();
        Some(places as u64)
    }

    /// What can be seen at `path`, if anything.
    pub(super) fn at(&mut self, path: &[u8]) -> Option<Found> {
        let place = hashes(&self.seen.key, path).last()?;
        let name = self.seen.names.get(&place)?;
        self.shows(place, name).then_some(name.found)
    }

    fn shows(&mut self, place: u64, name: &Name) -> bool {
        name.top > 0 && name.top >= name.gone && name.top >= self.cover(place)
    }

    /// The topmost layer that hides what lower ones have below the folders above `place`.
    fn cover(&mut self, place: u64) -> u16 {
        let (mut way, mut at) = (Vec::new(), place);
        let mut cover = loop {
            if let Some(known) = self.known.get(&at) {
                break *known;
            }
            let Some(above) = self.seen.names.get(&at).map(|name| name.above).filter(|above| *above != 0) else {
                break 0;
            };
            way.push(at);
            at = above;
        };
        let hides = |name: &Name| name.gone.max(name.file).max(name.opaque);
        while let Some(below) = way.pop() {
            cover = cover.max(self.seen.names.get(&at).map_or(0, hides));
            // Of those that are asked for once, nothing is remembered.
            if !way.is_empty() {
                self.known.insert(below, cover);
            }
            at = below;
        }
        cover
    }
}

/// Hears one layer.
pub(super) struct Hearing {
    seen: Arc<Mutex<Seen>>,
    /// Counted from 1.
    layer: u16,
    /// Whether contents are to be summed.
    sums: bool,
    content: Option<(u64, Sum)>,
}

impl Hearing {
    pub(super) fn new(seen: &Arc<Mutex<Seen>>, index: usize, sums: bool) -> Self {
        let layer = u16::try_from(index + 1).unwrap_or(u16::MAX);
        Self { seen: Arc::clone(seen), layer, sums, content: None }
    }

    /// The layer has ended.
    pub(super) fn end(&mut self) {
        if let Some((place, sum)) = self.content.take() {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.content(place, self.layer, sum.finish());
        }
    }
}

impl Listen for Hearing {
    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.end();
        let found = if self.sums { Found::of(entry) } else { Found::default() };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let place = seen.take(self.layer, entry, found)?;
        self.content = place.filter(|_| self.sums).map(|place| (place, Sum::new()));
        Ok(())
    }

    fn wants_content(&self) -> bool {
        self.content.is_some()
    }

    fn content(&mut self, bytes: &[u8]) {
        if let Some((_, sum)) = &mut self.content {
            sum.update(bytes);
        }
    }
}
