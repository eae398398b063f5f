//! From any stored form to zstd frames, the only form that an artifact's assets can hold.

use std::io::{self, BufRead, Read, Write};

use flate2::bufread::MultiGzDecoder;

use crate::oci::Compression;

/// Fast: what is recoded here was compressed badly or not at all on purpose.
const LEVEL: i32 = 1;

/// Bytes of tar that are decoded at a time.
const STEP_BYTES: usize = 256 * 1024;

/// Reads `stored` to its end and writes the same content as whole zstd frames to `frames`; gives its uncompressed size.
/// What is zstd already goes through unchanged, and is decoded beside it to be measured and checked.
pub(super) fn recode(stored: impl BufRead, stored_as: Compression, frames: impl Write) -> io::Result<u64> {
    match stored_as {
        Compression::Zstd => {
            let mut copied = Copying { from: stored, to: frames };
            let measured = drain(zstd::Decoder::new(&mut copied)?)?;
            copied.to.flush()?;
            Ok(measured)
        }
        Compression::Gzip => encode(MultiGzDecoder::new(stored), frames),
        Compression::None => encode(stored, frames),
    }
}

fn encode(mut content: impl Read, frames: impl Write) -> io::Result<u64> {
    let mut encoder = zstd::Encoder::new(frames, LEVEL)?;
    let content_bytes = io::copy(&mut content, &mut encoder)?;
    encoder.finish()?.flush()?;
    Ok(content_bytes)
}

fn drain(mut content: impl Read) -> io::Result<u64> {
    let (mut step, mut content_bytes) = (vec![0; STEP_BYTES], 0);
    loop {
        match content.read(&mut step)? {
            0 => return Ok(content_bytes),
            length => content_bytes += length as u64,
        }
    }
}

/// Hands on a copy of all that is read.
struct Copying<R, W> {
    from: R,
    to: W,
}

impl<R: Read, W: Write> Read for Copying<R, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(into)?;
        self.to.write_all(&into[..length])?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_form_becomes_frames_of_the_same_content() {
        let content: Vec<u8> = (0..=255_u8).cycle().take(700_000).collect();
        let mut members = Vec::new();
        for half in content.chunks(400_000) {
            let mut encoder = flate2::write::GzEncoder::new(&mut members, flate2::Compression::fast());
            encoder.write_all(half).unwrap();
            encoder.finish().unwrap();
        }
        let zstd = zstd::encode_all(&content[..], 3).unwrap();
        let stored = [(Compression::None, &content), (Compression::Gzip, &members), (Compression::Zstd, &zstd)];
        for (compression, stored) in stored {
            let mut frames = Vec::new();
            let measured = recode(&stored[..], compression, &mut frames).unwrap();
            assert_eq!(measured, content.len() as u64, "{compression}");
            assert_eq!(zstd::decode_all(&frames[..]).unwrap(), content, "{compression}");
        }
    }

    #[test]
    fn a_truncated_form_is_an_error() {
        let zstd = zstd::encode_all(&[5; 5000][..], 3).unwrap();
        assert!(recode(&zstd[..zstd.len() - 2], Compression::Zstd, io::sink()).is_err());
    }
}
