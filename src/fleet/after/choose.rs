//! Which older snapshots are read back tonight, and which machines are drilled. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::fleet::night::{Drilled, Night, Snapshot};

/// The one of `snapshots` that nobody looked at for longest, if that is at least `every`.
#[must_use]
pub fn waits_longest(snapshots: &[Snapshot], every: Duration, now: Timestamp) -> Option<&Snapshot> {
    snapshots.iter().filter(|snapshot| is_past(snapshot.seen(), every, now)).min_by_key(|snapshot| snapshot.seen())
}

/// So many percent of `snapshots`, at least one: the same ones whenever it is asked in the same night.
#[must_use]
pub fn part<'a>(snapshots: &[&'a Snapshot], percent: u8, night: &str) -> Vec<&'a Snapshot> {
    let count = (snapshots.len() * usize::from(percent)).div_ceil(100);
    let seed =
        night.bytes().fold(0_u64, |seed, byte| seed.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(byte)));
    let mut random = fastrand::Rng::with_seed(seed);
    random.choose_multiple(snapshots.iter().copied(), count)
}

/// The last drill of a machine.
#[must_use]
pub fn last_drill<'a>(nights: impl Iterator<Item = &'a Night>, machine: &str) -> Option<&'a Drilled> {
    let drills = nights.flat_map(|night| &night.after.drills).filter(|drill| drill.machine == machine);
    drills.max_by_key(|drill| drill.at)
}

/// Whether `since` is as long ago as that.
#[must_use]
pub fn is_past(since: Timestamp, every: Duration, now: Timestamp) -> bool {
    now.duration_since(since) >= SignedDuration::try_from(every).unwrap_or(SignedDuration::MAX)
}
