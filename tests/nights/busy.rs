//! A folder that changes while it is listed and read: of each entry its image has a state that it was in meanwhile, or it is
//! named in the report; and the next night has all of it right.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::between::interrupted_by;
use crate::edits::Editor;
use crate::host::Host;
use crate::rule::SETTLED;
use crate::steps::History;

/// Pairs of nights that plain `cargo test` runs.
const PAIRS: u64 = 3;

/// Edits between two walks.
const BETWEEN: usize = 60;

fn pairs_and_seed() -> (u64, u64) {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    (number("SMOLFREEZE_NIGHTS", 2 * PAIRS) / 2, number("SMOLFREEZE_NIGHTS_SEED", 1))
}

fn grown(host: &Host, seed: u64) -> Editor {
    std::fs::create_dir(host.path("outside")).unwrap();
    let mut editor = Editor::new(host.tree(), seed);
    editor.grow();
    editor
}

#[test]
fn each_night_after_a_busy_one_is_right() {
    let (pairs, seed) = pairs_and_seed();
    let host = Host::new();
    std::fs::create_dir(host.tree().join("workspace")).unwrap();
    let mut editor = grown(&host, seed);
    let packing = host.packing();
    let words: Vec<&str> = packing.iter().map(String::as_str).chain(["--layer-size", "256KiB"]).collect();
    host.freeze(&words);
    for pair in 0..pairs {
        let mut edits = editor.night();
        let (mut history, is_over) = (History::begin(host.tree()), AtomicBool::new(false));
        let (report, meanwhile) = std::thread::scope(|scope| {
            let freezing = scope.spawn(|| {
                let report = host.freeze(&words);
                is_over.store(true, Ordering::Relaxed);
                report
            });
            let mut meanwhile = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                meanwhile.push(editor.step(&host.path("outside")));
                history.look();
                std::thread::sleep(Duration::from_micros(editor.random.u64(..3_000)));
            }
            (freezing.join().unwrap(), meanwhile)
        });
        println!("pair {pair}: {} edits meanwhile, {}, {}", meanwhile.len(), report["night"], report["notices"]);
        assert_eq!(host.faults(), (Vec::new(), true), "pair {pair} of seed {seed}");
        for (what, found) in [("image", host.in_image()), ("artifact", host.in_artifact())] {
            let untold = history.untold(&found, &report["notices"]);
            assert!(untold.is_empty(), "{what} of pair {pair}, seed {seed}: {untold:#?}, {edits:#?}, {meanwhile:#?}");
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

/// Much changes, and all of it after the listing: the same edits for the same seed.
#[test]
fn each_night_with_edits_between_its_walks_is_right() {
    let (pairs, seed) = pairs_and_seed();
    let host = Host::new();
    let mut editor = grown(&host, seed);
    interrupted_by(&host, || ());
    for pair in 0..2 * pairs {
        let mut edits = editor.night();
        let (mut history, mut meanwhile) = (History::begin(host.tree()), Vec::new());
        let snapshot = interrupted_by(&host, || {
            for _ in 0..BETWEEN {
                meanwhile.push(editor.step(&host.path("outside")));
                history.look();
            }
        });
        let (night, notices) = (snapshot.night.unwrap(), serde_json::to_value(&snapshot.notices).unwrap());
        println!("pair {pair}: {night}, {notices}");
        let (faults, has_index) = host.faults();
        let wrong = [faults, history.untold(&host.in_image(), &notices)].concat();
        assert!(wrong.is_empty(), "pair {pair} of seed {seed}: {wrong:#?}, {edits:#?}, {meanwhile:#?}");
        assert!(has_index);
        edits.extend(meanwhile);
        std::thread::sleep(SETTLED);
        interrupted_by(&host, || ());
        let differences = host.differences();
        assert!(differences.is_empty(), "pair {pair} of seed {seed}, after {edits:#?}: {differences:#?}");
    }
}
