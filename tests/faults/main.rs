//! Freezes with random faults, repeatable by a seed: `tests/faults/run N [SEED]`.
//!
//! Each takes a folder or a machine of the stand-in's into registries, layouts and artifacts, while something strikes: lines
//! that are cut, refusals, silence, kills of either side, full disks ([`fault`]). Whatever it was, an image that is said to be
//! good is compared with its source, entry by entry; a failure is one clear line; nothing is left anywhere; none takes longer
//! than its faults' stated patience; and a freeze without faults works right afterwards ([`judge`]).

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

#[path = "../machine/desk.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod desk;
#[path = "../freeze/host.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod host;
#[path = "../support/standin.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod standin;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod support;
#[path = "../freeze/trees.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod trees;

mod case;
mod fault;
mod image;
mod judge;
mod run;
mod strike;
#[expect(clippy::print_stdout, reason = "figures are what a long run is for")]
mod tally;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use case::Case;
use run::{Ended, freeze};
use tally::{Judged, Tally};
use world::World;

/// So many at a time: most of a freeze with faults is waiting.
const AT_ONCE: usize = 4;
/// What CI runs.
const RUNS: u64 = 30;
const SEED: u64 = 1;

#[test]
fn freezes_with_random_faults() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
    };
    let (runs, seed) = (number("SMOLFREEZE_TEST_RUNS", RUNS), number("SMOLFREEZE_TEST_SEED", SEED));
    let (next, tally) = (AtomicU64::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::SeqCst);
                    if at >= runs {
                        return;
                    }
                    let judged = judged(&Case::drawn(seed.wrapping_add(at)));
                    tally.lock().unwrap().add(judged);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    println!("{tally}");
    assert!(tally.is_clean(), "{} of {runs} freezes were not as they should be; the words are above", tally.wrong());
}

/// One case, and what was wrong with it.
fn judged(case: &Case) -> Judged {
    let began = Instant::now();
    let mut world = World::made(case);
    let mut judged = Judged::new(case);
    let outcome = catch_unwind(AssertUnwindSafe(|| go(&mut world, case, &mut judged)));
    if let Err(panic) = outcome {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        judged.wrong.push(format!("a check could not be made: {}", words.unwrap_or_default()));
    }
    if !judged.wrong.is_empty() {
        judged.folder = Some(world.keep());
    }
    judged.took = began.elapsed();
    judged
}

fn go(world: &mut World, case: &Case, judged: &mut Judged) {
    if case.has_older {
        let words =
            [vec!["dir:".to_owned() + &world.host.text("older"), "--quiet".to_owned()], world.outputs(case)].concat();
        let plain = case.outputs.iter().fold(words, |words, output| {
            let (name, plain) = (world.name(*output), world.plain_name(*output));
            words.into_iter().map(|word| if word == name { plain.clone() } else { word }).collect()
        });
        let ended = freeze(world, case, &plain, false);
        assert_eq!(ended.code, Some(0), "an older image: {}", ended.stderr);
    }
    let (wanted, before) = (world.wanted(), judge::digests(world, case));
    let (named, words) = world.words(case);
    judged.command = words.join(" ");
    world.events_before = 0;
    world.events_before = world.events();
    let ended = freeze(world, case, &words, true);
    judged.wrong.extend(judge::ending(world, case, &ended, &named));
    let is_killed = ended.signal.is_some() && case.is_killed();
    if !is_killed {
        judged.wrong.extend(judge::left(world, &ended));
    }
    world.lift();
    if ended.code == Some(0) {
        judged.wrong.extend(case.outputs.iter().flat_map(|output| judge::holds(world, *output, &wanted)));
    } else {
        judged.wrong.extend(judge::as_before(world, case, &ended, &before, &wanted));
    }
    judged.wrong.extend(judge::left_in_registry(world, case, &ended));
    let is_good = ended.code == Some(0);
    judged.ended = Some(ended);
    if !judged.wrong.is_empty() || (is_good && !case.again) {
        return;
    }
    world.had_crash = case.has_crash();
    again(world, case, &words, judged);
}

/// Without faults, on the same machine and to the same outputs.
fn again(world: &World, case: &Case, words: &[String], judged: &mut Judged) {
    let wanted = world.wanted();
    let ended = freeze(world, case, words, false);
    let mut wrong = Vec::new();
    if ended.code != Some(0) || !ended.stderr.is_empty() {
        wrong.push(format!("{:?} after {:.0?}: {}", ended.code, ended.took, ended.stderr));
    } else {
        wrong.extend(judge::left(world, &ended));
        wrong.extend(case.outputs.iter().flat_map(|output| judge::holds(world, *output, &wanted)));
    }
    // What killed freezes had under way ends by itself, or never: it is not ours.
    let first = judged.ended.as_ref().map_or("", |ended: &Ended| &ended.mark);
    for (pid, _) in run::marked(first) {
        strike::kill(pid);
    }
    judged.again = true;
    judged.wrong.extend(wrong.into_iter().map(|words| format!("the freeze after it: {words}")));
}
