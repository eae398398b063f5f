//! What is remembered of a freeze: a [`Record`], one JSON file each in the [state folder](crate::state).
//!
//! A record is written last, when every output has its name, and under a name of its own only when it is safe on disk:
//! so a crash leaves no record that lies. Files that are broken, foreign or newer are left alone wherever records are
//! read.

pub mod retention;
pub mod series;
pub mod store;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Side};
use crate::image::ImageOptions;
use crate::night::NightReport;
use crate::oci::Digest;
use crate::plan::{FreezeOptions, OutputSpec, Plan};
use crate::progress::Notices;
use crate::report::Snapshot;
use crate::sink::Committed;
use crate::sink::registry::repository_and_tag;
use crate::state::{Hold, Id, State};

/// The format that this release writes. A field more is no new format; a field with another meaning is.
pub const FORMAT: u32 = 1;

/// So many names are kept of each kind of notice; the report of the freeze has more.
const NOTICE_NAMES_MAX: usize = 100;

/// One freeze that was completed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The format, see [`FORMAT`].
    pub version: u32,
    /// Its name.
    pub id: Id,
    /// What was frozen, as it was given: a machine's name, `dir:PATH`, `tar:FILE`.
    pub source: String,
    /// The name of the series, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What was frozen, told apart from all others: the real path, and of a machine when it was created. None of what has no
    /// such name (standard input).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonical: Option<String>,
    /// When the freeze began.
    pub started: Timestamp,
    /// From the first byte to the last name.
    pub seconds: f64,
    /// What the image says about running it.
    pub machine: MachineFacts,
    /// Where it went.
    pub outputs: Vec<Output>,
    /// Its layers.
    pub layers: Layers,
    /// Entries in the image.
    pub entries: u64,
    /// Bytes of tar that were read.
    pub tar_bytes: u64,
    /// Bytes of all layers as they are stored.
    pub stored_bytes: u64,
    /// Body bytes sent to all outputs.
    pub sent_bytes: u64,
    /// What of the last image is in it, and why the rest was read, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub night: Option<NightReport>,
    /// Files that changed while they were read, and the like: counts, and the first names.
    pub notices: Notices,
    /// The programs that made it.
    pub versions: Versions,
}

/// What the image says about running it; a machine's own, unless the user said otherwise. No environment: it may hold
/// secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// What the machine was made from.
    pub image: Option<String>,
    /// The architecture, in Go's words.
    pub architecture: String,
    /// The user that commands run as.
    pub user: Option<String>,
    /// The working directory of commands.
    pub workdir: Option<String>,
}

/// How many layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// All of them.
    pub count: u64,
    /// Neither compressed nor sent.
    pub known: u64,
    /// Sent to at least one output.
    pub sent: u64,
}

/// The programs that made a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// This one.
    pub smolfreeze: String,
    /// The one that ran the machine, where it said so.
    pub smolvm: Option<String>,
}

/// What kind of place an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// A repository of a registry.
    Registry,
    /// An OCI image layout folder.
    Layout,
    /// A `.smolmachine` file.
    Artifact,
}

/// One place that the snapshot went to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// What kind of place.
    pub kind: OutputKind,
    /// The name under which it is found there, from wherever.
    pub name: String,
    /// The manifest's digest.
    pub digest: Digest,
    /// The folder or file, absolute; none for a registry.
    pub path: Option<PathBuf>,
    /// The launcher that smolvm made beside an artifact, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<PathBuf>,
    /// Bytes of the file, or of the layers where it is an image.
    pub bytes: u64,
}

impl Record {
    fn of(recording: &Recording, snapshot: &Snapshot) -> Self {
        let Recording { id, started, options, canonical, smolvm, .. } = recording;
        let is_there = |spec: &&OutputSpec| !snapshot.lost.iter().any(|lost| lost.output == spec.to_string());
        let outputs = options.outputs.iter().filter(is_there).zip(&snapshot.outputs);
        Self {
            version: FORMAT,
            id: id.clone(),
            source: snapshot.source.clone(),
            name: options.name.clone(),
            canonical: canonical.clone(),
            started: *started,
            seconds: snapshot.seconds,
            machine: MachineFacts::of(&options.image),
            outputs: outputs.map(|(spec, committed)| Output::of(spec, committed, snapshot.stored_bytes)).collect(),
            layers: Layers {
                count: snapshot.layers.len() as u64,
                known: snapshot.layers_known,
                sent: snapshot.layers_sent,
            },
            entries: snapshot.entries,
            tar_bytes: snapshot.tar_bytes,
            stored_bytes: snapshot.stored_bytes,
            sent_bytes: snapshot.sent_bytes,
            night: snapshot.night.clone(),
            notices: snapshot.notices.first_names(NOTICE_NAMES_MAX),
            versions: Versions { smolfreeze: snapshot.version.clone(), smolvm: smolvm.clone() },
        }
    }

    /// The local artifacts, with their paths.
    pub fn artifacts(&self) -> impl Iterator<Item = (&Output, &Path)> {
        let is_artifact = |output: &&Output| output.kind == OutputKind::Artifact;
        self.outputs.iter().filter(is_artifact).filter_map(|output| Some((output, output.path.as_deref()?)))
    }
}

impl MachineFacts {
    fn of(image: &ImageOptions) -> Self {
        Self {
            image: image.labels.get("smolfreeze.machine.image").cloned(),
            architecture: image.architecture.clone(),
            user: image.user.clone(),
            workdir: image.workdir.clone(),
        }
    }
}

impl Output {
    fn of(spec: &OutputSpec, committed: &Committed, stored_bytes: u64) -> Self {
        let (kind, path) = match spec {
            OutputSpec::Layout { folder, .. } => (OutputKind::Layout, Some(folder)),
            OutputSpec::Registry(_) => (OutputKind::Registry, None),
            OutputSpec::Artifact(path) | OutputSpec::Packed { sidecar: path, .. } => (OutputKind::Artifact, Some(path)),
        };
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let name = match spec {
            // The working directory is another one when the record is read.
            OutputSpec::Layout { folder, tag } => format!("oci:{}:{tag}", absolute(folder).display()),
            _ => committed.name.clone(),
        };
        Self {
            kind,
            name,
            digest: committed.digest,
            path: path.map(absolute),
            launcher: committed.launcher.as_ref().map(absolute),
            bytes: committed.artifact_bytes.unwrap_or(stored_bytes),
        }
    }
}

impl Output {
    /// Whether it is where this is written to.
    #[must_use]
    pub fn is_at(&self, spec: &OutputSpec) -> bool {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        match spec {
            OutputSpec::Layout { folder, tag } => self.name == format!("oci:{}:{tag}", absolute(folder).display()),
            OutputSpec::Registry(reference) => {
                let parts = |name: &str| repository_and_tag(name).ok();
                self.kind == OutputKind::Registry && parts(reference).is_some_and(|own| Some(own) == parts(&self.name))
            }
            OutputSpec::Artifact(path) | OutputSpec::Packed { sidecar: path, .. } => {
                self.kind == OutputKind::Artifact && self.path.as_ref() == Some(&absolute(path))
            }
        }
    }

    /// The launcher, if it is where smolvm would look for an artifact at `path`: a record is data.
    fn launcher_beside(&self, path: &Path) -> Option<PathBuf> {
        self.launcher.clone().filter(|launcher| *launcher == path.with_extension("") && launcher.is_file())
    }
}

/// A freeze that will be recorded. While this lives, nothing is swept.
pub(crate) struct Recording {
    state: State,
    id: Id,
    started: Timestamp,
    options: FreezeOptions,
    canonical: Option<String>,
    smolvm: Option<String>,
    hold: Hold,
}

impl Recording {
    /// Begins before the first output is opened, so that a state folder that can't be written to costs no freeze.
    pub(crate) fn begin(plan: &Plan, folder: &Path) -> Result<Self> {
        let begun = || {
            let state = State::open(folder)?;
            // What can't be swept is in nobody's way; `prune` says what it is.
            let _ = state.sweep();
            let hold = state.hold()?;
            for output in &plan.options.outputs {
                if let OutputSpec::Artifact(path) | OutputSpec::Packed { sidecar: path, .. } = output {
                    state.make_room(path, &plan.id)?;
                }
            }
            Ok((state, hold))
        };
        let (state, hold) = begun().map_err(|error: Error| {
            error.hint("name another one in XDG_STATE_HOME, or record nothing with --no-record")
        })?;
        Ok(Self {
            state,
            id: plan.id.clone(),
            started: plan.started,
            options: plan.options.clone(),
            canonical: plan.canonical.clone(),
            smolvm: plan.settings.smolvm_version.clone(),
            hold,
        })
    }

    /// Leaves nothing of a freeze that failed.
    pub(crate) fn abandon(self, error: Error) -> Error {
        drop(self.hold);
        match self.state.sweep() {
            Ok(_) => error,
            Err(cleanup) => error.attach(cleanup),
        }
    }

    /// Writes the record: every output is safe.
    pub(crate) fn complete(self, mut snapshot: Snapshot) -> Result<Snapshot> {
        let record = Record::of(&self, &snapshot);
        store::write(&self.state, &record).map_err(|error| {
            let path = self.state.record_path(&record.id);
            let names: Vec<_> = snapshot.outputs.iter().map(|output| output.name.as_str()).collect();
            let unkept = record.artifacts().any(|(_, path)| self.state.keeps(path, &record.id));
            let but =
                if unkept { "; move it elsewhere, the next freeze removes an artifact without a record" } else { "" };
            Error::new(Kind::Sink, Side::Plan, "writing the record", format_args!("'{}'", path.display()), &error)
                .because(error)
                .hint(format!("the freeze itself is complete: {}{but}", names.join(", ")))
        })?;
        snapshot.record = Some(record.id);
        Ok(snapshot)
    }
}
