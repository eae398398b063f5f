//! All choices of a freeze, made before it starts, and printable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::exclude::Exclude;
use crate::image::ImageOptions;
use crate::night::{Night, NightReport};
use crate::oci::{Compression, Platform};
use crate::pipeline::budget::{Budget, Wish};
use crate::pipeline::run::StreamFn;
use crate::sink::artifact::{AgentRootfs, MachineSettings};
use crate::sink::registry;
use crate::source::Survey;
pub(crate) use crate::source::machine::Transfer;
use crate::stage::compress::Method;
use crate::stage::cut::{CutOptions, LayerSize};
use crate::state::{Id, State};
use crate::stop::Stop;
use crate::text;

mod layout_name;
mod machine;
mod open;
mod options;
mod packing;
mod spec;

pub use layout_name::LayoutName;
use machine::open_machine;
use open::open;
pub use options::{FreezeOptions, Reach};
pub use packing::PackWith;
use packing::Packing;
pub(crate) use spec::{DEFAULT_TAG, is_machine_name};
pub use spec::{OutputSpec, SourceSpec};

/// Sent slower than this many bytes a second, several uploads look like dead ones to a registry.
pub const BANDWIDTH_BYTES_MIN: u64 = 64 << 10;

/// A freeze, decided and ready to run. It prints as what will happen.
pub struct Plan {
    pub(crate) id: Id,
    pub(crate) started: Timestamp,
    pub(crate) options: FreezeOptions,
    /// What is frozen, told apart from all others, where that can be said.
    pub(crate) canonical: Option<String>,
    pub(crate) method: Method,
    pub(crate) layer_size: LayerSize,
    pub(crate) cut: CutOptions,
    pub(crate) survey: Survey,
    /// Names the unfinished files of this freeze.
    pub(crate) run: u64,
    /// What goes into artifacts, if there are any among the outputs.
    pub(crate) agent: Option<AgentRootfs>,
    remark: Option<String>,
    pub(crate) settings: MachineSettings,
    pub(crate) budget: Budget,
    pub(crate) scratch_folder: PathBuf,
    pub(crate) stream: StreamFn,
    pub(crate) leave_timeout: Duration,
    pub(crate) night: Option<Arc<Night>>,
    /// Who is going to read a machine, and why others can't.
    reader: Option<String>,
    /// What is under way in a machine until it is streamed.
    pub(crate) transfer: Option<Arc<Transfer>>,
    /// Why everything is read, where nobody can tell what has changed.
    pub(crate) in_full: Option<String>,
}

impl Plan {
    /// Makes all choices: opens and surveys the source, divides the memory. Writes nothing anywhere.
    ///
    /// # Errors
    /// When a choice can't be carried out, or the source can't be read.
    pub async fn make(options: FreezeOptions, stop: &Stop) -> Result<Self> {
        // What hung up because of a stop is not the cause.
        let mut met = Met::default();
        let made = Self::decide(options, stop, &mut met).await;
        if let (Err(_), Some(transfer)) = (&made, met.transfer) {
            transfer.release().await;
        }
        let told = |error| met.night.iter().fold(error, |error, night| night.told(error));
        made.map_err(|error| told(stop.take_cause().unwrap_or(error)))
    }

    /// Leaves a machine that was listed as it was, where the plan is not carried out. A plan that is dropped does so, too,
    /// but nobody hears when.
    pub async fn abandon(self) {
        if let Some(transfer) = self.transfer {
            transfer.release().await;
        }
    }

    async fn decide(mut options: FreezeOptions, stop: &Stop, met: &mut Met) -> Result<Self> {
        let started = Timestamp::now();
        let exclude = Exclude::new(&options.exclude)?;
        check_bandwidth(options.bandwidth_bytes)?;
        options.ca_cert.as_deref().map_or(Ok(()), registry::check_authorities)?;
        let id = name(&mut options, started)?;
        options.outputs.sort_by_key(OutputSpec::is_artifact);
        let run = fastrand::u64(..);
        // Beside the source's opening, so that outputs need not wait for it later.
        let outputs = options.outputs.clone();
        let names = tokio::task::spawn_blocking(move || outputs.iter().try_for_each(OutputSpec::check_name));
        let Packing { agent, smolvm_version, remark } = packing::decide(&mut options).await?;
        let method = Method::new(packing::compression(&options), options.level)?;
        let mut opened = if let SourceSpec::Machine(name) = options.source.clone() {
            open_machine(&name, &mut options, exclude.clone(), stop).await?
        } else {
            let (options, exclude, opened_stop, runtime) =
                (options.clone(), exclude.clone(), stop.clone(), Handle::current());
            let opening = tokio::task::spawn_blocking(move || open(&options, run, exclude, &opened_stop, &runtime));
            tokio::select! {
                opened = opening => opened.map_err(|_| Error::interrupted())??,
                () = stop.stopped() => return Err(Error::interrupted()),
            }
        };
        *met = Met { transfer: opened.transfer.clone(), night: opened.night.clone() };
        names.await.map_err(|_| Error::interrupted())??;
        opened.settings.smolvm_version = opened.settings.smolvm_version.or(smolvm_version);
        fill_in(&mut options.image, &options.source)?;
        let survey = opened.survey;
        let layer_size = layer_size(&options, &survey);
        let budget = Budget::plan(&wish(&options, method), &survey, layer_size)?;
        let cut = CutOptions {
            layer_size,
            exclude: if matches!(options.source, SourceSpec::Archive(_)) { exclude } else { Exclude::default() },
            tar_bytes_max: options.tar_bytes_max,
            tar_bytes_kept: 0,
            whole_from: opened.whole_from,
            own_layers: opened.own_layers,
            unordered: survey.unordered,
            on_top_of: None,
            journal: opened.night.is_some(),
        };
        Ok(Self {
            id,
            started,
            options,
            canonical: opened.canonical,
            method,
            layer_size,
            cut,
            survey,
            run,
            agent,
            remark,
            settings: opened.settings,
            budget,
            scratch_folder: scratch_folder(),
            stream: opened.stream,
            leave_timeout: opened.leave_timeout,
            night: opened.night,
            reader: opened.reader,
            transfer: opened.transfer,
            in_full: opened.in_full,
        })
    }

    /// The process's exit code where this is not carried out: 0, or 8 as [`Snapshot::exit_code`](crate::report::Snapshot::exit_code)
    /// has it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.night.as_ref().is_some_and(|night| night.alarm().is_some()) { 8 } else { 0 }
    }

    /// What was decided though nobody asked for it, for people.
    #[must_use]
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// Whether smolvm packs an artifact of this freeze.
    #[must_use]
    pub fn is_packed_by_smolvm(&self) -> bool {
        self.options.outputs.iter().any(OutputSpec::is_packed)
    }

    /// Bytes of fresh layers, about.
    pub(crate) fn layer_bytes(&self) -> u64 {
        match self.layer_size {
            LayerSize::One => u64::MAX,
            LayerSize::About(bytes) => bytes,
        }
    }

    /// The division of memory and scratch space.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

/// What a plan that failed had come to.
#[derive(Default)]
struct Met {
    transfer: Option<Arc<Transfer>>,
    night: Option<Arc<Night>>,
}

/// Processor cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn wish(options: &FreezeOptions, method: Method) -> Wish {
    Wish {
        memory_bytes: options.memory_bytes,
        scratch_bytes: options.scratch_bytes.or_else(|| keeps_layers(&options.outputs, method).then_some(0)),
        uploads: options.uploads,
        registries: options.outputs.iter().filter(|output| matches!(output, OutputSpec::Registry(_))).count(),
        layouts: options.outputs.iter().filter(|output| matches!(output, OutputSpec::Layout { .. })).count(),
        cores: cores(),
        method,
    }
}

fn layer_size(options: &FreezeOptions, survey: &Survey) -> LayerSize {
    match (options.layer_bytes, survey.tar_bytes) {
        (Some(0), _) => LayerSize::One,
        (Some(bytes), _) => LayerSize::About(bytes),
        (None, _) if survey.unordered => LayerSize::One,
        (None, Some(tar_bytes)) => LayerSize::for_tar(tar_bytes),
        (None, None) => LayerSize::One,
    }
}

/// The freeze's ID. Where nobody named an output, the state folder keeps an artifact.
fn name(options: &mut FreezeOptions, started: Timestamp) -> Result<Id> {
    if let Some(name) = options.name.as_deref().filter(|name| !is_machine_name(name)) {
        let reason = "a name has letters, digits, '-', '_' and '.', and begins with no dash";
        return Err(Error::usage("reading --name", text::quoted(name.as_bytes()), reason));
    }
    let label = options.name.clone().unwrap_or_else(|| options.source.to_string());
    let id = Id::new(started, &label);
    if !options.outputs.is_empty() {
        return Ok(id);
    }
    let unrecorded = || {
        let reason = "an artifact in the state folder needs a record";
        Error::usage("naming the output", &options.source, reason).hint("name an output with --to or --pack")
    };
    let state = State::at(options.records.as_deref().ok_or_else(unrecorded)?)?;
    let path = state.artifact_path(&id, &label);
    options.outputs.push(OutputSpec::Artifact(path));
    Ok(id)
}

/// Whether an output keeps layers that memory can't hold, so that no other space is needed for them.
fn keeps_layers(outputs: &[OutputSpec], method: Method) -> bool {
    method.compression == Compression::Zstd && outputs.iter().any(|output| matches!(output, OutputSpec::Artifact(_)))
}

fn check_bandwidth(bytes_per_second: Option<u64>) -> Result<()> {
    match bytes_per_second {
        Some(bytes) if bytes < BANDWIDTH_BYTES_MIN => {
            let subject = format!("{bytes} bytes a second");
            Err(Error::usage("bounding the bandwidth", subject, "registries take so slow an upload for a dead one")
                .hint("give --bandwidth 64KiB or more"))
        }
        _ => Ok(()),
    }
}

/// Where scratch files go: a folder on a disk, which `/tmp` often is not.
fn scratch_folder() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| Path::new("/var/tmp").to_owned(), PathBuf::from)
}

fn fill_in(image: &mut ImageOptions, source: &SourceSpec) -> Result<()> {
    if image.architecture.is_empty() {
        image.architecture = Platform::host().architecture;
    }
    if image.source.is_empty() {
        image.source = source.to_string();
    }
    if image.created.is_empty() {
        image.created = humantime::format_rfc3339_seconds(created()?).to_string();
    }
    Ok(())
}

/// Now, or what SOURCE_DATE_EPOCH says (reproducible-builds.org).
fn created() -> Result<SystemTime> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(SystemTime::now()) };
    let seconds = text.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds < 253_402_300_800_u64);
    let wrong = || {
        Error::usage(
            "reading SOURCE_DATE_EPOCH",
            format_args!("'{}'", text.display()),
            "it is no number of seconds since 1970",
        )
    };
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.ok_or_else(wrong)?))
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = |bytes: u64| humansize::format_size(bytes, humansize::BINARY);
        writeln!(f, "source       {}", text::line(&self.options.source.to_string()))?;
        match self.survey.tar_bytes {
            Some(bytes) => writeln!(
                f,
                "             about {} of tar in {} entries, the largest {}",
                size(bytes),
                self.survey.entries,
                size(self.survey.largest_entry_bytes)
            )?,
            None => writeln!(f, "             of unknown size")?,
        }
        if let Some(night) = &self.night {
            // As if each output still had what it was given.
            let choice = night.choice(BTreeSet::new(), self.layer_bytes());
            let report = NightReport::new(night, &choice);
            writeln!(f, "night        {report}")?;
            report.alarm_in_words().map_or(Ok(()), |alarm| writeln!(f, "ALARM        {alarm}"))?;
        }
        if let Some(why) = &self.in_full {
            writeln!(f, "night        all of it is read: {why}")?;
        }
        for (index, line) in self.reader.iter().flat_map(|reader| reader.lines()).enumerate() {
            writeln!(f, "{:<12} {}", if index == 0 { "reader" } else { "" }, text::line(line))?;
        }
        for output in &self.options.outputs {
            writeln!(f, "output       {}", text::line(&output.to_string()))?;
        }
        if let Some(agent) = &self.agent {
            writeln!(f, "             with smolvm's agent from {}", agent.path().display())?;
        }
        match self.layer_size {
            LayerSize::One => writeln!(f, "layers       one")?,
            LayerSize::About(bytes) => writeln!(f, "layers       of about {} of tar", size(bytes))?,
        }
        writeln!(f, "compression  {} (level {})", self.method.compression, self.method.level)?;
        let (packers, layers) = (self.budget.workers, self.budget.packers_at_once(self.layer_size));
        writeln!(f, "at once      {packers} packers, memory for {layers} of them, {} uploads", self.budget.uploads)?;
        if let Some(bytes) = self.options.bandwidth_bytes {
            writeln!(f, "bandwidth    at most {} a second to registries", size(bytes))?;
        }
        writeln!(
            f,
            "memory       at most {}, {} of it layers",
            size(self.budget.memory_bytes_max()),
            size(self.budget.held_bytes_max)
        )?;
        match self.budget.scratch_bytes_max {
            0 => write!(f, "scratch      none"),
            bytes => write!(f, "scratch      at most {} in {}", size(bytes), self.scratch_folder.display()),
        }
    }
}
