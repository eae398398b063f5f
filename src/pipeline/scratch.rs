//! Scratch space: unlinked files, bounded in sum, for layers that memory can't hold or that wait for a slow registry.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::error::{Error, Kind, Result, Side};
use crate::pipeline::gather::FileRange;
use crate::pipeline::memory::Memory;

/// The scratch space of one freeze. Its files have no names: whatever ends the process frees them.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    bytes_max: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

impl Scratch {
    /// At most `bytes_max` bytes in `folder`.
    #[must_use]
    pub fn new(folder: &Path, bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { folder: folder.to_owned(), bytes_max, used: AtomicU64::new(0), peak: AtomicU64::new(0) })
    }

    /// The most bytes that were ever used.
    #[must_use]
    pub fn bytes_peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The bytes that are used.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn reserve(&self, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        let reserved = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if let Ok(before) = reserved {
            self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        }
        reserved.is_ok()
    }
}

/// One layer's scratch file while it is written.
#[derive(Debug)]
pub(crate) struct ScratchFile {
    file: File,
    length: u64,
    share: Share,
}

/// Bytes of the budget; given back when dropped.
#[derive(Debug)]
struct Share {
    scratch: Arc<Scratch>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.scratch.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl ScratchFile {
    /// A new file, or none where the budget, or the disk, is too small for even `first_bytes`.
    pub(crate) fn create(scratch: &Arc<Scratch>, first_bytes: u64) -> Result<Option<Self>> {
        if first_bytes > scratch.bytes_max.saturating_sub(scratch.used_bytes()) {
            return Ok(None);
        }
        match tempfile::tempfile_in(&scratch.folder) {
            Ok(file) => Ok(Some(Self { file, length: 0, share: Share { scratch: Arc::clone(scratch), bytes: 0 } })),
            Err(error) if is_full(&error) => Ok(None),
            Err(error) => Err(failed(scratch, error)),
        }
    }

    /// Writes `bytes` at the end; false, and nothing added, where the budget, or the disk, has no room for them.
    pub(crate) fn append(&mut self, bytes: &Bytes) -> Result<bool> {
        if !self.share.scratch.reserve(bytes.len() as u64) {
            return Ok(false);
        }
        self.share.bytes += bytes.len() as u64;
        match self.file.write_all_at(bytes, self.length) {
            Ok(()) => self.length += bytes.len() as u64,
            Err(error) if is_full(&error) => return Ok(false),
            Err(error) => return Err(failed(&self.share.scratch, error)),
        }
        Ok(true)
    }

    /// The whole file, to be read back into buffers of `memory`.
    pub(crate) fn finish(self, memory: Memory) -> FileRange {
        self.finish_with(memory, ())
    }

    /// The same; `held` is held until the last of it is gone.
    pub(crate) fn finish_with(self, memory: Memory, held: impl std::any::Any + Send + Sync) -> FileRange {
        let share = Arc::new((self.share, held));
        FileRange { file: Arc::new(self.file), start: 0, length: self.length, memory, _share: Some(share) }
    }
}

/// Somebody else took the room that the budget counts on: what does not fit goes where it goes without a budget.
fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn failed(scratch: &Scratch, error: std::io::Error) -> Error {
    Error::new(Kind::Sink, Side::Stage, "gathering a layer in scratch space", scratch.folder.display(), &error)
        .because(error)
        .hint("free some space there, choose another folder with TMPDIR, or give less --scratch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(folder.path(), 10);
        let mut first = ScratchFile::create(&scratch, 6).unwrap().unwrap();
        assert!(first.append(&Bytes::from_static(b"123456")).unwrap());
        assert!(!first.append(&Bytes::from_static(b"12345")).unwrap());
        assert!(ScratchFile::create(&scratch, 5).unwrap().is_none());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a scratch file has no name");
        drop(first.finish(Memory::new(0, crate::stop::Stop::new())));
        assert!(ScratchFile::create(&scratch, 10).unwrap().is_some());
        assert_eq!(scratch.bytes_peak(), 6);
    }
}
