//! A user's host with a machine on it: the command, what it made, and the guest's files to compare with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use smolfreeze::report::Snapshot;

use crate::host::{Host, shell};
use crate::standin::{Kind, Standin};
use crate::trees::{Keeps, inventory, inventory_without};

/// Folders whose contents are not the machine's own files, or nobody's for long.
const EMPTY: [&str; 8] = ["proc", "sys", "dev", "run", "tmp", "var/tmp", "storage", "oldroot"];

/// A host, and a machine on it.
pub struct Desk {
    pub host: Host,
    pub machine: Standin,
}

impl Desk {
    pub fn new(kind: Kind) -> Self {
        Self { host: Host::new(), machine: Standin::start(kind) }
    }

    /// `smolfreeze freeze m1` with these words behind it.
    pub fn command(&self, words: &[&str]) -> Command {
        self.command_for(self.machine.name, words)
    }

    /// The same for another machine of this smolvm.
    pub fn command_for(&self, name: &str, words: &[&str]) -> Command {
        let mut command = self.host.command(&["freeze", name, "--smolvm"]);
        command.arg(self.machine.smolvm_path()).args(words);
        command
    }

    /// Freezes, which has to go well and to leave the guest clean: what it reports.
    pub fn freeze(&self, words: &[&str]) -> Snapshot {
        let smolvm = self.machine.smolvm_path().display().to_string();
        let report = self.host.freeze(&[&[self.machine.name, "--smolvm", &smolvm], words].concat());
        self.machine.assert_clean();
        report
    }

    /// Freezes, which has to fail with this exit code and one line that names machine and cause.
    pub fn refuses(&self, code: i32, causes: &[&str], words: &[&str]) {
        let smolvm = self.machine.smolvm_path().display().to_string();
        let line = self.host.refuses(code, "'m1'", &[&["m1", "--smolvm", &smolvm], words].concat());
        for cause in causes {
            assert!(line.contains(cause), "'{cause}' is not in: {line}");
        }
    }

    /// Everything of the machine that belongs into an image, by its path there.
    pub fn files(&self, keeps: Keeps) -> BTreeMap<PathBuf, String> {
        files_of(&self.machine, keeps)
    }

    /// A script of bash in a folder of the guest, with the host's tools: most guests have no setfattr.
    pub fn fill(&self, folder: &str, script: &str) {
        let folder = self.machine.root().join(folder);
        fs::create_dir_all(&folder).unwrap();
        shell(&folder, script);
    }

    /// An image in a registry as a folder, by other hands than ours.
    pub fn unpacked(&self, image: &str, keeps: Keeps) -> BTreeMap<PathBuf, String> {
        let work = self.host.path("unpacked");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).unwrap();
        // This umoci reads no zstd.
        let script = format!(
            "skopeo copy --quiet --src-tls-verify=false --dest-compress-format gzip --dest-compress-level 1 {image} oci:image:it
             umoci unpack --image image:it bundle"
        );
        shell(&work, &script);
        inventory(&work.join("bundle/rootfs"), keeps)
    }

    /// An image's config, as skopeo reads it.
    pub fn config(&self, image: &str) -> serde_json::Value {
        shell(&self.host.path("."), &format!("skopeo inspect --tls-verify=false --config --raw {image} >config.json"));
        serde_json::from_slice(&fs::read(self.host.path("config.json")).unwrap()).unwrap()
    }
}

/// Everything of the machine that belongs into an image, by its path there.
pub fn files_of(machine: &Standin, keeps: Keeps) -> BTreeMap<PathBuf, String> {
    files_without(machine, keeps, &[])
}

/// [`files_of`] but for these, and what is below them.
pub fn files_without(machine: &Standin, keeps: Keeps, excluded: &[&str]) -> BTreeMap<PathBuf, String> {
    let left = |path: &Path| {
        let is_content = path.parent().is_some_and(|parent| EMPTY.iter().any(|folder| parent == Path::new(folder)));
        let name = path.to_string_lossy();
        is_content
            || excluded.contains(&&*name)
            || name.starts_with(".smolvm-ready.")
            || name == "workspace/.smolvm-workspace-seeded"
    };
    let mut files = inventory_without(&machine.root(), keeps, left);
    let workspace = Path::new("workspace");
    if machine.root().join(workspace).is_symlink() {
        // A bare machine's is a link into smolvm's own disk.
        files.remove(workspace);
        let root = machine.root().join("storage/workspace");
        let inside = inventory_without(&root, keeps, |path| path.to_string_lossy().starts_with(".smolvm-"));
        for (path, line) in inside {
            // Link groups are told by path, and these are named from the root.
            let (what, group) = line.rsplit_once(" same as ").unwrap();
            let [path, group] = [path, group.into()]
                .map(|path| if path.as_os_str().is_empty() { workspace.to_owned() } else { workspace.join(path) });
            files.insert(path, format!("{what} same as {}", group.display()));
        }
    }
    files
}
