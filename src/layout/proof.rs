//! Which blobs were found to be what their names say.
//!
//! A blob that is there in its full size may be rotten all the same: a disk that lied, a copy that broke off in a file of
//! its full length. Whoever is about to count on one that it did not write asks here; its bytes are hashed once, and
//! again only when the file is another one, or was touched.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{Read, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use super::index::open_file;
use super::{Layout, io_failed};
use crate::error::Result;
use crate::oci::Digest;
use crate::stage::digest::DigestHasher;

/// Bytes that one read of a blob takes.
const READ_BYTES: usize = 256 << 10;

/// What was found, by the file that it was found of.
#[derive(Debug, Default)]
pub(super) struct Proofs(Mutex<HashMap<Digest, (Stamp, bool)>>);

/// What tells a file from another one, and from itself before a change. Nobody can set the time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Layout {
    /// A blob and its size, if it is there and its bytes are those of its name. Blocks, for as long as they are hashed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn proven(&self, digest: Digest) -> Result<Option<(File, u64)>> {
        let path = self.blob_path(digest);
        let failed = |error| io_failed("reading a blob", &path, error);
        let mut file = match open_file(&path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::Other) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let stamp = Stamp::of(&file.metadata().map_err(failed)?);
        let found = self.proofs.lock().get(&digest).copied().filter(|(before, _)| *before == stamp);
        let is_good = if let Some((_, is_good)) = found {
            is_good
        } else {
            let is_good = hash(&mut file).map_err(failed)? == digest;
            file.rewind().map_err(failed)?;
            // What was changed while it was read has another stamp by now.
            self.proofs.lock().insert(digest, (stamp, is_good));
            is_good
        };
        Ok(is_good.then_some((file, stamp.size)))
    }

    /// Whether the blob is there in its full size, and its bytes are those of its name. Blocks.
    #[must_use]
    pub fn has(&self, digest: Digest, size: u64) -> bool {
        let is_full_size = std::fs::metadata(self.blob_path(digest)).is_ok_and(|metadata| metadata.len() == size);
        is_full_size && matches!(self.proven(digest), Ok(Some(_)))
    }

    /// The blob was hashed while it was written, and has just got its name.
    pub fn wrote(&self, digest: Digest) {
        if let Ok(metadata) = std::fs::metadata(self.blob_path(digest)) {
            self.proofs.lock().insert(digest, (Stamp::of(&metadata), true));
        }
    }
}

impl Proofs {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, (Stamp, bool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(file: &mut File) -> std::io::Result<Digest> {
    let (mut hasher, mut block) = (DigestHasher::default(), vec![0; READ_BYTES]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hasher.finish().0),
            read => hasher.update(&block[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_hashed_once_and_again_when_it_was_touched() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::make(folder.path()).unwrap();
        let digest = DigestHasher::of(b"good");
        let path = layout.blob_path(digest);
        assert!(!layout.has(digest, 4));
        std::fs::write(&path, "good").unwrap();
        assert!(layout.has(digest, 4) && !layout.has(digest, 5));
        let seen = layout.proofs.lock()[&digest];
        assert!(seen.1 && layout.has(digest, 4) && layout.proofs.lock()[&digest] == seen);
        std::fs::write(&path, "evil").unwrap();
        assert!(!layout.has(digest, 4) && layout.proven(digest).unwrap().is_none());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "good").unwrap();
        assert!(layout.has(digest, 4));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(layout.proven(digest).unwrap().is_none());
    }
}
