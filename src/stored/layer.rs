//! Reading one layer of an image to its end, on a thread that may block, in memory that does not depend on what it says:
//! a piece of the blob, the window of its compression, and the headers of one entry.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;

use super::image::StoredImage;
use crate::error::{Error, Kind, Result};
use crate::layout::open_file;
use crate::oci::{Compression, Descriptor, DiffId};
use crate::progress::Observer;
use crate::sink::registry::BlobReader;
use crate::stage::decode::decoder;
use crate::stage::digest::{DiffIdHasher, DigestHasher};
use crate::stage::stack;
use crate::stage::walk::{Entry, Walk};
use crate::stop::Stop;
use crate::text;

/// Bytes that one read of a blob takes, and that are decoded at a time.
const READ_BYTES: usize = 256 << 10;
/// Layers that are read at a time, where there are as many cores: each takes a window, of which one may be large.
const LAYERS_AT_ONCE_MAX: usize = 8;

/// One layer that was read to its end.
#[derive(Debug, Default)]
pub(crate) struct LayerRead {
    pub(crate) entries: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) tar_bytes: u64,
    pub(crate) faults: Vec<String>,
    /// What the first fault is, where it is not that the layer is another one than it says.
    pub(crate) kind: Option<Kind>,
}

/// What listens while a layer is read. Nothing of what it hears is good before the layer was read without a fault.
pub(crate) trait Listen: Send + 'static {
    /// The next stored bytes.
    fn stored(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    /// The next bytes of the tar.
    fn tar(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    /// The next entry.
    fn entry(&mut self, _entry: &Entry) -> io::Result<()> {
        Ok(())
    }

    /// Whether the content of the entry that it heard of last is to be heard, too.
    fn wants_content(&self) -> bool {
        false
    }

    /// The next bytes of that.
    fn content(&mut self, _bytes: &[u8]) {}
}

impl Listen for () {}

/// Who is told of the bytes that were read, and what ends the reading.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) stop: Stop,
    /// Of all layers that share this.
    pub(crate) unpacked: Arc<Unpacked>,
}

/// What layers unpack to, and may.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    bytes: AtomicU64,
    max: Option<u64>,
}

impl Unpacked {
    pub(crate) fn at_most(max: Option<u64>) -> Arc<Self> {
        Arc::new(Self { max, ..Self::default() })
    }

    /// Whether `more` bytes may come, which an entry says it has.
    fn fits(&self, more: u64) -> io::Result<()> {
        match self.max {
            Some(max) if self.bytes.load(Ordering::Relaxed).saturating_add(more) > max => {
                let reason = format!("the image unpacks to more than the {max} bytes of --max-size");
                Err(io::Error::new(io::ErrorKind::InvalidData, reason))
            }
            _ => Ok(()),
        }
    }

    fn add(&self, bytes: usize) -> io::Result<()> {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.fits(0)
    }
}

/// Ends the readings that share it once nobody waits for them any more.
pub(crate) struct EndOnDrop(pub(crate) Stop);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.stop(Error::hung_up("a reading"));
    }
}

/// How many layers are read at a time: one a core, and one more, since each waits for its bytes now and then.
pub(crate) fn layers_at_once() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).saturating_add(1).min(LAYERS_AT_ONCE_MAX)
}

/// Reads `layer` to its end, and holds it against its descriptor and its diff_id.
///
/// # Errors
/// When reading can't go on, but for what is wrong with this layer alone: that is among its faults.
pub(crate) async fn read<L: Listen>(
    image: &StoredImage,
    layer: &Descriptor,
    diff_id: DiffId,
    listener: L,
    watch: &Watch,
) -> Result<(LayerRead, L)> {
    let mut found = LayerRead::default();
    let Some(compression) = Compression::from_media_type(&layer.media_type) else {
        let media_type = text::line(&layer.media_type);
        found.faults.push(format!("layer {}: media type '{media_type}' is none of a layer", layer.digest));
        return Ok((found, listener));
    };
    let (source, layer, watch, runtime) = (image.source(layer), layer.clone(), watch.clone(), Handle::current());
    let reading = tokio::task::spawn_blocking(move || {
        let blob = Blob { source, runtime, watch: watch.clone(), chunk: Bytes::new() };
        let outcome = to_the_end(blob, compression, listener, (&layer, diff_id));
        watch.stop.check().map(|()| outcome)
    });
    reading.await.map_err(|_| Error::hung_up("reading a layer"))?
}

fn to_the_end<L: Listen>(
    blob: Blob,
    compression: Compression,
    listener: L,
    (layer, diff_id): (&Descriptor, DiffId),
) -> (LayerRead, L) {
    let unpacked = Arc::clone(&blob.watch.unpacked);
    let mut found = LayerRead::default();
    let listener = Rc::new(RefCell::new(listener));
    let (digest, tar) = (Rc::default(), Rc::default());
    let stored = Stored { blob, hasher: Rc::clone(&digest), listener: Rc::clone(&listener) };
    let entries = decoder(stored, compression).and_then(|decoder| {
        let (hasher, heard) = (Rc::clone(&tar), Rc::clone(&listener));
        let plain = Plain { from: decoder, hasher, listener: heard, unpacked: Arc::clone(&unpacked) };
        entries(BufReader::with_capacity(READ_BYTES, plain), &listener, &unpacked)
    });
    match entries {
        Ok(entries) => found.entries = entries,
        Err(error) => {
            found.kind = kind_within(&error);
            found.faults.push(format!("layer {}: {}", layer.digest, innermost(&error)));
        }
    }
    let ((found_digest, size), (found_diff_id, tar_bytes)) =
        (digest.take().finish(), RefCell::<DiffIdHasher>::take(&tar).finish());
    (found.stored_bytes, found.tar_bytes) = (size, tar_bytes);
    if found.faults.is_empty() {
        let mut compare = |what: &str, stated: String, is: String| {
            if stated != is {
                found.faults.push(format!("layer {}: {what} should be {stated}, and is {is}", layer.digest));
            }
        };
        compare("the size", layer.size.to_string(), size.to_string());
        compare("the digest", layer.digest.to_string(), found_digest.to_string());
        compare("the diff_id", diff_id.to_string(), found_diff_id.to_string());
    }
    match Rc::try_unwrap(listener) {
        Ok(listener) => (found, listener.into_inner()),
        Err(_) => unreachable!("all readers are gone"),
    }
}

/// Which entry's headers are wrong.
fn at_entry(number: u64, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidData if kind_within(&error).is_none() => {
            io::Error::new(io::ErrorKind::InvalidData, format!("entry {number}: {error}"))
        }
        _ => error,
    }
}

/// Reads all entries and what follows them; how many there were.
fn entries(plain: impl Read, listener: &RefCell<impl Listen>, unpacked: &Unpacked) -> io::Result<u64> {
    let (mut walk, mut entries, mut content) = (Walk::new(plain), 0, Vec::new());
    while let Some(entry) = walk.next().map_err(|error| at_entry(entries + 1, error))? {
        stack::check(&entry)?;
        unpacked.fits(entry.size)?;
        listener.borrow_mut().entry(&entry)?;
        if listener.borrow().wants_content() {
            content.resize(READ_BYTES, 0);
            loop {
                match walk.read(&mut content)? {
                    0 => break,
                    length => listener.borrow_mut().content(&content[..length]),
                }
            }
        }
        entries += 1;
    }
    walk.finish()?;
    Ok(entries)
}

/// Where a blob's bytes come from.
pub(super) enum Source {
    Registry(Box<BlobReader>),
    File(std::path::PathBuf, Option<File>),
}

/// A blob, read by a thread that may block.
struct Blob {
    source: Source,
    runtime: Handle,
    watch: Watch,
    chunk: Bytes,
}

impl Blob {
    fn next(&mut self) -> Result<Bytes> {
        self.watch.stop.check()?;
        let bytes = match &mut self.source {
            Source::Registry(blob) => self.runtime.block_on(async {
                tokio::select! {
                    () = self.watch.stop.stopped() => Err(Error::hung_up("reading a layer")),
                    bytes = blob.next() => bytes.map(Option::unwrap_or_default),
                }
            })?,
            Source::File(path, file) => {
                let subject = format!("'{}'", text::line(&path.display().to_string()));
                let failed = |error: io::Error| Error::sink("reading a blob", &subject, &error).because(error);
                let file = match file {
                    Some(file) => file,
                    none => none.insert(open_file(path).map_err(failed)?),
                };
                let mut bytes = vec![0; READ_BYTES];
                let read = file.read(&mut bytes).map_err(failed)?;
                bytes.truncate(read);
                bytes.into()
            }
        };
        self.watch.observer.read(bytes.len() as u64);
        Ok(bytes)
    }
}

/// A blob's bytes on their way to the decoder.
struct Stored<L> {
    blob: Blob,
    hasher: Rc<RefCell<DigestHasher>>,
    listener: Rc<RefCell<L>>,
}

impl<L: Listen> BufRead for Stored<L> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.blob.chunk.is_empty() {
            self.blob.chunk = self.blob.next().map_err(io::Error::other)?;
            self.hasher.borrow_mut().update(&self.blob.chunk);
            self.listener.borrow_mut().stored(&self.blob.chunk)?;
        }
        Ok(&self.blob.chunk)
    }

    fn consume(&mut self, amount: usize) {
        self.blob.chunk.advance(amount);
    }
}

impl<L: Listen> Read for Stored<L> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let length = available.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

/// The tar's bytes on their way to the walk.
struct Plain<R, L> {
    from: R,
    hasher: Rc<RefCell<DiffIdHasher>>,
    listener: Rc<RefCell<L>>,
    unpacked: Arc<Unpacked>,
}

impl<R: Read, L: Listen> Read for Plain<R, L> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(into)?;
        self.hasher.borrow_mut().update(&into[..length]);
        self.listener.borrow_mut().tar(&into[..length])?;
        self.unpacked.add(length)?;
        Ok(length)
    }
}

/// Who made an I/O error, in its own words.
fn innermost(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the tar, or its compression, ends early; it was cut off".to_owned();
    }
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The kind of this crate's error that an I/O error was made from.
fn kind_within(error: &io::Error) -> Option<Kind> {
    let mut cause = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(inner) = cause {
        if let Some(ours) = inner.downcast_ref::<Error>() {
            return Some(ours.kind());
        }
        let io = inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = io.map(|inner| inner as &(dyn std::error::Error + 'static)).or(inner.source());
    }
    None
}
