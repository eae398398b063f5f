//! What is done when the freezes of a run are over.
//!
//! ```text
//! tonight's are verified ─▶ retention: snapshot ─▶ retention ─▶ retain ─▶ places ─▶ older ones are verified ─▶ drills that are due
//!                                      nights       rules        in order    registry, layout, file
//! ```
//!
//! Retention is the part that deletes. What holds of it:
//! - Only names go that this fleet's nights made for this machine at this destination, and that stand for what they made.
//! - Nothing goes but in favour of a snapshot of tonight's that is there, and was found right where the policy asks for that.
//! - Who is killed leaves nothing that the next run does not finish.

mod choose;
mod drill;
mod places;
mod retain;
mod retention;
mod verify;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use self::places::Places;
use self::retain::{Group, Removal};
use crate::error::{Error, Result};
use crate::fleet::file::{File, Terms};
use crate::fleet::night::{Night, Nights, Outcome, Reverified, Snapshot, Standing, Trouble, Verified, snapshots};
use crate::fleet::run::{Clock, Host, Watcher};
use crate::oci::Digest;
use crate::stop::Stop;
use crate::text;

pub use drill::{Drills, drill_now, is_of_a_drill};
pub use retain::{Step, What};
pub use retention::{Verdict, judge};

/// What is younger in a layout, and has no name, may be another program's on its way to one, as `gc` has it.
pub const BLOB_AGE_MIN: Duration = Duration::from_secs(24 * 3600);

/// What there is to work with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The fleet.
    pub file: &'a File,
    /// Where its nights are.
    pub nights: &'a Nights,
    /// This host.
    pub host: &'a Host,
    /// The time, and the zone whose days are counted.
    pub clock: &'a dyn Clock,
    /// Is told of what is done, and of what can't be.
    pub watcher: &'a dyn Watcher,
    /// Blobs of a layout that nothing needs go when they are older: [`BLOB_AGE_MIN`].
    pub blob_age_min: Duration,
}

impl<'a> Context<'a> {
    /// That of a fleet on its host.
    #[must_use]
    pub fn new(
        (file, nights, host): (&'a File, &'a Nights, &'a Host),
        clock: &'a dyn Clock,
        watcher: &'a dyn Watcher,
    ) -> Self {
        Self { file, nights, host, clock, watcher, blob_age_min: BLOB_AGE_MIN }
    }
}

impl Context<'_> {
    fn trouble(&self, night: &mut Night, trouble: Trouble) {
        self.watcher.said(&trouble.text);
        night.after.troubles.push(trouble);
    }

    fn remark(&self, night: &mut Night, remark: &str) {
        let remark = text::line(remark).into_owned();
        self.watcher.said(&remark);
        night.after.remarks.push(remark);
    }

    /// Whether the night's file has it.
    fn write(&self, night: &mut Night) -> bool {
        match self.nights.write(night) {
            Ok(()) => true,
            Err(error) => {
                self.trouble(night, Trouble::from(&error));
                false
            }
        }
    }

    /// What each policy comes to, by its name.
    fn terms(&self) -> BTreeMap<String, Terms> {
        let policies = self.file.policies.iter().enumerate();
        let terms = policies.map(|(at, policy)| policy.terms(at, self.file));
        terms.map(|terms| (terms.policy.clone(), terms)).collect()
    }

    /// All nights, with `night` in the place of what is on disk of it.
    fn with(&self, night: &Night) -> Result<Vec<Night>> {
        let mut nights = self.nights.history()?.nights;
        nights.retain(|other| other.night != night.night);
        nights.push(night.clone());
        Ok(nights)
    }
}

/// Does, when all freezes of a run are over, what the file asks for. What came of it is noted in `night`, which is written
/// after each step; what fails is a trouble there, and stops nothing else. Run again in the same night, it does what was not
/// done.
pub async fn carry_out(context: &Context<'_>, night: &mut Night, stop: &Stop) {
    let terms = context.terms();
    // Those of a run before this one in the same night.
    night.after.troubles.clear();
    night.after.remarks.clear();
    verify::newest(context, &terms, night, stop).await;
    retain(context, &terms, night, stop).await;
    verify::others(context, &terms, night, stop).await;
    drill::due(context, &terms, night, stop).await;
}

/// A snapshot that a run would make.
#[derive(Debug, Clone)]
pub struct Assumed<'a> {
    /// The machine.
    pub machine: &'a str,
    /// Its policy.
    pub policy: &'a str,
    /// The destination's name in the file.
    pub destination: &'a str,
    /// The image's name there.
    pub name: &'a str,
}

/// What retention would do once these are made, and good; and those that are there already in `night`. Nothing is changed.
///
/// # Errors
/// When nights or records can't be read. What can't be looked at is left alone, and says why.
pub async fn preview(context: &Context<'_>, night: &Night, assumed: &[Assumed<'_>], stop: &Stop) -> Result<Vec<Step>> {
    let (terms, places, listing) = (context.terms(), Places::new(stop), retain::records(context)?);
    let nights = context.with(night)?;
    let known = snapshots(nights.iter());
    let begun = retain::begun(nights.iter());
    let mut steps = Vec::new();
    for assumed in assumed {
        let tonight = Snapshot::assumed(assumed, context.clock.now());
        let mut all: Vec<_> = known.iter().filter(|other| other.name != tonight.name).cloned().collect();
        all.push(tonight.clone());
        if let Some(group) = group(context, &terms, &all, (tonight, assumed.policy), true) {
            steps.extend(or_why(retain::plan(context, &group, &begun, &places, &listing).await, &group));
        }
    }
    for outcome in night.outcomes.iter().filter(|outcome| outcome.good().is_some()) {
        let is_assumed = |assumed: &Assumed| outcome.is_of(assumed.machine, assumed.destination);
        let Some(tonight) = known.iter().find(|snapshot| is_tonights(snapshot, outcome)).cloned() else { continue };
        if let Some(group) = group(context, &terms, &known, (tonight, &outcome.policy), false)
            && !assumed.iter().any(is_assumed)
        {
            steps.extend(or_why(retain::plan(context, &group, &begun, &places, &listing).await, &group));
        }
    }
    Ok(steps)
}

/// What can't be looked at is left alone.
fn or_why(planned: Result<Vec<Step>>, group: &Group<'_>) -> Vec<Step> {
    let why = |error: Error| vec![Step { snapshot: group.tonight.clone(), what: What::Leaves(error.to_string()) }];
    planned.unwrap_or_else(why)
}

async fn retain(context: &Context<'_>, terms: &BTreeMap<String, Terms>, night: &mut Night, stop: &Stop) {
    let read = || Ok((context.with(night)?, retain::records(context)?));
    let (nights, listing) = match read() {
        Ok(read) => read,
        Err(error) => return context.trouble(night, Trouble::from(&error)),
    };
    let (places, begun, known) = (Places::new(stop), retain::begun(nights.iter()), snapshots(nights.iter()));
    let mut steps = Vec::new();
    for outcome in nights.last().into_iter().flat_map(|night| &night.outcomes) {
        if stop.is_stopped() {
            return;
        }
        if outcome.good().is_none() {
            continue;
        }
        let Some(tonight) = known.iter().find(|snapshot| is_tonights(snapshot, outcome)).cloned() else { continue };
        let Some(group) = group(context, terms, &known, (tonight, &outcome.policy), false) else { continue };
        let is_unverified =
            group.terms.verify.as_ref().is_some_and(|verify| verify.newest) && outcome.verified.is_none();
        if is_unverified {
            continue;
        }
        match retain::plan(context, &group, &begun, &places, &listing).await {
            Ok(planned) => steps.extend(planned),
            Err(error) => context.trouble(night, Trouble::from(&error)),
        }
    }
    for step in steps.iter().filter(|step| matches!(step.what, What::Leaves(_))) {
        context.remark(night, &step.to_string());
    }
    Removal::new(context, &places, &listing, stop).carry_out(&steps, night).await;
}

fn is_tonights(snapshot: &Snapshot, outcome: &Outcome) -> bool {
    let digest = outcome.image.as_ref().map(|made| made.digest);
    outcome.state == Standing::Done
        && snapshot.is_of(&outcome.machine, &outcome.destination)
        && (Some(snapshot.digest), &snapshot.name) == (digest, &outcome.name)
}

/// The snapshots among which `tonight` is the newest; none where no policy says what becomes of them.
fn group<'a>(
    context: &Context<'a>,
    terms: &'a BTreeMap<String, Terms>,
    known: &[Snapshot],
    (tonight, policy): (Snapshot, &str),
    is_assumed: bool,
) -> Option<Group<'a>> {
    let terms = terms.get(policy)?;
    let destination = context.file.destinations.get(&tonight.destination)?;
    let template = destination.template().ok()?;
    let snapshots = Group::of_template(known, &template, (&tonight.machine, &tonight.destination));
    Some(Group { destination, terms, snapshots, tonight, is_assumed })
}

impl Snapshot {
    /// One that is not made yet.
    fn assumed(assumed: &Assumed<'_>, at: Timestamp) -> Self {
        let nothing = Digest::from_bytes([0; 32]);
        Self::new((assumed.machine, assumed.destination), assumed.name, nothing, at)
    }
}

/// What was found of an older snapshot.
fn reverified(snapshot: &Snapshot, verified: Verified) -> Reverified {
    Reverified {
        machine: snapshot.machine.clone(),
        destination: snapshot.destination.clone(),
        name: snapshot.name.clone(),
        digest: snapshot.digest,
        verified,
    }
}
