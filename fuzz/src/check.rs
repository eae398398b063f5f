//! What must hold for every cut.

use std::collections::HashSet;

use crate::oracle::{Entry, parts};

const BLOCK_BYTES: usize = 512;

/// A layer is whole blocks, the last two of them zero.
pub fn form(layer: &[u8]) {
    assert_eq!(layer.len() % BLOCK_BYTES, 0, "a layer of odd length");
    let end = layer.len().checked_sub(2 * BLOCK_BYTES).expect("a layer without an end mark");
    assert!(layer[end..].iter().all(|byte| *byte == 0), "a layer without an end mark");
}

/// The layers hold the entries in order, each once, but for directories that came before; and every directory that
/// came before and is above an entry is in its layer.
pub fn nothing_lost(entries: &[Entry], layers: &[Vec<Entry>]) {
    let mut next = 0;
    let mut directories: HashSet<Vec<&[u8]>> = HashSet::new();
    for layer in layers {
        let mut held: HashSet<Vec<&[u8]>> = HashSet::new();
        for entry in layer {
            if entries.get(next) == Some(entry) {
                next += 1;
            } else {
                let repeated = entry.is_directory() && entries[..next].contains(entry);
                assert!(repeated, "an entry that is not in its place: {entry:?}, not {:?}", entries.get(next));
            }
            let parts = entry.parts();
            for length in 0..parts.len() {
                let above = &parts[..length];
                assert!(
                    !directories.contains(above) || held.contains(above),
                    "{entry:?} without its ancestor {above:?}"
                );
            }
            if entry.is_directory() {
                directories.insert(parts.clone());
                held.insert(parts);
            }
        }
    }
    assert_eq!(next, entries.len(), "entries are missing");
}

/// Nothing in a layer leads out of it.
pub fn closed(layer: &[Entry]) {
    let mut files: HashSet<Vec<&[u8]>> = HashSet::new();
    for entry in layer {
        let inside = |path: &[u8]| {
            !path.starts_with(b"/") && !parts(path).iter().any(|part| *part == b".." || part.starts_with(b".wh."))
        };
        assert!(inside(&entry.path), "a name that leaves the root: {entry:?}");
        if entry.kind.is_hard_link() {
            let target = entry.link.as_deref().expect("a hard link to something");
            assert!(files.contains(&parts(target)), "a link out of the layer: {entry:?}");
        }
        if !entry.is_directory() {
            files.insert(entry.parts());
        }
    }
}
