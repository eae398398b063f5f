//! A user's host with machines on it, and a fleet's file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use smolfreeze::fleet::night::{Night, Nights, Outcome, Standing};

use crate::host::Host;
use crate::standin::{Kind, Standin};

/// No run of a test takes this long; one that does hangs.
const RUN_TIMEOUT: Duration = Duration::from_secs(240);

/// For a fleet's file: a layout for each machine, and no second try.
pub const LAYOUT: &str = "
[destinations.disk]
to = \"oci:{HOST}images/{machine}:{night}\"
[defaults]
to = [\"disk\"]
[defaults.freeze]
link_patience = \"1s\"
[defaults.retries]
attempts = 1
";

/// A host, and its machines.
pub struct Desk {
    pub host: Host,
    pub machines: Vec<Standin>,
}

impl Desk {
    /// All of them run.
    pub fn new(machines: &[(&'static str, Kind)]) -> Self {
        let [(first, kind), others @ ..] = machines else { panic!("no machine") };
        let first = Standin::named(first, *kind);
        let others: Vec<_> = others.iter().map(|(name, kind)| first.beside(name, *kind)).collect();
        let desk = Self { host: Host::new(), machines: std::iter::once(first).chain(others).collect() };
        desk.wrap("");
        desk
    }

    /// With programs as they are released: without debugging symbols, small enough to be readers in a guest.
    pub fn released(mut self) -> Self {
        let guest = Path::new(env!("CARGO_BIN_EXE_smolfreeze-guest"));
        for (binary, name) in [(guest, "smolfreeze-guest"), (&self.host.binary, "smolfreeze")] {
            let status = Command::new("strip").arg("-o").arg(self.host.path(name)).arg(binary).status().unwrap();
            assert!(status.success());
        }
        self.host.binary = self.host.path("smolfreeze");
        self
    }

    pub fn machine(&self, name: &str) -> &Standin {
        self.machines.iter().find(|machine| machine.name == name).unwrap()
    }

    /// A script of the host's tools in a new folder of a machine, which has few of its own.
    pub fn fill(&self, name: &str, script: &str) {
        let folder = self.machine(name).root().join("home/d");
        fs::create_dir_all(&folder).unwrap();
        crate::host::shell(&folder, script);
    }

    /// What this command needs to be the reader in a machine: a test's is no static one.
    pub fn bring_libraries(&self, name: &str) {
        let libraries = "ldd BINARY | sed -n 's/.*[ \t]\\(\\/[^ ]*\\) (.*/\\1/p' | while read -r library; do
            mkdir -p ../..$(dirname $library); cp -L $library ../..$library; done";
        self.fill(name, &libraries.replace("BINARY", &self.host.binary.display().to_string()));
    }

    pub fn stop(&self, name: &str) {
        self.machine(name).smolvm(&["machine", "stop", "--name", name]);
    }

    pub fn is_running(&self, name: &str) -> bool {
        let listed = self.machines[0].smolvm(&["machine", "ls", "--json"]).stdout;
        let listed: serde_json::Value = serde_json::from_slice(&listed).unwrap();
        listed.as_array().unwrap().iter().any(|one| one["name"] == name && one["state"] == "running")
    }

    /// The smolvm that the fleet calls: `cases` are patterns of its words in a shell's `case`, each with a fault.
    pub fn wrap(&self, cases: &str) {
        let path = self.smolvm();
        let smolvm = self.machines[0].smolvm_path().display();
        fs::write(&path, format!("#!/bin/sh\ncase \"$*\" in\n{cases}\nesac\nexec '{smolvm}' \"$@\"\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn smolvm(&self) -> PathBuf {
        self.host.path("smolvm")
    }

    /// Writes the fleet's file; `{SMOLVM}` and `{HOST}` are filled in.
    pub fn write(&self, file: &str) {
        let file = format!("smolvm.executable = \"{}\"\n{file}", self.smolvm().display());
        fs::write(self.host.path("fleet.toml"), file.replace("{HOST}", &self.host.text(""))).unwrap();
    }

    /// `fleet run` with these words, to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        finish(self.begin(words))
    }

    /// The same, under way.
    pub fn begin(&self, words: &[&str]) -> Child {
        let file = self.host.text("fleet.toml");
        let words = [&["fleet", "run", "--file", &file], words].concat();
        self.host.command(&words).spawn().unwrap()
    }

    /// Runs, which has to end with this exit code: the night.
    pub fn night(&self, code: i32, words: &[&str]) -> Night {
        let output = self.run(&[&["--json", "--progress", "plain"], words].concat());
        let (said, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}\n{printed}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    pub fn nights(&self) -> Nights {
        Nights::at(&self.host.path("home/.local/state/smolfreeze"), "fleet")
    }

    /// The night as it is on disk.
    pub fn remembered(&self, night: &str) -> Night {
        self.nights().read(night).unwrap().unwrap()
    }
}

/// The outcome of a machine at a destination.
pub fn outcome<'a>(night: &'a Night, machine: &str, destination: &str) -> &'a Outcome {
    night.outcome(machine, destination).unwrap_or_else(|| panic!("{machine} {destination}: {night:#?}"))
}

/// Why it failed, in its kind and words.
pub fn why<'a>(night: &'a Night, machine: &str, destination: &str) -> (&'a str, &'a str) {
    let outcome = outcome(night, machine, destination);
    assert_eq!(outcome.state, Standing::Failed, "{outcome:#?}");
    outcome.trouble.as_ref().map(|trouble| (&trouble.kind[..], &trouble.text[..])).unwrap()
}

pub fn is_done(night: &Night, machine: &str, destination: &str) -> bool {
    outcome(night, machine, destination).state == Standing::Done
}

/// Waits for the end of a run.
pub fn finish(mut child: Child) -> Output {
    let begun = Instant::now();
    // What it prints fits into a pipe.
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > RUN_TIMEOUT {
            let _ = child.kill();
            panic!("it hangs: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

/// Waits until something is so.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
