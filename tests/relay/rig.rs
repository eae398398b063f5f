//! What every test here needs: machines of the stand-in's, runtimes, and the tools to look into both.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use smolfreeze::error::Result;
use smolfreeze::progress::Notices;
use smolfreeze::source::Selection;
use smolfreeze::source::machine::{Machine, Options};
use smolfreeze::stop::Stop;

/// A line a path: `type mode uid gid links mtime rdev-or-size hash-or-target`.
pub type Tree = BTreeMap<String, String>;

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
pub struct Rig {
    pub state: tempfile::TempDir,
    pub name: &'static str,
    smolvm: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Rig {
    pub fn start(kind: Kind) -> Self {
        Self::with(kind, &serde_json::json!({}))
    }

    /// `more`: further fields of the machine's description.
    pub fn with(kind: Kind, more: &serde_json::Value) -> Self {
        let (standin, cache) = built();
        let state = tempfile::Builder::new().prefix("standin").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let name = "m1";
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
        std::fs::create_dir(state.path().join(name)).unwrap();
        std::fs::write(state.path().join(name).join("machine.json"), machine.to_string()).unwrap();
        // The library is given a script, so that tests in one process need no environment of their own.
        let smolvm = state.path().join("smolvm");
        let script =
            format!("#!/bin/sh\nSTANDIN_STATE='{}' exec '{}' \"$@\"\n", state.path().display(), standin.display());
        std::fs::write(&smolvm, script).unwrap();
        std::fs::set_permissions(&smolvm, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let rig = Self { state, name, smolvm, runtime };
        rig.smolvm(&["machine", "start", "--name", name]);
        rig
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
        let image =
            String::from_utf8_lossy(&std::fs::read(self.state.path().join(self.name).join("machine.json")).unwrap())
                .contains("\"image\":\"");
        let user: &[&str] = if image { &["-u", "0"] } else { &[] };
        let arguments = [&["machine", "exec", "--name", self.name], user, &["--", "sh", "-c", script]].concat();
        String::from_utf8(self.smolvm(&arguments).stdout).unwrap()
    }

    /// Orders faults; see tests/standin/faults.rs.
    pub fn faults(&self, lines: &str) {
        std::fs::write(self.state.path().join("faults"), lines).unwrap();
    }

    /// Options for tests: small chunks, little patience.
    pub fn options(&self) -> Options {
        Options {
            smolvm: self.smolvm.clone(),
            chunk_bytes: 1 << 20,
            lease: Duration::from_secs(20),
            patience: Duration::from_secs(4),
            call_limit: Duration::from_secs(10),
            ..Options::default()
        }
    }

    pub fn open(&self, options: Options) -> Result<Machine> {
        self.runtime.block_on(Machine::open(self.name, options, &Stop::new()))
    }

    pub fn survey(&self, machine: &Machine) -> smolfreeze::source::Survey {
        self.runtime.block_on(machine.survey(&Selection::default(), &Stop::new())).unwrap()
    }

    /// Freezes into a file.
    pub fn freeze(&self, options: Options, selection: &Selection) -> Result<Frozen> {
        self.freeze_until(options, selection, &Stop::new())
    }

    pub fn freeze_until(&self, options: Options, selection: &Selection, stop: &Stop) -> Result<Frozen> {
        let machine = self.runtime.block_on(Machine::open(self.name, options, stop))?;
        let mut tar = tempfile::NamedTempFile::new_in(self.state.path()).unwrap();
        let (notices, retries) = machine.copy_to(selection, tar.as_file_mut(), stop, self.runtime.handle())?;
        Ok(Frozen { tar, notices, retries })
    }

    /// Streams into a writer.
    pub fn freeze_to(
        &self,
        options: Options,
        writer: &mut (dyn std::io::Write + Send),
        stop: &Stop,
    ) -> Result<Notices> {
        let machine = self.runtime.block_on(Machine::open(self.name, options, stop))?;
        machine.copy_to(&Selection::default(), writer, stop, self.runtime.handle()).map(|(notices, _)| notices)
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
        let holder = std::fs::read_to_string(self.state.path().join(self.name).join("holder")).unwrap();
        let Ok(entries) = std::fs::read_dir(format!("/proc/{holder}/root/var/tmp")) else { return 0 };
        let spools = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(".smolfreeze-"));
        let files = spools.filter_map(|spool| std::fs::read_dir(spool.path()).ok()).flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = Command::new(&self.smolvm).args(["machine", "stop", "--name", self.name]).status();
    }
}

/// A freeze that ended well.
pub struct Frozen {
    pub tar: tempfile::NamedTempFile,
    pub notices: Notices,
    pub retries: u64,
}

impl Frozen {
    /// Unpacks with GNU tar, without being told to ignore zeros in the middle.
    pub fn unpack(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir_in(self.tar.path().parent().unwrap()).unwrap();
        let output = Command::new("tar")
            .args(["--delay-directory-restore", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-xpf"])
            .arg(self.tar.path())
            .arg("-C")
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder
    }

    /// Names in the archive, in its order.
    pub fn names(&self) -> Vec<String> {
        let output = Command::new("tar").arg("-tf").arg(self.tar.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

/// Everything below `root`, as GNU find sees it from the host, mounts below included if `xdev` is not asked for.
pub fn tree(root: &Path, skip: &[&str], nanoseconds: bool) -> Tree {
    let mut script = String::from("cd \"$1\" && find .");
    for path in skip {
        let _ = write!(script, " -path '{path}' -prune -o");
    }
    script += " -printf '%P\\t%y %m %U %G %n %T@ %s %l\\0'";
    let output = Command::new("sh").args(["-c", &script, "sh"]).arg(root).env("LC_ALL", "C").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut tree = Tree::new();
    for record in String::from_utf8_lossy(&output.stdout).split('\0').filter(|record| !record.is_empty()) {
        let (path, rest) = record.split_once('\t').unwrap();
        let mut words: Vec<String> = rest.split(' ').map(str::to_owned).collect();
        if words[0] == "d" {
            // Links and sizes of directories belong to the filesystem.
            words[4].clear();
            words[6].clear();
        }
        if !nanoseconds {
            let point = words[5].find('.').unwrap();
            words[5].truncate(point);
        }
        if words[0] == "f"
            && let Ok(bytes) = std::fs::read(root.join(path))
        {
            words.push(format!("{:x}", crc(&bytes)));
        }
        tree.insert(path.to_owned(), words.join(" "));
    }
    tree
}

fn crc(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

/// The differences of two trees, as lines.
pub fn differences(expected: &Tree, found: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, what) in expected {
        match found.get(path) {
            None => lines.push(format!("missing: {path}: {what}")),
            Some(other) if other != what => lines.push(format!("differs: {path}: {what} / {other}")),
            Some(_) => {}
        }
    }
    lines.extend(found.keys().filter(|path| !expected.contains_key(*path)).map(|path| format!("too much: {path}")));
    lines
}
