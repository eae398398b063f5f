//! The checksum of a chunk that arrived, as the guest's `cksum` or `md5sum` computes it.
//!
//! It guards a transfer and is no trust boundary, so it has to be cheap.

use std::fmt::Write as _;
use std::io::{self, Read};

use crc_fast::{CrcAlgorithm, Digest};
use md5::Digest as _;

use super::answer::{PIECE_BYTES, Sum};

/// Bytes read at a time: they are still in the processor's cache when they are summed.
const READ_BYTES: usize = 256 << 10;

/// POSIX `cksum`.
pub(super) struct Cksum {
    digest: Digest,
    bytes: u64,
}

impl Default for Cksum {
    fn default() -> Self {
        Self { digest: Digest::new(CrcAlgorithm::Crc32Cksum), bytes: 0 }
    }
}

impl Cksum {
    pub(super) fn update(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.digest.update(piece);
    }

    pub(super) fn finish(mut self) -> u32 {
        // The count follows the bytes, least significant byte first, without leading zeros.
        let count = self.bytes.to_le_bytes();
        self.digest.update(&count[..count.len() - self.bytes.leading_zeros() as usize / 8]);
        u32::try_from(self.digest.finalize()).unwrap_or(0)
    }
}

/// The checksum that our own reader gives for each piece of [`PIECE_BYTES`]: that of zip and gzip, for which processors have
/// instructions, and for which a guest's reader needs no large tables.
#[derive(Default)]
pub(super) struct PieceSums {
    complete: Vec<u32>,
    piece: crc32fast::Hasher,
    piece_bytes: u64,
}

/// That of one piece.
pub(super) fn of_piece(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

impl PieceSums {
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(PIECE_BYTES - self.piece_bytes).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.piece.update(now);
            self.piece_bytes += now.len() as u64;
            if self.piece_bytes == PIECE_BYTES {
                self.complete.push(std::mem::take(&mut self.piece).finalize());
                self.piece_bytes = 0;
            }
            bytes = later;
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.complete.len() as u64 * PIECE_BYTES + self.piece_bytes
    }

    pub(super) fn finish(mut self) -> Vec<u32> {
        if self.piece_bytes > 0 {
            self.complete.push(self.piece.finalize());
        }
        self.complete
    }
}

/// Says what is wrong with a chunk of `size` bytes that should have `sum`; nothing, if all is well.
///
/// # Errors
/// When it can't be read.
pub fn complaint(from: impl Read, size: u64, sum: &Sum) -> io::Result<Option<String>> {
    let mut bytes = 0;
    let found = match sum {
        Sum::Cksum(_) => {
            let mut sum = Cksum::default();
            each_piece(from, size, |piece| sum.update(piece))?;
            bytes = sum.bytes;
            Sum::Cksum(sum.finish())
        }
        Sum::Md5(_) => {
            let mut digest = md5::Md5::new();
            each_piece(from, size, |piece| {
                bytes += piece.len() as u64;
                digest.update(piece);
            })?;
            Sum::Md5(hex(&digest.finalize()))
        }
        Sum::Pieces(_) => {
            let mut sums = PieceSums::default();
            each_piece(from, size, |piece| sums.update(piece))?;
            bytes = sums.bytes();
            Sum::Pieces(sums.finish())
        }
    };
    Ok(size_complaint(bytes, size).or_else(|| (found != *sum).then(|| WRONG.to_owned())))
}

/// What is said of a chunk with a wrong checksum.
pub(super) const WRONG: &str = "the checksum is wrong";

/// Says what is wrong with a chunk of `bytes` bytes that should have `size`; nothing, if all is well.
pub(super) fn size_complaint(bytes: u64, size: u64) -> Option<String> {
    let more = if bytes > size { "more than " } else { "" };
    (bytes != size).then(|| format!("{size} bytes were announced, {more}{bytes} came"))
}

/// Two lower-case digits a byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads at most one byte more than `size`: enough to see that there is too much.
fn each_piece(from: impl Read, size: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut from = from.take(size.saturating_add(1));
    let mut piece = vec![0; READ_BYTES];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_coreutils() {
        let data: Vec<u8> = (0..1_000_000_u32).map(|i| (i.wrapping_mul(i) >> 7).to_le_bytes()[0]).collect();
        for bytes in [&b""[..], b"smolfreeze", &data] {
            let output = std::process::Command::new("sh")
                .args(["-c", "cksum"])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .and_then(|mut child| {
                    io::Write::write_all(&mut child.stdin.take().unwrap(), bytes)?;
                    child.wait_with_output()
                })
                .unwrap();
            let printed: u32 = String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(complaint(bytes, bytes.len() as u64, &Sum::Cksum(printed)).unwrap(), None);
            assert!(complaint(bytes, bytes.len() as u64, &Sum::Cksum(printed ^ 1)).unwrap().is_some());
        }
        let md5 = Sum::Md5("d41d8cd98f00b204e9800998ecf8427e".to_owned());
        assert_eq!(complaint(&b""[..], 0, &md5).unwrap(), None);
        assert!(complaint(&b"x"[..], 0, &md5).unwrap().unwrap().contains("more than"));
    }
}
