//! A user's host: a home of its own, and the command in it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use smolfreeze::report::Snapshot;

use crate::support::docker_registry::DockerRegistry;
use crate::support::proxy::Proxy;

/// No run of a test takes this long; one that does hangs.
const RUN_TIMEOUT: Duration = Duration::from_secs(150);

/// A home, a cache and scratch space that go with it.
pub struct Host {
    folder: tempfile::TempDir,
    pub binary: PathBuf,
}

impl Host {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("freeze-").tempdir_in("/var/tmp").expect("a temporary folder");
        for name in ["home", "cache", "scratch"] {
            fs::create_dir(folder.path().join(name)).expect("a folder in it");
        }
        Self { folder, binary: env!("CARGO_BIN_EXE_smolfreeze").into() }
    }

    /// A path in this host's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// [`Self::path`] as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn known_layers(&self) -> PathBuf {
        self.path("cache/smolfreeze/known-layers")
    }

    /// A folder in which `script` ran.
    pub fn tree(&self, name: &str, script: &str) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(&folder).expect("a folder");
        shell(&folder, script);
        folder
    }

    /// `smolfreeze` with nothing of the user's around it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        self.surround(&mut command).args(words);
        command
    }

    pub fn surround<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let users = ["XDG_RUNTIME_DIR", "XDG_STATE_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "SOURCE_DATE_EPOCH"];
        for name in users.iter().chain(&["SMOLFREEZE_GUEST_READER"]) {
            command.env_remove(name);
        }
        command.env("HOME", self.path("home")).env("XDG_CACHE_HOME", self.path("cache"));
        command.env("TMPDIR", self.path("scratch")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())
    }

    /// Freezes, which has to go well, and what it reports.
    pub fn freeze(&self, words: &[&str]) -> Snapshot {
        self.freeze_from(words, None)
    }

    /// [`Self::freeze`] with `input` on standard input, in pieces of an odd size.
    pub fn freeze_from(&self, words: &[&str], input: Option<&Path>) -> Snapshot {
        let report = self.path("report.json");
        let mut command = self.command(&["freeze", "--report"]);
        command.arg(&report).args(words);
        let mut feeder = input.map(|input| {
            Command::new("dd")
                .arg(format!("if={}", input.display()))
                .args(["bs=30011", "status=none"])
                .stdout(Stdio::piped())
                .spawn()
                .expect("dd")
        });
        if let Some(feeder) = &mut feeder {
            command.stdin(feeder.stdout.take().expect("its output"));
        }
        let output = finish(command.spawn().expect("the command"));
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        if let Some(mut feeder) = feeder {
            feeder.wait().expect("dd ends");
        }
        let text = fs::read(&report).expect("a report");
        serde_json::from_slice(&text).expect("a report that parses")
    }

    /// Freezes, which has to fail with this exit code and one line that names `subject`: the line.
    pub fn refuses(&self, code: i32, subject: &str, words: &[&str]) -> String {
        self.refuses_from(code, subject, words, None)
    }

    /// [`Self::refuses`] with `input` on standard input, which then ends.
    pub fn refuses_from(&self, code: i32, subject: &str, words: &[&str], input: Option<&[u8]>) -> String {
        let mut command = self.command(&["freeze", "--quiet"]);
        command.args(words);
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().expect("the command");
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // It may hang up as soon as it knows.
            let _ = stdin.write_all(input);
        }
        let output = finish(child);
        let line = one_line(&output);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {line}");
        assert!(line.contains(subject), "{words:?}: '{subject}' is not in: {line}");
        line
    }

    /// `smolfreeze verify`, which has to find nothing.
    pub fn verify(&self, image: &str) {
        let output = finish(self.command(&["verify", image]).spawn().expect("the command"));
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{image}: {said}");
    }
}

/// A small disk; it is unmounted when this is dropped.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    pub fn mount(folder: &Path, size: &str) -> Self {
        shell(folder, &format!("mount -t tmpfs -o size={size} tmpfs \"$PWD\""));
        Self(folder.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Runs a script of bash in a folder; it has to go well.
pub fn shell(folder: &Path, script: &str) {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(folder)
        .env("LC_ALL", "C")
        .output()
        .expect("bash");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits for the end of a command, which has to come.
pub fn finish(mut child: Child) -> Output {
    let began = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if began.elapsed() > RUN_TIMEOUT {
            let _ = child.kill();
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("its output")
}

/// The one line that a command said, on standard error and nowhere else.
pub fn one_line(output: &Output) -> String {
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "not one line: {line:?}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    line
}

/// Waits until something is so.
pub fn until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The tags of a repository.
pub fn tags(registry: &DockerRegistry, repository: &str) -> Vec<String> {
    names(&registry.repository(repository).join("_manifests/tags"))
}

/// The names in a folder, sorted; none where it isn't there.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The upload sessions that the command heard of and neither finished nor cancelled. This registry itself keeps some of
/// them: where a part was cut off it answers every cancellation with 404 (docker-registry 2.8).
pub fn open_sessions(proxy: &Proxy) -> Vec<String> {
    let seen = proxy.seen();
    let session = |target: &str| {
        let (_, session) = target.split_once("/blobs/uploads/")?;
        let (name, _) = session.split_once('?')?;
        (!name.is_empty()).then(|| name.to_owned())
    };
    let of = |methods: &[&str]| -> BTreeSet<_> {
        seen.iter()
            .filter(|seen| methods.contains(&seen.method.as_str()))
            .filter_map(|seen| session(&seen.target))
            .collect()
    };
    of(&["PATCH", "GET"]).difference(&of(&["PUT", "DELETE"])).cloned().collect()
}
