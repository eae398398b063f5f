//! An artifact on its way: agent, layers in any order, the workspace; then manifest and footer, synced and read again.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use smolvm_pack::{PackFooter, PackManifest};

use crate::error::{Error, Kind, Result, Side};
use crate::night::index::Extent;
use crate::oci::Compression;
use crate::pipeline::gather::LiveEnd;
use crate::sink::Image;
use crate::stop::Stop;

use super::incoming::Incoming;
use super::made::Hashed;
use super::manifest::{AGENT_NAME, Contents, Embedded, WORKSPACE_NAME, layer_name};
use super::recode::recode;
use super::seed::Seed;
use super::side::{SideFile, clear};
use super::temporary::{self, Temporary};
use super::writer::Writer;
use super::{ArtifactOptions, MachineSettings, ReadBack};

/// Bytes gathered before they are written: frames of headers are small, those of layers are larger than this.
const FILE_BUFFER_BYTES: usize = 256 * 1024;

/// Bytes of the finished file that are read again at a time.
const READ_BACK_BYTES: usize = 256 * 1024;

/// What is written so far.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) temporary: Temporary,
    writer: Writer<BufWriter<File>>,
    pub(super) seed: Option<Seed>,
    pub(super) embedded: Embedded,
    options: ArtifactOptions,
}

impl Unfinished {
    /// Begins with the agent, beside `target`.
    pub(super) fn begin(target: &Path, options: ArtifactOptions) -> Result<Self> {
        let folder = temporary::folder_of(target);
        temporary::sweep(folder).map_err(|error| io_failed("looking through the folder", folder, error))?;
        let create = |error| io_failed("creating the artifact", target, error);
        let temporary = Temporary::beside(target, options.run).map_err(create)?;
        let file = temporary.handle().map_err(create)?;
        let mut writer = Writer::new(BufWriter::with_capacity(FILE_BUFFER_BYTES, file));
        let mut embed = || {
            writer.begin(AGENT_NAME, None)?;
            let frames = Frames { writer: &mut writer, bytes: 0, stop: &options.stop };
            let agent_bytes = options.agent.write_frames(frames)?;
            writer.end(agent_bytes)?;
            Ok(agent_bytes)
        };
        let embedding = |error| io_failed("embedding smolvm's agent root filesystem", options.agent.path(), error);
        let agent_bytes = embed().map_err(embedding)?;
        let embedded = Embedded { agent_bytes, ..Embedded::default() };
        Ok(Self { temporary, writer, seed: None, embedded, options })
    }

    /// Where the bytes are for now.
    pub(super) fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Embeds a layer; gives the bytes that were written.
    pub(super) fn embed_layer(&mut self, layer: Incoming<'_, impl BufRead>) -> io::Result<u64> {
        let (diff_id, announced) = (layer.diff_id, layer.tar_bytes);
        self.writer.begin(&layer_name(diff_id), Some(announced))?;
        let mut frames = Frames { writer: &mut self.writer, bytes: 0, stop: &self.options.stop };
        let (tar_bytes, digest) = match layer.compression()? {
            // As they are: they were made by this host, and its packer measured the tar.
            Compression::Zstd => {
                let digest = layer.descriptor.digest;
                layer.copy(&mut frames).map(|()| (announced, digest))?
            }
            other => {
                let mut hashed = Hashed::new(&mut frames);
                (recode(layer.stored, other, &mut hashed)?, hashed.digest.finish().0)
            }
        };
        let size = frames.bytes;
        self.writer.end(tar_bytes)?;
        let start = self.writer.last_content().0;
        self.embedded.layers.insert(diff_id, Extent { start, size, digest, tar_bytes });
        Ok(size)
    }

    /// Keeps a place for each layer of so many stored bytes.
    pub(super) fn reserve(&mut self, lengths: &[u64]) -> io::Result<Vec<SideFile>> {
        let file = Arc::new(self.handle()?);
        let place = |length: &u64| Ok(SideFile::within(Arc::clone(&file), self.writer.reserve(*length)?, *length));
        lengths.iter().map(place).collect()
    }

    /// Embeds a layer that lies beside the artifact, or that stays where it lies in it; gives the bytes that were written.
    pub(super) fn embed_side(&mut self, side: SideFile, end: &LiveEnd) -> io::Result<u64> {
        let LiveEnd { descriptor, diff_id, tar_bytes } = end;
        let (diff_id, tar_bytes) = (*diff_id, *tar_bytes);
        if let Some((start, checksum)) = side.placed()
            && Writer::<BufWriter<File>>::is_whole(tar_bytes)
        {
            self.writer.settle(start, &layer_name(diff_id), tar_bytes, checksum)?;
            let extent = Extent { start, size: descriptor.size, digest: descriptor.digest, tar_bytes };
            self.embedded.layers.insert(diff_id, extent);
            return Ok(descriptor.size);
        }
        let stop = self.options.stop.clone();
        self.embed_layer(Incoming { diff_id, tar_bytes, descriptor, stored: side.moving(&stop) })
    }

    /// Embeds a zstd layer such that its stored bytes can be read again; gives the place in the file where they begin.
    pub(super) fn keep_layer(&mut self, layer: Incoming<'_, impl BufRead>) -> io::Result<u64> {
        let length = layer.descriptor.size;
        self.embed_layer(layer)?;
        self.writer.flush()?;
        let (from, end) = self.writer.last_content();
        if end - from == length { Ok(from) } else { Err(io::Error::other("it was not stored as it came")) }
    }

    /// Adds a layer to the content of `/workspace`; gives its bytes there.
    pub(super) fn embed_workspace(&mut self, layer: Incoming<'_, impl BufRead>) -> io::Result<u64> {
        let seed = match &mut self.seed {
            Some(seed) => seed,
            none => none.insert(Seed::beside(self.temporary.path())?),
        };
        let (diff_id, announced) = (layer.diff_id, layer.tar_bytes);
        let mut tar = Counting { from: layer.decoded()?, bytes: 0 };
        let bytes = seed.add(&mut tar)?;
        io::copy(&mut tar, &mut io::sink())?;
        if tar.bytes != announced {
            let reason = format!("the tar of {diff_id} is {} bytes and was said to be {announced}", tar.bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        self.embedded.workspace_layers.insert(diff_id);
        Ok(bytes)
    }

    /// Takes all of `/workspace` at once.
    pub(super) fn take_seed(&mut self, seed: Seed) {
        self.seed = Some(seed);
    }

    /// Writes what follows the layers, and sees that all of it is on the disk: but for its name, it is an artifact.
    pub(super) fn complete(
        mut self,
        target: &Path,
        image: &Image,
        machine: &MachineSettings,
    ) -> Result<(Temporary, Contents)> {
        self.end_workspace().map_err(|error| io_failed("embedding /workspace", target, error))?;
        let manifest = self.embedded.manifest(image, machine);
        let manifest = manifest.map_err(|reason| failed("completing the artifact", target, reason))?;
        let cleared = self.clear_places();
        let written = cleared.and_then(|()| self.writer.finish(&manifest));
        let written = written.and_then(|out| out.into_inner().map_err(io::IntoInnerError::into_error));
        let file = written.map_err(|error| io_failed("writing the artifact", target, error))?;
        // What is read back are the same pages of memory, on the disk or on their way to it.
        let (synced, read) = std::thread::scope(|scope| {
            let syncing = scope.spawn(|| file.sync_all());
            let read = read_back(self.temporary.path(), &manifest, &self.options, target);
            (syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), read)
        });
        synced.map_err(|error| io_failed("syncing the artifact", target, error))?;
        self.options.stop.check()?;
        let checksum = read?;
        Ok((self.temporary, Contents::new(checksum, self.embedded)))
    }

    /// The file, to read from.
    pub(super) fn handle(&self) -> io::Result<File> {
        self.temporary.handle()
    }

    /// Removes what was written.
    pub(super) fn discard(self) -> io::Result<()> {
        self.temporary.discard()
    }

    /// Nothing stays of what was in a place and went elsewhere.
    fn clear_places(&self) -> io::Result<()> {
        let file = self.handle()?;
        self.writer.unsettled().try_for_each(|(start, length)| clear(&file, start, length))
    }

    fn end_workspace(&mut self) -> io::Result<()> {
        let Some(seed) = self.seed.take().filter(|seed| !seed.is_empty()) else { return Ok(()) };
        let (content, tar_bytes) = seed.finish()?;
        let stop = &self.options.stop;
        self.writer.begin(WORKSPACE_NAME, Some(tar_bytes))?;
        let mut hashed = Hashed::new(Frames { writer: &mut self.writer, bytes: 0, stop });
        let size = io::copy(&mut content.moving(stop), &mut hashed)?;
        let digest = hashed.digest.finish().0;
        self.writer.end(tar_bytes)?;
        self.embedded.seed = Some(Extent { start: self.writer.last_content().0, size, digest, tar_bytes });
        Ok(())
    }
}

/// The content of the file that a [`Writer`] has open, as a plain output that a stop ends.
struct Frames<'a, W> {
    writer: &'a mut Writer<W>,
    bytes: u64,
    stop: &'a Stop,
}

impl<W: Write + Seek> Write for Frames<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stop.check().map_err(io::Error::other)?;
        self.writer.frames(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sees that the file at `path` is the artifact, as far as is asked for; gives the checksum and the length of its assets.
fn read_back(path: &Path, manifest: &PackManifest, options: &ArtifactOptions, target: &Path) -> Result<(u32, u64)> {
    let corrupt = |reason| Error::new(Kind::Corrupt, Side::Sink, "reading back the artifact", target.display(), reason);
    let footer = read_again(path, manifest).map_err(corrupt)?;
    if options.read_back == ReadBack::Everything {
        let sum = checksum(path, &options.stop);
        if !sum.map_err(|error| io_failed("reading back the artifact", target, error))? {
            return Err(corrupt("its checksum is not that of its bytes".to_owned()));
        }
    }
    Ok((footer.checksum, footer.assets_size))
}

struct Counting<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(into)?;
        self.bytes += length as u64;
        Ok(length)
    }
}

/// What smolvm's own code reads in the finished file must be what was meant.
fn read_again(path: &Path, manifest: &PackManifest) -> Result<PackFooter, String> {
    let footer = smolvm_pack::read_footer_from_sidecar(path).map_err(|error| error.to_string())?;
    let read = smolvm_pack::read_manifest_from_sidecar(path).and_then(|read| read.to_json());
    if read.map_err(|error| error.to_string())? != manifest.to_json().map_err(|error| error.to_string())? {
        return Err("its manifest is not the one that was written".to_owned());
    }
    Ok(footer)
}

/// Whether the checksum in the footer is that of all before it. smolvm's own code can't be stopped on its way.
pub(in crate::sink) fn checksum(path: &Path, stop: &Stop) -> io::Result<bool> {
    let footer = smolvm_pack::read_footer_from_sidecar(path).map_err(io::Error::other)?;
    let mut covered = File::open(path)?.take(footer.assets_size.saturating_add(footer.manifest_size));
    let (mut sum, mut read) = (crc32fast::Hasher::new(), vec![0; READ_BACK_BYTES]);
    loop {
        stop.check().map_err(io::Error::other)?;
        match covered.read(&mut read)? {
            0 => return Ok(covered.limit() == 0 && sum.finalize() == footer.checksum),
            length => sum.update(&read[..length]),
        }
    }
}

pub(in crate::sink) fn failed(operation: &str, target: &Path, reason: impl fmt::Display) -> Error {
    Error::sink(operation, target.display(), reason)
}

/// An error of this crate that came through an input or output keeps its kind.
pub(in crate::sink) fn io_failed(operation: &str, target: &Path, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            failed(operation, target, &error).because(error).hint("free some space there, or write it to another disk")
        }
        Err(error) => failed(operation, target, &error).because(error),
    }
}
