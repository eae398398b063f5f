//! The directories a layer must hold for its entries to unpack with the right mode and owner.

use std::collections::HashMap;

use super::path;

/// Every directory seen so far: its path, and its header blocks with runs of zeros squeezed, about 250 bytes in all.
/// Later entries of the same directory replace the earlier one.
#[derive(Debug, Default)]
pub(super) struct Directories(HashMap<Box<[u8]>, Box<[u8]>>);

impl Directories {
    pub(super) fn insert<'a>(&mut self, path: &[u8], header_blocks: impl Iterator<Item = &'a [u8]>) {
        self.0.insert(path.into(), squeeze(header_blocks.flatten()));
    }

    /// The header blocks of the directory at `path`, if an entry for it came.
    pub(super) fn header_blocks(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.0.get(path).map(|squeezed| expand(squeezed))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The directories that one layer holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    paths: std::collections::HashSet<Box<[u8]>>,
    /// The last parent that was found complete; entries of one directory come together.
    last: Option<Box<[u8]>>,
}

impl Held {
    /// The ancestors of `path` that are missing, the root first; they count as held from now on.
    pub(super) fn missing<'a>(&mut self, path: &'a [u8]) -> Vec<&'a [u8]> {
        let Some(parent) = path::parent(path) else { return Vec::new() };
        if self.last.as_deref() == Some(parent) {
            return Vec::new();
        }
        self.last = Some(parent.into());
        path::from_root(parent).filter(|ancestor| self.paths.insert((*ancestor).into())).collect()
    }

    /// The layer has an entry for the directory at `path`.
    pub(super) fn insert(&mut self, path: &[u8]) {
        self.paths.insert(path.into());
    }
}

/// Runs of zeros become a zero and their length, 1 to 255; other bytes stay.
fn squeeze<'a>(bytes: impl Iterator<Item = &'a u8>) -> Box<[u8]> {
    let mut squeezed = Vec::with_capacity(256);
    let mut zeros = 0_u8;
    for byte in bytes {
        if *byte == 0 && zeros < u8::MAX {
            zeros += 1;
            continue;
        }
        if zeros > 0 {
            squeezed.extend([0, zeros]);
        }
        zeros = u8::from(*byte == 0);
        if *byte != 0 {
            squeezed.push(*byte);
        }
    }
    if zeros > 0 {
        squeezed.extend([0, zeros]);
    }
    squeezed.into()
}

fn expand(squeezed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 * super::BLOCK_BYTES);
    let mut rest = squeezed.iter();
    while let Some(byte) = rest.next() {
        match byte {
            0 => bytes.resize(bytes.len() + rest.next().map_or(0, |zeros| usize::from(*zeros)), 0),
            _ => bytes.push(*byte),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squeezing_loses_nothing() {
        for bytes in
            [vec![0; 1024], vec![1; 5], [vec![7], vec![0; 255], vec![8], vec![0; 256], vec![9, 0]].concat(), vec![]]
        {
            let squeezed = squeeze(bytes.iter());
            assert_eq!(expand(&squeezed), bytes);
        }
        assert!(squeeze([0; 1024].iter()).len() <= 10);
    }

    #[test]
    fn ancestors_are_missing_once() {
        let mut held = Held::default();
        assert_eq!(held.missing(b"a/b/c"), [&b""[..], b"a", b"a/b"]);
        assert!(held.missing(b"a/b/d").is_empty());
        held.insert(b"a/x");
        assert_eq!(held.missing(b"a/x/y/z"), [&b"a/x/y"[..]]);
        assert!(held.missing(b"").is_empty());
    }
}
