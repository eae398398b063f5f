//! Layer compression. A zstd layer is one frame, since smolvm's reader stops after the first; a gzip layer is a run of
//! members, one for each MiB of input.

use libdeflater::{CompressionLvl, Compressor};
use zstd::stream::raw::{CParameter, Encoder as ZstdEncoder, InBuffer, Operation, OutBuffer};

use crate::error::{Error, Kind, Result, Side};
use crate::oci::Compression;
use crate::pipeline::memory::{BUFFER_BYTES, Buffer, Memory, Slice};

/// Bytes of input in one gzip member. Fixed, so that the same tar gives the same blob however it arrives.
const MEMBER_BYTES: usize = 1 << 20;

/// Bytes of input that one of zstd's own threads takes at a time.
const JOB_BYTES: u32 = 2 << 20;

/// A compression and its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method {
    /// How layers are stored.
    pub compression: Compression,
    /// The compressor's own scale: 1 to 19 for zstd, 1 to 12 for gzip, ignored without compression.
    pub level: i32,
}

impl Method {
    /// `compression` at `level`, or at its default.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a level that the compression does not have.
    pub fn new(compression: Compression, level: Option<i32>) -> Result<Self> {
        let (default, levels) = match compression {
            Compression::Zstd => (1, 1..=19),
            Compression::Gzip => (1, 1..=12),
            Compression::None => (0, 0..=0),
        };
        let level = level.unwrap_or(default);
        if !levels.contains(&level) {
            let range = format!("{compression} has levels {} to {}", levels.start(), levels.end());
            return Err(Error::usage("reading --level", level, range));
        }
        Ok(Self { compression, level })
    }
}

/// A compressor between two layers. What it allocated it keeps: the allocator would not give all of it back, least of all
/// what other threads had allocated.
pub struct Idle(Codec);

/// Compresses one layer. What comes out goes into buffers taken as overdraft: each replaces input that is given back.
pub struct Encoder {
    codec: Codec,
    memory: Memory,
    output: Buffer,
}

enum Codec {
    Zstd(ZstdEncoder<'static>),
    Gzip(Gzip),
    None,
}

struct Gzip {
    compressor: Compressor,
    /// Input of the member that is begun.
    member: Vec<u8>,
    /// The last one, compressed.
    packed: Vec<u8>,
}

impl Idle {
    /// A compressor for one layer after the other. With `threads`, zstd compresses on so many of its own (still one frame, and the same
    /// bytes for any number of them but none); with 0 it stays on the caller's, as gzip always does.
    ///
    /// # Errors
    /// When the compressor refuses its parameters.
    pub fn new(method: Method, threads: u32) -> Result<Self> {
        let codec = match method.compression {
            Compression::Zstd => {
                let mut encoder = ZstdEncoder::new(method.level).map_err(failed)?;
                if threads > 0 {
                    encoder.set_parameter(CParameter::JobSize(JOB_BYTES)).map_err(failed)?;
                    encoder.set_parameter(CParameter::NbWorkers(threads)).map_err(failed)?;
                }
                Codec::Zstd(encoder)
            }
            Compression::Gzip => {
                let level = CompressionLvl::new(method.level).map_err(|error| failed(format!("{error:?}")))?;
                let (compressor, member) = (Compressor::new(level), Vec::with_capacity(MEMBER_BYTES));
                Codec::Gzip(Gzip { compressor, member, packed: Vec::new() })
            }
            Compression::None => Codec::None,
        };
        Ok(Self(codec))
    }

    /// Begins a layer; a new compressor would give the same bytes.
    #[must_use]
    pub fn begin(self, memory: &Memory) -> Encoder {
        Encoder { codec: self.0, memory: memory.clone(), output: memory.overdraft() }
    }
}

impl Encoder {
    /// Compresses the next bytes; finished output goes to `emit`.
    ///
    /// # Errors
    /// What `emit` returns, or the compressor's own failure.
    pub fn write(&mut self, input: &Slice, emit: &mut dyn FnMut(Slice) -> Result<()>) -> Result<()> {
        match &mut self.codec {
            Codec::None => emit(input.clone()),
            Codec::Gzip(gzip) => {
                let mut rest = &input[..];
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(MEMBER_BYTES - gzip.member.len()));
                    gzip.member.extend_from_slice(now);
                    rest = later;
                    if gzip.member.len() == MEMBER_BYTES {
                        put(gzip.end_member()?, &mut self.output, &self.memory, emit)?;
                    }
                }
                Ok(())
            }
            Codec::Zstd(encoder) => {
                let mut input = InBuffer::around(input);
                while input.pos < input.src.len() {
                    let filled = self.output.len();
                    let mut output = OutBuffer::around_pos(self.output.bytes_mut(), filled);
                    encoder.run(&mut input, &mut output).map_err(failed)?;
                    if self.output.room() == 0 {
                        emit(std::mem::replace(&mut self.output, self.memory.overdraft()).freeze())?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Ends the layer; the rest of the output goes to `emit`. The compressor is ready for the next one.
    ///
    /// # Errors
    /// As [`Encoder::write`].
    pub fn finish(mut self, emit: &mut dyn FnMut(Slice) -> Result<()>) -> Result<Idle> {
        match &mut self.codec {
            Codec::None => {}
            Codec::Gzip(gzip) => {
                if !gzip.member.is_empty() {
                    put(gzip.end_member()?, &mut self.output, &self.memory, emit)?;
                }
            }
            Codec::Zstd(encoder) => loop {
                let filled = self.output.len();
                let mut output = OutBuffer::around_pos(self.output.bytes_mut(), filled);
                let left = encoder.finish(&mut output, true).map_err(failed)?;
                if left == 0 {
                    break encoder.reinit().map_err(failed)?;
                }
                if self.output.room() == 0 {
                    emit(std::mem::replace(&mut self.output, self.memory.overdraft()).freeze())?;
                }
            },
        }
        if !self.output.is_empty() {
            emit(self.output.freeze())?;
        }
        Ok(Idle(self.codec))
    }
}

impl Gzip {
    /// The member that was begun, compressed.
    fn end_member(&mut self) -> Result<&[u8]> {
        self.packed.resize(self.compressor.gzip_compress_bound(self.member.len()), 0);
        let packed = self.compressor.gzip_compress(&self.member, &mut self.packed);
        let length = packed.map_err(|error| failed(format!("{error:?}")))?;
        self.member.clear();
        Ok(&self.packed[..length])
    }
}

/// Copies into counted buffers: what waits for an upload may be many layers.
fn put(
    mut bytes: &[u8],
    output: &mut Buffer,
    memory: &Memory,
    emit: &mut dyn FnMut(Slice) -> Result<()>,
) -> Result<()> {
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(bytes.len().min(output.room()));
        output.bytes_mut().extend_from_slice(now);
        bytes = later;
        if output.room() == 0 {
            emit(std::mem::replace(output, memory.overdraft()).freeze())?;
        }
    }
    Ok(())
}

fn failed(reason: impl std::fmt::Display) -> Error {
    Error::new(Kind::Internal, Side::Stage, "compressing", "a layer", reason)
}

/// Most bytes that one encoder holds besides its output buffers: zstd's window and tables at `level` 1 to 9, or a
/// gzip member twice. Higher zstd levels take more; `zstd --ultra` levels are not offered.
#[must_use]
pub fn encoder_bytes_max(method: Method) -> u64 {
    match method.compression {
        Compression::Zstd if method.level <= 3 => 4 << 20,
        Compression::Zstd if method.level <= 9 => 32 << 20,
        Compression::Zstd => 96 << 20,
        Compression::Gzip => 4 * MEMBER_BYTES as u64,
        Compression::None => BUFFER_BYTES as u64,
    }
}

/// The same for an encoder with `threads` of its own: one more copy of the input for each and a few besides, and two of
/// the output.
#[must_use]
pub fn stream_encoder_bytes_max(method: Method, threads: u32) -> u64 {
    let one = encoder_bytes_max(method);
    match method.compression {
        Compression::Zstd if threads > 0 => {
            u64::from(threads) * one + u64::from(JOB_BYTES) * (3 * u64::from(threads) + 4)
        }
        _ => one,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::stop::Stop;

    fn sample() -> Vec<u8> {
        let mut state = 7_u32;
        (0..3_500_000_u32)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at % 4096 < 2048 { b'a' } else { (state >> 24) as u8 }
            })
            .collect()
    }

    fn compress(method: Method, threads: u32, input: &[u8], chunk: usize) -> Vec<u8> {
        let memory = Memory::new(4 << 20, Stop::new());
        let mut encoder = Idle::new(method, threads).unwrap().begin(&memory);
        let mut blob = Vec::new();
        for chunk in input.chunks(chunk) {
            encoder
                .write(&Bytes::copy_from_slice(chunk).into(), &mut |bytes| {
                    blob.extend_from_slice(&bytes);
                    Ok(())
                })
                .unwrap();
        }
        encoder
            .finish(&mut |bytes| {
                blob.extend_from_slice(&bytes);
                Ok(())
            })
            .unwrap();
        blob
    }

    #[test]
    fn a_compressor_that_was_used_gives_the_same_bytes() {
        let (input, memory) = (sample(), Memory::new(4 << 20, Stop::new()));
        for (compression, threads) in [(Compression::Zstd, 0), (Compression::Zstd, 2), (Compression::Gzip, 0)] {
            let method = Method::new(compression, None).unwrap();
            let mut idle = Idle::new(method, threads).unwrap();
            for input in [&input[..1_000_000], &input, &input[7..], &input] {
                let mut blob = Vec::new();
                let mut emit = |bytes: Slice| {
                    blob.extend_from_slice(&bytes);
                    Ok(())
                };
                let mut encoder = idle.begin(&memory);
                encoder.write(&Bytes::copy_from_slice(input).into(), &mut emit).unwrap();
                idle = encoder.finish(&mut emit).unwrap();
                assert_eq!(blob, compress(method, threads, input, input.len()), "{compression} {threads}");
            }
        }
    }

    #[test]
    fn what_comes_out_is_counted() {
        let input = Slice::from(Bytes::from(sample()));
        for compression in [Compression::Zstd, Compression::Gzip] {
            let memory = Memory::new(4 << 20, Stop::new());
            let mut encoder = Idle::new(Method::new(compression, None).unwrap(), 0).unwrap().begin(&memory);
            let mut waiting = Vec::new();
            let mut wait = |bytes| {
                waiting.push(bytes);
                Ok(())
            };
            encoder.write(&input, &mut wait).unwrap();
            encoder.finish(&mut wait).unwrap();
            let bytes: usize = waiting.iter().map(|slice: &Slice| slice.len()).sum();
            assert!(bytes > 1 << 20 && memory.held_bytes() >= bytes as u64, "{compression}: {bytes}");
        }
    }

    #[test]
    fn any_chunking_gives_the_same_blob_and_it_reads_back() {
        let input = sample();
        for compression in [Compression::Zstd, Compression::Gzip, Compression::None] {
            let method = Method::new(compression, None).unwrap();
            let blob = compress(method, 0, &input, 1 << 20);
            assert_eq!(blob, compress(method, 0, &input, 777), "{compression}");
            let mut plain = Vec::new();
            match compression {
                Compression::Zstd => {
                    let frames = zstd::zstd_safe::find_frame_compressed_size(&blob).unwrap();
                    assert_eq!(frames, blob.len(), "one frame, to the last byte");
                    plain = zstd::decode_all(&blob[..]).unwrap();
                }
                Compression::Gzip => plain = gunzip(&blob),
                Compression::None => plain.clone_from(&blob),
            }
            assert!(plain == input, "{compression} reads back");
        }
    }

    #[test]
    fn zstd_threads_keep_one_frame_and_their_number_does_not_show() {
        let (input, method) = (sample(), Method::new(Compression::Zstd, Some(3)).unwrap());
        let blob = compress(method, 1, &input, 65_536);
        assert_eq!(blob, compress(method, 3, &input, 65_536));
        assert_eq!(zstd::zstd_safe::find_frame_compressed_size(&blob).unwrap(), blob.len());
        assert!(zstd::decode_all(&blob[..]).unwrap() == input);
    }

    #[test]
    fn an_empty_layer_is_still_a_frame() {
        let method = Method::new(Compression::Zstd, None).unwrap();
        assert_eq!(zstd::decode_all(&compress(method, 0, &[], 1)[..]).unwrap(), Vec::<u8>::new());
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        let error = Method::new(Compression::Zstd, Some(23)).unwrap_err().to_string();
        assert!(error.contains("23") && error.contains("1 to 19"), "{error}");
    }

    fn gunzip(blob: &[u8]) -> Vec<u8> {
        let mut child = std::process::Command::new("gzip")
            .arg("-dc")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let blob = blob.to_vec();
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &blob));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        output.stdout
    }
}
