//! The architecture, held: which room may know which, how long a file may be, and which rooms there are.
//!
//! Arrows point down: main ▸ freeze ▸ {source, sink} ▸ {stage, progress} ▸ oci ▸ error. Source and sink never see each
//! other; the stages know neither the runtime nor the network.

#![expect(clippy::unwrap_used, reason = "a test panics where something is missing")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file, tests included.
const LINES_MAX: usize = 450;

/// Each room, and the rooms of this crate that it may name.
const ROOMS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("stop", &["error"]),
    ("exclude", &["error"]),
    ("oci", &[]),
    ("progress", &[]),
    ("memory", &["error", "stop"]),
    ("stage", &["error", "exclude", "memory", "oci", "stop"]),
    ("gather", &["error", "memory", "oci"]),
    ("scratch", &["error", "gather", "memory"]),
    ("known", &["oci", "stage"]),
    ("layout", &["error", "oci"]),
    ("place", &["error"]),
    ("smolvm", &[]),
    ("source", &["error", "exclude", "memory", "oci", "place", "progress", "smolvm", "stage", "stop"]),
    (
        "sink",
        &[
            "error", "gather", "image", "layout", "memory", "oci", "place", "progress", "serve", "smolvm", "stage",
            "stop",
        ],
    ),
    ("image", &["error", "oci", "sink", "stage"]),
    ("budget", &["error", "memory", "oci", "source", "stage"]),
    ("pack", &["budget", "error", "gather", "memory", "oci", "progress", "scratch", "stage"]),
    (
        "pipeline",
        &[
            "budget", "error", "gather", "known", "memory", "oci", "pack", "progress", "scratch", "sink", "source",
            "stage", "stop",
        ],
    ),
    ("state", &["error"]),
    (
        "plan",
        &[
            "budget", "error", "exclude", "image", "oci", "pipeline", "sink", "smolvm", "source", "stage", "state",
            "stop",
        ],
    ),
    ("report", &["budget", "oci", "pipeline", "plan", "progress", "sink", "state"]),
    ("record", &["error", "image", "oci", "plan", "progress", "report", "sink", "state"]),
    (
        "freeze",
        &[
            "error", "image", "known", "oci", "pipeline", "plan", "progress", "record", "report", "scratch", "sink",
            "stop",
        ],
    ),
    ("serve", &["error", "layout", "oci", "stage", "stop"]),
    ("stored", &["error", "gather", "image", "oci", "plan", "sink", "stage", "stop"]),
    (
        "thaw",
        &["error", "gather", "oci", "place", "plan", "progress", "record", "sink", "smolvm", "state", "stop", "stored"],
    ),
];

/// Names that a room must not hold, whatever brings them.
const FOREIGN: &[(&str, &[&str])] = &[
    ("stage", &["tokio", "reqwest", "std::fs", "std::net", "std::time", "async "]),
    ("source/directory", &["tokio", "reqwest"]),
    ("pack", &["tokio::spawn", "reqwest"]),
];

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                found.push((name.to_str().unwrap().to_owned(), path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// The code of a file without its tests and comments.
fn code(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    before_tests.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

fn is_test(name: &str) -> bool {
    name.split('/').any(|part| part == "tests")
}

fn rooms_named(code: &str) -> Vec<String> {
    let identifier =
        |text: &str| text.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect::<String>();
    code.split("crate::").skip(1).map(identifier).filter(|room| !room.is_empty()).collect()
}

#[test]
fn rooms_know_only_what_is_below_them() {
    let allowed: BTreeMap<_, _> = ROOMS.iter().copied().collect();
    let (mut faults, mut seen) = (Vec::new(), 0);
    for (name, _, text) in sources() {
        let room = name.split('/').next().unwrap();
        if matches!(room, "lib" | "main" | "cli" | "bars") || is_test(&name) {
            continue;
        }
        let Some(may_name) = allowed.get(room) else {
            faults.push(format!("src/{name}.rs is in no room of the table"));
            continue;
        };
        assert!(!code(&text).contains("crate::{"), "src/{name}.rs: one `use` a room, so that this test sees it");
        for named in rooms_named(&code(&text)) {
            seen += 1;
            if named != room && !may_name.contains(&named.as_str()) {
                faults.push(format!("src/{name}.rs names crate::{named}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen > 100, "only {seen} names were seen; is the search broken?");
}

#[test]
fn the_table_has_no_rooms_that_are_gone() {
    let there: Vec<_> = sources().into_iter().map(|(name, ..)| name.split('/').next().unwrap().to_owned()).collect();
    for (room, _) in ROOMS {
        assert!(there.iter().any(|name| name == room), "there is no room {room}");
    }
}

#[test]
fn pure_rooms_hold_nothing_foreign() {
    let mut faults = Vec::new();
    for (name, _, text) in sources() {
        for (room, foreign) in FOREIGN {
            if !is_test(&name) && (name == *room || name.starts_with(&format!("{room}/"))) {
                let code = code(&text);
                let held = foreign.iter().filter(|word| code.contains(**word));
                faults.extend(held.map(|word| format!("src/{name}.rs holds {word}")));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn only_the_plumbing_starts_threads_and_tasks() {
    // A folder is walked by threads of its own, which end before it does; a server has a task a connection, and they end
    // before it does; signals belong to the binary, and a thread that writes its profile.
    let may = ["cli/trace", "pipeline", "source/directory", "serve/connections", "serve/uploads", "main"];
    for (name, _, text) in sources() {
        if may.iter().any(|room| name == *room || name.starts_with(&format!("{room}/"))) || is_test(&name) {
            continue;
        }
        let code = code(&text);
        for spawn in ["thread::spawn", "thread::Builder", "tokio::spawn", "JoinSet", "uploads.spawn"] {
            assert!(!code.contains(spawn), "src/{name}.rs holds {spawn}");
        }
    }
}

#[test]
fn only_the_binary_prints() {
    for (name, _, text) in sources() {
        let in_binary = ["main", "bars", "cli"].contains(&name.split('/').next().unwrap());
        let code = code(&text);
        let prints = ["println!", "eprintln!", "print!(", "stdout()", "stderr()", "indicatif"];
        assert!(
            in_binary || is_test(&name) || !prints.iter().any(|print| code.contains(print)),
            "src/{name}.rs prints"
        );
    }
}

#[test]
fn files_are_short() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(name, _, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "longer than {LINES_MAX} lines: {long:?}");
}
