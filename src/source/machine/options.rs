//! The choices of a transfer.

use std::time::Duration;

use super::answer::PIECE_BYTES;
use super::offer::Reader;
use super::relay::HOST_CHUNKS_MAX;
use crate::error::{Error, Result};
use crate::oci::Compression;
use crate::smolvm::Program;

/// Bytes of a chunk where nothing is short.
const CHUNK_BYTES_DEFAULT: u64 = 48 << 20;
/// Bytes of a chunk at least, if nobody asked for fewer.
const CHUNK_BYTES_LEAST: u64 = 1 << 20;

/// How a machine is read. The defaults are for a machine on this host.
#[derive(Debug, Clone)]
pub struct Options {
    /// smolvm. Default: `$SMOLFREEZE_SMOLVM`, else `smolvm` on the `PATH`.
    pub smolvm: Program,
    /// Bytes of one chunk, a multiple of 64 KiB. Default: 48 MiB, or less where the guest's disk or this host's memory
    /// is short.
    pub chunk_bytes: Option<u64>,
    /// Chunks that may lie in the guest at once, at least 1. Default: 4.
    pub window_chunks: u64,
    /// Who reads there. A program of ours that is copied into the guest is several times as fast as its own tools. Default:
    /// these.
    pub reader: Reader,
    /// How the guest compresses what crosses the link. Default: none, since the link is local.
    pub guest_compression: Compression,
    /// Without a sign of life from the host for this long, the guest removes everything and ends. Whole seconds, at
    /// least 4. Default: 5 minutes.
    pub lease: Duration,
    /// How long one operation may go on failing before the freeze fails, and at least three times; less than the lease.
    /// Default: 2 minutes.
    pub patience: Duration,
    /// How long one call of smolvm may take, beside what a chunk's size adds. Default: 1 minute.
    pub call_limit: Duration,
    /// How long `pre_exec` may take, and `post_exec`; after an interruption the latter has 3 seconds. Default: 1 hour.
    pub exec_limit: Duration,
    /// How long to wait while another freeze has the machine. Default: not at all. One of this host and user whose process
    /// is dead is not waited for; of others, one that died has the machine until its lease ends.
    pub wait: Duration,
    /// Run in the guest by `sh -c`, as root, before anything is read.
    pub pre_exec: Option<String>,
    /// The same, afterwards, on every way out. Where it fails behind a complete capture, the image is kept, and the report
    /// says so.
    pub post_exec: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            smolvm: Program::default(),
            chunk_bytes: None,
            window_chunks: 4,
            reader: Reader::Tools,
            guest_compression: Compression::None,
            lease: Duration::from_secs(300),
            patience: Duration::from_secs(120),
            call_limit: Duration::from_secs(60),
            exec_limit: Duration::from_secs(3600),
            wait: Duration::ZERO,
            pre_exec: None,
            post_exec: None,
        }
    }
}

impl Options {
    /// Bytes of one chunk, as far as it was decided.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes.unwrap_or(CHUNK_BYTES_DEFAULT)
    }

    /// Decides on the size of a chunk, if nobody did: one that leaves a quarter of the guest's free space, and half of what
    /// this host has for chunks. A chunk costs two calls of smolvm whatever its size, so larger is faster.
    pub(super) fn decide_chunk_bytes(&mut self, guest_free_bytes: u64, host_free_bytes: u64) {
        let fits = |options: &Self| {
            options.guest_bytes_max() <= guest_free_bytes / 4 * 3 && options.host_bytes_max() <= host_free_bytes / 2
        };
        let mut bytes = self.chunk_bytes();
        while self.chunk_bytes.is_none() {
            let tried = Self { chunk_bytes: Some(bytes), ..self.clone() };
            if bytes == CHUNK_BYTES_LEAST || fits(&tried) {
                self.chunk_bytes = Some(bytes);
            }
            // In whole pieces of our reader's.
            bytes = (bytes / 2 / PIECE_BYTES * PIECE_BYTES).max(CHUNK_BYTES_LEAST);
        }
    }

    /// Bytes that chunks take on the host, in memory, beside the budget's buffers.
    #[must_use]
    pub fn host_bytes_max(&self) -> u64 {
        self.chunk_bytes() * HOST_CHUNKS_MAX as u64
    }

    /// Bytes that a spool takes in the guest: the chunks, and a little for words and small files.
    #[must_use]
    pub fn guest_bytes_max(&self) -> u64 {
        self.chunk_bytes().saturating_mul(self.window_chunks).saturating_add(1 << 20)
    }

    /// # Errors
    /// [`crate::error::Kind::Usage`] with the choice that can't be.
    pub(super) fn check(&self) -> Result<()> {
        let refused = |what: &str, reason: &str| Err(Error::usage("reading the options", what, reason));
        if self.chunk_bytes() == 0 || !self.chunk_bytes().is_multiple_of(64 << 10) {
            return refused("chunk size", "it is a multiple of 64 KiB, and not 0");
        }
        if self.chunk_bytes() > 1 << 30 {
            return refused("chunk size", "it is at most 1 GiB: two chunks lie in this host's memory");
        }
        if self.window_chunks == 0 {
            return refused("window", "it is at least 1 chunk");
        }
        if self.lease < Duration::from_secs(4) {
            return refused("lease", "it is at least 4 seconds");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_fit_where_they_go() {
        for (guest_mib, host_mib, window, chunk_mib) in [
            (10_000, 10_000, 3, 48),
            (64, 10_000, 3, 12),
            (10_000, 64, 3, 12),
            (10, 10_000, 3, 1),
            (1, 1, 3, 1),
            (300, 900, 8, 24),
        ] {
            let mut options = Options { window_chunks: window, ..Options::default() };
            options.decide_chunk_bytes(guest_mib << 20, host_mib << 20);
            assert_eq!(options.chunk_bytes, Some(chunk_mib << 20), "{guest_mib} {host_mib} {window}");
        }
        let mut asked = Options { chunk_bytes: Some(64 << 20), ..Options::default() };
        asked.decide_chunk_bytes(1, 1);
        assert_eq!(asked.chunk_bytes, Some(64 << 20));
    }
}
