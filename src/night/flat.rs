//! What of its layers an image leaves out for readers that know no marks of deletions, as the layers of a `.smolmachine` are
//! read: all that is not alive.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher as _;
use std::io::{self, Read};

use super::record::{Body, Reader, Record};
use crate::oci::Digest;
use crate::stage::cut::{WORKSPACE, is_within};
use crate::stage::digest::DigestHasher;
use crate::stage::stack::Above;

/// What is left out, by layer.
#[derive(Default)]
pub struct Flat {
    layers: BTreeMap<u32, LeftOut>,
    /// What of layers that stay is alive below `/workspace`.
    pub(crate) workspace: Names,
}

/// What is left out of one layer.
#[derive(Debug, Clone, Default)]
struct LeftOut {
    above: Above,
    names: DigestHasher,
}

/// The hashes of some paths, of a key that nobody knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    key: RandomState,
    hashes: HashSet<u64>,
}

impl Names {
    fn add(&mut self, path: &[u8]) {
        self.hashes.insert(self.key.hash_one(path));
    }

    /// Whether `path` is one of them.
    pub(crate) fn has(&self, path: &[u8]) -> bool {
        self.hashes.contains(&self.key.hash_one(path))
    }
}

impl Flat {
    /// By the records of an image, of which layers before `first_fresh` are those that stay.
    pub(super) fn read(mut records: Reader<impl Read>, first_fresh: u32) -> io::Result<Self> {
        let (mut flat, mut folders) = (Self::default(), Folders::default());
        while let Some(Record { path, body }) = records.take()? {
            match body {
                Body::Live { stat, home, .. } => {
                    folders.leave_for(&path);
                    if stat.kind == b'd' {
                        folders.enter(&path);
                    }
                    if is_within(&path, WORKSPACE) && home.is_some_and(|home| home.layer < first_fresh) {
                        flat.workspace.add(&path);
                    }
                }
                Body::Dead { layer, mark, folder, .. } => {
                    folders.leave_for(&path);
                    // A folder that an upper layer describes anew is not in the way.
                    if !(folder && folders.is_at(&path)) {
                        let gone = folders.highest_gone(&path);
                        flat.layers.entry(layer).or_default().add(&path, gone, mark);
                    }
                }
            }
        }
        Ok(flat)
    }

    /// What is left out of a layer, for [`crate::stage::stack::rewrite`]; none where it is flat as it is.
    pub(crate) fn left_out(&self, layer: u32) -> Option<&Above> {
        self.layers.get(&layer).map(|layer| &layer.above)
    }

    /// A name of what is left out of a layer: as long as it is the same, so is what stays.
    #[must_use]
    pub fn named(&self, layer: u32) -> Option<Digest> {
        self.layers.get(&layer).map(|layer| layer.names.clone().finish().0)
    }
}

impl LeftOut {
    /// The layer has something at `path` that is not alive, and so are the folders above it from `gone` bytes of it on.
    fn add(&mut self, path: &[u8], gone: Option<usize>, mark: bool) {
        let gone = gone.map_or(path, |bytes| &path[..bytes]);
        // A mark is in no flat layer anyway. What it came with is, the folders above it.
        if !mark || gone.len() < path.len() {
            self.above.delete(gone);
        }
        self.names.update(path);
        self.names.update(&[0, u8::from(mark)]);
        self.names.update(&gone.len().to_le_bytes());
    }
}

/// The folders that are alive above the path at hand, as lengths of it.
#[derive(Default)]
struct Folders {
    path: Vec<u8>,
    lengths: Vec<usize>,
}

impl Folders {
    fn leave_for(&mut self, path: &[u8]) {
        while self.lengths.last().is_some_and(|bytes| !is_within(path, &self.path[..*bytes])) {
            self.lengths.pop();
        }
    }

    fn enter(&mut self, path: &[u8]) {
        self.path.clear();
        self.path.extend_from_slice(path);
        self.lengths.push(path.len());
    }

    /// Whether the folder at `path` is alive.
    fn is_at(&self, path: &[u8]) -> bool {
        self.lengths.last() == Some(&path.len())
    }

    /// The length of the highest folder above `path`, or of `path` itself, that is no folder that is alive.
    fn highest_gone(&self, path: &[u8]) -> Option<usize> {
        let from = self.lengths.last().map_or(0, |bytes| if *bytes == 0 { 0 } else { bytes + 1 });
        let name = path.get(from..)?.split(|byte| *byte == b'/').next()?;
        Some(from + name.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::night::record::{Fate, Home, Stat, Writer};

    fn live(kind: u8, layer: u32) -> Body {
        let home = Some(Home { layer, ..Home::default() });
        Body::Live { stat: Stat { kind, ..Stat::default() }, home, fate: Fate::Kept }
    }

    fn dead(layer: u32, folder: bool) -> Body {
        Body::Dead { layer, hidden: false, mark: false, folder }
    }

    fn flat(records: &[(&str, Body)]) -> Flat {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for (path, body) in records {
            writer.write(path.as_bytes(), body).unwrap();
        }
        Flat::read(Reader::new(&writer.finish().unwrap()[..]).unwrap(), 5).unwrap()
    }

    #[test]
    fn what_is_only_described_anew_stays_and_what_is_another_kind_does_not() {
        let flat = flat(&[
            ("", live(b'd', 5)),
            ("", dead(1, true)),
            ("a", live(b'd', 5)),
            ("a", dead(2, false)),
            ("a/f", live(b'f', 2)),
        ]);
        assert!(flat.left_out(1).is_none());
        assert!(flat.left_out(2).is_some_and(|above| above.is_deleted(b"a")));
    }

    #[test]
    fn folders_that_came_along_go_with_what_they_were_for() {
        let mark = Body::Dead { layer: 3, hidden: true, mark: true, folder: false };
        let records = [
            ("", live(b'd', 1)),
            ("p", live(b'd', 1)),
            ("p/q", dead(1, true)),
            ("p/q/r/x", dead(2, false)),
            ("p/q/y", mark),
            ("p/z", mark),
        ];
        let flat = flat(&records);
        for (layer, path) in [(1, "p/q"), (2, "p/q"), (3, "p/q")] {
            assert!(flat.left_out(layer).is_some_and(|above| above.is_deleted(path.as_bytes())), "{layer}");
        }
        assert!(!flat.left_out(3).is_some_and(|above| above.is_deleted(b"p/z")), "nothing is there");
        assert_eq!(flat.named(4), None);
        assert_ne!(flat.named(1), flat.named(2));
    }

    #[test]
    fn of_the_workspace_it_is_told_what_stays() {
        let flat =
            flat(&[("workspace/old", live(b'f', 4)), ("workspace/new", live(b'f', 5)), ("other", live(b'f', 1))]);
        assert!(flat.workspace.has(b"workspace/old"));
        assert!(!flat.workspace.has(b"workspace/new") && !flat.workspace.has(b"other"));
    }
}
