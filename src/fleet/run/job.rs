//! What is to be done: each selected machine, and where its image goes, the longest first.

use jiff::ZonedDateTime;

use crate::error::Error;
use crate::fleet::file::{File, Terms};
use crate::fleet::night::{History, Night, Outcome, Standing, Trouble};
use crate::fleet::place::Values;
use crate::fleet::select::{Listed, Selection};
use crate::plan::OutputSpec;

/// A machine that is frozen.
#[derive(Debug, Clone)]
pub struct Job {
    /// The machine.
    pub machine: Listed,
    /// How.
    pub terms: Terms,
    /// Where its image goes.
    pub places: Vec<Place>,
    /// What the last good freeze took, in seconds, and how many bytes it read.
    pub last: Option<(f64, u64)>,
}

/// Where an image goes.
#[derive(Debug, Clone)]
pub struct Place {
    /// The destination's name in the file.
    pub destination: String,
    /// The image's name there.
    pub name: String,
    /// As a freeze takes it.
    pub output: OutputSpec,
    /// How often it was tried in this run.
    pub attempts: u32,
}

/// What a run has to do.
#[derive(Debug, Default)]
pub struct Work {
    /// In the order in which machines get their turn.
    pub jobs: Vec<Job>,
    /// Outcomes that are known without a try.
    pub settled: Vec<Outcome>,
}

impl Job {
    /// Whether the machine did not run when it was looked at.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        is_stopped(&self.machine.state)
    }
}

/// Whether this is the state of a machine that can't be frozen as it is. Of others, a freeze tells.
pub(super) fn is_stopped(state: &str) -> bool {
    matches!(state, "stopped" | "created")
}

/// When a night began and what it is called.
#[derive(Debug)]
pub struct Naming<'a> {
    /// The night's name.
    pub night: &'a str,
    /// This host's.
    pub host: &'a str,
    /// When its first run began, so that names stay the same in one that is gone on with.
    pub began: &'a ZonedDateTime,
}

/// What is not done yet in `night`, and with `force` what is.
#[must_use]
pub fn work(
    file: &File,
    selection: &Selection,
    naming: &Naming,
    (night, force): (&Night, bool),
    history: &History,
) -> Work {
    let mut work = Work::default();
    for selected in &selection.selected {
        let Some(policy) = file.policies.get(selected.policy) else { continue };
        let terms = policy.terms(selected.policy, file);
        let machine = selected.machine.clone();
        let values = Values {
            machine: &machine.name,
            policy: &terms.policy,
            host: naming.host,
            night: naming.night,
            began: naming.began.datetime(),
        };
        let is_done = |name: &str| {
            let last = night.outcome(&machine.name, name);
            !force && last.is_some_and(|outcome| outcome.good().is_some())
        };
        let mut places = Vec::new();
        for name in terms.to.iter().filter(|name| !is_done(name)) {
            match place(file, name, &values, &terms) {
                Ok(place) => places.push(place),
                Err(error) => work.settled.push(refused(&machine.name, &terms.policy, name, &error)),
            }
        }
        // As a plan sorts its outputs.
        places.sort_by_key(|place| place.output.is_artifact());
        let last = history.last_cost(&machine.name).map(|(seconds, made)| (seconds, made.read_bytes));
        if !places.is_empty() {
            work.jobs.push(Job { machine, terms, places, last });
        }
    }
    // What was never frozen may take longest.
    let seconds = |job: &Job| job.last.map_or(f64::INFINITY, |(seconds, _)| seconds);
    work.jobs.sort_by(|one, other| seconds(other).total_cmp(&seconds(one)));
    work
}

fn place(file: &File, name: &str, values: &Values, terms: &Terms) -> Result<Place, Error> {
    let missing = || Error::usage("finding a destination", format_args!("'{name}'"), "the file has none of this name");
    let destination = file.destinations.get(name).ok_or_else(missing)?;
    let output = destination.output(values, terms.freeze.pack_with)?;
    output.check_name()?;
    Ok(Place { destination: name.to_owned(), name: named(&output), output, attempts: 0 })
}

/// The image's name, for people and for whoever reads it back.
fn named(output: &OutputSpec) -> String {
    match output {
        OutputSpec::Packed { sidecar, .. } => sidecar.display().to_string(),
        others => others.to_string(),
    }
}

fn refused(machine: &str, policy: &str, destination: &str, error: &Error) -> Outcome {
    let mut outcome = pending(machine, policy, destination, "");
    (outcome.state, outcome.trouble) = (Standing::Failed, Some(Trouble::from(error)));
    outcome
}

/// The outcome of what is not done.
pub(super) fn pending(machine: &str, policy: &str, destination: &str, name: &str) -> Outcome {
    Outcome {
        machine: machine.to_owned(),
        policy: policy.to_owned(),
        destination: destination.to_owned(),
        name: name.to_owned(),
        state: Standing::Pending,
        trouble: None,
        attempts: 0,
        began: None,
        ended: None,
        seconds: 0.0,
        image: None,
        remarks: Vec::new(),
        verified: None,
    }
}

/// How long the jobs take, by what they took last, with so many at a time; none where nobody knows of any.
#[must_use]
pub fn forecast_seconds(jobs: &[Job], concurrency: usize) -> Option<f64> {
    let known: Vec<_> = jobs.iter().filter_map(|job| job.last).map(|(seconds, _)| seconds).collect();
    if known.is_empty() {
        return None;
    }
    let mut workers = vec![0.0_f64; concurrency.max(1)];
    for seconds in known {
        if let Some(idle) = workers.iter_mut().min_by(|one, other| one.total_cmp(other)) {
            *idle += seconds;
        }
    }
    workers.into_iter().reduce(f64::max)
}
