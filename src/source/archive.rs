//! `tar:FILE` and `tar:-`: a tar that somebody else wrote, plain, gzip or zstd.
//!
//! A file is read twice: first for its links (headers only where it is plain), then for its bytes, with entries that are
//! linked to each other at the end, so that they come to lie in one layer. Standard input can be read once: it becomes
//! one layer, unless the user cuts it and no link reaches across.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::runtime::Handle;

use super::{Outlet, Survey};
use crate::error::{Error, Result};
use crate::pipeline::memory::BUFFER_BYTES;
use crate::progress::Notices;
use crate::stage::header::BLOCK_BYTES;
use crate::stage::scan::{Scanned, Scanner};
use crate::stop::Stop;

/// A tar to freeze.
#[derive(Debug)]
pub struct Archive {
    input: Input,
    packing: Packing,
    scanned: Option<Scanned>,
}

#[derive(Debug)]
enum Input {
    File(PathBuf),
    /// Standard input, and the bytes that were read to sniff it.
    Stdin(Vec<u8>),
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
        let mut magic = Vec::new();
        let input = if path == Path::new("-") { None } else { Some(path.to_owned()) };
        let name = path.display().to_string();
        let failed =
            |error: std::io::Error| Error::source("opening the tar", format_args!("'{name}'"), &error).because(error);
        match &input {
            Some(path) if path.is_dir() => {
                return Err(Error::source("opening the tar", format_args!("'{name}'"), "it is a folder")
                    .hint(format!("freeze it as dir:{name}")));
            }
            Some(path) => File::open(path).and_then(|file| sniff_bytes(file, &mut magic)).map_err(failed)?,
            None => stdin().and_then(|file| sniff_bytes(file, &mut magic)).map_err(failed)?,
        }
        let packing = Packing::sniff(&magic)
            .map_err(|reason| Error::source("opening the tar", format_args!("'{name}'"), reason))?;
        Ok(Self { input: input.map_or(Input::Stdin(magic), Input::File), packing, scanned: None })
    }

    /// How large the tar is, and where its links are: reads a file once. Standard input can't be known.
    ///
    /// # Errors
    /// When the tar is damaged or cut off.
    pub fn survey(&mut self, stop: &Stop, runtime: &Handle) -> Result<Survey> {
        let Input::File(path) = &self.input else {
            return Ok(Survey { links_unordered: true, ..Survey::default() });
        };
        let scanned = match self.packing {
            Packing::Plain => scan_plain(path, stop)?,
            _ => self.scan_packed(path, stop, runtime)?,
        };
        let survey = Survey {
            tar_bytes: Some(scanned.entry_bytes + 2 * BLOCK_BYTES as u64),
            entries: scanned.entries,
            largest_entry_bytes: scanned.largest_entry_bytes,
            links_unordered: false,
        };
        self.scanned = Some(scanned);
        Ok(survey)
    }

    /// From which byte of the stream on all entries have to stay together, because links are among them.
    #[must_use]
    pub fn whole_from(&self) -> Option<u64> {
        let scanned = self.scanned.as_ref().filter(|scanned| !scanned.linked.is_empty())?;
        Some(scanned.entry_bytes - scanned.linked.iter().map(|extent| extent.end - extent.start).sum::<u64>())
    }

    /// Streams the tar; blocks the calling thread until all was handed on.
    ///
    /// # Errors
    /// When the tar can't be read to its end, or the freeze is stopped.
    pub fn stream(self, mut outlet: Outlet, stop: &Stop, runtime: &Handle) -> Result<Notices> {
        let linked = self.scanned.as_ref().map_or(&[][..], |scanned| &scanned.linked);
        if linked.is_empty() {
            self.pass(&mut outlet, stop, runtime, &|range| vec![range])?;
            return outlet.end();
        }
        let end = self.scanned.as_ref().map_or(0, |scanned| scanned.entry_bytes);
        self.pass(&mut outlet, stop, runtime, &|range| outside(linked, &(range.start..range.end.min(end))))?;
        self.pass(&mut outlet, stop, runtime, &|range| inside(linked, &range))?;
        outlet.send(Bytes::from_static(&[0; 2 * BLOCK_BYTES]))?;
        outlet.end()
    }

    /// Reads everything once and hands on the parts of it that `select` picks from each range of the tar.
    fn pass(
        &self,
        outlet: &mut Outlet,
        stop: &Stop,
        runtime: &Handle,
        select: &dyn Fn(Range<u64>) -> Vec<Range<u64>>,
    ) -> Result<()> {
        let mut reader = self.reader(runtime)?;
        let mut compact = outlet.compact();
        let mut offset = 0;
        loop {
            stop.check()?;
            let mut buffer = outlet.buffer()?;
            while buffer.room() > 0 {
                if reader.read(buffer.bytes_mut())? == 0 {
                    break;
                }
            }
            let bytes = buffer.freeze();
            if bytes.is_empty() {
                return compact.flush(&mut |bytes| outlet.send(bytes));
            }
            let begin = offset;
            offset += bytes.len() as u64;
            let parts = select(begin..offset)
                .into_iter()
                .map(|range| bytes.slice(index(range.start - begin)..index(range.end - begin)));
            compact.take(&bytes, parts.collect(), &mut |bytes| outlet.send(bytes))?;
        }
    }

    fn reader(&self, runtime: &Handle) -> Result<Reader> {
        let (name, file, before) = match &self.input {
            Input::File(path) => (path.display().to_string(), File::open(path), Vec::new()),
            Input::Stdin(magic) => ("-".to_owned(), stdin(), magic.clone()),
        };
        let file =
            file.map_err(|error| Error::source("opening the tar", format_args!("'{name}'"), &error).because(error))?;
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
        Ok(Reader { name, stream })
    }

    fn scan_packed(&self, path: &Path, stop: &Stop, runtime: &Handle) -> Result<Scanned> {
        let mut reader = self.reader(runtime)?;
        let mut scanner = Scanner::default();
        let mut bytes = Vec::with_capacity(BUFFER_BYTES);
        while reader.read(&mut bytes)? > 0 {
            stop.check()?;
            scanner.push(&bytes).map_err(|error| named(&error, path))?;
            bytes.clear();
        }
        scanner.finish()
    }
}

/// Headers only: content is passed over with seeks.
fn scan_plain(path: &Path, stop: &Stop) -> Result<Scanned> {
    let failed = |error: std::io::Error| {
        Error::source("reading the tar", format_args!("'{}'", path.display()), &error).because(error)
    };
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut scanner = Scanner::default();
    let mut bytes = vec![0; 64 << 10];
    loop {
        stop.check()?;
        let read = file.read(&mut bytes).map_err(failed)?;
        if read == 0 || scanner.ended() {
            return scanner.finish();
        }
        scanner.push(&bytes[..read]).map_err(|error| named(&error, path))?;
        let skippable = scanner.skippable();
        if skippable > bytes.len() as u64 {
            let at = file.seek(SeekFrom::Current(i64::try_from(skippable).unwrap_or(i64::MAX))).map_err(failed)?;
            if at > length {
                file.seek(SeekFrom::Start(length)).map_err(failed)?;
                return scanner.finish();
            }
            scanner.skip(skippable);
        }
    }
}

fn named(error: &Error, path: &Path) -> Error {
    Error::source("reading the tar", format_args!("'{}'", path.display()), error)
}

/// A tar's bytes, unpacked.
struct Reader {
    name: String,
    stream: Stream,
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
}

/// Standard input without the standard library's buffer, which would keep bytes back.
fn stdin() -> std::io::Result<File> {
    use std::os::fd::AsFd;
    std::io::stdin().as_fd().try_clone_to_owned().map(File::from)
}

impl Reader {
    /// Adds what comes next to `bytes`, at most to its capacity; 0 at the end.
    fn read(&mut self, bytes: &mut Vec<u8>) -> Result<usize> {
        let read = match &mut self.stream {
            Stream::Packed(decoder, runtime) => runtime.block_on(read_to_capacity(decoder, bytes)),
            Stream::Plain(raw) => raw.read(bytes),
        };
        read.map_err(|error| {
            let cut_off = error.kind() == std::io::ErrorKind::UnexpectedEof;
            let reason =
                if cut_off { "the compressed stream ends early; it was cut off".to_owned() } else { error.to_string() };
            Error::source("reading the tar", format_args!("'{}'", self.name), reason).because(error)
        })
    }
}

async fn read_to_capacity(decoder: &mut (dyn AsyncRead + Send + Unpin), bytes: &mut Vec<u8>) -> std::io::Result<usize> {
    let room = bytes.capacity() - bytes.len();
    decoder.take(room as u64).read_buf(bytes).await
}

fn sniff_bytes(reader: impl Read, magic: &mut Vec<u8>) -> std::io::Result<()> {
    let mut reader = reader.take(BLOCK_BYTES as u64);
    let mut block = [0; BLOCK_BYTES];
    loop {
        match reader.read(&mut block)? {
            0 => return Ok(()),
            read => magic.extend_from_slice(&block[..read]),
        }
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// The parts of `range` that lie in `extents`, which are sorted.
fn inside(extents: &[Range<u64>], range: &Range<u64>) -> Vec<Range<u64>> {
    let first = extents.partition_point(|extent| extent.end <= range.start);
    let touching = extents[first..].iter().take_while(|extent| extent.start < range.end);
    touching.map(|extent| extent.start.max(range.start)..extent.end.min(range.end)).collect()
}

/// The parts of `range` that lie outside of `extents`.
fn outside(extents: &[Range<u64>], range: &Range<u64>) -> Vec<Range<u64>> {
    let (mut parts, mut at) = (Vec::new(), range.start);
    for part in inside(extents, range) {
        if at < part.start {
            parts.push(at..part.start);
        }
        at = part.end;
    }
    if at < range.end {
        parts.push(at..range.end);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_split_at_extents() {
        let extents = [10..20, 30..40];
        assert_eq!(inside(&extents, &(0..100)), [10..20, 30..40]);
        assert_eq!(outside(&extents, &(0..100)), [0..10, 20..30, 40..100]);
        assert_eq!(outside(&extents, &(15..35)), vec![20..30]);
        assert_eq!(inside(&extents, &(15..35)), [15..20, 30..35]);
        assert!(inside(&extents, &(20..30)).is_empty());
    }
}
