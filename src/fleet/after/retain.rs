//! Retention, carried out: first all that is to go is found, then it is written down, then it goes.
//!
//! Whoever is killed leaves the names in [`After::removing`](crate::fleet::night::After::removing). The next run finds them
//! gone, or still there, and goes on; what somebody else removed counts as not there, and is nobody's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::Context;
use super::places::{Gone, Places, There, off_the_runtime, output_of, spec, sweep, untag};
use super::retention::{Verdict, judge};
use crate::error::{Error, Result};
use crate::fleet::file::{Destination, Terms};
use crate::fleet::night::{Night, Removed, Snapshot, Trouble};
use crate::fleet::place::Template;
use crate::oci::Digest;
use crate::plan::OutputSpec;
use crate::record::store::{Listing, list};
use crate::state::State;
use crate::stop::Stop;

/// Names that are looked at, at a time.
const LOOKS: usize = 8;
/// What the names of artifacts end in, also where their template does not say so.
const ARTIFACT: &str = ".smolmachine";

/// What retention does with one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What is done.
    pub what: What,
}

/// What is done with a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// It is removed.
    Removes,
    /// It is gone: a run that was killed had begun to remove it.
    Finishes,
    /// It is left alone, for this reason.
    Leaves(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.snapshot.name;
        match &self.what {
            What::Removes => write!(f, "removes      {name}"),
            What::Finishes => write!(f, "removed      {name}, as an earlier run had begun to"),
            What::Leaves(why) => write!(f, "leaves alone {name}: {why}"),
        }
    }
}

/// The snapshots of one machine at one destination, and what is said of them.
pub(super) struct Group<'a> {
    pub(super) destination: &'a Destination,
    pub(super) terms: &'a Terms,
    /// All of them.
    pub(super) snapshots: Vec<Snapshot>,
    /// The one in whose favour others go.
    pub(super) tonight: Snapshot,
    /// It is not made yet, and taken for good.
    pub(super) is_assumed: bool,
}

impl Group<'_> {
    /// Leaves out names that the destination's template can't have given: they are of another place.
    pub(super) fn of_template(snapshots: &[Snapshot], template: &Template, pair: (&str, &str)) -> Vec<Snapshot> {
        let fits = |snapshot: &&Snapshot| {
            let names = [Some(&*snapshot.name), snapshot.name.strip_suffix(ARTIFACT)];
            snapshot.is_of(pair.0, pair.1) && names.iter().flatten().any(|name| template.fits(name, pair.0))
        };
        snapshots.iter().filter(fits).cloned().collect()
    }
}

/// What is to be done with the snapshots of a group. Where nothing has to go by what the nights say, nobody is asked.
pub(super) async fn plan(
    context: &Context<'_>,
    group: &Group<'_>,
    begun: &BTreeSet<(String, Digest)>,
    places: &Places,
    listing: &Listing,
) -> Result<Vec<Step>> {
    let Some(retention) = &group.terms.retention else { return Ok(Vec::new()) };
    let policy = retention.policy();
    let verdicts = judge(&group.snapshots, &group.tonight, &policy, &context.clock.zone());
    if !verdicts.contains(&Verdict::Goes) {
        return Ok(Vec::new());
    }
    let looks = group.snapshots.iter().map(async |snapshot| {
        if group.is_assumed && snapshot.name == group.tonight.name {
            return Ok(There::Itself);
        }
        places.look(snapshot, group.destination, listing).await
    });
    let looks: Vec<_> = looks.collect();
    let there: Vec<There> = stream::iter(looks).buffered(LOOKS).try_collect().await?;
    let (mut steps, mut present) = (Vec::new(), Vec::new());
    for ((snapshot, there), verdict) in group.snapshots.iter().zip(there).zip(&verdicts) {
        let what = match there {
            There::Itself => {
                present.push(snapshot.clone());
                continue;
            }
            There::Nothing if begun.contains(&(snapshot.name.clone(), snapshot.digest)) => What::Finishes,
            There::Other(what) if *verdict == Verdict::Goes => What::Leaves(format!("{what} has its name now")),
            There::Nothing | There::Other(_) => continue,
        };
        steps.push(Step { snapshot: snapshot.clone(), what });
    }
    if !present.iter().any(|snapshot| snapshot.name == group.tonight.name) {
        let reason = "tonight's is not there any more, so nothing older goes";
        return Err(Error::sink("looking at the snapshots", &group.tonight.name, reason));
    }
    // Once more, without those that are gone: they must not be kept in the place of one that is there.
    let verdicts = judge(&present, &group.tonight, &policy, &context.clock.zone());
    let going = present.into_iter().zip(verdicts).filter(|(_, verdict)| *verdict == Verdict::Goes);
    steps.extend(going.map(|(snapshot, _)| Step { snapshot, what: What::Removes }));
    Ok(steps)
}

/// Those that a run which was killed had begun to remove.
pub(super) fn begun<'a>(nights: impl Iterator<Item = &'a Night>) -> BTreeSet<(String, Digest)> {
    let removing = nights.flat_map(|night| &night.after.removing);
    removing.map(|removed| (removed.name.clone(), removed.digest)).collect()
}

/// Removes what is to go.
pub(super) struct Removal<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) places: &'a Places,
    pub(super) listing: &'a Listing,
    pub(super) stop: &'a Stop,
    /// Repositories that failed, or remove nothing.
    passed: BTreeSet<String>,
    /// Registries of which it was said that they remove nothing.
    never: BTreeSet<String>,
}

impl<'a> Removal<'a> {
    pub(super) fn new(context: &'a Context<'a>, places: &'a Places, listing: &'a Listing, stop: &'a Stop) -> Self {
        Self { context, places, listing, stop, passed: BTreeSet::new(), never: BTreeSet::new() }
    }

    /// Carries the steps out, and notes in `night` what was done.
    pub(super) async fn carry_out(&mut self, steps: &[Step], night: &mut Night) {
        let is_going = |step: &&Step| !matches!(step.what, What::Leaves(_));
        night.after.removing = steps.iter().filter(is_going).map(|step| self.removed(&step.snapshot)).collect();
        if night.after.removing.is_empty() || !self.context.write(night) {
            night.after.removing.clear();
            return;
        }
        let mut layouts = BTreeMap::<PathBuf, Vec<(&Step, String)>>::new();
        for step in steps.iter().filter(is_going) {
            if self.stop.is_stopped() {
                return;
            }
            let Some(destination) = self.context.file.destinations.get(&step.snapshot.destination) else { continue };
            match spec(&step.snapshot, destination) {
                Ok(OutputSpec::Layout { folder, tag }) => layouts.entry(folder).or_default().push((step, tag)),
                Ok(_) => self.one(step, destination, night).await,
                Err(error) => night.after.troubles.push(Trouble::from(&error)),
            }
        }
        for (folder, tags) in layouts {
            if self.stop.is_stopped() {
                return;
            }
            self.layout(folder, &tags, night).await;
        }
        night.after.removing.clear();
        self.context.write(night);
    }

    async fn one(&mut self, step: &Step, destination: &Destination, night: &mut Night) {
        let snapshot = &step.snapshot;
        let repository = snapshot.name.rsplit_once(':').map_or(&*snapshot.name, |(repository, _)| repository);
        if self.passed.contains(repository) {
            return;
        }
        let gone = match step.what {
            What::Finishes => Ok(Gone::Removed),
            _ => self.places.remove(snapshot, destination, self.listing).await,
        };
        match gone {
            Ok(Gone::Removed) => self.note(snapshot, destination, night),
            Ok(Gone::Left(why)) => self.context.remark(night, &format!("{} is left alone: {why}", snapshot.name)),
            Ok(Gone::Never(words)) => {
                self.passed.insert(repository.to_owned());
                let registry = snapshot.name.split('/').next().unwrap_or_default();
                if self.never.insert(registry.to_owned()) {
                    let why = format!("{registry} removes no images, so old ones stay there: {words}");
                    self.context.remark(night, &why);
                }
            }
            Err(error) => {
                self.passed.insert(repository.to_owned());
                self.context.trouble(night, Trouble::from(&error));
            }
        }
    }

    /// All names of one layout that are to go: then blobs that nothing needs any more, all under its locks.
    async fn layout(&mut self, folder: PathBuf, tags: &[(&Step, String)], night: &mut Night) {
        let names: Vec<_> = tags.iter().map(|(step, tag)| (tag.clone(), step.snapshot.digest)).collect();
        let (place, age_min) = (folder.clone(), self.context.blob_age_min);
        if let Err(error) = off_the_runtime(move || untag(&place, &names)).await {
            return self.context.trouble(night, Trouble::from(&error));
        }
        if let Err(error) = off_the_runtime(move || sweep(&folder, age_min)).await {
            // Somebody may be using it. What is not needed is found again when the next one goes.
            self.context.remark(night, &error.to_string());
        }
        for (step, _) in tags {
            let Some(destination) = self.context.file.destinations.get(&step.snapshot.destination) else { continue };
            self.note(&step.snapshot, destination, night);
        }
    }

    /// It is gone: the record that tells of it is changed before the night is.
    fn note(&self, snapshot: &Snapshot, destination: &Destination, night: &mut Night) {
        if let Some((record, output)) = output_of(snapshot, destination, self.listing) {
            let forgotten =
                State::at(&self.context.host.state).and_then(|state| self.listing.forget(&state, record, output));
            if let Err(error) = forgotten {
                self.context.trouble(night, Trouble::from(&error));
            }
        }
        let removed = self.removed(snapshot);
        night.after.removing.retain(|other| (&other.name, other.digest) != (&removed.name, removed.digest));
        self.context.watcher.said(&format!("removed {}", removed.name));
        night.after.removed.push(removed);
        self.context.write(night);
    }

    fn removed(&self, snapshot: &Snapshot) -> Removed {
        Removed {
            machine: snapshot.machine.clone(),
            destination: snapshot.destination.clone(),
            name: snapshot.name.clone(),
            digest: snapshot.digest,
            at: self.context.clock.now(),
        }
    }
}

/// The records, to find launchers and to be changed.
pub(super) fn records(context: &Context<'_>) -> Result<Listing> {
    list(&State::at(&context.host.state)?)
}
