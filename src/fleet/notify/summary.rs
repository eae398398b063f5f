//! A night in a few lines, for people.

use super::{Night, Outcome, Standing};
use crate::text;

/// So many failures are named; more of them have one reason.
const FAILURES_MAX: usize = 50;

/// What became of a night, the failures named; `exit` is its run's exit code.
#[must_use]
pub fn summary(night: &Night, exit: u8) -> String {
    let count = |standing| night.outcomes.iter().filter(|outcome| outcome.state == standing).count();
    let counts = [
        (count(Standing::Done), "done"),
        (count(Standing::Failed), "failed"),
        (count(Standing::Skipped), "skipped"),
        (count(Standing::Pending), "not reached"),
    ];
    let counts: Vec<_> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    let counts = if counts.is_empty() { "nothing was selected".to_owned() } else { counts.join(", ") };
    let mut lines =
        vec![format!("fleet '{}' on {}, night {}: {counts}; exit code {exit}", night.fleet, night.host, night.night)];
    let failed: Vec<_> = night.outcomes.iter().filter(|outcome| outcome.state == Standing::Failed).collect();
    lines.extend(failed.iter().take(FAILURES_MAX).map(|outcome| failure(outcome)));
    if failed.len() > FAILURES_MAX {
        lines.push(format!("and {} more failed", failed.len() - FAILURES_MAX));
    }
    let troubles = night.runs.last().into_iter().flat_map(|run| &run.troubles).chain(&night.after.troubles);
    lines.extend(troubles.map(|trouble| trouble.text.clone()));
    if !night.unselected.is_empty() {
        lines.push(format!("without a policy: {}", night.unselected.join(", ")));
    }
    text::lines(lines) + "\n"
}

fn failure(outcome: &Outcome) -> String {
    let reason = outcome.trouble.as_ref().map_or("", |trouble| &trouble.text);
    format!("{} at {}: {reason}", outcome.machine, outcome.destination)
}
