//! Runs the binary within bounds, and holds what came of it.

use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::host::{Host, finish, names};

/// The bounds of the issue.
const SECONDS: &str = "20";
const RESIDENT_KIB_MAX: u64 = 300 << 10;
/// Runs at a time: most of them wait.
const AT_ONCE: usize = 16;

/// What a user calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    Inspect,
    Verify,
    Thaw,
    Freeze,
}

/// All that read images.
pub const READERS: [Called; 3] = [Called::Inspect, Called::Verify, Called::Thaw];

impl Called {
    /// A registry is given up after two seconds.
    const PATIENCE: [&'static str; 2] = ["--patience", "2s"];

    /// The command line that reads, or makes, this image.
    pub fn words(self, image: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Inspect => &["inspect", image],
            Self::Verify => &["verify", image],
            Self::Thaw => &["thaw", image, "--name", "new", "--smolvm", "./smolvm", "--agent-rootfs", "agent"],
            Self::Freeze => &["freeze", "dir:tree", "--to", image, "--no-record", "--no-known"],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// The same, for an image of a registry.
    pub fn of_registry(self, image: &str) -> Vec<String> {
        self.words(image).into_iter().chain(Self::PATIENCE.map(str::to_owned)).collect()
    }
}

/// A host with a tree to freeze, an agent for artifacts, and a smolvm that has no machines and must not be asked for one.
pub fn prepared() -> Host {
    let host = Host::new();
    host.tree("tree", "echo x >f");
    host.tree("agent", "mkdir sbin; echo 'the agent' >sbin/init");
    host.tree("", "printf '#!/bin/sh\\necho \"$2\" >>calls; echo \"[]\"\\n' >smolvm; chmod +x smolvm");
    host
}

/// One run: a name for it, the command line, and what it has to say.
pub struct Case {
    pub name: String,
    pub words: Vec<String>,
    pub said: String,
    /// Variables of the environment.
    pub variables: Vec<(&'static str, String)>,
}

impl Case {
    pub fn new(name: &str, words: Vec<String>, said: &str) -> Self {
        Self { name: name.to_owned(), words, said: said.to_owned(), variables: Vec::new() }
    }
}

/// Runs all cases; what is wrong with how they ended.
pub fn refuse(host: &Host, cases: &[Case]) -> Vec<String> {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = refuses(host, case);
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    // Whatever was thawed became no machine, and left nothing.
    let calls = fs::read_to_string(host.path("calls")).unwrap_or_default();
    assert!(calls.lines().all(|call| call == "ls"), "{calls}");
    assert_eq!(names(&host.path("cache/smolfreeze/thaw")), Vec::<String>::new());
    wrong.into_inner().unwrap()
}

/// Runs one; what is wrong with how it ended, if anything.
pub fn refuses(host: &Host, case: &Case) -> Option<String> {
    let peak = tempfile::NamedTempFile::new_in(host.path("")).unwrap();
    let mut command = Command::new("/usr/bin/time");
    command.args(["-f", "%M", "-q", "-o"]).arg(peak.path()).args(["timeout", "-s", "KILL", SECONDS]);
    command.arg(env!("CARGO_BIN_EXE_smolfreeze")).args(&case.words).current_dir(host.path(""));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    let output = finish(host.surround(&mut command).envs(case.variables.clone()).spawn().expect("GNU time"));
    let told = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    let resident: u64 = fs::read_to_string(peak.path()).unwrap().trim().parse().unwrap_or(u64::MAX);
    let code = output.status.code();
    let is_refusal = matches!(code, Some(2..=6));
    let is_plain = !told.chars().any(|char| char.is_control() && char != '\n');
    if is_refusal && is_plain && told.contains(&case.said) && !told.contains("panicked") && resident <= RESIDENT_KIB_MAX
    {
        return None;
    }
    let told: String = told.chars().take(900).collect();
    let (name, words, said) = (&case.name, &case.words, &case.said);
    Some(format!("{name}: {words:?}: code {code:?}, {} MiB, not '{said}': {told}", resident >> 10))
}
