//! Which snapshots of one machine at one destination a policy lets go. Pure.
//!
//! 1. Nothing goes but in favour of tonight's snapshot, and nothing that is not older than it.
//! 2. What counts are good ones: made, and not found wrong when read back. Which of them stay says
//!    [`retention::keep`](crate::record::retention::keep) alone.
//! 3. One that was found wrong takes no good one's place, and stays as long as it would if it were good: somebody may want
//!    to look at it.

use jiff::tz::TimeZone;

use crate::fleet::night::Snapshot;
use crate::record::retention::{Policy, Reason, keep};

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is good, and these rules keep it.
    Kept(Vec<Reason>),
    /// It was found wrong; these rules would keep it if it were good.
    Faulty(Vec<Reason>),
    /// No rule keeps it, and it is not older than tonight's.
    Newer,
    /// No rule keeps it.
    Goes,
}

/// What becomes of each of `snapshots`, which are of one machine and destination, now that `tonight` is one of them and safe.
#[must_use]
pub fn judge(snapshots: &[Snapshot], tonight: &Snapshot, policy: &Policy, zone: &TimeZone) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::Goes; snapshots.len()];
    let all: Vec<_> = (0..snapshots.len()).collect();
    let good: Vec<_> = all.iter().copied().filter(|at| snapshots[*at].fault().is_none()).collect();
    for (index, reasons) in kept(snapshots, &all, policy, zone) {
        if snapshots[index].fault().is_some() {
            verdicts[index] = Verdict::Faulty(reasons);
        }
    }
    for (index, reasons) in kept(snapshots, &good, policy, zone) {
        verdicts[index] = Verdict::Kept(reasons);
    }
    for (verdict, snapshot) in verdicts.iter_mut().zip(snapshots) {
        let is_older = snapshot.at < tonight.at && snapshot.name != tonight.name;
        if *verdict == Verdict::Goes && (policy.is_empty() || !is_older) {
            *verdict = Verdict::Newer;
        }
    }
    verdicts
}

fn kept(snapshots: &[Snapshot], among: &[usize], policy: &Policy, zone: &TimeZone) -> Vec<(usize, Vec<Reason>)> {
    let times: Vec<_> = among.iter().map(|at| snapshots[*at].at.to_zoned_datetime(zone.clone())).collect();
    keep(&times, policy).into_iter().map(|kept| (among[kept.index], kept.reasons)).collect()
}
