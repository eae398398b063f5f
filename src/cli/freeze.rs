//! `smolfreeze freeze`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use smolfreeze::error::{Error, Result};
use smolfreeze::image::ImageOptions;
use smolfreeze::night::Wish;
use smolfreeze::oci::Compression;
use smolfreeze::pipeline::budget::default_memory_bytes;
use smolfreeze::plan::{FreezeOptions, OutputSpec, PackWith, Plan, SourceSpec, cores};
use smolfreeze::progress::Observer;
use smolfreeze::report::Snapshot;
use smolfreeze::stop::Stop;

use super::given::Given;
use super::machine::MachineArguments;
use super::report::{Failed, ReportFile};
use super::trace::Trace;
use super::{RegistryArguments, bytes};
use crate::bars::{self, ProgressMode, Shown};

/// Freeze a root filesystem into an OCI image.
///
/// The source is read once, in bounded memory, and goes to all outputs in the same pass.
#[derive(Args)]
pub struct Freeze {
    /// What to freeze: the NAME of a running smolvm machine, dir:PATH, tar:FILE or tar:- (plain, gzip or zstd).
    source: SourceSpec,
    /// Where the image goes: a reference (registry.example/name:tag) or oci:DIR[:TAG]. `{name}` stands for the
    /// machine's NAME. Repeatable. With neither --to nor --pack, an artifact goes into the state folder, and its path is
    /// the last line printed; with --quiet the only one.
    #[arg(long, value_name = "OUTPUT")]
    to: Vec<String>,
    #[command(flatten)]
    pack: PackArguments,
    /// Leave out entries that match: a name anywhere (*.pyc), or a path from the root (/var/cache). Repeatable.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Take in the contents of what is mounted at this path of the source. Repeatable.
    #[arg(long, value_name = "PATH")]
    include_mount: Vec<PathBuf>,
    #[command(flatten)]
    machine: MachineArguments,
    #[command(flatten)]
    layers: LayerArguments,
    #[command(flatten)]
    image: ImageArguments,
    #[command(flatten)]
    registry: RegistryArguments,
    /// Print the plan and its budget, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Write what happened to this file, as JSON; of a freeze that failed, its error.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    report: Option<PathBuf>,
    /// Write to this file what every stage did and waited for at each moment, as a trace for ui.perfetto.dev.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    profile: Option<PathBuf>,
    /// How to show progress.
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto, value_name = "HOW")]
    progress: ProgressMode,
    /// Print nothing but errors.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    memory: MemoryArguments,
}

/// What this host remembers of its freezes.
#[derive(Args)]
struct MemoryArguments {
    /// Neither use nor fill the map of layers that this host packed before.
    #[arg(long)]
    no_known: bool,
    /// Don't remember this freeze for `ls` and `prune`.
    #[arg(long)]
    no_record: bool,
    /// Of what is unchanged since the last freeze, read so much all the same, and compare: `all`, or a part as in 5%.
    #[arg(long, value_name = "PART", value_parser = percent, default_value = "1%")]
    reread: u8,
    /// Keep no layer of the last image, so that nothing of what was deleted or changed since is in this one.
    #[arg(long)]
    squash: bool,
    /// Remember it as one of this series, for `ls`, `prune` and `thaw`; by default those of one source are a series, and
    /// one of standard input stands alone.
    #[arg(long, value_name = "NAME", conflicts_with = "no_record")]
    name: Option<String>,
}

#[derive(Args)]
struct PackArguments {
    /// Write an artifact that `smolvm machine create --from` takes: PATH.smolmachine, or PATH if it ends so already.
    /// (Of smolvm's own `-o PATH` that is the sidecar; there is no launcher, unless --pack-with smolvm.) `{name}` stands for the machine's NAME.
    #[arg(long, value_name = "PATH")]
    pack: Option<String>,
    /// Who packs artifacts: this program (own), or `smolvm pack create` (smolvm), which pulls the image over loopback and
    /// writes the launcher PATH and the sidecar PATH.smolmachine. By default smolvm only where its guest agent's root
    /// filesystem is not found. A machine that smolvm packed does not show what the image has in /workspace.
    #[arg(long, value_enum, default_value_t = PackWithArgument::Auto, value_name = "WHO")]
    pack_with: PackWithArgument,
    /// The root filesystem of smolvm's guest agent, which an artifact carries: a folder, or a .tar, .tar.zst or .tar.gz
    /// of it. By default SMOLVM_AGENT_ROOTFS, smolvm's data folder, or what lies beside its executable.
    #[arg(long, value_name = "PATH")]
    agent_rootfs: Option<PathBuf>,
}

#[derive(Args)]
#[command(next_help_heading = "Layers and limits")]
struct LayerArguments {
    /// Bytes of tar in a layer, about (32MiB); 0 for one layer. By default 32 MiB, doubled with the source's size so
    /// that there are at most about 100 layers.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    layer_size: Option<u64>,
    /// Blobs sent at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    uploads: u16,
    /// Most resident memory; by default 256MiB for two cores, and 64MiB more for each further one, up to 16.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    memory: Option<u64>,
    /// Most scratch space in TMPDIR, for layers that memory can't hold or that wait for a slow registry; by default what
    /// the plan says.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    scratch: Option<u64>,
    /// Most bytes a second that registries are sent, all uploads together (20MiB); layouts and artifacts have no bound.
    #[arg(long, value_name = "RATE", value_parser = bytes)]
    bandwidth: Option<u64>,
    /// How layers are stored; zstd by default, and none where smolvm packs and there is no other output.
    #[arg(long, value_enum)]
    compression: Option<CompressionArgument>,
    /// The compressor's level: 1 to 19 for zstd, 1 to 12 for gzip; 1 by default.
    #[arg(long)]
    level: Option<i32>,
    /// Refuse a source of more than this many bytes of tar.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_size: Option<u64>,
}

#[derive(Args)]
#[command(next_help_heading = "The image")]
struct ImageArguments {
    /// The user that commands run as.
    #[arg(long)]
    user: Option<String>,
    /// The working directory of commands.
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// An environment variable. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    env: Vec<(String, String)>,
    /// The entrypoint; repeat it for each of its words.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// The command; repeat it for each of its words.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// A label. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    label: Vec<(String, String)>,
    /// The architecture, in Go's words (amd64, arm64); this host's by default.
    #[arg(long)]
    architecture: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum CompressionArgument {
    Zstd,
    Gzip,
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum PackWithArgument {
    Auto,
    Own,
    Smolvm,
}

impl From<PackWithArgument> for PackWith {
    fn from(argument: PackWithArgument) -> Self {
        match argument {
            PackWithArgument::Auto => Self::Auto,
            PackWithArgument::Own => Self::Own,
            PackWithArgument::Smolvm => Self::Smolvm,
        }
    }
}

impl From<CompressionArgument> for Compression {
    fn from(argument: CompressionArgument) -> Self {
        match argument {
            CompressionArgument::Zstd => Self::Zstd,
            CompressionArgument::Gzip => Self::Gzip,
            CompressionArgument::None => Self::None,
        }
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it has to be NAME=VALUE".to_owned()),
    }
}

impl Freeze {
    /// Plans, freezes and tells.
    pub async fn run(mut self, given: &Given, stop: Stop) -> Result<ExitCode> {
        let (dry_run, quiet) = (self.dry_run, self.quiet);
        let is_path_wanted = self.to.is_empty() && self.pack.pack.is_none();
        let (report, profile, progress) = (self.report.take(), self.profile.take(), self.progress);
        let mut options = self.options()?;
        given.check_freeze(&options.source, &options.outputs)?;
        if dry_run {
            // The user's commands are for a freeze.
            (options.machine.pre_exec, options.machine.post_exec) = (None, None);
            let plan = make_plan(options, quiet, &stop).await?;
            let (text, code) = (plan.to_string(), plan.exit_code());
            plan.abandon().await;
            return super::print(&text).map(|_| code.into());
        }
        options.own_files = report.iter().chain(&profile).cloned().collect();
        let source = options.source.to_string();
        // Before anything is read, and what can't be written to costs no freeze.
        let report = report.as_deref().map(ReportFile::open).transpose()?;
        let profile = profile.map(|path| Ok((Trace::open(&path)?, path))).transpose()?;
        let frozen = Box::pin(async {
            let plan = make_plan(options, quiet, &stop).await?;
            let is_packed_by_smolvm = plan.is_packed_by_smolvm();
            let snapshot = carry_out(plan, profile, bars::observer(progress, quiet), stop.clone()).await?;
            Ok((snapshot, is_packed_by_smolvm))
        });
        let (snapshot, is_packed_by_smolvm) = match (frozen.await, report) {
            (Ok(frozen), report) => {
                let written = report.map_or(Ok(()), |report| report.write(&frozen.0));
                written.map_err(|error| frozen.0.told(error))?;
                frozen
            }
            (Err(error), None) => return Err(error),
            (Err(error), Some(report)) => {
                return Err(match report.write(&Failed::new(&source, &error)) {
                    Ok(()) => error,
                    Err(unwritten) => error.attach(unwritten),
                });
            }
        };
        if !quiet {
            super::print(&snapshot.summary()).map_err(|error| snapshot.told(error))?;
            if is_packed_by_smolvm && snapshot.workspace_entries > 0 {
                super::remark(&hidden(snapshot.workspace_entries));
            }
        }
        if let Some(alarm) = snapshot.alarm_in_words().filter(|_| quiet) {
            super::remark(&alarm);
        }
        for what in &snapshot.undone {
            super::remark(&format!("the image is complete, but {what}"));
        }
        match snapshot.outputs.first().filter(|_| is_path_wanted) {
            Some(artifact) => super::print(&artifact.name).map(|_| snapshot.exit_code().into()),
            None => Ok(snapshot.exit_code().into()),
        }
    }

    fn options(self) -> Result<FreezeOptions> {
        let (source, outputs) = (self.machine.full_name(&self.source), self.outputs()?);
        let image = self.image;
        let env = image.env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(FreezeOptions {
            agent_rootfs: self.pack.agent_rootfs,
            pack_with: self.pack.pack_with.into(),
            exclude: self.exclude,
            include_mounts: self.include_mount,
            layer_bytes: self.layers.layer_size,
            uploads: usize::from(self.layers.uploads),
            memory_bytes: self.layers.memory.unwrap_or_else(|| default_memory_bytes(cores())),
            scratch_bytes: self.layers.scratch,
            bandwidth_bytes: self.layers.bandwidth,
            compression: self.layers.compression.map(Compression::from),
            level: self.layers.level,
            tar_bytes_max: self.layers.max_size,
            image: ImageOptions {
                user: image.user,
                workdir: image.workdir,
                env,
                entrypoint: image.entrypoint,
                cmd: image.cmd,
                labels: image.label.into_iter().collect::<BTreeMap<_, _>>(),
                architecture: image.architecture.unwrap_or_default(),
                ..ImageOptions::default()
            },
            ca_cert: self.registry.ca_cert,
            plain_http: self.registry.plain_http,
            patience: self.registry.patience,
            known: self.memory.known(),
            records: self.memory.records(),
            night: self.memory.night(),
            name: self.memory.name,
            machine: self.machine.options(),
            ..FreezeOptions::new(source, outputs)
        })
    }

    /// The outputs, with `{name}` filled in.
    fn outputs(&self) -> Result<Vec<OutputSpec>> {
        let fill_in = |option: &str, output: &String| match &self.source {
            SourceSpec::Machine(name) => Ok(output.replace("{name}", name)),
            _ if output.contains("{name}") => {
                let reason = "only a machine has a {name}";
                Err(Error::usage(format!("reading {option}"), format_args!("'{output}'"), reason))
            }
            _ => Ok(output.clone()),
        };
        let images = self.to.iter().map(|output| fill_in("--to", output)?.parse());
        let artifact = match self.pack.pack_with {
            PackWithArgument::Smolvm => OutputSpec::packed,
            PackWithArgument::Auto | PackWithArgument::Own => OutputSpec::artifact,
        };
        let packed = self.pack.pack.iter().map(|path| artifact(fill_in("--pack", path)?.as_ref()));
        images.chain(packed).collect()
    }
}

fn percent(text: &str) -> Result<u8, String> {
    let number = if text == "all" { "100" } else { text.trim_end_matches('%') };
    number.parse().ok().filter(|percent| *percent <= 100).ok_or_else(|| "it is `all`, or 0% to 100%".to_owned())
}

impl MemoryArguments {
    fn night(&self) -> Option<Wish> {
        let wish = Wish { reread_percent: self.reread, squash: self.squash };
        (!self.no_known && !self.no_record).then_some(wish)
    }

    fn known(&self) -> Option<PathBuf> {
        let cache = super::xdg_folder("XDG_CACHE_HOME", ".cache").filter(|_| !self.no_known)?;
        Some(cache.join("known-layers"))
    }

    fn records(&self) -> Option<PathBuf> {
        super::state_folder().filter(|_| !self.no_record)
    }
}

/// smolvm mounts its own `/workspace` over an image's, and has no seed for it in what it packs.
fn hidden(entries: u64) -> String {
    format!(
        "a machine of what smolvm packed does not show the {entries} entries below /workspace, for smolvm mounts its own \
         over them; --pack-with own takes them along"
    )
}

async fn make_plan(options: FreezeOptions, quiet: bool, stop: &Stop) -> Result<Plan> {
    let plan = Plan::make(options, stop).await?;
    if let Some(remark) = plan.remark().filter(|_| !quiet) {
        super::remark(remark);
    }
    Ok(plan)
}

/// Freezes, and writes the profile on every way out.
async fn carry_out(
    plan: Plan,
    profile: Option<(File, PathBuf)>,
    (observer, shown): (Arc<dyn Observer>, Shown),
    stop: Stop,
) -> Result<Snapshot> {
    let trace = profile.map(|(file, path)| Trace::begin(&path, file, Arc::clone(&observer))).transpose()?;
    let observer = trace.as_ref().map_or(observer, Trace::observer);
    let frozen = smolfreeze::freeze::freeze(plan, observer, stop).await;
    shown.finish();
    match (frozen, trace.map_or(Ok(()), Trace::finish)) {
        (Ok(snapshot), Ok(())) => Ok(snapshot),
        (Ok(snapshot), Err(error)) => Err(snapshot.told(error)),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(untraced)) => Err(error.attach(untraced)),
    }
}
