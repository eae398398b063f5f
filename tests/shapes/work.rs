//! The folder of one shape: what is frozen, where it goes, what is unpacked.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder that goes with this, unless it is kept.
pub struct Work {
    folder: PathBuf,
    on_tmpfs: bool,
    is_kept: Cell<bool>,
}

impl Work {
    /// In /var/tmp; on a filesystem of its own, which takes larger attributes and other times, if so wanted.
    pub fn new(on_tmpfs: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("shape-").tempdir_in("/var/tmp").expect("a folder").keep();
        let work = Self { folder, on_tmpfs, is_kept: Cell::new(false) };
        if on_tmpfs {
            work.shell("mount -t tmpfs -o size=12g,mode=755 shape \"$PWD\"");
        }
        for name in ["home", "cache", "scratch", "tree"] {
            work.folder(name);
        }
        work
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("a folder");
        path
    }

    /// A script of bash in this folder, which has to go well.
    pub fn shell(&self, script: &str) {
        let output = self.try_shell(script);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{script}: {}", said.chars().take(2000).collect::<String>());
    }

    pub fn try_shell(&self, script: &str) -> Output {
        bash(&self.folder, script)
    }

    /// Leaves the folder as it is, and says where.
    pub fn keep(&self) -> &Path {
        self.is_kept.set(true);
        &self.folder
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.is_kept.get() {
            return;
        }
        if self.on_tmpfs {
            let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn bash(folder: &Path, script: &str) -> Output {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(folder).env("LC_ALL", "C").output().expect("bash")
}
