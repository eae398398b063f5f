//! What is done after the freezes: retention, verification, drills, and telling of it.

use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Keep, KeepWithin, Part, Period, Size};
use crate::record::retention;

/// Which old snapshots of a machine are kept at a destination: those that any rule keeps, with the rules of `prune`. At least
/// one key is there. Only what this fleet made is ever removed, only after a newer one is safe, and never the last good one.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// The newest.
    pub keep_last: Keep,
    /// The newest of each of the newest hours that have one.
    pub keep_hourly: Keep,
    /// The newest of each of the newest days that have one.
    pub keep_daily: Keep,
    /// The newest of each of the newest weeks, Monday to Sunday, that have one.
    pub keep_weekly: Keep,
    /// The newest of each of the newest months that have one.
    pub keep_monthly: Keep,
    /// The newest of each of the newest years that have one.
    pub keep_yearly: Keep,
    /// All that are younger than this, seen from the newest.
    pub keep_within: Option<KeepWithin>,
}

impl Retention {
    /// As the one decision takes it.
    #[must_use]
    pub fn policy(&self) -> retention::Policy {
        retention::Policy {
            last: self.keep_last.0,
            hourly: self.keep_hourly.0,
            daily: self.keep_daily.0,
            weekly: self.keep_weekly.0,
            monthly: self.keep_monthly.0,
            yearly: self.keep_yearly.0,
            within: self.keep_within.as_ref().map(|within| within.within),
        }
    }
}

/// Which snapshots are read back and compared with what they say they are.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Verify {
    /// Tonight's, before anything older is removed.
    pub newest: bool,
    /// One that was not verified for so long, each night the one that waits longest.
    pub every: Option<Period>,
    /// So much of all that are kept, chosen at random each night.
    pub part: Option<Part>,
    /// How long one may take.
    pub limit: Period,
}

impl Default for Verify {
    fn default() -> Self {
        Self { newest: true, every: None, part: None, limit: Period(Duration::from_secs(3600)) }
    }
}

/// `fleet drill`: a snapshot is thawed under a temporary name, a command is run in it, its answer is compared, and the machine
/// is deleted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drill {
    /// Run in the machine by `sh -c`, as root.
    pub command: String,
    /// What it has to print, without white space at the ends. Without it, the command has to end with 0.
    pub expect: Option<String>,
    /// Also after a run, where the last drill of the machine is so long ago.
    pub every: Option<Period>,
    /// The destination whose snapshot is taken; by default the policy's first.
    pub from: Option<String>,
    /// How long it may take, with thawing and deleting.
    pub limit: Period,
    /// Virtual CPUs of the machine; by default what an artifact says, or 4 for an image.
    pub cpus: Option<NonZero<u8>>,
    /// Memory of the machine; by default what an artifact says, or 8 GiB for an image.
    pub memory: Option<Size>,
}

impl Default for Drill {
    fn default() -> Self {
        Self {
            command: "true".to_owned(),
            expect: None,
            every: None,
            from: None,
            limit: Period(Duration::from_secs(1800)),
            cpus: None,
            memory: None,
        }
    }
}

/// Who is told of a run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// This URL is asked after a success, `URL/start` at the start and `URL/fail` after a failure, with the log's tail as
    /// body: as healthchecks.io does, and what speaks as it does.
    pub ping: Option<String>,
    /// This URL is sent the run's outcomes as JSON (POST).
    pub webhook: Option<String>,
    /// Run by `sh -c` on this host, with a summary on its standard input.
    pub command: Option<String>,
    /// When `webhook` and `command` are told.
    pub when: NotifyWhen,
    /// How long each may take.
    pub limit: Period,
}

/// When somebody is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NotifyWhen {
    /// After every run.
    #[default]
    Always,
    /// When something failed.
    Failure,
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            ping: None,
            webhook: None,
            command: None,
            when: NotifyWhen::default(),
            limit: Period(Duration::from_secs(30)),
        }
    }
}

/// What monitors read.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// A file of node_exporter's textfile collector, written anew after every run (`/var/lib/node_exporter/smolfreeze.prom`).
    pub file: Option<PathBuf>,
}
