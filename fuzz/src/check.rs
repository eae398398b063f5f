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
/// came before and is above an entry is in its layer. Of overlayfs's own marks, and links to them, they hold none.
pub fn nothing_lost(entries: &[Entry], layers: &[Vec<Entry>]) {
    let entries = &without_whiteouts(entries);
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
            } else {
                directories.remove(&parts);
            }
        }
    }
    assert_eq!(next, entries.len(), "entries are missing");
}

fn without_whiteouts(entries: &[Entry]) -> Vec<Entry> {
    let mut whiteouts: HashSet<Vec<&[u8]>> = HashSet::new();
    let kept = entries.iter().filter(|entry| {
        let to_one = |target: &Vec<u8>| entry.kind.is_hard_link() && whiteouts.contains(&parts(target));
        let is_one = entry.is_whiteout || entry.link.as_ref().is_some_and(to_one);
        if is_one {
            whiteouts.insert(entry.parts())
        } else {
            whiteouts.remove(&entry.parts())
        };
        !is_one
    });
    kept.cloned().collect()
}

/// No entry lies below what is no folder in an earlier layer, unless the way is in its own.
pub fn no_way_lost(layers: &[Vec<Entry>]) {
    let mut earlier: HashSet<Vec<&[u8]>> = HashSet::new();
    for layer in layers {
        let mut here: HashSet<Vec<&[u8]>> = HashSet::new();
        for entry in layer {
            let parts = entry.parts();
            for length in 0..parts.len() {
                let above = &parts[..length];
                assert!(
                    !earlier.contains(above) || here.contains(above),
                    "{entry:?} is below a link that is not there"
                );
            }
            if entry.is_directory() {
                here.remove(&parts);
                earlier.remove(&parts);
            } else {
                here.insert(parts);
            }
        }
        earlier.extend(here);
    }
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
