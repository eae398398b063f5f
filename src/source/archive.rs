//! `tar:FILE` and `tar:-`: a tar that somebody else wrote, plain, gzip or zstd.
//!
//! A file is read twice: first for its order (headers only where it is plain), then for its bytes, without those that a
//! later entry of the same name replaces, and with entries that are linked to each other at the end, so that they come
//! to lie in one layer. Standard input, like any pipe, can be read once, and there are files whose entries mean what they
//! do in their own order alone: those become one layer, unless the user cuts it and nothing reaches across.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::runtime::Handle;

use super::{Outlet, Survey};
use crate::error::{Error, Result};
use crate::pipeline::memory::{BUFFER_BYTES, Buffer};
use crate::progress::Notices;
use crate::stage::header::BLOCK_BYTES;
use crate::stage::scan::{Scanned, Scanner, joined};
use crate::stop::Stop;
use crate::text;

/// What is read of content that nobody wants, where it can't be passed over, and of headers.
const STEP_BYTES: usize = 64 << 10;

/// A tar to freeze.
#[derive(Debug)]
pub struct Archive {
    /// As the user named it.
    name: String,
    input: Input,
    packing: Packing,
    scanned: Option<Scanned>,
}

#[derive(Debug)]
enum Input {
    /// A regular file, which can be read twice.
    File(PathBuf),
    /// Standard input, a pipe or a device, and the bytes that were read to sniff it.
    Once(File, Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    fn sniff(magic: &[u8]) -> Result<Self, &'static str> {
        match magic {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => {
                Err("it is compressed with xz, which is not read here; pipe `xz -dc` into tar:-")
            }
            [b'B', b'Z', b'h', ..] => {
                Err("it is compressed with bzip2, which is not read here; pipe `bzip2 -dc` into tar:-")
            }
            [] => Err("it is empty; not even an archive's end mark is there, it was cut off"),
            _ => Ok(Self::Plain),
        }
    }
}

impl Archive {
    /// Opens the tar at `path`, or standard input for `-`, and reads its first bytes.
    ///
    /// # Errors
    /// When it can't be opened, or is compressed in a way that is not read here.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let is_stdin = path == Path::new("-");
        let opened = if is_stdin { stdin() } else { File::open(path) };
        let mut file = opened.map_err(|error| failed("opening the tar", &name, error))?;
        let kind = file.metadata().map_err(|error| failed("opening the tar", &name, error))?.file_type();
        if kind.is_dir() {
            return Err(Error::source("opening the tar", format_args!("'{name}'"), "it is a folder").hint(format!(
                "freeze it as {}",
                text::shell(&[b"dir:", path.as_os_str().as_encoded_bytes()].concat())
            )));
        }
        let magic = sniff(&mut file).map_err(|error| failed("opening the tar", &name, error))?;
        let packing = Packing::sniff(&magic)
            .map_err(|reason| Error::source("opening the tar", format_args!("'{name}'"), reason))?;
        let twice = kind.is_file() && !is_stdin;
        let input = if twice { Input::File(path.to_owned()) } else { Input::Once(file, magic) };
        Ok(Self { name, input, packing, scanned: None })
    }

    /// How large the tar is, and where its links are: reads a file once. What can be read once can't be known.
    ///
    /// # Errors
    /// When the tar is damaged or cut off.
    pub fn survey(&mut self, stop: &Stop, runtime: &Handle) -> Result<Survey> {
        if matches!(self.input, Input::Once(..)) {
            return Ok(Survey { unordered: true, ..Survey::default() });
        }
        let scanned = self.scan(stop, runtime)?;
        let survey = Survey {
            tar_bytes: Some(scanned.entry_bytes - bytes_of(&scanned.replaced) + 2 * BLOCK_BYTES as u64),
            entries: scanned.entries,
            largest_entry_bytes: scanned.largest_entry_bytes,
            unordered: scanned.order_matters,
        };
        self.scanned = Some(scanned);
        Ok(survey)
    }

    /// From which byte of the stream on all entries have to stay together, because links are among them.
    #[must_use]
    pub fn whole_from(&self) -> Option<u64> {
        let scanned = self.scanned.as_ref().filter(|scanned| !scanned.linked.is_empty())?;
        Some(scanned.entry_bytes - bytes_of(&scanned.replaced) - bytes_of(&scanned.linked))
    }

    /// Streams the tar; blocks the calling thread until all was handed on.
    ///
    /// # Errors
    /// When the tar can't be read to its end, or the freeze is stopped.
    pub fn stream(self, outlet: Outlet, stop: &Stop, runtime: &Handle) -> Result<Notices> {
        let mut filling = Filling { outlet, buffer: None };
        match self.scanned.as_ref().filter(|scanned| !scanned.linked.is_empty() || !scanned.replaced.is_empty()) {
            None => filling.take(&mut self.reader(runtime)?, u64::MAX, stop)?,
            Some(scanned) => {
                let not_now = joined([&scanned.linked[..], &scanned.replaced].concat());
                self.pass(&mut filling, &outside(&not_now, scanned.entry_bytes), stop, runtime)?;
                self.pass(&mut filling, &scanned.linked, stop, runtime)?;
                filling.write(&[0; 2 * BLOCK_BYTES])?;
            }
        }
        filling.flush()?;
        filling.outlet.end()
    }

    /// Reads `extents`, which are sorted, and nothing else where that can be.
    fn pass(&self, filling: &mut Filling, extents: &[Range<u64>], stop: &Stop, runtime: &Handle) -> Result<()> {
        let (mut reader, mut at) = (self.reader(runtime)?, 0);
        for extent in extents {
            reader.skip(extent.start - at, stop)?;
            filling.take(&mut reader, extent.end - extent.start, stop)?;
            at = extent.end;
        }
        Ok(())
    }

    fn reader(&self, runtime: &Handle) -> Result<Reader> {
        let (file, before) = match &self.input {
            Input::File(path) => (File::open(path), Vec::new()),
            Input::Once(file, magic) => (file.try_clone(), magic.clone()),
        };
        let file = file.map_err(|error| failed("opening the tar", &self.name, error))?;
        let raw = RawInput { before: std::io::Cursor::new(before), file };
        let stream = match self.packing {
            Packing::Plain => Stream::Plain(raw),
            packing => {
                let raw = BufReader::with_capacity(BUFFER_BYTES, raw.into_async());
                let decoder: Box<dyn AsyncRead + Send + Unpin> = if packing == Packing::Gzip {
                    let mut decoder = GzipDecoder::new(raw);
                    decoder.multiple_members(true);
                    Box::new(decoder)
                } else {
                    let mut decoder = ZstdDecoder::new(raw);
                    decoder.multiple_members(true);
                    Box::new(decoder)
                };
                Stream::Packed(decoder, runtime.clone())
            }
        };
        Ok(Reader { name: self.name.clone(), stream, unwanted: Vec::with_capacity(STEP_BYTES) })
    }

    /// Headers only: content is passed over.
    fn scan(&self, stop: &Stop, runtime: &Handle) -> Result<Scanned> {
        let mut reader = self.reader(runtime)?;
        let mut scanner = Scanner::default();
        let mut bytes = Vec::with_capacity(STEP_BYTES);
        while reader.read(&mut bytes, usize::MAX)? > 0 {
            stop.check()?;
            scanner
                .push(&bytes)
                .map_err(|error| Error::source("reading the tar", format_args!("'{}'", self.name), error))?;
            bytes.clear();
            let skippable = scanner.skippable();
            if skippable > STEP_BYTES as u64 {
                reader.skip(skippable, stop)?;
                scanner.skip(skippable);
            }
        }
        scanner.finish()
    }
}

fn failed(operation: &str, name: &str, error: std::io::Error) -> Error {
    let cut_off = error.kind() == std::io::ErrorKind::UnexpectedEof;
    let reason = if cut_off { "it ends early; it was cut off".to_owned() } else { error.to_string() };
    Error::source(operation, format_args!("'{name}'"), reason).because(error)
}

/// Fills buffers to the end, whatever comes in what pieces, so that what is counted is what is held.
struct Filling {
    outlet: Outlet,
    buffer: Option<Buffer>,
}

impl Filling {
    /// Hands on the next `bytes` of `reader`, or all there are for `u64::MAX`.
    fn take(&mut self, reader: &mut Reader, bytes: u64, stop: &Stop) -> Result<()> {
        let mut left = bytes;
        while left > 0 {
            stop.check()?;
            let buffer = self.room()?;
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.room());
            match reader.read(buffer.bytes_mut(), most)? {
                0 if bytes == u64::MAX => return Ok(()),
                0 => return Err(reader.failed(std::io::ErrorKind::UnexpectedEof.into())),
                read => left -= read as u64,
            }
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let buffer = self.room()?;
            let (now, later) = bytes.split_at(bytes.len().min(buffer.room()));
            buffer.bytes_mut().extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// The buffer that is being filled, which has room.
    fn room(&mut self) -> Result<&mut Buffer> {
        if self.buffer.as_ref().is_some_and(|buffer| buffer.room() == 0) {
            self.flush()?;
        }
        if self.buffer.is_none() {
            self.buffer = Some(self.outlet.buffer()?);
        }
        self.buffer.as_mut().ok_or_else(|| Error::hung_up("memory"))
    }

    fn flush(&mut self) -> Result<()> {
        self.buffer.take().map_or(Ok(()), |buffer| self.outlet.send(buffer.freeze()))
    }
}

/// A tar's bytes, unpacked.
struct Reader {
    name: String,
    stream: Stream,
    /// Where bytes go that are not handed on.
    unwanted: Vec<u8>,
}

enum Stream {
    Plain(RawInput),
    Packed(Box<dyn AsyncRead + Send + Unpin>, Handle),
}

/// A file, and bytes of it that were read before.
struct RawInput {
    before: std::io::Cursor<Vec<u8>>,
    file: File,
}

impl RawInput {
    fn into_async(self) -> impl AsyncRead + Send + Unpin {
        let mut file = tokio::fs::File::from_std(self.file);
        file.set_max_buf_size(BUFFER_BYTES);
        AsyncReadExt::chain(self.before, file)
    }

    fn read(&mut self, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
        let position = usize::try_from(self.before.position()).unwrap_or(usize::MAX);
        let left = self.before.get_ref().get(position..).unwrap_or_default();
        if left.is_empty() {
            let spare = || rustix::io::read(&self.file, rustix::buffer::spare_capacity(bytes));
            return rustix::io::retry_on_intr(spare).map_err(std::io::Error::from);
        }
        bytes.extend_from_slice(left);
        let read = left.len();
        self.before.set_position((position + read) as u64);
        Ok(read)
    }

    fn skip(&mut self, bytes: u64) -> std::io::Result<()> {
        let at = self.file.stream_position()?.checked_add(bytes);
        match at.filter(|at| self.file.metadata().is_ok_and(|file| *at <= file.len())) {
            Some(at) => self.file.seek(SeekFrom::Start(at)).map(|_| ()),
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Standard input without the standard library's buffer, which would keep bytes back.
fn stdin() -> std::io::Result<File> {
    use std::os::fd::AsFd;
    std::io::stdin().as_fd().try_clone_to_owned().map(File::from)
}

impl Reader {
    /// Adds what comes next to `bytes`, at most `most` bytes and no more than fit; 0 at the end.
    fn read(&mut self, bytes: &mut Vec<u8>, most: usize) -> Result<usize> {
        let most = most.min(bytes.capacity() - bytes.len());
        let read = match &mut self.stream {
            Stream::Packed(decoder, runtime) => runtime.block_on(decoder.take(most as u64).read_buf(bytes)),
            Stream::Plain(raw) if bytes.capacity() - bytes.len() == most => raw.read(bytes),
            // Only what is wanted, which a system call into the room there is would not heed.
            Stream::Plain(raw) => {
                self.unwanted.resize(most.min(STEP_BYTES), 0);
                raw.file.read(&mut self.unwanted).inspect(|read| bytes.extend_from_slice(&self.unwanted[..*read]))
            }
        };
        read.map_err(|error| self.failed(error))
    }

    /// Passes over `bytes`, which are there: with a seek where that can be.
    fn skip(&mut self, mut bytes: u64, stop: &Stop) -> Result<()> {
        if let Stream::Plain(raw) = &mut self.stream {
            let skipped = raw.skip(bytes);
            return skipped.map_err(|error| self.failed(error));
        }
        while bytes > 0 {
            stop.check()?;
            let mut unwanted = std::mem::take(&mut self.unwanted);
            unwanted.clear();
            let read = self.read(&mut unwanted, usize::try_from(bytes).unwrap_or(usize::MAX));
            self.unwanted = unwanted;
            match read? {
                0 => return Err(self.failed(std::io::ErrorKind::UnexpectedEof.into())),
                read => bytes -= read as u64,
            }
        }
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> Error {
        failed("reading the tar", &self.name, error)
    }
}

fn sniff(file: &mut File) -> std::io::Result<Vec<u8>> {
    let (mut magic, mut filled) = (vec![0; BLOCK_BYTES], 0);
    while filled < BLOCK_BYTES {
        match file.read(&mut magic[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    magic.truncate(filled);
    Ok(magic)
}

fn bytes_of(extents: &[Range<u64>]) -> u64 {
    extents.iter().map(|extent| extent.end - extent.start).sum()
}

/// What lies between `extents`, which are sorted, up to `end`.
fn outside(extents: &[Range<u64>], end: u64) -> Vec<Range<u64>> {
    let begins = std::iter::once(0).chain(extents.iter().map(|extent| extent.end));
    let ends = extents.iter().map(|extent| extent.start).chain([end]);
    begins.zip(ends).map(|(begin, end)| begin..end).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests;
