//! Snapshots, read back as `smolfreeze verify` does: tonight's, and some of the older ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::choose::{part, waits_longest};
use super::places::{context as sink_context, registry_options, spec};
use super::retain::Group;
use super::{Context, reverified};
use crate::error::{Error, Kind, Result};
use crate::fleet::file::{Destination, Terms};
use crate::fleet::night::{Night, Outcome, Snapshot, Trouble, Verified, snapshots};
use crate::plan::OutputSpec;
use crate::progress::{Observer, Silent};
use crate::state::State;
use crate::stop::Stop;
use crate::stored::{Stored, StoredName, Wanted};

/// Reads tonight's back, where their policies say so.
pub(super) async fn newest(context: &Context<'_>, terms: &BTreeMap<String, Terms>, night: &mut Night, stop: &Stop) {
    for at in 0..night.outcomes.len() {
        if stop.is_stopped() {
            return;
        }
        let outcome = &night.outcomes[at];
        let verify = terms.get(&outcome.policy).and_then(|terms| terms.verify.as_ref());
        let Some(verify) = verify.filter(|verify| verify.newest && outcome.verified.is_none()) else { continue };
        let Some((snapshot, destination)) = made(context, outcome) else { continue };
        match read_back(context, &snapshot, destination, verify.limit.0, stop).await {
            Ok(verified) => {
                let fault = verified.fault.as_deref().map(|fault| told(&snapshot, fault));
                night.outcomes[at].verified = Some(verified);
                if let Some(fault) = fault {
                    context.trouble(night, fault);
                }
                context.write(night);
            }
            Err(trouble) => context.trouble(night, trouble),
        }
    }
}

/// Reads older ones back: of each machine at each destination the one that waits longest, and a part of all of a policy.
pub(super) async fn others(context: &Context<'_>, terms: &BTreeMap<String, Terms>, night: &mut Night, stop: &Stop) {
    let nights = match context.with(night) {
        Ok(nights) => nights,
        Err(error) => return context.trouble(night, Trouble::from(&error)),
    };
    let known = snapshots(nights.iter());
    let since = night.began();
    let is_done = |snapshot: &Snapshot| snapshot.verified.as_ref().map(|verified| verified.at) >= since;
    let (mut chosen, mut of_policies) = (Vec::new(), BTreeMap::<&str, Vec<&Snapshot>>::new());
    let groups: Vec<_> = night
        .outcomes
        .iter()
        .filter_map(|outcome| {
            let terms = terms.get(&outcome.policy)?;
            let template = context.file.destinations.get(&outcome.destination)?.template().ok()?;
            Some((terms, Group::of_template(&known, &template, (&outcome.machine, &outcome.destination))))
        })
        .collect();
    for (terms, group) in &groups {
        let Some(verify) = &terms.verify else { continue };
        if let Some(every) = verify.every {
            let waits = waits_longest(group, every.0, context.clock.now());
            // One a night, however often it is run.
            chosen.extend(waits.filter(|_| !night.after.verified.iter().any(|done| waits_with(group, &done.name))));
        }
        of_policies.entry(&terms.policy).or_default().extend(group);
    }
    for (policy, all) in of_policies {
        let percent = terms.get(policy).and_then(|terms| terms.verify.as_ref()?.part).map_or(0, |part| part.percent);
        chosen.extend(part(&all, percent, &night.night));
    }
    let mut seen = BTreeSet::new();
    chosen.retain(|snapshot| !is_done(snapshot) && seen.insert(&snapshot.name));
    let limits: BTreeMap<_, _> = groups
        .iter()
        .filter_map(|(terms, group)| Some((terms.verify.as_ref()?.limit.0, group)))
        .flat_map(|(limit, group)| group.iter().map(move |snapshot| (&snapshot.name, limit)))
        .collect();
    for snapshot in chosen {
        if stop.is_stopped() {
            return;
        }
        let Some(destination) = context.file.destinations.get(&snapshot.destination) else { continue };
        let limit = limits.get(&snapshot.name).copied().unwrap_or_default();
        match read_back(context, snapshot, destination, limit, stop).await {
            Ok(verified) => {
                let fault = verified.fault.as_deref().map(|fault| told(snapshot, fault));
                night.after.verified.push(reverified(snapshot, verified));
                if let Some(fault) = fault {
                    context.trouble(night, fault);
                }
                context.write(night);
            }
            Err(trouble) => context.trouble(night, trouble),
        }
    }
}

fn waits_with(group: &[Snapshot], name: &str) -> bool {
    group.iter().any(|snapshot| snapshot.name == name)
}

fn told(snapshot: &Snapshot, fault: &str) -> Trouble {
    let Snapshot { machine, destination, name, .. } = snapshot;
    Trouble::new(
        Kind::Corrupt.name(),
        format!("verifying {name} (machine '{machine}' at '{destination}') failed: {fault}"),
    )
}

/// What a night made.
fn made<'a>(context: &Context<'a>, outcome: &Outcome) -> Option<(Snapshot, &'a Destination)> {
    let made = outcome.good()?;
    let at = outcome.began.or(outcome.ended)?;
    let pair = (&*outcome.machine, &*outcome.destination);
    let snapshot = Snapshot::new(pair, &outcome.name, made.digest, at);
    Some((snapshot, context.file.destinations.get(&outcome.destination)?))
}

/// Reads a snapshot back: how it was found; or why that can't be told, which says nothing of it.
async fn read_back(
    context: &Context<'_>,
    snapshot: &Snapshot,
    destination: &Destination,
    limit: Duration,
    stop: &Stop,
) -> Result<Verified, Trouble> {
    let name = &snapshot.name;
    // Whatever ends this, its threads end as well.
    let own = End(Stop::new());
    let found = tokio::select! {
        found = tokio::time::timeout(limit, faults(context, snapshot, destination, &own.0)) => found,
        () = stop.stopped() => return Err(Trouble::new("interrupted", format!("verifying {name} was interrupted"))),
    };
    let late = || {
        let limit = humantime::format_duration(limit);
        Trouble::new("deadline", format!("verifying {name} took longer than its limit of {limit}"))
    };
    let fault = match found.map_err(|_| late())? {
        Ok(faults) => match &faults[..] {
            [] => None,
            [only] => Some(only.clone()),
            [first, more @ ..] => Some(format!("{first} (and {} faults more)", more.len())),
        },
        Err(error) if error.kind() == Kind::Corrupt => Some(error.to_string()),
        Err(error) => return Err(Trouble::from(&error)),
    };
    Ok(Verified { at: context.clock.now(), fault })
}

async fn faults(
    context: &Context<'_>,
    snapshot: &Snapshot,
    destination: &Destination,
    stop: &Stop,
) -> Result<Vec<String>> {
    let name = stored_name(snapshot, destination)?;
    let wanted = Wanted { name: &name, platform: None, tar_bytes_max: None };
    let stored = Stored::open(wanted, registry_options(destination), sink_context(stop)).await?;
    let is = match &stored {
        Stored::Image(image) => Some(image.inspect("").await?.manifest.digest),
        // What smolvm packed says of no image.
        Stored::Artifact(artifact) => artifact.inspect("").digest.parse().ok(),
    };
    if let Some(other) = is.filter(|is| *is != snapshot.digest) {
        return Ok(vec![format!("its name stands for {other} now, and {} was made", snapshot.digest)]);
    }
    let indexes = State::at(&context.host.state)?.indexes();
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    Ok(stored.verify(Some(&indexes), &observer).await?.faults)
}

/// A snapshot as whoever reads it names it.
pub(super) fn stored_name(snapshot: &Snapshot, destination: &Destination) -> Result<StoredName, Error> {
    match spec(snapshot, destination)? {
        OutputSpec::Artifact(path) | OutputSpec::Packed { sidecar: path, .. } => Ok(StoredName::Artifact(path)),
        OutputSpec::Layout { .. } | OutputSpec::Registry(_) => snapshot.name.parse(),
    }
}

/// Ends what is under way when it is dropped.
struct End(Stop);

impl Drop for End {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}
