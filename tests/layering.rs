//! The architecture, held: which room may know which, how long a file may be, and which rooms there are.
//!
//! Arrows point down: main ▸ freeze ▸ {source, sink} ▸ {stage, progress} ▸ oci ▸ error. Source and sink never see each
//! other; the stages know neither the runtime nor the network.

#![expect(clippy::unwrap_used, reason = "a test panics where something is missing")]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file, tests included.
const LINES_MAX: usize = 450;

/// Each room, and the rooms of this crate that it may name, besides `text`, which makes what others said fit to print; a file below a room may be one of its own.
const ROOMS: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("error", &[]),
    ("stop", &["error"]),
    ("exclude", &["error"]),
    ("oci", &[]),
    ("progress", &[]),
    ("night", &["error", "oci", "progress", "stage"]),
    ("pipeline/memory", &["error", "stop"]),
    ("stage", &["error", "exclude", "oci", "pipeline/memory", "stop"]),
    ("pipeline/gather", &["error", "oci", "pipeline/memory"]),
    ("pipeline/scratch", &["error", "pipeline/gather", "pipeline/memory"]),
    ("pipeline/known", &["oci", "stage"]),
    ("layout", &["error", "oci", "stage"]),
    ("place", &["error"]),
    ("smolvm", &[]),
    (
        "source",
        &["error", "exclude", "night", "oci", "pipeline/memory", "place", "progress", "smolvm", "stage", "stop"],
    ),
    (
        "sink",
        &[
            "error",
            "image",
            "layout",
            "night",
            "oci",
            "pipeline/gather",
            "pipeline/known",
            "pipeline/memory",
            "pipeline/scratch",
            "place",
            "progress",
            "serve",
            "smolvm",
            "stage",
            "stop",
        ],
    ),
    ("image", &["error", "oci", "sink", "stage"]),
    ("pipeline/budget", &["error", "oci", "pipeline/memory", "source", "stage"]),
    ("pipeline", &["error", "oci", "progress", "sink", "source", "stage", "stop"]),
    ("state", &["error", "stage"]),
    (
        "plan",
        &[
            "error", "exclude", "image", "night", "oci", "pipeline", "progress", "sink", "smolvm", "source", "stage",
            "state", "stop",
        ],
    ),
    ("report", &["error", "night", "oci", "pipeline", "plan", "progress", "sink", "state"]),
    ("record", &["error", "image", "night", "oci", "plan", "progress", "report", "sink", "state"]),
    (
        "freeze",
        &[
            "error", "image", "night", "oci", "pipeline", "plan", "progress", "record", "report", "sink", "stage",
            "stop", "stored",
        ],
    ),
    ("serve", &["error", "layout", "oci", "stage", "stop"]),
    (
        "stored",
        &["error", "image", "layout", "night", "oci", "pipeline/gather", "plan", "progress", "sink", "stage", "stop"],
    ),
    (
        "thaw",
        &[
            "error",
            "oci",
            "pipeline/gather",
            "place",
            "plan",
            "progress",
            "record",
            "sink",
            "smolvm",
            "stage",
            "state",
            "stop",
            "stored",
        ],
    ),
    (
        "fleet",
        &[
            "error",
            "exclude",
            "freeze",
            "image",
            "layout",
            "night",
            "oci",
            "pipeline/budget",
            "place",
            "plan",
            "progress",
            "record",
            "report",
            "sink",
            "smolvm",
            "source",
            "stage/compress",
            "state",
            "stop",
            "stored",
            "thaw",
        ],
    ),
];

/// Names that a room must not hold, whatever brings them.
const FOREIGN: &[(&str, &[&str])] = &[
    ("stage", &["tokio", "reqwest", "std::fs", "std::net", "std::time", "async "]),
    ("source/directory", &["tokio", "reqwest"]),
    ("pipeline/pack", &["tokio::spawn", "reqwest"]),
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

/// The entry of the table that a file, or a path of modules, belongs to: the longest that fits.
fn room_of(path: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    let fits = |room: &str| path.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    ROOMS.iter().filter(|(room, _)| fits(room)).max_by_key(|(room, _)| room.len())
}

/// What the code names of this crate, with slashes: `pipeline/memory/Memory`.
fn rooms_named(code: &str) -> Vec<String> {
    let path = |text: &str| {
        let is_path = |char: &char| char.is_alphanumeric() || matches!(char, '_' | ':');
        text.chars().take_while(is_path).collect::<String>().replace("::", "/")
    };
    code.split("crate::").skip(1).map(path).filter(|room| !room.is_empty()).collect()
}

#[test]
fn rooms_know_only_what_is_below_them() {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for (name, _, text) in sources() {
        if matches!(name.split('/').next().unwrap(), "lib" | "main" | "bin" | "cli" | "bars") || is_test(&name) {
            continue;
        }
        let Some((room, may_name)) = room_of(&name) else {
            faults.push(format!("src/{name}.rs is in no room of the table"));
            continue;
        };
        assert!(!code(&text).contains("crate::{"), "src/{name}.rs: one `use` a room, so that this test sees it");
        for named in rooms_named(&code(&text)) {
            seen += 1;
            let fits = |allowed: &str| format!("{named}/").starts_with(&format!("{allowed}/"));
            if !fits(room) && !fits("text") && !may_name.iter().any(|allowed| fits(allowed)) {
                faults.push(format!("src/{name}.rs names crate::{named}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen > 100, "only {seen} names were seen; is the search broken?");
}

#[test]
fn the_table_has_no_rooms_that_are_gone() {
    for (room, _) in ROOMS {
        let there = sources().iter().any(|(name, ..)| room_of(name).is_some_and(|(own, _)| own == room));
        assert!(there, "there is no room {room}");
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
    // A folder is walked by threads of its own, which end before it does, but for one in the kernel that nobody can end; a server has a task a connection, and they end
    // before it does; a machine's session outlives its listing, and is joined or let go; signals belong to the binary, and
    // a thread that writes its profile.
    let may = [
        "cli/trace",
        "pipeline/run",
        "pipeline/uploads",
        "source/directory",
        "source/machine/transfer",
        "serve/connections",
        "serve/uploads",
        "main",
    ];
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
        let in_binary = ["main", "bin", "bars", "cli"].contains(&name.split('/').next().unwrap());
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
