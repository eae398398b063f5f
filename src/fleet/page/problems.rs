//! What failed in the newest night, and why.

use super::figure::count;
use crate::fleet::night::{History, Night, Outcome, Standing, Trouble};
use crate::fleet::status::Status;

/// Something that failed.
pub(super) struct Problem {
    pub(super) who: String,
    /// Its destinations.
    pub(super) places: String,
    pub(super) why: String,
    pub(super) kind: String,
    pub(super) since: String,
    pub(super) class: &'static str,
}

/// Machines first, those that fail for longest before the others; then what concerns none.
pub(super) fn problems(status: &Status, history: &History) -> Vec<Problem> {
    let Some(night) = history.nights.last() else { return Vec::new() };
    let mut failed: Vec<_> = of_machines(night, history);
    failed.sort_by_key(|(nights, _)| std::cmp::Reverse(*nights));
    let mut problems: Vec<_> = failed.into_iter().map(|(_, problem)| problem).collect();
    problems.extend(damaged(night));
    problems.extend(drills(night));
    problems.extend(alarms(night));
    let troubles = night.runs.last().into_iter().flat_map(|run| &run.troubles).chain(&night.after.troubles);
    problems.extend(troubles.map(|trouble| mild(&status.fleet, &trouble.kind, trouble.text.clone())));
    problems
}

/// One for each machine and reason, with how many nights in a row it has failed.
fn of_machines(night: &Night, history: &History) -> Vec<(usize, Problem)> {
    let mut found: Vec<(usize, &Outcome, Vec<&str>)> = Vec::new();
    for outcome in night.outcomes.iter().filter(|outcome| has_failed(outcome)) {
        let same =
            found.iter_mut().find(|(_, other, _)| other.machine == outcome.machine && other.trouble == outcome.trouble);
        match same {
            Some((nights, _, places)) => {
                *nights = (*nights).max(streak(outcome, history));
                places.push(&outcome.destination);
            }
            None => found.push((streak(outcome, history), outcome, vec![&outcome.destination])),
        }
    }
    let problem =
        |(nights, outcome, places): (usize, &Outcome, Vec<&str>)| (nights, of_machine(nights, outcome, &places));
    found.into_iter().map(problem).collect()
}

fn of_machine(nights: usize, outcome: &Outcome, places: &[&str]) -> Problem {
    let (kind, why) = match &outcome.trouble {
        Some(Trouble { kind, text }) => (kind.clone(), text.clone()),
        None => ("not reached".to_owned(), "the run ended before it was its turn, or in the middle of it".to_owned()),
    };
    let tries = (outcome.attempts > 1).then(|| format!("{} tries", outcome.attempts));
    let row = (nights > 1).then(|| format!("{} in a row", count(nights, "night", "nights")));
    let since: Vec<_> = tries.into_iter().chain(row).collect();
    let since = if since.is_empty() { String::new() } else { format!("· {}", since.join(" · ")) };
    Problem { who: outcome.machine.clone(), places: places.join(", "), why, kind, since, class: "grave" }
}

fn has_failed(outcome: &Outcome) -> bool {
    matches!(outcome.state, Standing::Failed | Standing::Pending)
}

/// Nights in a row, until the newest, in which it failed.
fn streak(outcome: &Outcome, history: &History) -> usize {
    let of_pair = |night: &Night| night.outcome(&outcome.machine, &outcome.destination).is_some_and(has_failed);
    history.nights.iter().rev().take_while(|night| of_pair(night)).count()
}

fn mild(who: &str, kind: &str, why: String) -> Problem {
    let (who, kind) = (who.to_owned(), kind.to_owned());
    Problem { who, places: String::new(), why, kind, since: String::new(), class: "mild" }
}

fn damaged(night: &Night) -> Vec<Problem> {
    let own = night.outcomes.iter().filter_map(|outcome| {
        let fault = outcome.verified.as_ref()?.fault.as_ref()?;
        Some((&outcome.machine, &outcome.destination, &outcome.name, fault))
    });
    let older = night
        .after
        .verified
        .iter()
        .filter_map(|one| Some((&one.machine, &one.destination, &one.name, one.verified.fault.as_ref()?)));
    let problem = |(machine, destination, name, fault): (&String, &String, &String, &String)| Problem {
        who: machine.clone(),
        places: destination.clone(),
        why: format!("{name} is damaged: {fault}"),
        kind: "corrupt".to_owned(),
        since: String::new(),
        class: "grave",
    };
    own.chain(older).map(problem).collect()
}

fn drills(night: &Night) -> Vec<Problem> {
    let problem = |drill: &crate::fleet::night::Drilled| {
        let trouble = drill.trouble.as_ref()?;
        Some(Problem {
            who: drill.machine.clone(),
            places: drill.destination.clone(),
            why: format!("the drill of {} failed: {}", drill.name, trouble.text),
            kind: "drill".to_owned(),
            since: String::new(),
            class: "grave",
        })
    };
    night.after.drills.iter().filter_map(problem).collect()
}

/// Images that are there, with something that a person should know.
fn alarms(night: &Night) -> Vec<Problem> {
    let of_outcome = |outcome: &Outcome| {
        let alarm = outcome.image.as_ref().and_then(|image| image.alarm.clone()).map(|text| ("alarm", text));
        let remarks = outcome.remarks.iter().map(|text| ("remark", text.clone()));
        let all = alarm.into_iter().chain(remarks);
        all.map(|(kind, text)| mild(&outcome.machine, kind, text)).collect::<Vec<_>>()
    };
    // Each destination of a machine has the same ones.
    let mut problems: Vec<Problem> = night.outcomes.iter().flat_map(of_outcome).collect();
    problems.dedup_by(|one, other| one.who == other.who && one.why == other.why);
    problems
}
