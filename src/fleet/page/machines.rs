//! Machines: how each stands at each of its destinations, its nights, what slows the fleet down, and who grows.

use std::collections::BTreeMap;

use super::chart::spark;
use super::figure::{count, duration, few, float, percent, size};
use super::nights::Slot;
use super::share;
use crate::fleet::night::{History, Night, Outcome, Standing as Became};
use crate::fleet::status::{Pair, Standing, Status};

/// Between the columns of nights.
const COLUMN: f64 = 7.0;
/// Fewer nights leave room, lest they be drawn larger.
const COLUMNS_MIN: usize = 30;
/// A machine that grew by so much of its size is named.
const GROWN: f64 = 0.1;
/// So many are named.
const GROWING_MAX: usize = 8;
/// What there is nothing of.
const NOTHING: &str = "–";

/// A machine.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) places: Vec<At>,
    pub(super) strip: Vec<Cell>,
    pub(super) strip_width: f64,
    pub(super) strip_words: String,
}

/// It at one of its destinations.
pub(super) struct At {
    pub(super) destination: String,
    pub(super) state: &'static str,
    pub(super) class: &'static str,
    pub(super) age: String,
    pub(super) age_class: &'static str,
    pub(super) limit: String,
    pub(super) size: String,
    pub(super) read: String,
    pub(super) sent: String,
    pub(super) stored: String,
    pub(super) took: String,
    pub(super) stage: String,
}

/// A night of a machine.
pub(super) struct Cell {
    pub(super) x: f64,
    pub(super) class: &'static str,
    pub(super) title: String,
}

/// A stage, and how much it decided.
pub(super) struct Stage {
    pub(super) name: String,
    pub(super) words: String,
    pub(super) percent: f64,
}

/// A machine that grows.
pub(super) struct Growing {
    pub(super) name: String,
    pub(super) words: String,
    pub(super) spark: String,
}

pub(super) fn machines(status: &Status, history: &History, slots: &[Slot]) -> Vec<Machine> {
    let by_machine = status.pairs.chunk_by(|one, other| one.machine == other.machine);
    by_machine.filter_map(|pairs| Some(machine(pairs.first()?, pairs, history, slots))).collect()
}

fn machine(first: &Pair, pairs: &[Pair], history: &History, slots: &[Slot]) -> Machine {
    let cell = |(at, slot): (usize, &Slot)| {
        let (class, words) = slot.night.map_or(("none", "no night"), |night| became(night, &first.machine));
        Cell { x: few(at) * COLUMN, class, title: format!("{}: {words}", slot.name) }
    };
    let strip: Vec<_> = slots.iter().enumerate().map(cell).collect();
    let of = |class: &str| strip.iter().filter(|cell| cell.class == class).count();
    let (all, made, failed) = (count(strip.len(), "night", "nights"), of("done"), of("fail") + of("part"));
    Machine {
        name: first.machine.clone(),
        policy: first.policy.clone(),
        places: pairs.iter().map(|pair| place(pair, history)).collect(),
        strip_words: format!("{all}: made in {made}, failed in {failed}"),
        strip_width: few(strip.len().max(COLUMNS_MIN)) * COLUMN,
        strip,
    }
}

/// What became of a machine in a night, over all its destinations.
fn became(night: &Night, machine: &str) -> (&'static str, &'static str) {
    let of_machine = || night.outcomes.iter().filter(|outcome| outcome.machine == machine);
    let any = |states: &[Became]| of_machine().any(|outcome| states.contains(&outcome.state));
    match (any(&[Became::Failed, Became::Pending]), any(&[Became::Done]), any(&[Became::Skipped])) {
        (true, true, _) => ("part", "made at some destinations"),
        (true, false, _) => ("fail", "failed"),
        (false, true, _) => ("done", "made"),
        (false, false, true) => ("skip", "skipped"),
        (false, false, false) => ("none", "not in this night"),
    }
}

fn place(pair: &Pair, history: &History) -> At {
    let last = history.nights.last().and_then(|night| night.outcome(&pair.machine, &pair.destination));
    let (state, class) = match last.map(|outcome| outcome.state) {
        Some(Became::Done) => ("made", "done"),
        Some(Became::Failed) => ("failed", "fail"),
        Some(Became::Pending) => ("not reached", "fail"),
        Some(Became::Skipped) => ("skipped", "skip"),
        None => ("not in it", "none"),
    };
    let image = last.and_then(|outcome| outcome.image.as_ref());
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| NOTHING.to_owned(), |bytes| size(float(bytes)));
    let age = |seconds: u64| duration(float(seconds));
    At {
        destination: pair.destination.clone(),
        state,
        class,
        age: pair.last_good.as_ref().map_or_else(|| "never".to_owned(), |good| age(good.age_seconds)),
        age_class: if pair.standing == Standing::Good { "" } else { "late" },
        limit: pair.max_age_seconds.map_or_else(String::new, |limit| format!("of {}", age(limit))),
        size: bytes(image.map(|image| image.tar_bytes)),
        read: bytes(image.map(|image| image.read_bytes)),
        sent: bytes(image.map(|image| image.sent_bytes)),
        stored: bytes(image.map(|image| image.stored_bytes)),
        took: last
            .filter(|outcome| outcome.began.is_some())
            .map_or_else(|| NOTHING.to_owned(), |one| duration(one.seconds)),
        stage: image.map_or_else(|| NOTHING.to_owned(), |image| image.slowest_stage.clone()),
    }
}

/// By the time of the freezes that each decided, in the newest night.
pub(super) fn stages(history: &History) -> Vec<Stage> {
    let mut stages: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    let made: Vec<_> = history.nights.last().into_iter().flat_map(Night::made).collect();
    for (outcome, image) in &made {
        let (images, seconds) = stages.entry(&image.slowest_stage).or_default();
        (*images, *seconds) = (*images + 1, *seconds + outcome.seconds);
    }
    let all: f64 = made.iter().map(|(outcome, _)| outcome.seconds).sum();
    let mut stages: Vec<_> = stages.into_iter().collect();
    stages.sort_by(|(_, one), (_, other)| other.1.total_cmp(&one.1));
    let stage = |(name, (images, seconds)): (&str, (usize, f64))| {
        let part = share(seconds, all);
        let words = format!("{} of the time, {}", percent(part / 100.0), count(images, "image", "images"));
        Stage { name: name.to_owned(), words, percent: part }
    };
    stages.into_iter().map(stage).collect()
}

/// Machines that grew in these nights, the most bytes first.
pub(super) fn growing(status: &Status, slots: &[Slot]) -> Vec<Growing> {
    let mut growing = Vec::new();
    for pairs in status.pairs.chunk_by(|one, other| one.machine == other.machine) {
        let Some(machine) = pairs.first().map(|pair| &pair.machine) else { continue };
        let of_night = |slot: &Slot| slot.night?.outcomes.iter().find_map(|outcome| size_of(outcome, machine));
        let sizes: Vec<f64> = slots.iter().filter_map(of_night).collect();
        let (Some(first), Some(last)) = (sizes.first(), sizes.last()) else { continue };
        let grown = last - first;
        if *first > 0.0 && grown >= GROWN * first {
            let words = format!("+{} ({}), now {}", size(grown), percent(grown / first), size(*last));
            growing.push((grown, Growing { name: machine.clone(), words, spark: spark(&sizes) }));
        }
    }
    growing.sort_by(|one, other| other.0.total_cmp(&one.0));
    growing.into_iter().take(GROWING_MAX).map(|(_, machine)| machine).collect()
}

fn size_of(outcome: &Outcome, machine: &str) -> Option<f64> {
    let is_made = outcome.machine == machine && outcome.state == Became::Done;
    outcome.image.as_ref().filter(|_| is_made).map(|image| float(image.tar_bytes))
}
