//! Policies: which machines, and how they are frozen.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Drill, File, FreezeKeys, Period, Retention, Verify};

/// Which machines are frozen, and how.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Its name, for people and for `{policy}`.
    pub name: Option<String>,
    /// Patterns of machines' names (`db-*`, `{web,api}-[0-9]`): one has to fit. Without any, all names do.
    pub machines: Vec<String>,
    /// Patterns of machines' names that it is not for, whatever else fits.
    pub except: Vec<String>,
    /// Labels (`smolvm machine create --label`) and patterns of their values: all have to fit. `"*"` is any value.
    pub labels: BTreeMap<String, String>,
    /// The states in which it is for a machine, in smolvm's words (`running`, `stopped`). Without any, all are.
    pub states: Vec<String>,
    /// The destinations that images go to, by their names.
    pub to: Option<Vec<String>>,
    /// What becomes of a machine that does not run.
    pub stopped: Option<Stopped>,
    /// How long one machine may take, with all tries.
    pub deadline: Option<Period>,
    /// The last good snapshot may be so old; `fleet status` fails for an older one.
    pub max_age: Option<Period>,
    /// How what failed is tried again.
    pub retries: Option<Retries>,
    /// Commands in the machine.
    pub guest: Option<GuestHooks>,
    /// The options of `freeze`.
    pub freeze: Option<FreezeKeys>,
    /// Which old snapshots are kept. Without it, all are.
    pub retention: Option<Retention>,
    /// Which snapshots are verified. Without it, none is.
    pub verify: Option<Verify>,
    /// A machine that is made of a snapshot, to see whether it works.
    pub drill: Option<Drill>,
}

/// What policies say where they don't say it themselves. A table (`retention` …) of a policy stands for the whole table here.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// See `policies.to`.
    pub to: Vec<String>,
    /// See `policies.stopped`.
    pub stopped: Stopped,
    /// See `policies.deadline`.
    pub deadline: Option<Period>,
    /// See `policies.max_age`.
    pub max_age: Option<Period>,
    /// See `policies.retries`.
    pub retries: Retries,
    /// See `policies.guest`.
    pub guest: GuestHooks,
    /// See `policies.freeze`.
    pub freeze: FreezeKeys,
    /// See `policies.retention`.
    pub retention: Option<Retention>,
    /// See `policies.verify`.
    pub verify: Option<Verify>,
    /// See `policies.drill`.
    pub drill: Option<Drill>,
}

/// What becomes of a machine that does not run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stopped {
    /// It is left alone.
    #[default]
    Skip,
    /// It is started, frozen, and stopped again.
    Start,
}

/// How what failed is tried again.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// How often it is tried in all.
    pub attempts: NonZero<u32>,
    /// The pause after the first failure; each further one is twice as long, give or take a random part.
    pub pause: Period,
    /// No pause is longer.
    pub longest_pause: Period,
}

/// Commands in the machine, run by `sh -c` as root.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuestHooks {
    /// Before anything is read. Where it fails, the machine is not frozen.
    pub before: Option<String>,
    /// Afterwards, on every way out.
    pub after: Option<String>,
    /// How long each may take.
    pub limit: Period,
}

/// What a policy comes to, with the defaults filled in.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The policy's name.
    pub policy: String,
    /// Names of destinations.
    pub to: Vec<String>,
    /// See [`Policy::stopped`].
    pub stopped: Stopped,
    /// See [`Policy::deadline`].
    pub deadline: Option<Duration>,
    /// See [`Policy::max_age`].
    pub max_age: Option<Duration>,
    /// See [`Policy::retries`].
    pub retries: Retries,
    /// See [`Policy::guest`].
    pub guest: GuestHooks,
    /// See [`Policy::freeze`].
    pub freeze: FreezeKeys,
    /// See [`Policy::retention`].
    pub retention: Option<Retention>,
    /// See [`Policy::verify`].
    pub verify: Option<Verify>,
    /// See [`Policy::drill`].
    pub drill: Option<Drill>,
}

impl Policy {
    /// Its name; one without a name is called by its number, from 1.
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        self.name.clone().unwrap_or_else(|| format!("policy-{}", index + 1))
    }

    /// With the defaults filled in.
    #[must_use]
    pub fn terms(&self, index: usize, file: &File) -> Terms {
        let Defaults { to, stopped, deadline, max_age, retries, guest, freeze, retention, verify, drill } =
            &file.defaults;
        Terms {
            policy: self.name(index),
            to: self.to.as_ref().unwrap_or(to).clone(),
            stopped: self.stopped.unwrap_or(*stopped),
            deadline: self.deadline.or(*deadline).map(|period| period.0),
            max_age: self.max_age.or(*max_age).map(|period| period.0),
            retries: self.retries.unwrap_or(*retries),
            guest: self.guest.as_ref().unwrap_or(guest).clone(),
            freeze: self.freeze.as_ref().unwrap_or(freeze).clone(),
            retention: self.retention.as_ref().or(retention.as_ref()).cloned(),
            verify: self.verify.as_ref().or(verify.as_ref()).cloned(),
            drill: self.drill.as_ref().or(drill.as_ref()).cloned(),
        }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: NonZero::<u32>::MIN.saturating_add(2),
            pause: Period(Duration::from_secs(30)),
            longest_pause: Period(Duration::from_secs(600)),
        }
    }
}

impl Default for GuestHooks {
    fn default() -> Self {
        Self { before: None, after: None, limit: Period(Duration::from_secs(3600)) }
    }
}
