//! `smolfreeze freeze`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use smolfreeze::error::{Error, Result};
use smolfreeze::image::ImageOptions;
use smolfreeze::oci::Compression;
use smolfreeze::plan::{FreezeOptions, OutputSpec, Plan, SourceSpec};
use smolfreeze::report::Snapshot;
use smolfreeze::stop::Stop;

use super::RegistryArguments;
use crate::bars::{self, ProgressMode};

/// Freeze a root filesystem into an OCI image.
///
/// The source is read once, in bounded memory, and goes to all outputs in the same pass.
#[derive(Args)]
pub struct Freeze {
    /// What to freeze: dir:PATH, tar:FILE or tar:- (plain, gzip or zstd).
    source: SourceSpec,
    /// Where the image goes: a reference (registry.example/name:tag) or oci:DIR[:TAG]. Repeatable.
    #[arg(long, value_name = "OUTPUT", required = true)]
    to: Vec<OutputSpec>,
    /// Leave out entries that match: a name anywhere (*.pyc), or a path from the root (/var/cache). Repeatable.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Take in the contents of what is mounted at this path of the source. Repeatable.
    #[arg(long, value_name = "PATH")]
    include_mount: Vec<PathBuf>,
    #[command(flatten)]
    layers: LayerArguments,
    #[command(flatten)]
    image: ImageArguments,
    #[command(flatten)]
    registry: RegistryArguments,
    /// Print the plan and its budget, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Write what happened to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// How to show progress.
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto, value_name = "HOW")]
    progress: ProgressMode,
    /// Print nothing but errors.
    #[arg(long, short)]
    quiet: bool,
    /// Neither use nor fill the map of layers that this host packed before.
    #[arg(long)]
    no_known: bool,
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
    /// Most resident memory.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = bytes)]
    memory: u64,
    /// Most scratch space in TMPDIR, for layers that memory can't hold; by default what the plan says.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    scratch: Option<u64>,
    /// How layers are stored.
    #[arg(long, value_enum, default_value_t = CompressionArgument::Zstd)]
    compression: CompressionArgument,
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
enum CompressionArgument {
    Zstd,
    Gzip,
    None,
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_size::Config::new().with_binary().parse_size(text).map_err(|error| error.to_string())
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it has to be NAME=VALUE".to_owned()),
    }
}

impl Freeze {
    /// Plans, freezes and tells.
    pub async fn run(self, stop: Stop) -> Result<ExitCode> {
        let (progress, report, dry_run, quiet) = (self.progress, self.report.clone(), self.dry_run, self.quiet);
        let plan = Plan::make(self.options(), &stop).await?;
        if dry_run {
            return super::print(&plan.to_string());
        }
        let (observer, shown) = bars::observer(progress, quiet);
        let frozen = smolfreeze::freeze::freeze(plan, Arc::clone(&observer), stop).await;
        shown.finish();
        let snapshot = frozen?;
        if let Some(path) = report {
            write_report(&path, &snapshot)?;
        }
        if quiet { Ok(ExitCode::SUCCESS) } else { super::print(&snapshot.summary()) }
    }

    fn options(self) -> FreezeOptions {
        let image = self.image;
        let env = image.env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        FreezeOptions {
            exclude: self.exclude,
            include_mounts: self.include_mount,
            layer_bytes: self.layers.layer_size,
            uploads: usize::from(self.layers.uploads),
            memory_bytes: self.layers.memory,
            scratch_bytes: self.layers.scratch,
            compression: match self.layers.compression {
                CompressionArgument::Zstd => Compression::Zstd,
                CompressionArgument::Gzip => Compression::Gzip,
                CompressionArgument::None => Compression::None,
            },
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
            known: if self.no_known { None } else { known_path() },
            ..FreezeOptions::new(self.source, self.to)
        }
    }
}

/// `known-layers` in the XDG cache folder.
fn known_path() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("smolfreeze/known-layers"))
}

fn write_report(path: &std::path::Path, snapshot: &Snapshot) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::sink("writing the report", format_args!("'{}'", path.display()), &error)
            .because(error)
            .hint("the freeze itself is complete")
    };
    let mut text = serde_json::to_vec_pretty(snapshot).map_err(|error| failed(error.into()))?;
    text.push(b'\n');
    std::fs::write(path, text).map_err(failed)
}
