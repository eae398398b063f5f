//! `fleet.toml`: what it may say. Every key's comment is its documentation: the schema and docs/fleet.md have them from here.

mod after;
mod check;
mod freeze;
mod mistake;
mod outputs;
mod policy;
mod value;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use after::{Drill, Metrics, Notify, NotifyWhen, Retention, Verify};
pub use freeze::{CompressionKey, FreezeKeys, ImageKeys, PackWithKey};
pub use mistake::Mistake;
pub use policy::{Defaults, GuestHooks, Policy, Retries, Stopped, Terms};
pub use value::{Keep, KeepWithin, Part, Period, Size, TimeOfDay};

/// A commented file to begin with; `fleet init` writes it.
pub const EXAMPLE: &str = include_str!("example.toml");

/// A fleet: which machines of this host are frozen, how, and where to.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// The fleet's name: its nights are remembered under it, and two files with the same name are the same fleet. Letters,
    /// digits, '-', '_' and '.'.
    pub name: String,
    /// How many machines are frozen at a time.
    pub concurrency: NonZero<usize>,
    /// Most resident memory of all running freezes together. By default what one `freeze` takes, for each that may run:
    /// 256 MiB with two cores.
    pub memory: Option<Size>,
    /// A night begins at this time of day: until then the date of the day before is its name. By default `schedule.at`, so that
    /// a run which begins late has the name of the night that it catches up.
    pub night_begins: Option<TimeOfDay>,
    /// A run waits a random part of this before it begins, so that many hosts don't come to a registry at once; `--now` and
    /// `fleet install`'s timer don't.
    pub jitter: Period,
    /// Freezes that are not done so long after the run began are given up. Without it they may take as long as they take.
    pub deadline: Option<Period>,
    /// What follows the freezes (verification, retention, drills) is given up so long after it began. The next run goes on
    /// with it.
    pub after_limit: Period,
    /// What it means that a machine is selected by no policy and by no pattern of `ignore`.
    pub unselected: Unselected,
    /// Patterns of machines that need no policy.
    pub ignore: Vec<String>,
    /// smolvm.
    pub smolvm: SmolvmKeys,
    /// When `fleet install` has it run.
    pub schedule: Schedule,
    /// Commands on this host.
    pub hooks: Hooks,
    /// The places where images go, by the names that policies call them.
    pub destinations: BTreeMap<String, Destination>,
    /// What policies say where they don't say it themselves.
    pub defaults: Defaults,
    /// Which machines are frozen, and how. The first that fits a machine counts.
    pub policies: Vec<Policy>,
    /// Who is told of a run.
    pub notify: Notify,
    /// What monitors read.
    pub metrics: Metrics,
}

/// What it means that a machine is selected by no policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unselected {
    /// Nothing.
    #[default]
    Ignore,
    /// `fleet run` and `fleet status` say so.
    Warn,
    /// `fleet status` fails.
    Fail,
}

/// smolvm on this host.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SmolvmKeys {
    /// The smolvm executable. By default `SMOLFREEZE_SMOLVM`, else `smolvm` on the PATH.
    pub executable: Option<PathBuf>,
    /// The folder where smolvm keeps its machines, as its own `--state-dir`.
    pub state_dir: Option<PathBuf>,
}

/// When `fleet install` has it run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// The time of day.
    pub at: TimeOfDay,
}

/// Commands on this host, run by `sh -c`. They find `SMOLFREEZE_FLEET` and `SMOLFREEZE_NIGHT` in their environment.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Before the first machine. Where it fails, nothing is frozen.
    pub before: Option<String>,
    /// After the last one, on every way out, also where `before` failed. It finds the exit code that the run comes to in
    /// `SMOLFREEZE_EXIT`, and the path of the night's file in `SMOLFREEZE_OUTCOMES`.
    pub after: Option<String>,
    /// How long each may take.
    pub limit: Period,
}

/// A place where images go. It has either `to` or `pack`. Placeholders: `{machine}`, `{policy}`, `{host}`, `{night}` (its
/// name), `{date}` (2026-11-29) and `{time}` (023000), both of the run's beginning on this host's clock.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Destination {
    /// A reference (`registry.example/{machine}:{date}`) or a layout folder (`oci:/srv/images/{machine}:{date}`).
    pub to: Option<String>,
    /// An artifact that `smolvm machine create --from` takes (`/srv/artifacts/{machine}-{date}.smolmachine`).
    pub pack: Option<String>,
    /// Most blobs sent there at a time, by all running freezes together. One that there is neither memory nor scratch space for is sent
    /// while it is made, and waits for no turn.
    #[schemars(range(min = 1, max = 64))]
    pub uploads: Option<u16>,
    /// Most bytes a second that it is sent, by all running freezes together; for registries, at least 64KiB.
    pub bandwidth: Option<Size>,
    /// Trust the certificates in this PEM file, besides the system's.
    pub ca_cert: Option<PathBuf>,
    /// Speak plain http; without this it is only spoken to loopback addresses.
    pub plain_http: bool,
    /// Give it up when it fails, or stands still, for so long; by default 10m.
    pub patience: Option<Period>,
}

impl File {
    /// Reads what a file says, and whether it makes sense.
    ///
    /// # Errors
    /// All mistakes that were found, in the order of the file. A key that is none, and a value of another kind, end the
    /// search.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let file: Self = toml::from_str(text).map_err(|error| vec![Mistake::of(text, &error)])?;
        let mistakes = check::check(&file, text);
        if mistakes.is_empty() { Ok(file) } else { Err(mistakes) }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] with the first mistake in it.
    pub fn read(path: &Path) -> Result<Self> {
        let subject = format!("'{}'", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| {
            let hint = "write one with 'smolfreeze fleet init'";
            Error::usage("reading the fleet's file", &subject, &error).hint(hint).because(error)
        })?;
        Self::parse(&text).map_err(|mistakes| {
            let more = match mistakes.len() {
                0 | 1 => String::new(),
                count => format!(" (and {} more mistakes: see 'smolfreeze fleet check')", count - 1),
            };
            let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
            Error::usage("reading the fleet's file", subject, first + &more)
        })
    }

    /// When a night begins.
    #[must_use]
    pub fn night_begins(&self) -> jiff::civil::Time {
        self.night_begins.as_ref().unwrap_or(&self.schedule.at).0
    }

    /// The schema of the file, for editors.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(File).to_value()
    }
}

impl Default for File {
    fn default() -> Self {
        Self {
            name: "fleet".to_owned(),
            concurrency: NonZero::<usize>::MIN.saturating_add(1),
            memory: None,
            night_begins: None,
            jitter: Period(Duration::ZERO),
            deadline: None,
            after_limit: Period(Duration::from_secs(6 * 3600)),
            unselected: Unselected::default(),
            ignore: Vec::new(),
            smolvm: SmolvmKeys::default(),
            schedule: Schedule::default(),
            hooks: Hooks::default(),
            destinations: BTreeMap::new(),
            defaults: Defaults::default(),
            policies: Vec::new(),
            notify: Notify::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self { at: TimeOfDay(jiff::civil::time(2, 30, 0, 0)) }
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self { before: None, after: None, limit: Period(Duration::from_secs(600)) }
    }
}

#[cfg(test)]
mod tests;
