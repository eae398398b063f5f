//! A host with one folder, its state, and a layout of its images.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::sidecar;
use crate::tree::compare::{differences, parted};
use crate::tree::inventory::{self, Inventory};

pub struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("nights-").tempdir_in("/var/tmp").unwrap();
        for name in ["tree", "home", "scratch"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    /// Freezes the folder into the layout, whatever comes of it.
    pub fn try_freeze(&self, words: &[&str]) -> (Output, Value) {
        let layout = format!("oci:{}:it", self.path("layout").display());
        // This umoci reads no zstd.
        self.try_freeze_to(&[&["--to", &layout, "--compression", "gzip"], words].concat())
    }

    /// Freezes the folder to where these words say.
    pub fn try_freeze_to(&self, words: &[&str]) -> (Output, Value) {
        let report = self.path("report.json");
        let _ = std::fs::remove_file(&report);
        let mut command = self.command();
        command.arg("freeze").arg(format!("dir:{}", self.tree().display()));
        command.args(["--quiet", "--report"]).arg(&report).args(words);
        let output = command.output().unwrap();
        let report = std::fs::read(&report).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        (output, report.unwrap_or_default())
    }

    /// Freezes the folder, which has to go well: the report.
    pub fn freeze(&self, words: &[&str]) -> Value {
        let (output, report) = self.try_freeze(words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        report
    }

    /// What is wrong with the image by its own words, and by the index of it, and whether there is one.
    pub fn faults(&self) -> (Vec<String>, bool) {
        let layout = format!("oci:{}:it", self.path("layout").display());
        let output = self.command().args(["verify", &layout, "--json"]).output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let faults: Vec<_> =
            told["faults"].as_array().unwrap().iter().map(|fault| format!("verify: {fault}")).collect();
        assert_eq!(output.status.success(), faults.is_empty());
        let is_compared = !told["compared"].is_null();
        assert!(!is_compared || told["compared"] == told["entries"] || !faults.is_empty(), "{told}");
        (faults, is_compared)
    }

    /// Where an artifact that is made beside others lies.
    pub fn artifact(&self) -> String {
        self.path("it.smolmachine").display().to_string()
    }

    /// What makes one.
    pub fn packing(&self) -> [String; 4] {
        let agent = sidecar::agent(self.folder.path()).display().to_string();
        ["--pack".to_owned(), self.artifact(), "--agent-rootfs".to_owned(), agent]
    }

    /// Where the artifact, its layers laid over each other by those who know no marks, is not what the folder is.
    pub fn differences_of_artifact(&self) -> Vec<String> {
        let differences = differences(&self.wanted(), &self.in_artifact());
        differences.iter().map(|difference| format!("in the artifact: {difference}")).collect()
    }

    pub fn in_artifact(&self) -> Inventory {
        inventory::of_folder(&sidecar::unpacked(&self.path("it.smolmachine"), &self.path("by-smolvm")))
    }

    /// The folder, as it is where no link leaves `workspace`.
    pub fn wanted(&self) -> Inventory {
        parted(&inventory::of_folder(&self.tree()), b"workspace")
    }

    /// `smolfreeze` with nothing of the user's around it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smolfreeze"));
        for name in ["XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME", "SOURCE_DATE_EPOCH"] {
            command.env_remove(name);
        }
        command.env("HOME", self.path("home")).env("TMPDIR", self.path("scratch")).stdin(Stdio::null());
        command
    }

    pub fn shell(&self, script: &str) -> String {
        let output = Command::new("bash").args(["-ec", script]).current_dir(self.folder.path()).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Where the last image, unpacked, is not what the folder is.
    pub fn differences(&self) -> Vec<String> {
        let wanted = self.wanted();
        let mut all = self.by_umoci(&wanted);
        all.extend(self.under_overlayfs(&wanted));
        all.extend(self.faults().0);
        all.truncate(12);
        all
    }

    fn by_umoci(&self, wanted: &Inventory) -> Vec<String> {
        differences(wanted, &self.in_image()).iter().map(|difference| format!("by umoci: {difference}")).collect()
    }

    pub fn in_image(&self) -> Inventory {
        self.shell("rm -rf by-umoci; umoci raw unpack --image layout:it by-umoci");
        inventory::of_folder(&self.path("by-umoci"))
    }

    /// Each layer in a folder of its own, by GNU tar, with its marks as overlayfs has them.
    fn under_overlayfs(&self, wanted: &Inventory) -> Vec<String> {
        let script = r#"
            rm -rf lower; mkdir -p lower/none lower/all
            manifest=$(python3 -c 'import json; print(json.load(open("layout/index.json"))["manifests"][0]["digest"].split(":")[1])')
            n=0; stack=none
            for layer in $(python3 -c 'import json, sys; [print(l["digest"].split(":")[1]) for l in json.load(open(sys.argv[1]))["layers"]]' layout/blobs/sha256/$manifest); do
                mkdir lower/$n
                gzip -dc layout/blobs/sha256/$layer | tar --delay-directory-restore --numeric-owner --xattrs --xattrs-include='*' -xpf - -C lower/$n
                ( cd lower/$n; find . -name '.wh.*' -print0 | while IFS= read -r -d '' mark; do
                    above=${mark%/*}; name=${mark##*/}; touch -r "$above" ../stamp
                    rm "$mark"; mknod "$above/${name#.wh.}" c 0 0; touch -r ../stamp "$above"
                done )
                stack=$n:$stack; n=$((n + 1))
            done
            cd lower; mount -t overlay overlay -o "ro,lowerdir=$stack" all
        "#;
        self.shell(script);
        let found = inventory::of_folder(&self.path("lower/all"));
        self.shell("umount lower/all");
        differences(wanted, &found).iter().map(|difference| format!("under overlayfs: {difference}")).collect()
    }

    /// What is remembered of the last image.
    pub fn index(&self) -> PathBuf {
        let folder = self.path("home/.local/state/smolfreeze/indexes");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-lq").arg(self.path("lower/all")).stderr(Stdio::null()).status();
    }
}
