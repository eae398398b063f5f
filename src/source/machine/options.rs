//! The choices of a transfer.

use std::path::PathBuf;
use std::time::Duration;

use super::relay::HOST_CHUNKS_MAX;
use crate::error::{Error, Result};
use crate::oci::Compression;

/// How a machine is read. The defaults are for a machine on this host.
#[derive(Debug, Clone)]
pub struct Options {
    /// The smolvm executable. Default: `$SMOLFREEZE_SMOLVM`, else `smolvm` on the `PATH`.
    pub smolvm: PathBuf,
    /// Bytes of one chunk, a multiple of 64 KiB. Default: 16 MiB.
    pub chunk_bytes: u64,
    /// Chunks that may lie in the guest at once, at least 1. Default: 3.
    pub window_chunks: u64,
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
    /// How long to wait while another freeze has the machine. Default: not at all.
    pub wait: Duration,
    /// Run in the guest by `sh -c`, as root, before anything is read.
    pub pre_exec: Option<String>,
    /// The same, afterwards, on every way out.
    pub post_exec: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            smolvm: std::env::var_os("SMOLFREEZE_SMOLVM").unwrap_or_else(|| "smolvm".into()).into(),
            chunk_bytes: 16 << 20,
            window_chunks: 3,
            guest_compression: Compression::None,
            lease: Duration::from_secs(300),
            patience: Duration::from_secs(120),
            call_limit: Duration::from_secs(60),
            wait: Duration::ZERO,
            pre_exec: None,
            post_exec: None,
        }
    }
}

impl Options {
    /// Bytes that chunks take on the host, in memory, beside the budget's buffers.
    #[must_use]
    pub fn host_bytes_max(&self) -> u64 {
        self.chunk_bytes * HOST_CHUNKS_MAX as u64
    }

    /// Bytes that a spool takes in the guest: the chunks, and a little for words and small files.
    #[must_use]
    pub fn guest_bytes_max(&self) -> u64 {
        self.chunk_bytes.saturating_mul(self.window_chunks).saturating_add(1 << 20)
    }

    /// # Errors
    /// [`crate::error::Kind::Usage`] with the choice that can't be.
    pub(super) fn check(&self) -> Result<()> {
        let refused = |what: &str, reason: &str| Err(Error::usage("reading the options", what, reason));
        if self.chunk_bytes == 0 || !self.chunk_bytes.is_multiple_of(64 << 10) {
            return refused("chunk size", "it is a multiple of 64 KiB, and not 0");
        }
        if self.chunk_bytes > 1 << 30 {
            return refused("chunk size", "it is at most 1 GiB: three chunks lie in this host's memory");
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
