//! A `.smolmachine` sidecar as a sink: what `smolvm machine create --from` takes.
//!
//! One pass over one file. A zstd layer's stored bytes go in as they are; gzip and plain layers are recoded. Layers come
//! in any order, and one at a time is written: the file is one stream. The file has a temporary name until the whole of
//! it was written, synced and read back with smolvm's own code, so the final name only ever shows a whole artifact.

mod agent;
mod incoming;
mod kept;
mod last;
mod live;
mod made;
mod manifest;
mod recode;
mod seed;
mod side;
mod temporary;
mod writer;
mod writing;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Mutex;

pub use agent::{AgentRootfs, Lookup};
pub(crate) use last::LastArtifact;
pub(crate) use made::{Made, Split};
pub(crate) use manifest::Contents;
pub(crate) use seed::Seed;
pub(crate) use side::SideFile;
pub use temporary::unfinished;
pub(super) use writing::{checksum, failed, io_failed};

use crate::error::{Error, Kind, Result, Side};
use crate::oci::DiffId;
use crate::pipeline::gather::Layer;
use crate::stop::Stop;

use super::{Committed, Image, Put};
use incoming::Incoming;
use temporary::Temporary;
use writing::Unfinished;

/// How long an abort waits for a write under way: a sync can't be called off.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// How an artifact is written.
#[derive(Debug, Clone)]
pub struct ArtifactOptions {
    /// The root filesystem of smolvm's guest agent, see [`Lookup`].
    pub agent: AgentRootfs,
    /// How much of the finished file is read again before it gets its name. Default: everything.
    pub read_back: ReadBack,
    /// Thrown, it ends a write between two steps of 1 MiB.
    pub stop: Stop,
    /// What tells the unfinished files of this run from those of others, see [`unfinished`]. Default: any number.
    pub run: u64,
}

impl ArtifactOptions {
    /// The defaults, with this agent.
    #[must_use]
    pub fn new(agent: AgentRootfs) -> Self {
        Self { agent, read_back: ReadBack::default(), stop: Stop::new(), run: fastrand::u64(..) }
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
    temporary: PathBuf,
    options: ArtifactOptions,
    state: Arc<Mutex<State>>,
    /// What is in it, once it is complete.
    contents: Arc<OnceLock<Contents>>,
}

/// How far it is.
#[derive(Debug)]
enum State {
    Writing(Box<Unfinished>),
    /// All but its name.
    Complete(Temporary),
    /// It has its name, or it was taken back.
    Over,
    /// A write failed: half a layer is in the file, and nothing can follow it.
    Broken,
}

impl State {
    /// What is being written, taken out: only when a step ends well is there something to go on with.
    fn writing(&mut self) -> Option<Unfinished> {
        match std::mem::replace(self, Self::Broken) {
            Self::Writing(unfinished) => Some(*unfinished),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl ArtifactSink {
    /// Begins an artifact that will be at `target`, in a folder that exists; removes what dead runs left there. The
    /// agent's root filesystem goes in at once, so that one which can't be read shows before any layer is made.
    ///
    /// # Errors
    /// When the folder can't be written, or the agent's root filesystem can't be read; a hang-up when stopped.
    pub async fn create(target: &Path, options: ArtifactOptions) -> Result<Self> {
        if target.is_dir() || target.file_name().is_none() {
            return Err(Error::usage("creating the artifact", target.display(), "it must name a file"));
        }
        let (path, begun) = (target.to_owned(), options.clone());
        let unfinished = off_the_runtime(move || Unfinished::begin(&path, begun)).await?;
        let temporary = unfinished.path().to_owned();
        let state = Arc::new(Mutex::new(State::Writing(Box::new(unfinished))));
        Ok(Self { target: target.to_owned(), temporary, options, state, contents: Arc::default() })
    }

    /// Where the artifact will be.
    #[must_use]
    pub fn name(&self) -> String {
        self.target.display().to_string()
    }

    /// Embeds a layer, unless it is in already. Waits while another one is being written.
    ///
    /// # Errors
    /// When the layer can't be read or written; the artifact is then beyond repair and its file is gone.
    pub async fn put(&self, layer: &Arc<Layer>) -> Result<Put> {
        let (layer, runtime, stop) = (Arc::clone(layer), Handle::current(), self.options.stop.clone());
        self.work(layer.diff_id, move |unfinished| unfinished.embed_gathered(&layer, &runtime, &stop)).await
    }

    /// Takes a layer whose entries lie below `/workspace` as (part of) what a new machine finds there. As a layer smolvm
    /// would hide it, for it mounts its own `/workspace` over the image's. The content is recoded and lies in an unlinked
    /// file beside the artifact until [`Self::prepare`].
    ///
    /// # Errors
    /// As [`Self::put`]; also when the layer links to what is not below `/workspace`.
    pub async fn put_workspace(&self, layer: &Arc<Layer>) -> Result<Put> {
        let (layer, runtime, stop) = (Arc::clone(layer), Handle::current(), self.options.stop.clone());
        self.work(layer.diff_id, move |unfinished| {
            unfinished.embed_workspace(Incoming::gathered(&layer, &runtime, &stop))
        })
        .await
    }

    /// Takes what a new machine finds in `/workspace`.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn put_seed(&self, seed: Seed) -> Result<()> {
        self.step(|unfinished| {
            unfinished.take_seed(seed);
            Ok(())
        })
        .await
    }

    /// Runs one step of writing, unless the layer is in already; gives the bytes that were written.
    async fn work(
        &self,
        diff_id: DiffId,
        embed: impl FnOnce(&mut Unfinished) -> io::Result<u64> + Send + 'static,
    ) -> Result<Put> {
        self.step(move |unfinished| {
            if unfinished.embedded.has(diff_id) {
                return Ok(Put::Present);
            }
            Ok(Put::Sent { bytes_sent: embed(unfinished)? })
        })
        .await
    }

    /// Runs one step of writing. One that fails is the last.
    async fn step<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Unfinished) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        let target = self.target.clone();
        off_the_runtime(move || {
            let mut unfinished = state.writing().ok_or_else(|| failed("writing the artifact", &target, EARLIER))?;
            let written = write(&mut unfinished).map_err(|error| io_failed("writing the artifact", &target, error))?;
            *state = State::Writing(Box::new(unfinished));
            Ok(written)
        })
        .await
    }

    /// Ends the artifact, but for its name: manifest, footer, sync, read back. Whatever can go wrong goes wrong here.
    ///
    /// # Errors
    /// When a layer of the image is missing, when the rest can't be written, or when what is read back is not what was
    /// written. Nothing is left then, and whatever has the name still has it.
    pub async fn prepare(&self, image: &Image, machine: &MachineSettings) -> Result<()> {
        let (image, machine, target) = (image.clone(), machine.clone(), self.target.clone());
        let contents = Arc::clone(&self.contents);
        let mut state = Arc::clone(&self.state).lock_owned().await;
        off_the_runtime(move || {
            let unfinished = state.writing().ok_or_else(|| failed("completing the artifact", &target, EARLIER))?;
            let (temporary, is_in_it) = unfinished.complete(&target, &image, &machine)?;
            let _ = contents.set(is_in_it);
            *state = State::Complete(temporary);
            Ok(())
        })
        .await
    }

    /// Gives a prepared artifact its name, in place of what had it. No caller can be interrupted in it: a rename.
    ///
    /// # Errors
    /// When the folder does not let it; nothing is left then.
    pub fn publish(&self, image: &Image) -> Result<Committed> {
        let naming = "naming the artifact";
        let state = self.state.try_lock().map(|mut state| std::mem::replace(&mut *state, State::Over));
        let Ok(State::Complete(temporary)) = state else { return Err(failed(naming, &self.target, EARLIER)) };
        let named = temporary.publish().and_then(|()| fs::metadata(&self.target));
        let file = named.map_err(|error| io_failed(naming, &self.target, error))?;
        Ok(Committed {
            name: self.name(),
            digest: image.manifest.0.digest,
            artifact_bytes: Some(file.len()),
            launcher: None,
        })
    }

    /// [`Self::prepare`] and [`Self::publish`] in one, where nothing else depends on it.
    ///
    /// # Errors
    /// Those of either.
    pub async fn commit(&self, image: &Image, machine: &MachineSettings) -> Result<Committed> {
        self.prepare(image, machine).await?;
        self.publish(image)
    }

    /// Removes what was written so far, unless it has its name.
    ///
    /// # Errors
    /// When the temporary file can't be removed; the next run that writes to the same folder will.
    pub async fn abort(&self) -> Result<()> {
        let removed = match tokio::time::timeout(ABORT_TIMEOUT, self.state.lock()).await {
            Ok(mut state) => match std::mem::replace(&mut *state, State::Over) {
                State::Writing(unfinished) => unfinished.discard(),
                State::Complete(temporary) => temporary.discard(),
                State::Over | State::Broken => Ok(()),
            },
            // Whoever is at work on it only ever gives it a name in `publish`.
            Err(_) => fs::remove_file(&self.temporary),
        };
        let removed =
            removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) });
        removed.map_err(|error| io_failed("removing the unfinished artifact", &self.target, error))
    }
}

const EARLIER: &str = "an earlier layer was not written to its end";

/// Runs what may block on a thread for such things; it runs to its end even when nobody waits for it any more.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        let reason = if error.is_panic() { "it panicked" } else { "it was cancelled" };
        Error::new(Kind::Internal, Side::Sink, "running a blocking task", "the artifact", reason).because(error)
    })?
}
