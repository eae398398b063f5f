//! A layer's stored bytes, complete: in memory, past that in an unlinked scratch file, and past that streaming on.
//!
//! A complete layer ([`Layer`]) has its digest before its upload begins, can be sent to several sinks at once, and can be
//! sent again from any offset. Only a layer that fits neither memory nor scratch is a [`LiveLayer`]: its first bytes are
//! gathered, the rest comes over an edge, once. Where an artifact is written, such a layer is kept there, and so becomes
//! a complete one for the other sinks.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::{Error, Kind, Result, Side};
use crate::oci::{Descriptor, DiffId};
use crate::pipeline::memory::{BUFFER_BYTES, Memory, Slice};

/// Stored bytes that can be read from any offset, any number of times.
#[derive(Debug, Clone, Default)]
pub struct Body {
    chunks: Vec<Bytes>,
    chunk_bytes: u64,
    /// What comes after them, in this order.
    filed: Vec<FileRange>,
}

/// What lies in a file: of scratch space, whose share it holds until it is dropped, or in an artifact.
#[derive(Debug, Clone)]
pub(crate) struct FileRange {
    pub(crate) file: Arc<File>,
    /// Where it begins in the file.
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// Where buffers to read into come from: at once, since they replace what waits in the file.
    pub(crate) memory: Memory,
    pub(crate) _share: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

impl FileRange {
    /// `length` bytes from `offset` on, in slices of at most one buffer.
    pub(crate) fn read(&self, offset: u64, length: u64) -> Result<Vec<Slice>> {
        let (mut slices, end) = (Vec::new(), offset + length);
        let mut at = offset;
        while at < end {
            let now = in_chunk(end - at).min(BUFFER_BYTES);
            let mut buffer = self.memory.reread();
            buffer.bytes_mut().resize(now, 0);
            self.file.read_exact_at(buffer.bytes_mut(), self.start + at).map_err(|error| {
                Error::new(Kind::Internal, Side::Stage, "reading back a layer", "the file it waits in", &error)
                    .because(error)
            })?;
            slices.push(buffer.freeze());
            at += now as u64;
        }
        Ok(slices)
    }
}

impl Body {
    /// Bytes in memory.
    #[must_use]
    pub fn from_chunks(chunks: Vec<Bytes>) -> Self {
        let chunk_bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self { chunks, chunk_bytes, filed: Vec::new() }
    }

    /// Bytes in memory, followed by what lies in a file.
    pub(crate) fn with_file(chunks: Vec<Bytes>, filed: FileRange) -> Self {
        Self { filed: vec![filed], ..Self::from_chunks(chunks) }
    }

    /// What of it lies in memory: its first bytes.
    pub(crate) fn in_memory(&self) -> &[Bytes] {
        &self.chunks
    }

    /// The same bytes, where `head` has those that were in memory.
    pub(crate) fn moved_to(&self, head: FileRange) -> Self {
        let filed = std::iter::once(head).chain(self.filed.iter().cloned()).collect();
        Self { chunks: Vec::new(), chunk_bytes: 0, filed }
    }

    /// All bytes, wherever they are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.chunk_bytes + self.filed.iter().map(|filed| filed.length).sum::<u64>()
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes from `offset` on, `length` of them or as many as there are. Memory is sliced, never copied; files are
    /// read on a thread that may block.
    ///
    /// # Errors
    /// When the file can't be read.
    pub async fn slice(&self, offset: u64, length: u64) -> Result<Vec<Bytes>> {
        let mut slices = Vec::new();
        let (mut at, end) = (0, self.len().min(offset.saturating_add(length)));
        for chunk in &self.chunks {
            let (from, to) = (offset.max(at), end.min(at + chunk.len() as u64));
            if from < to {
                slices.push(chunk.slice(in_chunk(from - at)..in_chunk(to - at)));
            }
            at += chunk.len() as u64;
        }
        for filed in &self.filed {
            let (from, to) = (offset.max(at), end.min(at + filed.length));
            if from < to {
                let (filed, start) = (filed.clone(), at);
                let read = tokio::task::spawn_blocking(move || filed.read(from - start, to - from)).await;
                slices.extend(read.map_err(|_| Error::hung_up("reading a layer"))??.into_iter().map(Bytes::from));
            }
            at += filed.length;
        }
        Ok(slices)
    }
}

fn in_chunk(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// A complete layer: packed, digested, and held until every sink has it.
#[derive(Debug)]
pub struct Layer {
    /// Its place in the image, from 0.
    pub index: usize,
    /// SHA-256 of its tar.
    pub diff_id: DiffId,
    /// Bytes of its tar.
    pub tar_bytes: u64,
    /// Media type, digest and size of `body`.
    pub descriptor: Descriptor,
    /// Every entry lies below `/workspace`.
    pub workspace: bool,
    /// The stored bytes.
    pub body: Body,
}

/// A layer too large to be held: it must be sent while it is made. There is no second chance to read `tail`.
#[derive(Debug)]
pub struct LiveLayer {
    /// Its place in the image, from 0.
    pub index: usize,
    /// Its media type.
    pub media_type: String,
    /// Every entry lies below `/workspace`.
    pub workspace: bool,
    /// The first bytes, which can be read again.
    pub head: Body,
    /// All bytes after `head`, in order; then its end.
    pub tail: mpsc::Receiver<LivePiece>,
}

/// What travels on a live layer's edge.
#[derive(Debug, Clone)]
pub enum LivePiece {
    /// The next bytes.
    Bytes(Bytes),
    /// All bytes were sent; this is what they are. An edge that closes without it was cut off.
    End(LiveEnd),
}

/// What a live layer is, known when all of it was made.
#[derive(Debug, Clone)]
pub struct LiveEnd {
    /// Media type, digest and size of its stored bytes.
    pub descriptor: Descriptor,
    /// SHA-256 of its tar.
    pub diff_id: DiffId,
    /// Bytes of its tar.
    pub tar_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::scratch::{Scratch, ScratchFile};
    use crate::stop::Stop;

    #[tokio::test]
    async fn a_body_whose_head_was_moved_has_the_same_bytes() {
        let scratch = Scratch::new(&std::env::temp_dir(), 1 << 20);
        let memory = Memory::new(4 << 20, Stop::new());
        let filed = |bytes: &'static [u8]| {
            let mut file = ScratchFile::create(&scratch, 1).unwrap();
            assert!(file.append(bytes));
            file.finish(memory.clone())
        };
        let gathered = Body::with_file(vec![Bytes::from_static(b"abc"), Bytes::from_static(b"de")], filed(b"fghi"));
        assert_eq!(gathered.in_memory().concat(), b"abcde");
        let moved = gathered.moved_to(filed(b"abcde"));
        assert!(moved.in_memory().is_empty());
        assert_eq!(moved.len(), 9);
        for body in [&gathered, &moved] {
            for (offset, length, wanted) in
                [(0, 9, "abcdefghi"), (2, 5, "cdefg"), (5, 2, "fg"), (8, 7, "i"), (9, 1, "")]
            {
                assert_eq!(body.slice(offset, length).await.unwrap().concat(), wanted.as_bytes());
            }
        }
    }
}
