//! Faults on order: lines `FAULT COUNT [ARGUMENT]` in the state folder's file `faults`.
//!
//! | fault | what happens, COUNT times |
//! |---|---|
//! | `exec-refuse` | the exec ends with `connection refused`, before anything runs |
//! | `exec-hang` | the exec never ends, and nothing runs |
//! | `exec-kill` | the exec's command is killed ARGUMENT milliseconds after it began |
//! | `cp-fail` | the copy out ends with `connection closed` and removes its output |
//! | `cp-hang` | the copy out never ends |
//! | `cp-short` | only half arrives, exit code 0 |
//! | `cp-flip` | one byte is another, exit code 0 |
//! | `cp-slow` | ARGUMENT milliseconds more for each copy out |
//! | `cp-in-lost` | the copy in arrives whole, and ends with `connection closed` |
//! | `stop-at-cp` | not this copy: the COUNTth one from here kills the machine first |
//! | `create-slow` | ARGUMENT milliseconds more for each `machine create`, while smolvm does not list it yet |
//! | `create-locked` | `machine create` ends with `database is locked`, before anything is made |
//! | `start-fail` | the machine's boot process ends before it is ready |
//! | `start-slow` | ARGUMENT milliseconds more for each start |
//! | `pack-fail` | `pack create` ends with a full disk, its output half-written |
//! | `pack-flip` | one byte of the packed sidecar is another, exit code 0 |
//! | `pack-slow` | ARGUMENT milliseconds more for each `pack create`, in a helper process, its output half-written |
//! | `refuse-until` | COUNT is a time in Unix milliseconds: until then every exec and cp is refused |

use std::fmt::Write as _;

use crate::state::{Failure, State};

/// Takes one of the fault `name`, if ordered; gives its argument (0 where there is none).
pub(crate) fn take(state: &State, name: &str) -> Result<Option<u64>, Failure> {
    change(state, name, |count| if count > 0 { (count - 1, count > 0) } else { (0, false) })
}

/// Counts `stop-at-cp` down; true when it reaches its end.
pub(crate) fn count_down(state: &State, name: &str) -> Result<bool, Failure> {
    Ok(change(state, name, |count| (count.saturating_sub(1), count == 1))?.is_some())
}

/// The words of a connection that the machine does not take, while that is ordered.
pub(crate) fn connection(state: &State) -> Result<(), Failure> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_millis());
    let refused = change(state, "refuse-until", |until| (until, u128::from(until) > now))?;
    if refused.is_some() {
        return Err(Failure::agent("connect: Connection refused (os error 111)"));
    }
    Ok(())
}

fn change(state: &State, name: &str, step: impl Fn(u64) -> (u64, bool)) -> Result<Option<u64>, Failure> {
    let path = state.path().join("faults");
    let lock = std::fs::File::create(path.with_extension("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    let mut taken = None;
    let mut lines = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [fault, count, rest @ ..] = &words[..] else { continue };
        let mut count: u64 = count.parse().unwrap_or(0);
        let argument = rest.first().and_then(|word| word.parse().ok()).unwrap_or(0);
        if *fault == name && taken.is_none() {
            let (left, hit) = step(count);
            count = left;
            taken = hit.then_some(argument);
        }
        let _ = writeln!(lines, "{fault} {count} {argument}");
    }
    if lines != text {
        // This process may be killed at any moment, and the order has to stand.
        std::fs::write(path.with_extension("new"), lines)?;
        std::fs::rename(path.with_extension("new"), &path)?;
    }
    Ok(taken)
}
