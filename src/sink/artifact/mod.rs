//! A `.smolmachine` sidecar as a sink: what `smolvm machine create --from` takes.
//!
//! One pass over one file. A zstd layer's stored bytes go in as they are; gzip and plain layers are recoded. Layers come
//! in any order, and one at a time is written: the file is one stream. The file has a temporary name until the whole of
//! it was written, synced and read back with smolvm's own code, so the final name only ever shows a whole artifact.

mod agent;
mod manifest;
mod recode;
mod seed;
mod stored;
mod temporary;
mod writer;

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smolvm_pack::PackManifest;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};

pub use agent::{AgentRootfs, Lookup};

use crate::error::{Error, Kind, Result, Side};
use crate::gather::Layer;
use crate::oci::Compression;
use crate::stop::Stop;

use super::{Committed, Image, Put};
use manifest::{AGENT_NAME, Embedded, WORKSPACE_NAME, layer_name};
use recode::recode;
use seed::Seed;
use stored::Stored;
use temporary::Temporary;
use writer::Writer;

/// Bytes gathered before they are written: frames of headers are small, those of layers are larger than this.
const FILE_BUFFER_BYTES: usize = 256 * 1024;

/// How an artifact is written.
#[derive(Debug, Clone)]
pub struct ArtifactOptions {
    /// The root filesystem of smolvm's guest agent, see [`Lookup`].
    pub agent: AgentRootfs,
    /// How much of the finished file is read again before it gets its name. Default: everything.
    pub read_back: ReadBack,
    /// Thrown, it ends a write between two steps of 1 MiB.
    pub stop: Stop,
}

impl ArtifactOptions {
    /// The defaults, with this agent.
    #[must_use]
    pub fn new(agent: AgentRootfs) -> Self {
        Self { agent, read_back: ReadBack::default(), stop: Stop::new() }
    }
}

/// How much of a finished artifact is read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadBack {
    /// Footer, manifest, and the checksum over all bytes: at the speed of the disk, or of memory where it is cached.
    #[default]
    Everything,
    /// Footer and manifest.
    Manifest,
}

/// What a machine made from the artifact is like, beyond what the image's config says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSettings {
    /// The image's reference, which smolvm shows as the machine's image.
    pub image: String,
    /// Virtual CPUs. Default: 1.
    pub cpus: u8,
    /// Memory in MiB. Default: 512.
    pub memory_mib: u32,
    /// Whether the guest may reach the network. Default: no.
    pub network: bool,
    /// The release of smolvm that the agent belongs to (`1.32.2`): smolvm on a Mac decides by it who unpacks the layers.
    /// Default: the release of the `smolvm-pack` crate that this was built with.
    pub smolvm_version: Option<String>,
}

impl MachineSettings {
    /// The defaults, for this image.
    #[must_use]
    pub fn new(image: impl Into<String>) -> Self {
        Self { image: image.into(), cpus: 1, memory_mib: 512, network: false, smolvm_version: None }
    }
}

/// An artifact that is being written. Dropped without a commit, it leaves nothing.
#[derive(Debug)]
pub struct ArtifactSink {
    target: PathBuf,
    options: ArtifactOptions,
    slot: Arc<Mutex<Slot>>,
}

/// Empty once a write has failed: half a layer is in the file, and nothing can follow it.
type Slot = Option<Unfinished>;

#[derive(Debug)]
struct Unfinished {
    temporary: Temporary,
    writer: Writer<BufWriter<File>>,
    seed: Option<Seed>,
    embedded: Embedded,
}

/// Embeds one layer, and gives the bytes that were written.
type Step = fn(&mut Unfinished, &Layer, Stored<'_>) -> io::Result<u64>;

impl ArtifactSink {
    /// Begins an artifact that will be at `target`, in a folder that exists; removes what dead runs left there. The
    /// agent's root filesystem goes in at once, so that one which can't be read shows before any layer is made.
    ///
    /// # Errors
    /// When the folder can't be written, or the agent's root filesystem can't be read.
    pub async fn create(target: &Path, options: ArtifactOptions) -> Result<Self> {
        if target.is_dir() || target.file_name().is_none() {
            return Err(Error::usage("creating the artifact", target.display(), "it must name a file"));
        }
        let (path, agent) = (target.to_owned(), options.agent.clone());
        let unfinished = off_the_runtime(move || Unfinished::begin(&path, &agent)).await?;
        Ok(Self { target: target.to_owned(), options, slot: Arc::new(Mutex::new(Some(unfinished))) })
    }

    /// Embeds a layer, unless it is in already. Waits while another one is being written.
    ///
    /// # Errors
    /// When the layer can't be read or written; the artifact is then beyond repair and its file is gone.
    pub async fn put(&self, layer: &Arc<Layer>) -> Result<Put> {
        let slot = Arc::clone(&self.slot).lock_owned().await;
        if slot.as_ref().is_some_and(|unfinished| unfinished.embedded.layers.contains_key(&layer.diff_id)) {
            return Ok(Put::Present);
        }
        self.work(slot, layer, Unfinished::embed_layer).await
    }

    /// Takes a layer whose entries lie below `/workspace` as (part of) what a new machine finds there. As a layer smolvm
    /// would hide it, for it mounts its own `/workspace` over the image's. The content is recoded and lies in an unlinked
    /// file beside the artifact until [`Self::commit`].
    ///
    /// # Errors
    /// As [`Self::put`]; also when the layer links to what is not below `/workspace`.
    pub async fn put_workspace(&self, layer: &Arc<Layer>) -> Result<Put> {
        let slot = Arc::clone(&self.slot).lock_owned().await;
        if slot.as_ref().is_some_and(|unfinished| unfinished.embedded.workspace_layers.contains(&layer.diff_id)) {
            return Ok(Put::Present);
        }
        self.work(slot, layer, Unfinished::embed_workspace).await
    }

    /// Runs one step of writing with all that it needs; only when it ends well is there something to go on with.
    async fn work(&self, mut slot: OwnedMutexGuard<Slot>, layer: &Arc<Layer>, embed: Step) -> Result<Put> {
        let (layer, stop, target) = (Arc::clone(layer), self.options.stop.clone(), self.target.clone());
        let runtime = Handle::current();
        off_the_runtime(move || {
            let mut unfinished = slot.take().ok_or_else(|| failed("writing the artifact", &target, EARLIER))?;
            let written = embed(&mut unfinished, &layer, Stored::new(&layer, &runtime, &stop));
            let bytes_sent = written.map_err(|error| io_failed("writing the artifact", &target, error))?;
            *slot = Some(unfinished);
            Ok(Put::Sent { bytes_sent })
        })
        .await
    }

    /// Ends the artifact: manifest, footer, sync, read back, and at the very end its name.
    ///
    /// # Errors
    /// When a layer of the image is missing, when the rest can't be written, or when what is read back is not what was
    /// written. Nothing is left then, and whatever had the name before still has it.
    pub async fn commit(self, image: &Image, machine: &MachineSettings) -> Result<Committed> {
        let done = Committed { name: self.target.display().to_string(), digest: image.manifest.0.digest };
        let (image, machine, read_back) = (image.clone(), machine.clone(), self.options.read_back);
        let unfinished = self.slot.lock_owned().await.take();
        let target = self.target;
        off_the_runtime(move || {
            let mut unfinished = unfinished.ok_or_else(|| failed("committing the artifact", &target, EARLIER))?;
            unfinished.end_workspace().map_err(|error| io_failed("embedding /workspace", &target, error))?;
            let manifest = unfinished.embedded.manifest(&image, &machine);
            let manifest = manifest.map_err(|reason| failed("committing the artifact", &target, reason))?;
            let written = unfinished.writer.finish(&manifest);
            let written = written.and_then(|out| out.into_inner().map_err(io::IntoInnerError::into_error));
            let file = written.map_err(|error| io_failed("writing the artifact", &target, error))?;
            file.sync_all().map_err(|error| io_failed("syncing the artifact", &target, error))?;
            let path = unfinished.temporary.path();
            read_again(path, &manifest, read_back).map_err(|reason| {
                Error::new(Kind::Corrupt, Side::Sink, "reading back the artifact", target.display(), reason)
            })?;
            unfinished.temporary.publish().map_err(|error| io_failed("naming the artifact", &target, error))
        })
        .await?;
        Ok(done)
    }

    /// Removes what was written so far.
    ///
    /// # Errors
    /// When the temporary file can't be removed; the next run that writes to the same folder will.
    pub async fn abort(self) -> Result<()> {
        let Some(unfinished) = self.slot.lock_owned().await.take() else { return Ok(()) };
        let target = self.target;
        off_the_runtime(move || {
            let removed = unfinished.temporary.discard();
            removed.map_err(|error| io_failed("removing the unfinished artifact", &target, error))
        })
        .await
    }
}

const EARLIER: &str = "an earlier layer was not written to its end";

impl Unfinished {
    fn begin(target: &Path, agent: &AgentRootfs) -> Result<Self> {
        let folder = temporary::folder_of(target);
        temporary::sweep(folder).map_err(|error| io_failed("looking through the folder", folder, error))?;
        let create = |error| io_failed("creating the artifact", target, error);
        let temporary = Temporary::beside(target).map_err(create)?;
        let file = temporary.handle().map_err(create)?;
        let mut writer = Writer::new(BufWriter::with_capacity(FILE_BUFFER_BYTES, file));
        let mut embed = || {
            writer.begin(AGENT_NAME, None)?;
            let agent_bytes = agent.write_frames(Frames { writer: &mut writer, bytes: 0 })?;
            writer.end(agent_bytes)?;
            Ok(agent_bytes)
        };
        let embedding = |error| io_failed("embedding smolvm's agent root filesystem", agent.path(), error);
        let agent_bytes = embed().map_err(embedding)?;
        Ok(Self { temporary, writer, seed: None, embedded: Embedded { agent_bytes, ..Embedded::default() } })
    }

    fn embed_layer(&mut self, layer: &Layer, stored: Stored<'_>) -> io::Result<u64> {
        self.writer.begin(&layer_name(layer.diff_id), Some(layer.tar_bytes))?;
        let mut frames = Frames { writer: &mut self.writer, bytes: 0 };
        let tar_bytes = match stored.compression()? {
            // As they are: they were made by this host, and its packer measured the tar.
            Compression::Zstd => stored.copy(&mut frames).map(|()| layer.tar_bytes)?,
            other => recode(stored, other, &mut frames)?,
        };
        let bytes = frames.bytes;
        self.writer.end(tar_bytes)?;
        self.embedded.layers.insert(layer.diff_id, layer.tar_bytes);
        Ok(bytes)
    }

    fn embed_workspace(&mut self, layer: &Layer, stored: Stored<'_>) -> io::Result<u64> {
        let seed = match &mut self.seed {
            Some(seed) => seed,
            none => none.insert(Seed::beside(self.temporary.path())?),
        };
        let bytes = seed.add(stored.decoded()?)?;
        self.embedded.workspace_layers.insert(layer.diff_id);
        Ok(bytes)
    }

    fn end_workspace(&mut self) -> io::Result<()> {
        let Some(seed) = self.seed.take() else { return Ok(()) };
        let (mut file, tar_bytes) = seed.finish()?;
        self.writer.begin(WORKSPACE_NAME, Some(tar_bytes))?;
        io::copy(&mut file, &mut Frames { writer: &mut self.writer, bytes: 0 })?;
        self.writer.end(tar_bytes)?;
        self.embedded.workspace_bytes = Some(tar_bytes);
        Ok(())
    }
}

/// The content of the file that a [`Writer`] has open, as a plain output.
struct Frames<'a, W> {
    writer: &'a mut Writer<W>,
    bytes: u64,
}

impl<W: Write + Seek> Write for Frames<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.frames(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What smolvm's own code reads in the finished file: all of it must be what was meant.
fn read_again(path: &Path, manifest: &PackManifest, how: ReadBack) -> Result<(), String> {
    let footer = smolvm_pack::read_footer_from_sidecar(path).map_err(|error| error.to_string())?;
    let read = smolvm_pack::read_manifest_from_sidecar(path).and_then(|read| read.to_json());
    if read.map_err(|error| error.to_string())? != manifest.to_json().map_err(|error| error.to_string())? {
        return Err("its manifest is not the one that was written".to_owned());
    }
    match how {
        ReadBack::Manifest => Ok(()),
        ReadBack::Everything => match smolvm_pack::verify_sidecar_checksum(path, &footer) {
            Ok(true) => Ok(()),
            Ok(false) => Err("its checksum is not that of its bytes".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// Runs what may block on a thread for such things; it runs to its end even when nobody waits for it any more.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        let reason = if error.is_panic() { "it panicked" } else { "it was cancelled" };
        Error::new(Kind::Internal, Side::Sink, "running a blocking task", "the artifact", reason).because(error)
    })?
}

fn failed(operation: &str, target: &Path, reason: impl fmt::Display) -> Error {
    Error::sink(operation, target.display(), reason)
}

/// An error of this crate that came through an input or output keeps its kind.
fn io_failed(operation: &str, target: &Path, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => failed(operation, target, &error).because(error),
    }
}
