//! Decoding layers of anybody's, in bounded memory.
//!
//! A frame of zstd may ask for a window of 128 MiB, and several layers are read at a time. Usual frames ask for 8 MiB at
//! most, which is what the format's specification wants every decoder to have; of others one is decoded at a time.

use std::io::{self, BufRead, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer, WriteBuf};
use zstd::stream::zio;

use crate::error::Error;
use crate::oci::Compression;

/// The largest window that a frame may ask for: 128 MiB, the limit of zstd's own decoders.
const WINDOW_LOG_MAX: u32 = 27;
/// What frames may ask for without being alone (RFC 8878, section 3.1.1.1.2).
const WINDOW_BYTES_SHARED: u64 = 8 << 20;
const MAGIC: u32 = 0xFD2F_B528;

/// Held by the one layer that may have a large window.
static LARGE: Mutex<()> = Mutex::new(());

/// A layer's tar. Blocks where it needs a large window, until no other one has one.
pub(crate) fn decoder<'a>(stored: impl BufRead + 'a, compression: Compression) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::Zstd => Box::new(Told(zio::Reader::new(stored, Windowed::new()?), "zstd")),
        Compression::Gzip => Box::new(Told(MultiGzDecoder::new(stored), "gzip")),
        Compression::None => Box::new(stored),
    })
}

/// Says of what is wrong with compressed bytes that it is wrong with those; who could not read them says so himself.
struct Told<R>(R, &'static str);

impl<R: Read> Read for Told<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| {
            let is_theirs = error.raw_os_error().is_some()
                || error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Error>);
            match error.kind() {
                _ if is_theirs => error,
                io::ErrorKind::UnexpectedEof | io::ErrorKind::Interrupted => error,
                _ => io::Error::new(io::ErrorKind::InvalidData, format!("its {} can't be unpacked: {error}", self.1)),
            }
        })
    }
}

/// zstd's decoder, which sees each frame's header only when there is room for what it asks for.
struct Windowed {
    decoder: Decoder<'static>,
    /// What came of the frame's header, until the decoder has it.
    header: Option<Vec<u8>>,
    large: Option<MutexGuard<'static, ()>>,
}

impl Windowed {
    fn new() -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        Ok(Self { decoder, header: Some(Vec::new()), large: None })
    }
}

impl Operation for Windowed {
    fn run<C: WriteBuf + ?Sized>(
        &mut self,
        input: &mut InBuffer<'_>,
        output: &mut OutBuffer<'_, C>,
    ) -> io::Result<usize> {
        if let Some(header) = &mut self.header {
            let missing = loop {
                let missing = header_bytes(header).saturating_sub(header.len());
                let at = input.pos();
                let take = missing.min(input.src.len() - at);
                if take == 0 {
                    break missing;
                }
                header.extend_from_slice(&input.src[at..at + take]);
                input.set_pos(at + take);
            };
            if missing > 0 {
                return Ok(missing);
            }
            if window_bytes(header) > WINDOW_BYTES_SHARED && self.large.is_none() {
                self.large = Some(LARGE.lock().unwrap_or_else(PoisonError::into_inner));
            }
            let mut read = InBuffer::around(header);
            let hint = self.decoder.run(&mut read, output)?;
            if read.pos() < header.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of zstd that ends in its header"));
            }
            self.header = None;
            // An empty frame may be at its end; zero would say so.
            if hint == 0 || input.pos() == input.src.len() {
                return Ok(hint);
            }
        }
        self.decoder.run(input, output)
    }

    fn reinit(&mut self) -> io::Result<()> {
        self.header = Some(Vec::new());
        self.decoder.reinit()
    }

    fn finish<C: WriteBuf + ?Sized>(&mut self, output: &mut OutBuffer<'_, C>, ended: bool) -> io::Result<usize> {
        self.decoder.finish(output, ended)
    }
}

/// How long a header is that begins so, as far as that shows (RFC 8878, section 3.1.1.1).
fn header_bytes(header: &[u8]) -> usize {
    match (magic(header), header.get(4)) {
        (Some(MAGIC), Some(descriptor)) => {
            let is_single_segment = descriptor >> 5 & 1 == 1;
            let window = usize::from(!is_single_segment);
            let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
            let size = [usize::from(is_single_segment), 2, 4, 8][usize::from(descriptor >> 6)];
            5 + window + dictionary + size
        }
        (Some(MAGIC), None) => 5,
        _ => 4,
    }
}

/// The memory that a frame with this whole header asks for.
fn window_bytes(header: &[u8]) -> u64 {
    match (magic(header), header) {
        (Some(MAGIC), [_, _, _, _, descriptor, rest @ ..]) => {
            if descriptor >> 5 & 1 == 0 {
                let window = rest.first().copied().unwrap_or(u8::MAX);
                let base = 1_u64 << (10 + (window >> 3));
                return base + base / 8 * u64::from(window & 7);
            }
            // A single segment: its window is all of its content, whose size follows the dictionary's name.
            let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
            let size = rest.get(dictionary..).unwrap_or_default();
            let number = size.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            if size.len() == 2 { number + 256 } else { number }
        }
        // One that is skipped; older formats are refused.
        _ => 0,
    }
}

fn magic(header: &[u8]) -> Option<u32> {
    header.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn frame(content: &[u8], window_log: Option<u32>) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        match window_log {
            Some(log) => encoder.window_log(log).unwrap(),
            None => encoder.set_pledged_src_size(Some(content.len() as u64)).unwrap(),
        }
        io::Write::write_all(&mut encoder, content).unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(stored: &[u8], step: usize) -> io::Result<Vec<u8>> {
        let mut tar = Vec::new();
        io::copy(&mut decoder(BufReader::with_capacity(step, stored), Compression::Zstd)?, &mut tar)?;
        Ok(tar)
    }

    #[test]
    fn frames_of_all_kinds_are_decoded_however_they_come() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let skippable = [&0x184D_2A53_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
        let kinds = [frame(&content, Some(20)), frame(&content[..200], None), frame(&content, None), frame(b"", None)];
        let mut stored = Vec::new();
        let mut wanted = Vec::new();
        for (kind, content) in kinds.iter().zip([&content[..], &content[..200], &content, b""]) {
            stored.extend_from_slice(kind);
            stored.extend_from_slice(&skippable);
            wanted.extend_from_slice(content);
        }
        for step in [1, 2, 3, 5, 7, 100, 1 << 20] {
            assert!(decoded(&stored, step).unwrap() == wanted, "{step}");
        }
        for end in [1, 4, 5, kinds[0].len() - 1] {
            assert!(decoded(&stored[..end], 3).is_err(), "{end}");
        }
        assert!(decoded(b"no frame of zstd", 100).is_err());
    }

    #[test]
    fn a_header_says_what_its_frame_asks_for() {
        for log in [10, 20, 23, 24, 27] {
            let frame = frame(b"x", Some(log));
            assert_eq!(window_bytes(&frame[..header_bytes(&frame)]), 1 << log);
        }
        for bytes in [7, 255, 256, 70_000] {
            let frame = frame(&vec![7; bytes], None);
            let window = window_bytes(&frame[..header_bytes(&frame)]);
            assert!(window >= bytes as u64 && window <= 1 << 20, "{bytes}: {window}");
        }
        assert!(decoded(&frame(b"x", Some(28)), 100).is_err());
    }

    #[test]
    fn one_large_window_is_open_at_a_time() {
        let (large, small) = (frame(b"large", Some(27)), frame(b"small", Some(20)));
        let mut first = decoder(&large[..], Compression::Zstd).unwrap();
        first.read_exact(&mut [0; 1]).unwrap();
        assert!(LARGE.try_lock().is_err());
        assert_eq!(decoded(&small, 100).unwrap(), b"small");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| decoded(&large, 100).unwrap());
            assert_eq!(decoded(&small, 100).unwrap(), b"small");
            assert!(!waiting.is_finished());
            drop(first);
            assert_eq!(waiting.join().unwrap(), b"large");
        });
    }
}
