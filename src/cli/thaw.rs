//! `smolfreeze thaw`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::{Error, Result};
use smolfreeze::plan::OutputSpec;
use smolfreeze::stop::Stop;
use smolfreeze::stored::StoredName;
use smolfreeze::text;
use smolfreeze::thaw::{ThawContext, ThawOptions, ThawPlan, Wishes, resolve};

use super::given::Given;
use super::{PlatformArgument, RegistryArguments};
use crate::bars::{self, ProgressMode};

/// Make a smolvm machine of a snapshot.
///
/// An artifact goes to smolvm as it is; of an image an artifact is made first. Whatever ends this early, neither a
/// machine nor a temporary artifact is left: a machine that does not start is deleted again.
#[derive(Args)]
pub struct Thaw {
    /// What to thaw: an artifact (a path that ends in .smolmachine, or pack:PATH), oci:DIR[:TAG], the NAME of a machine
    /// that was frozen or the ID of a freeze (`smolfreeze ls`), or a reference.
    from: String,
    /// The new machine's name.
    #[arg(long, value_name = "NEW")]
    name: String,
    /// Create the machine, and do not start it.
    #[arg(long)]
    no_start: bool,
    /// The smolvm executable.
    #[arg(long, value_name = "PATH", env = "SMOLFREEZE_SMOLVM", default_value = "smolvm")]
    smolvm: PathBuf,
    /// The root filesystem of smolvm's guest agent, a folder or a tar; found where smolvm finds it by default.
    #[arg(long, value_name = "PATH")]
    agent_rootfs: Option<PathBuf>,
    /// Keep the artifact that is made of an image, as PATH.smolmachine; a PATH that ends so is taken as it is.
    #[arg(long, value_name = "PATH")]
    keep_artifact: Option<PathBuf>,
    /// Refuse an image whose layers unpack to more than this (100GiB).
    #[arg(long, value_name = "SIZE", value_parser = super::bytes)]
    max_size: Option<u64>,
    #[command(flatten)]
    machine: MachineArguments,
    #[command(flatten)]
    platform: PlatformArgument,
    #[command(flatten)]
    registry: RegistryArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// How to show progress.
    #[arg(long, value_enum, default_value = "auto")]
    progress: ProgressMode,
    /// Print nothing but errors.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Args)]
#[command(next_help_heading = "The machine")]
struct MachineArguments {
    /// Virtual CPUs; by default what the artifact says, or 4 for an image.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    cpus: Option<u8>,
    /// Memory (2GiB); by default what the artifact says, or 8 GiB for an image.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    memory: Option<u32>,
    /// Let the machine reach the network, whatever the artifact says.
    #[arg(long)]
    net: bool,
}

fn mebibytes(text: &str) -> Result<u32, String> {
    Wishes::mebibytes(super::bytes(text)?).ok_or_else(|| "it has to be whole MiB, at least one".to_owned())
}

impl Thaw {
    /// Plans, thaws and tells.
    pub async fn run(self, given: &Given, stop: Stop) -> Result<ExitCode> {
        let (json, quiet, progress, from) = (self.json, self.quiet, self.progress, self.from.clone());
        let options = self.options()?;
        given.check_read(&from, matches!(options.from.name, StoredName::Registry(_)))?;
        let (observer, shown) = bars::observer(progress, quiet);
        let plan = ThawPlan::make(options, ThawContext { observer, stop }).await?;
        if !quiet {
            let _ = writeln!(std::io::stderr(), "{plan}");
        }
        let thawed = smolfreeze::thaw::thaw(plan).await;
        shown.finish();
        let thawed = thawed?;
        if json {
            return super::print(&serde_json::to_string_pretty(&thawed).unwrap_or_default());
        }
        let state = if thawed.running { "it runs" } else { "it was not started" };
        let line = format!("thawed       {} from {}, {} layers; {state}", thawed.machine, thawed.from, thawed.layers);
        if quiet { Ok(ExitCode::SUCCESS) } else { super::print(&text::line(&line)) }
    }

    fn options(self) -> Result<ThawOptions> {
        let missing = || Error::usage("finding the cache folder", "XDG_CACHE_HOME", "neither it nor HOME is a path");
        let keep_artifact = match self.keep_artifact.as_deref().map(OutputSpec::artifact).transpose()? {
            Some(OutputSpec::Artifact(path)) => Some(path),
            _ => None,
        };
        Ok(ThawOptions {
            from: resolve(&self.from, super::state_folder().as_deref())?,
            name: self.name,
            start: !self.no_start,
            smolvm: self.smolvm.into(),
            agent_rootfs: self.agent_rootfs,
            keep_artifact,
            cache: super::xdg_folder("XDG_CACHE_HOME", ".cache").ok_or_else(missing)?.join("thaw"),
            wishes: Wishes { cpus: self.machine.cpus, memory_mib: self.machine.memory, network: self.machine.net },
            platform: self.platform.platform,
            tar_bytes_max: self.max_size,
            registry: self.registry.options(),
        })
    }
}
