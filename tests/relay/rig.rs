//! What every test here needs: a machine of the stand-in's, a runtime, and the tools to look into both.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use smolfreeze::error::Result;
use smolfreeze::progress::Notices;
use smolfreeze::source::Selection;
use smolfreeze::source::machine::{Machine, Options};
use smolfreeze::stop::Stop;

pub use crate::standin::Kind;
use crate::standin::Standin;

/// A line a path: `type mode uid gid links mtime rdev-or-size hash-or-target`.
pub type Tree = BTreeMap<String, String>;

/// A machine of the stand-in's that runs, and a runtime; it is gone when dropped.
pub struct Rig {
    machine: Standin,
    runtime: tokio::runtime::Runtime,
}

impl std::ops::Deref for Rig {
    type Target = Standin;

    fn deref(&self) -> &Standin {
        &self.machine
    }
}

impl Rig {
    pub fn start(kind: Kind) -> Self {
        Self::with(kind, &serde_json::json!({}))
    }

    /// `more`: further fields of the machine's description.
    pub fn with(kind: Kind, more: &serde_json::Value) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { machine: Standin::with(kind, more), runtime }
    }

    /// Options for tests: small chunks, little patience.
    pub fn options(&self) -> Options {
        Options {
            smolvm: self.smolvm_path().into(),
            chunk_bytes: Some(1 << 20),
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
