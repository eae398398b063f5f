//! Opening the source: what is to be streamed, and what it says about itself.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::{FreezeOptions, OutputSpec, SourceSpec};
use crate::error::{Error, Result};
use crate::exclude::Exclude;
use crate::night::{Identity, Listed, Night, Opening, Wish};
use crate::pipeline::run::StreamFn;
use crate::sink::artifact::{MachineSettings, unfinished};
use crate::sink::packed::temporary_folder;
use crate::source::archive::Archive;
use crate::source::directory::Directory;
use crate::source::machine::Transfer;
use crate::source::{Selection, Survey};
use crate::stage::compress::Method;
use crate::stage::cut::WORKSPACE;
use crate::state::State;
use crate::stop::Stop;

/// A folder or a tar has nothing to tidy up.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

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
    /// See [`crate::source::machine::Machine::reader`].
    pub(super) reader: Option<String>,
    /// What is under way in a machine until it is streamed.
    pub(super) transfer: Option<Arc<Transfer>>,
    /// Why everything is read, where nobody can tell what has changed.
    pub(super) in_full: Option<String>,
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
            transfer: None,
            in_full: None,
        }
    }
}

/// smolvm mounts its own `/workspace` over an image's: where an artifact is written, a folder's or a tar's gets layers of
/// its own, which can become the workspace's first content. Elsewhere layers stay what they are.
fn own_layers(options: &FreezeOptions) -> Vec<Vec<u8>> {
    let is_written = options.outputs.iter().any(|output| matches!(output, OutputSpec::Artifact(_)));
    if is_written { vec![WORKSPACE.to_vec()] } else { Vec::new() }
}

/// How a source is compared with its last freeze.
pub(super) struct Terms {
    pub(super) wish: Wish,
    state: State,
    /// How layers are made: such as were made in another way can't be gone on from.
    form: String,
    /// That, what is left out and taken in, and where it goes: each way has an index of its own, so that they can take turns.
    way: String,
}

impl Terms {
    /// Where that is wanted, and unless smolvm packs: what it pulls may be any image, and is new each time.
    pub(super) fn new(options: &FreezeOptions) -> Option<Self> {
        let wish = options.night.filter(|_| !options.outputs.iter().any(OutputSpec::is_packed))?;
        let state = State::at(options.records.as_deref()?).ok()?;
        let method = Method::new(super::packing::compression(options), options.level).ok()?;
        let form = format!("{method:?}, {:?}", options.layer_bytes);
        let mut places: Vec<_> = options.outputs.iter().map(OutputSpec::place).collect();
        places.sort();
        let way = format!("{form}, {:?}, {:?}, {places:?}", options.exclude, options.include_mounts);
        Some(Self { wish, state, form, way })
    }

    /// Where the index of the last image of this source is that was made in this way.
    pub(super) fn index_path(&self, name: &str) -> PathBuf {
        self.state.index_path(name, &self.way)
    }

    /// What is read, and how its layers are made.
    pub(super) fn form_of(&self, read: &Identity) -> Identity {
        Identity { text: format!("{}, {}", self.form, read.text), ..*read }
    }
}

/// What compares a folder with its last freeze, where that is wanted; or why nothing does.
fn open_night(options: &FreezeOptions, directory: &Directory) -> Option<Result<Opening, String>> {
    let terms = Terms::new(options)?;
    let (Some(canonical), Some(settled)) = (options.source.canonical(), directory.settle()) else {
        return Some(Err("its real path, or this host's time, can't be told".to_owned()));
    };
    let identity = directory.identity();
    let (path, identity) = (terms.index_path(&canonical), identity.map(|read| terms.form_of(&read)));
    let listed = Listed { who: canonical, identity, settled, sample: terms.wish.sample() };
    Some(Opening::new(&path, listed, terms.wish.squash, &super::scratch_folder()).map_err(|error| unlisted(&error)))
}

/// Without room for a listing, everything is read.
pub(super) fn unlisted(error: &io::Error) -> String {
    format!("what is there could not be listed in {}: {error}", super::scratch_folder().display())
}

/// A night without a listing is none, unless that had an alarm: then it is a failure that tells of it.
fn end(opening: Opening) -> Result<Result<Arc<Night>, String>> {
    let scratch = super::scratch_folder();
    let alarmed = opening.is_alarmed().then(|| opening.told(Error::source("listing", scratch.display(), "no room")));
    match (opening.end(&scratch), alarmed) {
        (Err(_), Some(alarmed)) => Err(alarmed),
        (ended, _) => Ok(ended.map(Arc::new).map_err(|error| unlisted(&error))),
    }
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
            let in_full = options.night.map(|_| "a tar tells nothing of changes".to_owned());
            Ok(Opened { whole_from, in_full, ..Opened::new(options, survey, stream) })
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
                Some(Ok(mut opening)) => {
                    let survey = directory.list(opening.listing(), &stop).map_err(|error| opening.told(error))?;
                    (survey, Some(end(opening)?))
                }
                Some(Err(why)) => (directory.survey(&stop)?, Some(Err(why))),
                None => (directory.survey(&stop)?, None),
            };
            let (night, in_full) = night.map_or((None, None), |night| match night {
                Ok(night) => (Some(night), None),
                Err(why) => (None, Some(why)),
            });
            let picking = night.clone();
            let stream: StreamFn = Box::new(move |outlet| {
                let picker = picking.as_ref().map(|night| night.picker()).transpose();
                let picker = picker.map_err(|error| Error::source("reading the listing", "scratch", &error))?;
                directory.stream_picked(picker, outlet, &stop)
            });
            Ok(Opened { night, in_full, ..Opened::new(options, survey, stream) })
        }
        SourceSpec::Machine(name) => Err(Error::usage(
            "opening the source",
            name,
            "a machine is opened without blocking; this is a bug in smolfreeze",
        )),
    }
}
