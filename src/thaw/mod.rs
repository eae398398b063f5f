//! The way back: a snapshot becomes a machine.
//!
//! ```text
//! artifact ── checksum ─────────────────────────────────────────────────▶ smolvm machine create, start
//! image ── layer by layer: digest, diff_id ▸ artifact (temporary) ──────▶ the same, then the artifact goes
//! ```
//! [`ThawPlan::make`] finds out all that can be known beforehand, [`thaw`] carries it out. Whatever ends it early, neither
//! a machine nor a temporary artifact is left. A stop is looked for first wherever both could be: what it ends hangs up.

mod build;
mod machine;
mod resolve;
mod stacking;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::machine::NewMachine;
use crate::error::{Error, Result};
use crate::oci::Platform;
use crate::place::{Place, free_bytes};
use crate::plan::{DEFAULT_TAG, LayoutName, is_machine_name};
use crate::progress::{Meters, Observer};
use crate::sink::SinkContext;
use crate::sink::artifact::{AgentRootfs, Lookup};
use crate::sink::registry::RegistryOptions;
use crate::smolvm::Program;
use crate::stop::Stop;
use crate::stored::{Outline, Stored, StoredArtifact, StoredImage, StoredName, Wanted};
use crate::text;

pub use resolve::{Thing, resolve};

/// What the agent takes in an artifact at most, about; smolvm's own is 12 MiB.
const AGENT_BYTES: u64 = 64 << 20;
/// What the folders of temporary artifacts begin with.
const PLACE_PREFIX: &str = "thaw-";

/// What a user asks for.
#[derive(Debug, Clone)]
pub struct ThawOptions {
    /// What to make the machine of.
    pub from: Thing,
    /// The new machine's name.
    pub name: String,
    /// Whether to start it.
    pub start: bool,
    /// smolvm.
    pub smolvm: Program,
    /// The root filesystem of smolvm's guest agent, for an image; found where smolvm finds it by default.
    pub agent_rootfs: Option<PathBuf>,
    /// Where the artifact of an image is kept; by default it is temporary.
    pub keep_artifact: Option<PathBuf>,
    /// Where a temporary artifact goes, in a folder of its own: on a disk, not in memory.
    pub cache: PathBuf,
    /// What the machine is to be like.
    pub wishes: Wishes,
    /// The platform, where the image is for several; this host's by default.
    pub platform: Option<Platform>,
    /// An image whose layers unpack to more bytes of tar is refused; by default none is.
    pub tar_bytes_max: Option<u64>,
    /// How to reach a registry.
    pub registry: RegistryOptions,
}

/// What a machine is to be like, where it is not to be as the artifact says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Virtual CPUs; for an image 4 by default, as smolvm has it.
    pub cpus: Option<u8>,
    /// Memory in MiB; for an image 8192 by default, as smolvm has it.
    pub memory_mib: Option<u32>,
    /// Lets the guest reach the network, whatever the artifact says.
    pub network: bool,
}

impl Wishes {
    /// Memory as smolvm counts it, which is whole MiB; none for another size.
    #[must_use]
    pub fn mebibytes(bytes: u64) -> Option<u32> {
        u32::try_from(bytes >> 20).ok().filter(|count| *count > 0 && u64::from(*count) << 20 == bytes)
    }
}

/// Who watches a thaw, and who may end it.
#[derive(Clone)]
pub struct ThawContext {
    /// Told how many stored bytes there are, of those that were read, and of each layer that is in the artifact.
    pub observer: Arc<dyn Observer>,
    /// Ends it.
    pub stop: Stop,
}

impl fmt::Debug for ThawContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThawContext").field("stop", &self.stop).finish_non_exhaustive()
    }
}

/// All that is known before anything is written; [`thaw`] carries it out.
pub struct ThawPlan {
    from: Origin,
    name: StoredName,
    machine: NewMachine,
    start: bool,
    wishes: Wishes,
    context: ThawContext,
}

enum Origin {
    Artifact(StoredArtifact),
    Image(Box<Images>, Target),
}

/// An image, and what an artifact of it is made with.
struct Images {
    stored: StoredImage,
    outline: Outline,
    /// What smolvm shows as the machine's image.
    name: String,
    agent: AgentRootfs,
}

/// Where an artifact goes.
struct Target {
    place: Where,
    needed_bytes: u64,
    free_bytes: u64,
}

enum Where {
    /// This path, to stay.
    Kept(PathBuf),
    /// A folder of its own below this one.
    Below(PathBuf),
}

/// What a thaw made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Thawed {
    /// The new machine's name.
    pub machine: String,
    /// What it was made of.
    pub from: String,
    /// Whether it runs.
    pub running: bool,
    /// Its layers.
    pub layers: usize,
    /// The artifact that is there now.
    pub artifact: Option<PathBuf>,
}

impl ThawPlan {
    /// Checks names, asks smolvm for the new one, and opens what the machine is made of. Nothing is written.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for what can't be; when smolvm has the name already or does not answer;
    /// when there is nothing to thaw, or no room for the artifact.
    pub async fn make(options: ThawOptions, context: ThawContext) -> Result<Self> {
        if !is_machine_name(&options.name) {
            let reason = "smolvm takes letters, digits, '-', '_' and '.', and no dash in front";
            return Err(Error::usage("reading --name", format_args!("'{}'", options.name), reason));
        }
        let machine = NewMachine { smolvm: options.smolvm.clone(), name: options.name.clone() };
        let stop = context.stop.clone();
        let from = async {
            machine.check_free().await?;
            Origin::open(&options, &context).await
        };
        let from = tokio::select! {
            biased;
            () = stop.stopped() => return Err(Error::interrupted()),
            from = from => from?,
        };
        let ThawOptions { from: name, start, wishes, .. } = options;
        Ok(Self { from, name: name.name, machine, start, wishes, context })
    }

    /// Layers of the new machine.
    #[must_use]
    pub fn layers(&self) -> usize {
        match &self.from {
            Origin::Artifact(artifact) => artifact.layers(),
            Origin::Image(images, _) => images.outline.layers.len(),
        }
    }
}

impl Origin {
    async fn open(options: &ThawOptions, context: &ThawContext) -> Result<Self> {
        let sink = SinkContext {
            observer: Arc::clone(&context.observer),
            meters: Arc::new(Meters::default()),
            stop: context.stop.clone(),
        };
        let (platform, tar_bytes_max) = (options.platform.as_ref(), options.tar_bytes_max);
        let wanted = Wanted { name: &options.from.name, platform, tar_bytes_max };
        match Stored::open(wanted, options.registry.clone(), sink).await? {
            Stored::Artifact(artifact) => {
                if let Some(path) = &options.keep_artifact {
                    let reason = "there is an artifact already, and it stays";
                    return Err(Error::usage("reading --keep-artifact", path.display(), reason));
                }
                Ok(Self::Artifact(artifact))
            }
            Stored::Image(stored) => {
                let agent =
                    Lookup::from_environment(options.agent_rootfs.clone(), Some(&options.smolvm.executable)).find()?;
                let outline = stored.outline().await?;
                let (found, wanted) = (outline.manifest.0.digest, options.from.digest);
                if wanted.is_some_and(|wanted| wanted != found) {
                    let reason = format!("the record's snapshot is no longer there; it is {found} now");
                    return Err(Error::sink("finding the snapshot", &options.from.name, reason));
                }
                let target = Target::find(options, &outline)?;
                let name = image_name(&options.from.name);
                Ok(Self::Image(Box::new(Images { stored, outline, name, agent }), target))
            }
        }
    }
}

impl Target {
    /// Where the artifact goes, and whether it fits: stored layers go in about as they are, and lie there once, beside the
    /// artifact or in it, but for one at a time that is rewritten.
    fn find(options: &ThawOptions, outline: &Outline) -> Result<Self> {
        let sizes = outline.layers.iter().map(|layer| layer.descriptor.size);
        let largest = sizes.clone().max().unwrap_or(0);
        let needed_bytes = sizes.fold(AGENT_BYTES.saturating_add(largest), u64::saturating_add);
        let place = match &options.keep_artifact {
            Some(path) => Where::Kept(path.clone()),
            None => Where::Below(options.cache.clone()),
        };
        let folder = match &place {
            Where::Kept(path) => path.parent().unwrap_or(path),
            Where::Below(folder) => folder,
        };
        let free_bytes = free_bytes(folder)?;
        if free_bytes < needed_bytes {
            let reason = format!("the artifact needs about {needed_bytes} bytes there, and {free_bytes} are free");
            let subject = format!("'{}'", folder.display());
            let hint = "--keep-artifact PATH puts it on another disk";
            return Err(Error::sink("making room for the artifact", subject, reason).hint(hint));
        }
        Ok(Self { place, needed_bytes, free_bytes })
    }
}

/// Makes the machine.
///
/// # Errors
/// The first cause; what could not be cleaned up is attached to it. There is no machine then, and no temporary artifact.
pub async fn thaw(plan: ThawPlan) -> Result<Thawed> {
    let layers = plan.layers();
    let ThawPlan { from, name, machine, start, wishes, context } = plan;
    let artifact = match from {
        Origin::Artifact(artifact) => {
            tokio::select! {
                biased;
                () = context.stop.stopped() => return Err(Error::interrupted()),
                checked = artifact.verify_checksum(&context.observer) => checked?,
            }
            bring_up(&machine, artifact.path(), &wishes, start, &context.stop).await?;
            Some(artifact.path().to_owned())
        }
        Origin::Image(images, Target { place: Where::Kept(path), .. }) => {
            build::build(&images, &path, &wishes, &context).await?;
            bring_up(&machine, &path, &wishes, start, &context.stop).await?;
            Some(path)
        }
        Origin::Image(images, Target { place: Where::Below(folder), .. }) => {
            let place = Place::below(&folder, PLACE_PREFIX, fastrand::u64(..))?;
            let artifact = place.path().join("made.smolmachine");
            build::build(&images, &artifact, &wishes, &context).await?;
            bring_up(&machine, &artifact, &wishes, start, &context.stop).await?;
            None
        }
    };
    Ok(Thawed { machine: machine.name, from: name.to_string(), running: start, layers, artifact })
}

/// Deletes a machine, running or not, if smolvm has one of this name.
///
/// # Errors
/// When smolvm does not do it.
pub(crate) async fn delete(smolvm: &Program, name: &str) -> Result<()> {
    NewMachine { smolvm: smolvm.clone(), name: name.to_owned() }.gone().await
}

async fn bring_up(machine: &NewMachine, artifact: &Path, wishes: &Wishes, start: bool, stop: &Stop) -> Result<()> {
    machine.create(artifact, wishes, stop).await?;
    if start { machine.start(stop).await } else { Ok(()) }
}

/// An image's name as smolvm shows it: a reference, also where the image came from a folder.
fn image_name(name: &StoredName) -> String {
    let StoredName::Layout(LayoutName { folder, tag, .. }) = name else {
        let name = name.to_string();
        return name.split('@').next().unwrap_or_default().to_owned();
    };
    let last = folder.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let allowed = |char: char| if char.is_ascii_alphanumeric() || "-_.".contains(char) { char } else { '-' };
    let last: String = last.chars().map(allowed).collect();
    let tag = tag.as_deref().unwrap_or(DEFAULT_TAG);
    if tag.contains(['/', ':']) {
        return tag.to_owned();
    }
    format!("{}:{tag}", if last.trim_matches(['-', '_', '.']).is_empty() { "layout" } else { &last })
}

impl fmt::Display for ThawPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| humansize::format_size(bytes, humansize::BINARY);
        let (name, machine) = (self.name.to_string(), &self.machine.name);
        write!(f, "thawing      {} into machine '{machine}', {} layers", text::line(&name), self.layers())?;
        let Origin::Image(_, target) = &self.from else { return Ok(()) };
        let (path, stays) = match &target.place {
            Where::Kept(path) => (path, "which stays"),
            Where::Below(folder) => (folder, "until the machine is made"),
        };
        let (needed, free) = (size(target.needed_bytes), size(target.free_bytes));
        let path = path.display().to_string();
        write!(f, "\nartifact     needs about {needed} of {free} in {}, {stays}", text::line(&path))
    }
}
