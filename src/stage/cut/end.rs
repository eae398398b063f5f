//! What may follow an archive's last entry.

use crate::error::{Error, Result};
use crate::stage::header::BLOCK_BYTES;

/// The two zero blocks that end a tar; what pads it to the size of a record is zeros too.
pub(super) static END_MARK: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

/// Zero blocks, and nothing else; where an archive ends before it has two of them, it was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::stage) struct EndMark {
    seen: u64,
}

impl EndMark {
    /// A zero block stood where a header should.
    pub(in crate::stage) fn begun() -> Self {
        Self { seen: BLOCK_BYTES as u64 }
    }

    /// Takes what follows, from byte `offset` of the tar on.
    pub(in crate::stage) fn take(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            let reason = "there is more after the archive's end mark; are these several archives in one file?";
            let subject = format!("byte {}", offset + at as u64);
            return Err(Error::source("reading the tar", subject, reason)
                .hint("unpack them, one over the other, and freeze the folder (dir:PATH)"));
        }
        self.seen += bytes.len() as u64;
        Ok(())
    }

    pub(in crate::stage) fn is_whole(&self) -> bool {
        self.seen >= END_MARK.len() as u64
    }
}
