//! Archives, one after the other, become one: the zeros that end an archive are taken off where another one follows.
//!
//! GNU tar pads its end mark to a multiple of 10,240 bytes, so nobody knows its length beforehand; and a file may end in
//! zeros too. `guest.sh` sees to it that the last member before a seam has no content, and a header is never all zeros: so
//! the archive ends with the 512-byte block that holds its last byte that is not zero.

use crate::error::Result;
use crate::pipeline::memory::{BUFFER_BYTES, Slice};

/// Bytes of one block of a tar.
const BLOCK_BYTES: u64 = 512;

/// Zeros that were held back, to be sent if something follows them.
static ZEROS: [u8; BUFFER_BYTES] = [0; BUFFER_BYTES];

/// Holds back what may be an archive's end mark. Memory: a count.
#[derive(Debug, Default)]
pub struct Join {
    /// Bytes of this archive that were handed on.
    passed_bytes: u64,
    /// Zeros behind them that were not.
    held_bytes: u64,
}

impl Join {
    /// Takes the next bytes of the archive, and hands on what surely belongs to it.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn take(&mut self, bytes: &Slice, send: &mut impl FnMut(Slice) -> Result<()>) -> Result<()> {
        let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let solid = bytes.len() - zeros;
        if solid > 0 {
            self.release(self.held_bytes, send)?;
            self.held_bytes = 0;
            self.passed_bytes += solid as u64;
            send(bytes.slice(0..solid))?;
        }
        self.held_bytes += zeros as u64;
        Ok(())
    }

    /// The archive ends here and another one follows.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn seam(&mut self, send: &mut impl FnMut(Slice) -> Result<()>) -> Result<()> {
        let rest = self.passed_bytes.next_multiple_of(BLOCK_BYTES) - self.passed_bytes;
        self.release(rest.min(self.held_bytes), send)?;
        *self = Self::default();
        Ok(())
    }

    /// The last archive ends here: its end mark is that of the whole.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn end(mut self, send: &mut impl FnMut(Slice) -> Result<()>) -> Result<()> {
        self.release(self.held_bytes, send)
    }

    fn release(&mut self, mut count: u64, send: &mut impl FnMut(Slice) -> Result<()>) -> Result<()> {
        self.passed_bytes += count;
        while count > 0 {
            let part = usize::try_from(count).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            send(Slice::from_static(&ZEROS[..part]))?;
            count -= part as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(archives: &[Vec<u8>], piece_bytes: usize) -> Vec<u8> {
        let mut whole = Vec::new();
        let mut send = |bytes: Slice| {
            whole.extend_from_slice(&bytes);
            Ok(())
        };
        let mut join = Join::default();
        for (index, archive) in archives.iter().enumerate() {
            if index > 0 {
                join.seam(&mut send).unwrap();
            }
            for piece in archive.chunks(piece_bytes) {
                join.take(&bytes::Bytes::copy_from_slice(piece).into(), &mut send).unwrap();
            }
        }
        join.end(&mut send).unwrap();
        whole
    }

    #[test]
    fn only_end_marks_go() {
        let block = |first: u8| [vec![first], vec![0; 511]].concat();
        // A header, a file of zeros, a last header; then an end mark.
        let one = [block(1), vec![0; 5 * 512], block(2), vec![0; 10_240]].concat();
        let two = [block(3), vec![0; 1024]].concat();
        let empty = vec![0; 10_240];
        let expected = [&one[..7 * 512], &two].concat();
        for piece_bytes in [1, 7, 511, 512, 1000, 1 << 20] {
            assert_eq!(joined(&[one.clone(), two.clone()], piece_bytes), expected);
            assert_eq!(joined(&[one.clone(), empty.clone(), two.clone()], piece_bytes), expected);
            assert_eq!(joined(&[one.clone(), empty.clone()], piece_bytes), [&one[..7 * 512], &empty].concat());
        }
    }
}
