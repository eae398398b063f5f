//! What a host remembers: its state folder, read as another program would read it, and records made to order.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Output, Stdio};

use serde_json::Value;

use crate::host::{Host, finish, names, until};

/// A host, its state folder, and a small tree to freeze.
pub struct Desk {
    pub host: Host,
    pub tree: String,
}

impl Desk {
    pub fn new() -> Self {
        let host = Host::new();
        let tree = format!("dir:{}", host.tree("tree", "echo text >file; mkdir folder").display());
        Self { host, tree }
    }

    pub fn state(&self) -> PathBuf {
        self.host.path("home/.local/state/smolfreeze")
    }

    /// The names of all files in the folder of records.
    pub fn names(&self) -> Vec<String> {
        names(&self.state().join("records"))
    }

    /// The records, as JSON, by name.
    pub fn records(&self) -> Vec<Value> {
        let read = |name: &String| serde_json::from_slice(&fs::read(self.state().join("records").join(name)).unwrap());
        self.names().iter().map(read).collect::<Result<_, _>>().unwrap()
    }

    pub fn run(&self, words: &[&str]) -> Output {
        finish(self.host.command(words).env("TZ", "UTC").spawn().unwrap())
    }

    /// A command that must work and say nothing on standard error: what it printed.
    pub fn says(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{words:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.says(words)).unwrap()
    }

    /// A command that must fail with one line.
    pub fn refuses(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        crate::host::one_line(&output)
    }

    /// A freeze to the folder `layout` that has begun and will not end: its input stays open.
    pub fn endless(&self) -> (Child, ChildStdin) {
        let to = format!("oci:{}", self.host.text("layout"));
        let mut command = self.host.command(&["freeze", "tar:-", "--to", &to]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1_000_000);
        tar.append_data(&mut header, "file", &vec![7; 1_000_000][..]).unwrap();
        pipe.write_all(&tar.into_inner().unwrap()[..900_000]).unwrap();
        until("it has begun", || self.host.path("layout").exists());
        (child, pipe)
    }

    /// A tar of two files, `noise` and one of four megabytes.
    pub fn fed(noise: &[u8]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in [("a-noise", noise), ("file", &vec![7; 4_000_000])] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    /// As [`Self::endless`], of [`Self::fed`], once a first layer is in the layout. [`Self::feed_the_rest`] lets it end.
    pub fn endless_after(&self, noise: &[u8]) -> (Child, ChildStdin) {
        let to = format!("oci:{}", self.host.text("layout"));
        let words = ["freeze", "tar:-", "--to", &to, "--layer-size", "1MiB", "--no-known", "--quiet"];
        let mut child = self.host.command(&words).stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(&Self::fed(noise)[..noise.len() + 3_000_000]).unwrap();
        let blobs = self.host.path("layout/blobs/sha256");
        until("a layer is there", || names(&blobs).iter().any(|name| !name.starts_with('.')));
        (child, pipe)
    }

    pub fn feed_the_rest(mut pipe: ChildStdin, noise: &[u8]) {
        pipe.write_all(&Self::fed(noise)[noise.len() + 3_000_000..]).unwrap();
    }

    /// The record of a freeze of `source` at `time` (`20260102T030405Z`), of one artifact that is there. Gives its ID,
    /// and where the artifact is: in the state folder, or at `pack`.
    pub fn remember(&self, source: &str, time: &str, pack: Option<PathBuf>) -> (String, PathBuf) {
        let id = format!("{time}-{source}-00000a");
        let own = self.state().join("artifacts").join(source).join(format!("{id}.smolmachine"));
        let path = pack.unwrap_or(own);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::create_dir_all(self.state().join("records")).unwrap();
        fs::write(&path, "artifact").unwrap();
        let started = format!(
            "{}-{}-{}T{}:{}:{}Z",
            &time[..4],
            &time[4..6],
            &time[6..8],
            &time[9..11],
            &time[11..13],
            &time[13..15]
        );
        let digest = format!("sha256:{}", "0".repeat(64));
        let output = serde_json::json!({"kind": "artifact", "name": path, "digest": digest, "path": path, "bytes": 8});
        let record = serde_json::json!({
            "version": 1, "id": id, "source": source, "started": started, "seconds": 1.5,
            "machine": {"image": "local:abc", "architecture": "amd64", "user": null, "workdir": "/", "later": 1},
            "outputs": [output], "layers": {"count": 1, "known": 0, "sent": 1}, "entries": 3, "tar_bytes": 9,
            "stored_bytes": 8, "sent_bytes": 8, "notices": {"counts": {"changed": 1}, "named": []},
            "versions": {"smolfreeze": "9.9.9", "smolvm": "1.32.2"}, "a_field_of_a_later_release": [],
        });
        fs::write(self.state().join("records").join(format!("{id}.json")), record.to_string()).unwrap();
        (id, path)
    }
}
