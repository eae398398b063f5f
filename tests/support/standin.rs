//! Machines of the stand-in for smolvm: built, started, given orders, looked into, stopped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The stand-in's executable and the root filesystems; built by the first test that asks.
fn built() -> &'static (PathBuf, PathBuf) {
    static BUILT: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    BUILT.get_or_init(|| {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make namespaces and mounts: run them as root (Linux, Debian 12)"
        );
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let standin = target.join("debug/examples/smolvm-standin");
        // `cargo test` has built it; `cargo test --test relay` builds no examples.
        if !is_newer(&standin, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin")) {
            let build =
                Command::new(env!("CARGO")).args(["build", "--quiet", "--example", "smolvm-standin"]).status().unwrap();
            assert!(build.success(), "the stand-in does not build");
        }
        let cache = target.join("standin-cache");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/relay/rootfs.sh");
        let status = Command::new("sh").arg(script).arg(&cache).status().unwrap();
        assert!(status.success(), "the root filesystems could not be built: they need debootstrap and busybox-static");
        (standin, cache)
    })
}

fn is_newer(built: &Path, sources: &Path) -> bool {
    let Ok(built) = built.metadata().and_then(|metadata| metadata.modified()) else { return false };
    let mut files = std::fs::read_dir(sources).unwrap().flatten();
    files.all(|file| file.metadata().unwrap().modified().unwrap() < built)
}

/// What kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An image of Debian whose USER is 1000, with a folder `/data` of the storage disk.
    Debian,
    /// An image with nothing but busybox.
    Busybox,
    /// A bare machine.
    Bare,
}

/// A machine of the stand-in's that runs; it is gone when dropped.
pub struct Standin {
    /// Where the stand-in keeps all its machines.
    pub state: Arc<tempfile::TempDir>,
    pub name: &'static str,
    kind: Kind,
    smolvm: PathBuf,
}

impl Standin {
    pub fn start(kind: Kind) -> Self {
        Self::with(kind, &serde_json::json!({}))
    }

    /// `more`: further fields of the machine's description.
    pub fn with(kind: Kind, more: &serde_json::Value) -> Self {
        Self::first("m1", kind, more)
    }

    /// The first machine of a new smolvm, with a name of its own.
    pub fn named(name: &'static str, kind: Kind) -> Self {
        Self::first(name, kind, &serde_json::json!({}))
    }

    fn first(name: &'static str, kind: Kind, more: &serde_json::Value) -> Self {
        let (standin, _) = built();
        let state = tempfile::Builder::new().prefix("standin").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // The library is given a script, so that tests in one process need no environment of their own.
        let smolvm = state.path().join("smolvm");
        let script =
            format!("#!/bin/sh\nSTANDIN_STATE='{}' exec '{}' \"$@\"\n", state.path().display(), standin.display());
        std::fs::write(&smolvm, script).unwrap();
        std::fs::set_permissions(&smolvm, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self::run(Arc::new(state), smolvm, name, kind, more)
    }

    /// Another machine of the same smolvm, made where there is none of this name.
    pub fn beside(&self, name: &'static str, kind: Kind) -> Self {
        Self::run(self.state.clone(), self.smolvm.clone(), name, kind, &serde_json::json!({}))
    }

    fn run(
        state: Arc<tempfile::TempDir>,
        smolvm: PathBuf,
        name: &'static str,
        kind: Kind,
        more: &serde_json::Value,
    ) -> Self {
        let (_, cache) = built();
        let mut machine = match kind {
            Kind::Debian => {
                serde_json::json!({"image": "local:abc", "rootfs": cache.join("debian"), "uid": 1000, "gid": 1000,
                "workdir": "/srv", "env": ["GREETING=hello world"], "volumes": ["/data"], "cmd": ["bash"], "labels": {"team": "x"}})
            }
            Kind::Busybox => serde_json::json!({"image": "local:abd", "rootfs": cache.join("busybox")}),
            Kind::Bare => serde_json::json!({"image": null, "rootfs": cache.join("bare")}),
        };
        let fields = machine.as_object_mut().unwrap();
        fields.insert("name".into(), name.into());
        fields.extend(more.as_object().unwrap().clone());
        let description = state.path().join(name).join("machine.json");
        if !description.exists() {
            std::fs::create_dir(state.path().join(name)).unwrap();
            std::fs::write(description, machine.to_string()).unwrap();
        }
        let machine = Self { state, name, kind, smolvm };
        machine.smolvm(&["machine", "start", "--name", name]);
        machine
    }

    /// Stops the machine, and starts it with these fields of its description.
    pub fn restart(&self, more: &serde_json::Value) {
        self.smolvm(&["machine", "stop", "--name", self.name]);
        let path = self.state.path().join(self.name).join("machine.json");
        let mut machine: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        machine.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(path, machine.to_string()).unwrap();
        self.smolvm(&["machine", "start", "--name", self.name]);
    }

    pub fn smolvm_path(&self) -> &Path {
        &self.smolvm
    }

    /// A call of smolvm that must work.
    pub fn smolvm(&self, arguments: &[&str]) -> Output {
        let output = Command::new(&self.smolvm).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// A shell command in the machine, as root, that must work; gives what it printed.
    pub fn sh(&self, script: &str) -> String {
        let user: &[&str] = if self.kind == Kind::Bare { &[] } else { &["-u", "0"] };
        let arguments = [&["machine", "exec", "--name", self.name], user, &["--", "sh", "-c", script]].concat();
        String::from_utf8(self.smolvm(&arguments).stdout).unwrap()
    }

    /// Orders faults; see tests/standin/faults.rs.
    pub fn faults(&self, lines: &str) {
        self.change_faults(|_| lines.to_owned());
    }

    /// Orders one more, whatever is left of the others.
    pub fn one_more_fault(&self, line: &str) {
        self.change_faults(|before| format!("{before}{line}\n"));
    }

    fn change_faults(&self, change: impl Fn(&str) -> String) {
        let path = self.state.path().join("faults");
        let lock = std::fs::File::create(path.with_extension("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, change(&before)).unwrap();
    }

    /// Calls of smolvm so far.
    pub fn calls(&self) -> usize {
        std::fs::read_to_string(self.state.path().join("calls")).map_or(0, |calls| calls.lines().count())
    }

    /// The pid, on the host, of the machine's first process.
    pub fn holder(&self) -> u32 {
        let text = std::fs::read_to_string(self.state.path().join(self.name).join("holder")).unwrap();
        text.trim().parse().unwrap()
    }

    /// Processes in the machine but its first: pids on the host, and command lines.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let holder = self.holder().to_string();
        let Some(ours) = space(&holder) else { return Vec::new() };
        let pids = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
        let pids = pids.filter_map(|name| name.into_string().ok()).filter(|name| name.parse::<i32>().is_ok());
        let inside = pids.filter(|pid| *pid != holder && space(pid).as_ref() == Some(&ours));
        let words = |pid: &str| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let told = inside.map(|pid| (pid.parse().unwrap(), String::from_utf8_lossy(&words(&pid)).replace('\0', " ")));
        told.filter(|(_, command)| !command.is_empty()).collect()
    }

    /// The machine's root, as the host sees it, mounts included; the slash makes it a folder and not a link to one.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/", self.holder()))
    }

    /// Neither spools nor locks nor processes of ours are left in the guest, within a second.
    pub fn assert_clean(&self) {
        let look = "ls -A /var/tmp /tmp | grep smolfreeze; for p in /proc/[0-9]*; do tr '\\000' ' ' <$p/cmdline 2>/dev/null | grep -a 'guest[.]sh'; done; true";
        let mut left = String::new();
        for _ in 0..20 {
            left = self.sh(look);
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("left in the guest: {left}");
    }

    /// Bytes of our spools in the guest, now.
    pub fn spool_bytes(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(self.root().join("var/tmp")) else { return 0 };
        let spools = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(".smolfreeze-"));
        let files = spools.filter_map(|spool| std::fs::read_dir(spool.path()).ok()).flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        let _ = Command::new(&self.smolvm).args(["machine", "stop", "--name", self.name]).status();
    }
}
