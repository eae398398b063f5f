//! How a fleet stands: of every machine that is selected, at each of its destinations, the last good snapshot and its age.
//! Pure: what smolvm lists, what the nights say, and what time it is come in from outside.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::file::{File, Unselected};
use super::night::{Failure, History, Night, Run, Snapshot, Trouble, newest_good};
use super::select::{Listed, select};
use crate::error::Result;
use crate::oci::Digest;

/// Where smolvm can't be asked, the machines are those of so many of the newest nights: a night may have been one of a few
/// machines alone (`--only`).
const NIGHTS_ASKED: usize = 7;

/// How a fleet stands.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The fleet's name.
    pub fleet: String,
    /// When this was so.
    pub at: Timestamp,
    /// Whether everything is as the file demands.
    pub is_right: bool,
    /// Why smolvm could not say which machines there are. Then they are those of the last nights.
    pub smolvm: Option<String>,
    /// The newest night.
    pub last_night: Option<LastNight>,
    /// Every machine that is selected, at each of its destinations.
    pub pairs: Vec<Pair>,
    /// Machines that no policy selects, and that the file does not ignore.
    pub unselected: Vec<String>,
    /// What they mean.
    pub unselected_means: Unselected,
}

/// The newest night.
#[derive(Debug, Clone, Serialize)]
pub struct LastNight {
    /// Its name.
    pub night: String,
    /// Its newest run.
    pub run: Option<Run>,
}

/// A machine at one of its destinations.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// The machine.
    pub machine: String,
    /// The policy that it falls to.
    pub policy: String,
    /// The destination's name in the file.
    pub destination: String,
    /// The verdict.
    pub standing: Standing,
    /// The newest snapshot that is there and was not found damaged.
    pub last_good: Option<Good>,
    /// So old may it be.
    pub max_age_seconds: Option<u64>,
    /// Why all of the machine was read for the newest image, where nobody could tell what had changed.
    pub in_full: Option<String>,
    /// Why the newest night that failed here did.
    pub last_error: Option<LastError>,
}

/// Whether a pair is as its policy demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// There is a snapshot, and it is not too old.
    Good,
    /// It is older than the policy allows.
    Old,
    /// There is none.
    Never,
}

/// A good snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct Good {
    /// The night that made it.
    pub night: String,
    /// Its name at the destination.
    pub name: String,
    /// Its manifest's digest.
    pub digest: Digest,
    /// When its freeze began.
    pub taken: Timestamp,
    /// How long ago that is.
    pub age_seconds: u64,
    /// When it was last read back, if it ever was.
    pub verified: Option<Timestamp>,
}

/// A failure.
#[derive(Debug, Clone, Serialize)]
pub struct LastError {
    /// The night's name.
    pub night: String,
    /// When.
    pub at: Option<Timestamp>,
    /// Why.
    #[serde(flatten)]
    pub trouble: Trouble,
    /// Whether there is a good snapshot since.
    pub is_mended: bool,
}

/// A machine at a destination that is selected, before anything is said of it.
struct Wanted {
    machine: String,
    policy: String,
    destination: String,
    max_age: Option<Duration>,
}

impl Status {
    /// The exit code of who asks how a fleet stands that is not as its file demands.
    pub const EXIT_CODE_WRONG: u8 = 13;

    /// `machines` is what smolvm lists, or why it lists nothing.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] with a pattern that is none.
    pub fn of(file: &File, history: &History, machines: Result<Vec<Listed>, String>, now: Timestamp) -> Result<Self> {
        let (wanted, unselected, smolvm) = match machines {
            Ok(machines) => {
                let (wanted, unselected) = by_list(file, machines)?;
                (wanted, unselected, None)
            }
            Err(reason) => {
                let (wanted, unselected) = by_history(file, history);
                (wanted, unselected, Some(reason))
            }
        };
        let known = history.snapshots();
        let pairs: Vec<_> = wanted.into_iter().map(|wanted| Pair::of(wanted, history, &known, now)).collect();
        let knows_nothing = smolvm.is_some() && pairs.is_empty();
        let all_selected = unselected.is_empty() || file.unselected != Unselected::Fail;
        let last_night = |night: &Night| LastNight { night: night.night.clone(), run: night.runs.last().cloned() };
        Ok(Self {
            fleet: file.name.clone(),
            at: now,
            is_right: pairs.iter().all(|pair| pair.standing == Standing::Good) && all_selected && !knows_nothing,
            smolvm,
            last_night: history.nights.last().map(last_night),
            pairs,
            unselected,
            unselected_means: file.unselected,
        })
    }

    /// How many pairs stand so.
    #[must_use]
    pub fn count(&self, standing: Standing) -> usize {
        self.pairs.iter().filter(|pair| pair.standing == standing).count()
    }
}

fn by_list(file: &File, machines: Vec<Listed>) -> Result<(Vec<Wanted>, Vec<String>)> {
    let selection = select(file, machines)?;
    let wanted = selection.selected.into_iter().flat_map(|selected| {
        let terms = file.policies[selected.policy].terms(selected.policy, file);
        let (machine, policy, max_age) = (selected.machine.name, terms.policy, terms.max_age);
        let at = move |destination| Wanted { machine: machine.clone(), policy: policy.clone(), destination, max_age };
        terms.to.into_iter().map(at)
    });
    Ok((wanted.collect(), selection.unselected))
}

fn by_history(file: &File, history: &History) -> (Vec<Wanted>, Vec<String>) {
    let (mut seen, mut wanted) = (BTreeSet::new(), Vec::new());
    for outcome in history.nights.iter().rev().take(NIGHTS_ASKED).flat_map(|night| &night.outcomes) {
        let pair = (&outcome.machine, &outcome.destination);
        if file.destinations.contains_key(&outcome.destination) && seen.insert(pair) {
            wanted.push(Wanted {
                machine: outcome.machine.clone(),
                policy: outcome.policy.clone(),
                destination: outcome.destination.clone(),
                max_age: max_age(file, &outcome.policy),
            });
        }
    }
    wanted.sort_by(|one, other| (&one.machine, &one.destination).cmp(&(&other.machine, &other.destination)));
    (wanted, history.nights.last().map_or_else(Vec::new, |night| night.unselected.clone()))
}

/// Of a policy by its name; one that the file no longer has is as the defaults say.
fn max_age(file: &File, policy: &str) -> Option<Duration> {
    let at = file.policies.iter().enumerate().position(|(at, one)| one.name(at) == policy);
    at.map_or_else(|| file.defaults.max_age.map(|period| period.0), |at| file.policies[at].terms(at, file).max_age)
}

impl Pair {
    fn of(wanted: Wanted, history: &History, known: &[Snapshot], now: Timestamp) -> Self {
        let last_good = newest_good(known, &wanted.machine, &wanted.destination);
        let last_good = last_good.map(|snapshot| Good::of(snapshot, now));
        let limit = wanted.max_age.map(|age| age.as_secs());
        let standing = match (&last_good, limit) {
            (None, _) => Standing::Never,
            (Some(good), Some(limit)) if good.age_seconds > limit => Standing::Old,
            (Some(_), _) => Standing::Good,
        };
        let failure = history.last_failure(&wanted.machine, &wanted.destination);
        let last_error = failure.map(|failure| LastError::of(&failure, last_good.as_ref()));
        let made = history.last_made(&wanted.machine, &wanted.destination);
        let in_full = made.and_then(|(_, made)| made.in_full.clone());
        let Wanted { machine, policy, destination, .. } = wanted;
        Self { machine, policy, destination, standing, last_good, max_age_seconds: limit, in_full, last_error }
    }
}

impl Good {
    fn of(snapshot: &Snapshot, now: Timestamp) -> Self {
        Self {
            night: snapshot.night.clone(),
            name: snapshot.name.clone(),
            digest: snapshot.digest,
            taken: snapshot.at,
            // A clock that was set back makes nothing older.
            age_seconds: u64::try_from(now.duration_since(snapshot.at).as_secs()).unwrap_or(0),
            verified: snapshot.verified.as_ref().map(|verified| verified.at),
        }
    }
}

impl LastError {
    fn of(failure: &Failure, last_good: Option<&Good>) -> Self {
        let is_mended = last_good.zip(failure.at).is_some_and(|(good, at)| good.taken > at);
        Self { night: failure.night.to_owned(), at: failure.at, trouble: failure.trouble.clone(), is_mended }
    }
}

#[cfg(test)]
mod tests;
