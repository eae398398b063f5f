//! Scratch space: unlinked files, bounded in sum, for layers that memory can't hold or that wait for a slow registry.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::pipeline::gather::FileRange;
use crate::pipeline::memory::Memory;

/// The scratch space of one freeze. Its files have no names: whatever ends the process frees them.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    bytes_max: u64,
    used: AtomicU64,
    peak: AtomicU64,
    trouble: OnceLock<String>,
}

impl Scratch {
    /// At most `bytes_max` bytes in `folder`.
    #[must_use]
    pub fn new(folder: &Path, bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            folder: folder.to_owned(),
            bytes_max,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            trouble: OnceLock::new(),
        })
    }

    /// The most bytes that were ever used.
    #[must_use]
    pub fn bytes_peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Why no more can be used than was: the disk is full, the folder is missing.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }

    fn is_broken(&self, error: &std::io::Error) {
        // The first one tells why.
        let _ = self.trouble.set(format!("{}: {error}", self.folder.display()));
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
    /// A new file, or none where there is no room for even `first_bytes`, or no such file can be made: layers are sent as
    /// they are made then, and nothing else changes.
    pub(crate) fn create(scratch: &Arc<Scratch>, first_bytes: u64) -> Option<Self> {
        if first_bytes > scratch.bytes_max.saturating_sub(scratch.used_bytes()) || scratch.trouble().is_some() {
            return None;
        }
        let made = tempfile::tempfile_in(&scratch.folder);
        let file = made.inspect_err(|error| scratch.is_broken(error)).ok()?;
        Some(Self { file, length: 0, share: Share { scratch: Arc::clone(scratch), bytes: 0 } })
    }

    /// Writes `bytes` at the end; false, and nothing to be read back, where there is no room for them.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        let Share { scratch, bytes: share } = &mut self.share;
        if scratch.trouble().is_some() || !scratch.reserve(bytes.len() as u64) {
            return false;
        }
        *share += bytes.len() as u64;
        let written = self.file.write_all_at(bytes, self.length).inspect_err(|error| scratch.is_broken(error));
        if written.is_ok() {
            self.length += bytes.len() as u64;
        }
        written.is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(folder.path(), 10);
        let mut first = ScratchFile::create(&scratch, 6).unwrap();
        assert!(first.append(b"123456"));
        assert!(!first.append(b"12345"));
        assert!(ScratchFile::create(&scratch, 5).is_none());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a scratch file has no name");
        drop(first.finish(Memory::new(0, crate::stop::Stop::new())));
        assert!(ScratchFile::create(&scratch, 10).is_some());
        assert_eq!(scratch.bytes_peak(), 6);
    }

    #[test]
    fn a_folder_that_is_missing_is_no_scratch_space() {
        let scratch = Scratch::new(Path::new("/nonexistent/folder"), 10);
        assert!(ScratchFile::create(&scratch, 1).is_none());
        assert!(scratch.trouble().unwrap().contains("/nonexistent/folder"));
    }
}
