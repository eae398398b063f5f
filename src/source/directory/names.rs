//! The names in one folder, sorted bytewise: whatever order a filesystem gives them in, the stream is the same.

use std::os::fd::OwnedFd;

use rustix::fs::RawDir;
use rustix::io::Errno;

/// Bytes of folder that one system call gives.
pub(super) const LISTING_BYTES: usize = 64 << 10;

/// The names of one folder, handed out one by one.
pub(super) struct Names {
    bytes: Vec<u8>,
    /// Where each name begins and ends in `bytes`.
    sorted: Vec<(usize, usize)>,
    next: usize,
}

impl Names {
    /// No names.
    pub(super) fn none() -> Self {
        Self { bytes: Vec::new(), sorted: Vec::new(), next: 0 }
    }

    /// Reads all names of `folder`, which must be freshly opened. `scratch` is [`LISTING_BYTES`] of capacity.
    pub(super) fn read(folder: &OwnedFd, scratch: &mut Vec<u8>) -> Result<Self, Errno> {
        let mut names = Self::none();
        let mut listing = RawDir::new(folder, scratch.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let began = names.bytes.len();
                names.bytes.extend_from_slice(name);
                names.sorted.push((began, names.bytes.len()));
            }
        }
        let bytes = &names.bytes;
        names.sorted.sort_unstable_by(|one, other| bytes[one.0..one.1].cmp(&bytes[other.0..other.1]));
        Ok(names)
    }

    /// The next name.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let (began, ended) = *self.sorted.get(self.next)?;
        self.next += 1;
        Some(&self.bytes[began..ended])
    }
}
