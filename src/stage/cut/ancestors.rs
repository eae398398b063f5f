//! The directories a layer must hold for its entries to unpack with the right mode and owner.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;

use super::path;

/// Bytes of a hash in a table, and of the byte that the table has beside it.
pub(super) const HASH_BYTES: usize = size_of::<u64>() + 1;

/// So many directories are compressed together. More would take less memory, and longer to find one.
const PACK_DIRECTORIES: usize = 32;

/// zstd's level for them.
const LEVEL: i32 = 1;

/// Every directory seen so far, about 60 bytes each: a hash of its path, whose key nobody can know, so that nobody chooses
/// paths of one hash; and its header blocks, with runs of zeros squeezed, compressed with those of its neighbours.
/// Later entries of the same directory replace the earlier one.
#[derive(Default)]
pub(super) struct Directories {
    hasher: RandomState,
    places: HashMap<u64, u32>,
    packs: Vec<Box<[u8]>>,
    packed_bytes: usize,
    /// Those that are not packed yet.
    open: Vec<Box<[u8]>>,
    /// The pack that was unpacked last: neighbours are asked for together.
    last: Option<(usize, Vec<Box<[u8]>>)>,
}

impl Directories {
    pub(super) fn insert(&mut self, path: &[u8], header_blocks: &[&[u8]]) {
        let place = self.packs.len() * PACK_DIRECTORIES + self.open.len();
        // Past four thousand million directories, the first ones count.
        let Ok(place) = u32::try_from(place) else { return };
        self.places.insert(self.hasher.hash_one(path), place);
        self.open.push(squeeze(header_blocks.iter().copied().flatten()));
        if self.open.len() == PACK_DIRECTORIES {
            let pack = pack(&self.open);
            self.packed_bytes += pack.len();
            self.packs.push(pack);
            self.open.clear();
        }
    }

    /// The header blocks of the directory at `path`, if an entry for it came.
    pub(super) fn header_blocks(&mut self, path: &[u8]) -> Option<Vec<u8>> {
        let place = *self.places.get(&self.hasher.hash_one(path))? as usize;
        let (pack, within) = (place / PACK_DIRECTORIES, place % PACK_DIRECTORIES);
        let Some(packed) = self.packs.get(pack) else { return self.open.get(within).map(|squeezed| expand(squeezed)) };
        if self.last.as_ref().is_none_or(|(last, _)| *last != pack) {
            self.last = Some((pack, unpack(packed)));
        }
        self.last.as_ref()?.1.get(within).map(|squeezed| expand(squeezed))
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// What it holds, about.
    pub(super) fn bytes(&self) -> usize {
        let place_bytes = size_of::<(u64, u32)>() + 1;
        self.places.capacity() * place_bytes + self.packs.capacity() * size_of::<Box<[u8]>>() + self.packed_bytes
    }
}

/// Lengths and bytes of squeezed headers, compressed.
fn pack(squeezed: &[Box<[u8]>]) -> Box<[u8]> {
    let lengths = squeezed.iter().flat_map(|one| (one.len() as u64).to_le_bytes());
    let plain: Vec<u8> = lengths.chain(squeezed.iter().flat_map(|one| one.iter().copied())).collect();
    // What zstd can't take is kept as it is, told by the first byte.
    let packed = zstd::bulk::compress(&plain, LEVEL);
    match packed {
        Ok(packed) => [&[1], &(plain.len() as u64).to_le_bytes()[..], &packed].concat().into(),
        Err(_) => [&[0], &plain[..]].concat().into(),
    }
}

fn unpack(packed: &[u8]) -> Vec<Box<[u8]>> {
    let number =
        |bytes: &[u8]| bytes.try_into().map_or(0, |bytes| usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(0));
    let plain = match packed {
        [1, rest @ ..] if rest.len() >= 8 => zstd::bulk::decompress(&rest[8..], number(&rest[..8])).unwrap_or_default(),
        [_, plain @ ..] => plain.to_vec(),
        [] => Vec::new(),
    };
    let Some((lengths, mut rest)) = plain.split_at_checked(PACK_DIRECTORIES * 8) else { return Vec::new() };
    lengths
        .chunks(8)
        .map_while(|length| {
            let (one, after) = rest.split_at_checked(number(length))?;
            rest = after;
            Some(one.into())
        })
        .collect()
}

/// The directories that one layer holds, 9 to 18 bytes each.
#[derive(Default)]
pub(super) struct Held {
    hasher: RandomState,
    paths: HashSet<u64>,
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
        path::from_root(parent).filter(|ancestor| self.paths.insert(self.hasher.hash_one(ancestor))).collect()
    }

    /// Whether there is a directory at `path`, or the layer has entries below it.
    pub(super) fn contains(&self, path: &[u8]) -> bool {
        self.paths.contains(&self.hasher.hash_one(path))
    }

    /// Something else than a directory is at `path` from now on: whether a way leads over it has to be looked at again.
    pub(super) fn forget(&mut self, path: &[u8]) {
        if self.paths.remove(&self.hasher.hash_one(path)) {
            self.last = None;
        }
    }

    /// The layer has an entry for the directory at `path`.
    pub(super) fn insert(&mut self, path: &[u8]) {
        self.paths.insert(self.hasher.hash_one(path));
    }

    /// What it holds.
    pub(super) fn bytes(&self) -> usize {
        self.paths.capacity() * HASH_BYTES
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
    fn directories_are_found_again_in_little_memory() {
        let path = |number: u32| format!("some/folder/{}/{number}", number / 100).into_bytes();
        let header = |number: u32| {
            let mut header = [0; 1024];
            header[..20].copy_from_slice(format!("./name/of/{number:010}").as_bytes());
            header[100..140].copy_from_slice(b"0000755 0000000 0000000 00000000 1777777");
            header[600..632].copy_from_slice(format!("{:032}", u64::from(number) * 0x9e37_79b9).as_bytes());
            header
        };
        let mut directories = Directories::default();
        for number in 0..10_000 {
            directories.insert(&path(number), &[&header(number)[..100], &header(number)[100..]]);
        }
        directories.insert(&path(77), &[&header(7)]);
        for number in [0, 31, 32, 9_999, 5_000, 9_984, 1] {
            assert_eq!(directories.header_blocks(&path(number)).unwrap(), header(number), "{number}");
        }
        assert_eq!(directories.header_blocks(&path(77)).unwrap(), header(7), "the last one counts");
        assert_eq!((directories.header_blocks(b"other"), directories.len()), (None, 10_000));
        assert!(directories.bytes() < 10_000 * 100, "{}", directories.bytes());
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
