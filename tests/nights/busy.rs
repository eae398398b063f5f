//! A folder that changes while it is listed and read: what nobody touched is right in that night's image, and all of it in
//! the next one's.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::edits::Editor;
use crate::host::Host;
use crate::tree::compare::differences;
use crate::tree::inventory::Inventory;

/// Pairs of nights that plain `cargo test` runs.
const PAIRS: u64 = 3;

#[test]
fn each_night_after_a_busy_one_is_right() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (pairs, seed) = (number("SMOLFREEZE_NIGHTS", 2 * PAIRS) / 2, number("SMOLFREEZE_NIGHTS_SEED", 1));
    let host = Host::new();
    std::fs::create_dir(host.tree().join("workspace")).unwrap();
    let mut editor = Editor::new(host.tree(), seed);
    editor.grow();
    let packing = host.packing();
    let words: Vec<&str> = packing.iter().map(String::as_str).chain(["--layer-size", "256KiB"]).collect();
    host.freeze(&words);
    for pair in 0..pairs {
        let mut edits = editor.night();
        let (before, is_over) = (host.wanted(), AtomicBool::new(false));
        let (report, meanwhile) = std::thread::scope(|scope| {
            let freezing = scope.spawn(|| {
                let report = host.freeze(&words);
                is_over.store(true, Ordering::Relaxed);
                report
            });
            let edits = editor.meanwhile(|| !is_over.load(Ordering::Relaxed));
            (freezing.join().unwrap(), edits)
        });
        println!("pair {pair}: {} edits meanwhile, {}, {}", meanwhile.len(), report["night"], report["notices"]);
        assert_eq!(host.faults(), (Vec::new(), true), "pair {pair} of seed {seed}");
        let after = host.wanted();
        for (what, found) in [("image", host.in_image()), ("artifact", host.in_artifact())] {
            let wrong = untouched_differences(&before, &after, &found);
            assert!(wrong.is_empty(), "{what} of pair {pair}, seed {seed}: {wrong:#?}, {edits:#?}, {meanwhile:#?}");
        }
        edits.extend(meanwhile);
        edits.extend(editor.night());
        let report = host.freeze(&words);
        assert!(report["night"]["why_all"].is_null(), "{report}");
        let mut differences = host.differences();
        differences.extend(host.differences_of_artifact());
        assert!(differences.is_empty(), "pair {pair} of seed {seed}, after {edits:#?}: {differences:#?}");
    }
}

/// Where an image is other than the folder, though that was the same before and after.
fn untouched_differences(before: &Inventory, after: &Inventory, found: &Inventory) -> Vec<String> {
    let differences = differences(after, found);
    let untouched = differences.iter().filter(|difference| {
        let (before, after) = (before.get(&difference.path), after.get(&difference.path));
        // What was there for a moment only is in neither.
        after.is_some() && before == after
    });
    untouched.map(ToString::to_string).collect()
}
