//! Nights: one folder, frozen again and again while it changes. Each night's image, unpacked by umoci and laid over each
//! other by overlayfs, is the folder of that night, and so is its artifact, laid over each other by those who know no marks.
//! `tests/nights/run N [SEED]` runs N of them.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

#[path = "../support/docker_registry.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod docker_registry;
#[path = "../support/sidecar.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod sidecar;
#[path = "../support/tree/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod tree;

#[path = "../support/standin.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod standin;

mod artifact;
mod between;
mod busy;
mod edits;
mod host;
mod lost;
mod machine;
mod rule;
mod steps;
mod ways;

use edits::Editor;
use host::Host;

/// What plain `cargo test` runs.
const NIGHTS: u64 = 10;

/// Such that this small folder has as many layers as a machine has by default.
const LAYER_SIZE: &str = "256KiB";

/// Layers that runtimes take, less some that outputs may add.
const LAYERS_MAX: usize = 110;

#[test]
fn each_night_is_the_folder_of_that_night() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (nights, seed) = (number("SMOLFREEZE_NIGHTS", NIGHTS), number("SMOLFREEZE_NIGHTS_SEED", 1));
    let host = Host::new();
    std::fs::create_dir(host.tree().join("workspace")).unwrap();
    let mut editor = Editor::new(host.tree(), seed);
    editor.grow();
    let packing = host.packing();
    let words: Vec<&str> = packing.iter().map(String::as_str).chain(["--layer-size", LAYER_SIZE]).collect();
    let (mut changed, mut sent) = (0, 0);
    for night in 0..nights {
        let edits = if night == 0 { Vec::new() } else { editor.night() };
        let report = host.freeze(&words);
        let told = report["night"].clone();
        let changed_bytes = editor.changed_bytes();
        let layers = report["layers"].as_array().unwrap();
        let sent_bytes: u64 = layers.iter().map(|layer| layer["sent_bytes"][0].as_u64().unwrap()).sum();
        let layers = layers.len();
        if night > 0 {
            changed += changed_bytes;
            sent += sent_bytes;
        }
        println!(
            "night {night}: {} edits, {changed_bytes} bytes changed, {layers} layers, {sent_bytes} bytes sent, {told}",
            edits.len(),
        );
        assert!(layers <= LAYERS_MAX);
        let [live, dead] = ["live_bytes", "dead_bytes"].map(|name| told[name].as_u64().unwrap());
        assert!(dead * 5 <= live, "{dead} bytes are dead, {live} live");
        let mut differences = host.differences();
        differences.extend(host.differences_of_artifact());
        assert!(host.faults().1, "verify has the index");
        assert!(differences.is_empty(), "night {night} of seed {seed}, after {edits:#?}: {differences:#?}");
    }
    println!("{nights} nights: {changed} bytes of files changed, {sent} were sent");
    assert!(sent * 2 <= changed * 3);
}
