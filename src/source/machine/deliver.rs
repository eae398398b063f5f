//! From chunks that were checked to buffers on the edge: on a plain thread, in order, decompressed as they come.

use std::fs::File;
use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Receiver;

use super::join::Join;
use crate::error::{Error, Result};
use crate::oci::Compression;
use crate::source::Outlet;

/// What the relay hands on, in the spool's order.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// A chunk, complete and checked; its file has no name any more. The slot is free again once it was read.
    Chunk(File, OwnedSemaphorePermit),
    /// An archive ends here.
    Seam,
    /// All is here, and the guest's verdict is good. Without it, the relay failed.
    End,
}

/// Hands everything on; blocks while the edge is full or no memory is free.
///
/// # Errors
/// When the edge closed, the freeze is stopped, or the guest's compressed stream can't be read. A relay that failed looks
/// like a hang-up here: its own error is the cause.
pub(crate) fn deliver(
    chunks: Receiver<Arrived>,
    outlet: &mut Outlet,
    compression: Compression,
    subject: &str,
) -> Result<()> {
    let mut archive = Archive { chunks, current: None, at: At::Chunks };
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
fn fill(from: &mut Decoder<'_>, outlet: &Outlet, subject: &str) -> Result<Option<Bytes>> {
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
struct Archive {
    chunks: Receiver<Arrived>,
    current: Option<(File, OwnedSemaphorePermit)>,
    at: At,
}

impl Archive {
    /// Blocks until it is known what comes next.
    fn wait(&mut self) {
        if self.current.is_none() && self.at == At::Chunks {
            match self.chunks.blocking_recv() {
                Some(Arrived::Chunk(file, slot)) => self.current = Some((file, slot)),
                Some(Arrived::Seam) => self.at = At::Seam,
                Some(Arrived::End) => self.at = At::End,
                None => self.at = At::HungUp,
            }
        }
    }

    /// Appends the archive's next `room` bytes, or as many as are left.
    #[expect(clippy::disallowed_methods, reason = "bounded by the room")]
    fn append(&mut self, room: u64, to: &mut Vec<u8>) -> io::Result<()> {
        let mut left = room;
        while left > 0 {
            self.wait();
            if self.at == At::HungUp {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let Some((file, _)) = &mut self.current else { return Ok(()) };
            match file.take(left).read_to_end(to)? {
                0 => self.current = None,
                count => left -= count as u64,
            }
        }
        Ok(())
    }
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait();
            if self.at == At::HungUp {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let Some((file, _)) = &mut self.current else { return Ok(0) };
            match file.read(buffer)? {
                0 if !buffer.is_empty() => self.current = None,
                count => return Ok(count),
            }
        }
    }
}
