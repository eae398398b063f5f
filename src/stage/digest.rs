//! SHA-256, with names that exist only after the last byte.
//!
//! `sha2` finds the processor's SHA instructions at run time; without them it falls back to portable code.

use sha2::{Digest as _, Sha256};

use crate::oci::{DiffId, Digest};

/// Hashes an uncompressed layer.
#[derive(Debug, Clone, Default)]
pub struct DiffIdHasher {
    hash: Sha256,
    bytes: u64,
}

/// Hashes stored bytes.
#[derive(Debug, Clone, Default)]
pub struct DigestHasher {
    hash: Sha256,
    bytes: u64,
}

impl DiffIdHasher {
    /// Takes the next bytes of the tar.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// The diff_id of all bytes taken, and their number.
    #[must_use]
    pub fn finish(self) -> (DiffId, u64) {
        (DiffId::from_bytes(self.hash.finalize().into()), self.bytes)
    }
}

impl DigestHasher {
    /// Takes the next stored bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// The digest of all bytes taken, and their number.
    #[must_use]
    pub fn finish(self) -> (Digest, u64) {
        (Digest::from_bytes(self.hash.finalize().into()), self.bytes)
    }

    /// The digest of `bytes` alone.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        Digest::from_bytes(Sha256::digest(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_sha256() {
        let mut hasher = DiffIdHasher::default();
        hasher.update(b"a");
        hasher.update(b"bc");
        let (diff_id, bytes) = hasher.finish();
        // FIPS 180-2, appendix B.1.
        assert_eq!(diff_id.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((DigestHasher::of(b"abc").hex(), bytes), (diff_id.hex(), 3));
    }
}
