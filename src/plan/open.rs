//! Opening the source: what is to be streamed, and what it says about itself.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;

use super::{FreezeOptions, OutputSpec, SourceSpec};
use crate::error::{Error, Result};
use crate::exclude::Exclude;
use crate::image::ImageOptions;
use crate::night::{Night, Opening};
use crate::pipeline::run::StreamFn;
use crate::sink::artifact::{MachineSettings, unfinished};
use crate::sink::packed::temporary_folder;
use crate::source::archive::Archive;
use crate::source::directory::Directory;
use crate::source::machine::{Machine, MachineFacts};
use crate::source::{Selection, Survey};
use crate::stage::compress::Method;
use crate::stage::cut::WORKSPACE;
use crate::state::State;
use crate::stop::Stop;

/// A folder or a tar has nothing to tidy up.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// A machine has: the spool and the processes in the guest.
const MACHINE_LEAVE_TIMEOUT: Duration = Duration::from_millis(4500);

/// A source that is ready to be streamed.
pub(super) struct Opened {
    /// See [`SourceSpec::canonical`].
    pub(super) canonical: Option<String>,
    pub(super) survey: Survey,
    pub(super) whole_from: Option<u64>,
    pub(super) own_layers: Vec<Vec<u8>>,
    /// What a machine made from an artifact is like.
    pub(super) settings: MachineSettings,
    pub(super) leave_timeout: Duration,
    pub(super) stream: StreamFn,
    pub(super) night: Option<Arc<Night>>,
    /// See [`Machine::reader`].
    pub(super) reader: Option<String>,
}

impl Opened {
    /// Of a folder or a tar.
    fn new(options: &FreezeOptions, survey: Survey, stream: StreamFn) -> Self {
        let settings = MachineSettings::new(options.source.to_string());
        Self {
            canonical: options.source.canonical(),
            survey,
            whole_from: None,
            own_layers: own_layers(options),
            settings,
            leave_timeout: LEAVE_TIMEOUT,
            stream,
            night: None,
            reader: None,
        }
    }
}

/// smolvm mounts its own `/workspace` over an image's: where an artifact is written, a folder's or a tar's gets layers of
/// its own, which can become the workspace's first content. Elsewhere layers stay what they are.
fn own_layers(options: &FreezeOptions) -> Vec<Vec<u8>> {
    let is_written = options.outputs.iter().any(|output| matches!(output, OutputSpec::Artifact(_)));
    if is_written { vec![WORKSPACE.to_vec()] } else { Vec::new() }
}

/// Probes and looks at a machine; what it says about itself goes into the image where the user said nothing.
pub(super) async fn open_machine(
    name: &str,
    options: &mut FreezeOptions,
    exclude: Exclude,
    stop: &Stop,
) -> Result<Opened> {
    let machine = Machine::open(name, options.machine.clone(), stop).await?;
    describe_machine(&mut options.image, machine.facts());
    let selection = Selection { exclude, include_mounts: options.include_mounts.clone(), ..Selection::default() };
    let survey = machine.survey(&selection, stop).await?;
    let is_packed = options.outputs.iter().any(OutputSpec::is_artifact);
    let smolvm_version = if is_packed { machine.smolvm_version().await } else { None };
    let settings = settings(machine.facts(), smolvm_version);
    let (stop, runtime) = (stop.clone(), Handle::current());
    // One of the same name that was made anew is another one.
    let canonical = match machine.facts().created_at {
        Some(seconds) => format!("{name}@{seconds}"),
        None => name.to_owned(),
    };
    Ok(Opened {
        canonical: Some(canonical),
        survey,
        whole_from: None,
        // Whatever the outputs are: an artifact may be made of the image later.
        own_layers: vec![WORKSPACE.to_vec()],
        settings,
        leave_timeout: MACHINE_LEAVE_TIMEOUT,
        night: None,
        reader: Some(machine.reader()),
        stream: Box::new(move |outlet| machine.stream(&selection, outlet, &stop, &runtime)),
    })
}

/// A new machine is like the one that was frozen.
fn settings(facts: &MachineFacts, smolvm_version: Option<String>) -> MachineSettings {
    let defaults = MachineSettings::new(facts.image.as_ref().unwrap_or(&facts.name));
    MachineSettings {
        cpus: facts.cpus.and_then(|cpus| u8::try_from(cpus).ok()).unwrap_or(defaults.cpus),
        memory_mib: facts.memory_mib.and_then(|mebibytes| u32::try_from(mebibytes).ok()).unwrap_or(defaults.memory_mib),
        network: facts.network.unwrap_or(defaults.network),
        smolvm_version,
        ..defaults
    }
}

fn describe_machine(image: &mut ImageOptions, facts: &MachineFacts) {
    image.user = image.user.take().or_else(|| facts.user.clone());
    image.workdir = image.workdir.take().or_else(|| Some(facts.workdir.clone()).filter(|workdir| !workdir.is_empty()));
    let given = |variable: &String| variable.split('=').next().unwrap_or_default().to_owned();
    let names: Vec<_> = image.env.iter().map(given).collect();
    let own: Vec<_> = facts.env.iter().filter(|variable| !names.contains(&given(variable))).cloned().collect();
    image.env.splice(..0, own);
    if image.entrypoint.is_empty() && image.cmd.is_empty() {
        image.entrypoint.clone_from(&facts.entrypoint);
        image.cmd.clone_from(&facts.cmd);
    }
    if image.architecture.is_empty() {
        image.architecture.clone_from(&facts.architecture);
    }
    let told = [("smolfreeze.machine", Some(&facts.name)), ("smolfreeze.machine.image", facts.image.as_ref())];
    let told = told.into_iter().filter_map(|(label, value)| Some((label.to_owned(), value?.clone())));
    for (label, value) in facts.labels.clone().into_iter().chain(told) {
        image.labels.entry(label).or_insert(value);
    }
}

/// What compares a folder with its last freeze, unless smolvm packs: what it pulls may be any image, and is new each time.
fn open_night(options: &FreezeOptions, directory: &Directory) -> Option<Opening> {
    let wish = options.night.filter(|_| !options.outputs.iter().any(OutputSpec::is_packed))?;
    let (canonical, state) = (options.source.canonical()?, State::at(options.records.as_deref()?).ok()?);
    let method = Method::new(super::packing::compression(options), options.level).ok()?;
    let source = directory.identity().map(|read| format!("{canonical}, {method:?}, {:?}, {read}", options.layer_bytes));
    // Before it settles, for that may take long, and what is written meanwhile is in doubt.
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    directory.settle();
    let began = (began.as_secs().cast_signed(), began.subsec_nanos());
    // Without room for it, everything is read.
    Opening::new(&state.index_path(&canonical), source, began, wish, &super::scratch_folder()).ok()
}

/// Opens and surveys a folder or a tar. `run` names the unfinished files of this freeze.
pub(super) fn open(
    options: &FreezeOptions,
    run: u64,
    exclude: Exclude,
    stop: &Stop,
    runtime: &Handle,
) -> Result<Opened> {
    let (stop, runtime) = (stop.clone(), runtime.clone());
    match &options.source {
        SourceSpec::Archive(path) => {
            let mut archive = Archive::open(path)?;
            let survey = archive.survey(&stop, &runtime)?;
            let whole_from = archive.whole_from();
            let stream: StreamFn = Box::new(move |outlet| archive.stream(outlet, &stop, &runtime));
            Ok(Opened { whole_from, ..Opened::new(options, survey, stream) })
        }
        SourceSpec::Directory(path) => {
            let own_outputs = options.outputs.iter().flat_map(|output| match output {
                OutputSpec::Layout { folder, .. } => vec![folder.clone()],
                OutputSpec::Registry(_) => Vec::new(),
                OutputSpec::Artifact(path) => vec![path.clone(), unfinished(path, run)],
                OutputSpec::Packed { launcher, sidecar } => {
                    let files = launcher.iter().chain([sidecar]).cloned();
                    files.chain([temporary_folder(sidecar, run)]).collect()
                }
            });
            // Or each artifact of a home would hold all the earlier ones.
            let kept = options.records.as_deref().map(State::at).transpose()?.map(|state| state.artifacts());
            let own_outputs = own_outputs.chain(kept).chain(options.own_files.clone()).collect();
            let apart = own_layers(options).iter().map(|folder| OsStr::from_bytes(folder).into()).collect();
            let include_mounts = options.include_mounts.clone();
            let selection = Selection { exclude, include_mounts, own_outputs, apart };
            let directory = Directory::open(path, &selection)?;
            let (survey, night) = match open_night(options, &directory) {
                Some(mut opening) => {
                    let survey = directory.list(opening.listing(), &stop)?;
                    (survey, opening.end(&super::scratch_folder()).ok().map(Arc::new))
                }
                None => (directory.survey(&stop)?, None),
            };
            let picking = night.clone();
            let stream: StreamFn = Box::new(move |outlet| {
                let picker = picking.as_ref().and_then(|night| night.picker().transpose()).transpose();
                let picker = picker.map_err(|error| Error::source("reading the listing", "scratch", &error))?;
                directory.stream_picked(picker, outlet, &stop)
            });
            Ok(Opened { night, ..Opened::new(options, survey, stream) })
        }
        SourceSpec::Machine(name) => Err(Error::usage(
            "opening the source",
            name,
            "a machine is opened without blocking; this is a bug in smolfreeze",
        )),
    }
}
