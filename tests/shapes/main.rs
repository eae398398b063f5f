//! Shapes: trees that nobody listed, grown from a seed and changed while they are read, frozen from every kind of source
//! into every kind of output. Each freeze ends within a deadline and its memory; what is unpacked equals the tree, or the
//! report names the entry. `tests/shapes/run N [SEED]` runs N of them; one that fails is repeated by `tests/shapes/run 1
//! SEED`, but for the moments at which a live tree changes.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

#[path = "../support/standin.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod standin;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod support;
#[path = "../support/tree/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod tree;

mod check;
mod freezing;
mod live;
mod machines;
mod shape;
mod tars;
mod unpack;
mod work;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use machines::Machines;
use shape::Shape;
use work::Work;

/// What plain `cargo test` runs, in at most six minutes on two cores.
const SHAPES: u64 = 60;

/// Whose first shape has this seed.
const SEED: u64 = 1;

#[test]
fn what_is_frozen_comes_back() {
    assert!(rustix::process::geteuid().is_root(), "these tests make devices and mounts: run them as root");
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (shapes, first) = (number("SMOLFREEZE_SHAPES", SHAPES), number("SMOLFREEZE_SHAPES_SEED", SEED));
    let mut machines = Machines::default();
    let (began, mut failures) = (Instant::now(), Vec::new());
    for seed in first..first + shapes {
        let (began, shape) = (Instant::now(), Shape::of(seed));
        let faults = run(&shape, &mut machines);
        println!(
            "{} {:5.1} s  {shape}",
            if faults.iter().all(|fault| fault.starts_with(check::LIMIT)) { "ok  " } else { "FAIL" },
            began.elapsed().as_secs_f64()
        );
        for fault in &faults {
            println!("     {fault}");
        }
        failures.extend(faults.iter().find(|fault| !fault.starts_with(check::LIMIT)).map(|fault| (seed, kind(fault))));
    }
    let mut kinds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (seed, kind) in &failures {
        kinds.entry(kind).or_default().push(*seed);
    }
    println!("{shapes} shapes in {:.0} s, {} failed: {kinds:?}", began.elapsed().as_secs_f64(), failures.len());
    assert!(failures.is_empty(), "{} of {shapes} shapes failed; `tests/shapes/run 1 SEED` repeats one", failures.len());
}

/// The words of a fault that come before its details.
fn kind(fault: &str) -> String {
    fault.split([':', '(']).next().unwrap_or_default().trim_end().to_owned()
}

/// Freezes and compares; what is wrong, if anything is. The folder stays then.
fn run(shape: &Shape, machines: &mut Machines) -> Vec<String> {
    let work = Work::new(shape.on_tmpfs);
    let checked = catch_unwind(AssertUnwindSafe(|| check::check(shape, &work, machines)));
    let mut faults = checked.unwrap_or_else(|panic| {
        machines.stop();
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        vec![format!("panicked: {}", text.unwrap_or_default())]
    });
    if faults.iter().any(|fault| !fault.starts_with(check::LIMIT)) {
        faults.push(format!("kept in {}, with the command line", work.keep().display()));
    }
    faults
}
