//! From chunks to buffers on the edge: on a plain thread, in order, decompressed as they come. Nothing is handed on that was
//! not checked, here or before.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::answer::{PIECE_BYTES, Sum};
use super::checksum::of_piece;
use super::join::Join;
use crate::error::{Error, Result};
use crate::oci::Compression;
use crate::pipeline::memory::Slice;
use crate::source::Outlet;

/// What the relay hands on, in the spool's order.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// A chunk, complete.
    Chunk(Chunk),
    /// An archive ends here.
    Seam,
    /// All is here, and the guest's verdict is good. Without it, the relay failed.
    End,
}

/// A chunk on the host.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// It has no name any more.
    pub(crate) file: File,
    /// What is still to be checked; none, if all was.
    pub(crate) unproven: Option<Unproven>,
    /// Free again once the chunk was read.
    pub(crate) _slot: OwnedSemaphorePermit,
}

/// What the guest said of a chunk.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) index: u64,
    pub(crate) size: u64,
    pub(crate) sum: Sum,
}

/// A chunk whose pieces are checked as they are read, each before it is handed on.
#[derive(Debug)]
pub(crate) struct Unproven {
    pub(crate) announced: Announced,
    /// To the relay, which keeps the chunk in the guest until it hears.
    pub(crate) words: Sender<Word>,
}

/// What the relay hears of an unproven chunk.
#[derive(Debug)]
pub(crate) enum Word {
    /// All of it was right.
    Proven(u64),
    /// Something was wrong: it is to be taken again, and sent checked.
    Again(Announced, oneshot::Sender<File>),
}

/// Hands everything on; blocks while the edge is full or no memory is free.
///
/// # Errors
/// When the edge closed, the freeze is stopped, or the guest's compressed stream can't be read. A relay that failed looks
/// like a hang-up here: its own error is the cause.
pub(super) fn deliver(
    mut archive: Archive,
    outlet: &mut Outlet,
    compression: Compression,
    subject: &str,
) -> Result<()> {
    let mut join = Join::default();
    let mut first = true;
    loop {
        archive.wait();
        if archive.at == At::End {
            return join.end(&mut |bytes| outlet.send(bytes));
        }
        if !std::mem::take(&mut first) {
            join.seam(&mut |bytes| outlet.send(bytes))?;
        }
        let mut decoder = Decoder::new(&mut archive, compression).map_err(|error| unreadable(subject, error))?;
        while let Some(bytes) = fill(&mut decoder, outlet, subject)? {
            join.take(&bytes, &mut |bytes| outlet.send(bytes))?;
        }
        drop(decoder);
        match archive.at {
            At::Seam => archive.at = At::Chunks,
            At::Chunks | At::End => return Err(unreadable(subject, io::Error::other("an archive has no end"))),
            At::HungUp => return Err(Error::hung_up("the relay")),
        }
    }
}

enum Decoder<'a> {
    /// Files are read into buffers as they are, without a look at the room in between.
    Plain(&'a mut Archive),
    Compressed(Box<dyn Read + 'a>),
}

impl<'a> Decoder<'a> {
    fn new(archive: &'a mut Archive, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(archive),
            Compression::Gzip => Self::Compressed(Box::new(flate2::read::MultiGzDecoder::new(archive))),
            Compression::Zstd => Self::Compressed(Box::new(zstd::stream::read::Decoder::new(archive)?)),
        })
    }

    /// Appends `room` bytes, or as many as the archive has.
    #[expect(clippy::disallowed_methods, reason = "bounded by the room")]
    fn read(&mut self, room: u64, to: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Plain(archive) => archive.append(room, to),
            Self::Compressed(decoder) => decoder.take(room).read_to_end(to).map(|_| ()),
        }
    }
}

/// The next full buffer; a shorter one at the end, then none.
fn fill(from: &mut Decoder<'_>, outlet: &Outlet, subject: &str) -> Result<Option<Slice>> {
    let mut buffer = outlet.buffer()?;
    let room = buffer.room() as u64;
    match from.read(room, buffer.bytes_mut()) {
        Ok(()) if buffer.is_empty() => Ok(None),
        Ok(()) => Ok(Some(buffer.freeze())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::hung_up("the relay")),
        Err(error) => Err(unreadable(subject, error)),
    }
}

fn unreadable(subject: &str, error: io::Error) -> Error {
    Error::source("reading the guest's archive", subject, &error).because(error)
}

/// Where an [`Archive`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Chunks,
    Seam,
    End,
    HungUp,
}

/// The chunks up to the next seam, as one stream of bytes.
pub(super) struct Archive {
    chunks: Receiver<Arrived>,
    current: Option<Chunk>,
    /// Bytes that were read of an unproven one.
    proven_bytes: u64,
    /// What was looked at already.
    peeked: Vec<u8>,
    at: At,
}

impl Archive {
    pub(super) fn new(chunks: Receiver<Arrived>) -> Self {
        Self { chunks, current: None, proven_bytes: 0, peeked: Vec::new(), at: At::Chunks }
    }

    /// Whether the archive at hand, which is not compressed, begins so.
    pub(super) fn begins_with(&mut self, magic: &[u8]) -> io::Result<bool> {
        let mut peeked = Vec::new();
        self.append(PIECE_BYTES, &mut peeked)?;
        self.peeked = peeked;
        Ok(self.peeked.starts_with(magic))
    }

    /// The whole archive at hand into `out`, which takes no more than `bytes_max`.
    pub(super) fn collect(&mut self, mut out: impl io::Write, bytes_max: u64) -> io::Result<()> {
        let (mut left, mut bytes) = (bytes_max, Vec::new());
        loop {
            bytes.clear();
            self.append(PIECE_BYTES, &mut bytes)?;
            left = left.checked_sub(bytes.len() as u64).ok_or_else(|| io::Error::other("it is too long"))?;
            if bytes.is_empty() {
                break;
            }
            out.write_all(&bytes)?;
        }
        if self.at != At::Seam {
            return Err(io::Error::other("it has no end"));
        }
        self.at = At::Chunks;
        out.flush()
    }

    /// Blocks until it is known what comes next.
    fn wait(&mut self) {
        if self.current.is_none() && self.at == At::Chunks {
            match self.chunks.blocking_recv() {
                Some(Arrived::Chunk(chunk)) => self.current = Some(chunk),
                Some(Arrived::Seam) => self.at = At::Seam,
                Some(Arrived::End) => self.at = At::End,
                None => self.at = At::HungUp,
            }
        }
    }

    /// Appends the archive's next `room` bytes, or as many as are left, or as whole pieces make. `room` is for one at least.
    #[expect(clippy::disallowed_methods, reason = "bounded by the room")]
    fn append(&mut self, room: u64, to: &mut Vec<u8>) -> io::Result<()> {
        let mut left = room;
        if !self.peeked.is_empty() {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.peeked.len());
            to.extend(self.peeked.drain(..most));
            left -= most as u64;
        }
        while left > 0 {
            self.wait();
            if self.at == At::HungUp {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let Some(chunk) = &mut self.current else { return Ok(()) };
            let Some(unproven) = &chunk.unproven else {
                match chunk.file.by_ref().take(left).read_to_end(to)? {
                    0 => self.current = None,
                    count => left -= count as u64,
                }
                continue;
            };
            let piece = (unproven.announced.size - self.proven_bytes).min(PIECE_BYTES);
            if piece > left {
                break;
            }
            let begin = to.len();
            chunk.file.by_ref().take(piece).read_to_end(to)?;
            if unproven.is_right(self.proven_bytes, &to[begin..], piece) {
                left -= piece;
                self.proven_bytes += piece;
                self.end_unproven()?;
            } else {
                to.truncate(begin);
                self.take_again()?;
            }
        }
        Ok(())
    }

    /// Tells the relay of an unproven chunk, if that was all of it.
    fn end_unproven(&mut self) -> io::Result<()> {
        let ended = |chunk: &mut Chunk| {
            chunk.unproven.as_ref().is_some_and(|unproven| unproven.announced.size == self.proven_bytes)
        };
        if let Some(unproven) = self.current.take_if(ended).and_then(|chunk| chunk.unproven) {
            self.proven_bytes = 0;
            let told = unproven.words.blocking_send(Word::Proven(unproven.announced.index));
            told.map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        Ok(())
    }

    /// Has an unproven chunk taken again, and goes on in it behind what was right.
    fn take_again(&mut self) -> io::Result<()> {
        let Some(Chunk { file: wrong, unproven: Some(unproven), _slot: slot }) = self.current.take() else {
            return Ok(());
        };
        // Its memory is the new one's.
        drop(wrong);
        let (reply, file) = oneshot::channel();
        let asked = unproven.words.blocking_send(Word::Again(unproven.announced, reply));
        asked.map_err(|_| io::ErrorKind::BrokenPipe)?;
        let mut file = file.blocking_recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        file.seek(SeekFrom::Start(std::mem::take(&mut self.proven_bytes)))?;
        self.current = Some(Chunk { file, unproven: None, _slot: slot });
        Ok(())
    }
}

impl Unproven {
    /// Whether these are the `size` bytes at `offset`, which is a multiple of [`PIECE_BYTES`].
    fn is_right(&self, offset: u64, bytes: &[u8], size: u64) -> bool {
        let Sum::Pieces(sums) = &self.announced.sum else { return false };
        let wanted = usize::try_from(offset / PIECE_BYTES).ok().and_then(|piece| sums.get(piece));
        bytes.len() as u64 == size && wanted == Some(&of_piece(bytes))
    }
}

/// For decoders: of chunks that were checked as a whole.
impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait();
            if self.at == At::HungUp {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let Some(chunk) = &mut self.current else { return Ok(0) };
            match chunk.file.read(buffer)? {
                0 if !buffer.is_empty() => self.current = None,
                count => return Ok(count),
            }
        }
    }
}
