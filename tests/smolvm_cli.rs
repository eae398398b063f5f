//! The real smolvm command line, as far as it goes without a guest: what smolfreeze parses of it, and whether it takes
//! an artifact of ours.
//!
//! Ignored by default, for it fetches smolvm's wheel (44 MB, kept) through pip: `cargo test --test smolvm_cli -- --ignored`.
//! `SMOLFREEZE_RIG` is the folder it is kept in, the same as the rig's.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "support/packed.rs"]
mod packed;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use smolfreeze::oci::Compression;
use smolfreeze::sink::artifact::{ArtifactOptions, ArtifactSink, Lookup, MachineSettings};
use tempfile::TempDir;

/// The real smolvm, with a home of its own that goes with the test.
struct Smolvm {
    installed: PathBuf,
    home: TempDir,
}

/// How a call ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Smolvm {
    fn get() -> Self {
        let cache = || env::var_os("XDG_CACHE_HOME").map_or(env::home_dir().unwrap().join(".cache"), PathBuf::from);
        let rig = env::var_os("SMOLFREEZE_RIG").map_or_else(|| cache().join("smolfreeze-rig"), PathBuf::from);
        let installed = rig.join("smolvm");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rig/get_smolvm.sh");
        assert!(Command::new(script).arg(&installed).status().unwrap().success(), "smolvm could not be fetched");
        Self { installed, home: tempfile::tempdir().unwrap() }
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let mut call = Command::new(self.installed.join("smolvm"));
        call.args(arguments);
        self.ended(call)
    }

    /// `smolfreeze thaw` of this artifact into the machine `made`.
    fn thaw(&self, artifact: &Path, more: &[&str]) -> Ended {
        let mut call = Command::new(env!("CARGO_BIN_EXE_smolfreeze"));
        call.arg("thaw").arg(artifact).args(["--name", "made", "--quiet", "--smolvm"]);
        call.arg(self.installed.join("smolvm")).args(more).env("SMOLVM_BOOT_BINARY", "/bin/false");
        self.ended(call)
    }

    fn ended(&self, mut call: Command) -> Ended {
        call.env("HOME", self.home.path()).env("SMOLVM_LIB_DIR", &self.installed);
        for ours in ["XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
            call.env_remove(ours);
        }
        let output = call.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// An artifact of two layers, with this release's agent.
    async fn artifact(&self) -> PathBuf {
        let path = self.home.path().join("made.smolmachine");
        let agent = Lookup { folders: vec![self.installed.clone()], ..Lookup::default() }.find().unwrap();
        let layers = ["one", "two"].map(|name| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(4);
            tar.append_data(&mut header, name, &b"text"[..]).unwrap();
            packed::layer(usize::from(name == "two"), &tar.into_inner().unwrap(), Compression::Zstd)
        });
        let sink = ArtifactSink::create(&path, ArtifactOptions::new(agent)).await.unwrap();
        for layer in &layers {
            sink.put(layer).await.unwrap();
        }
        let run = serde_json::json!({ "User": "1000", "Cmd": ["/bin/sh"], "Entrypoint": ["/bin/env"] });
        let settings =
            MachineSettings { memory_mib: 384, cpus: 2, ..MachineSettings::new("127.0.0.1:5000/made:latest") };
        sink.commit(&packed::image(&layers, &run), &settings).await.unwrap();
        path
    }
}

#[test]
#[ignore = "fetches smolvm"]
fn errors_are_as_written_down() {
    let smolvm = Smolvm::get();
    assert_eq!(smolvm.run(&["--version"]).out.trim_end(), "smolvm 1.32.2");
    let empty = smolvm.run(&["machine", "ls", "--json"]);
    assert_eq!((empty.code, empty.out.trim()), (0, "[]"));

    let unknown = "Error: vm not found: nope\n";
    let table: [(&[&str], i32, &str); 6] = [
        (&["machine", "exec", "--name", "nope", "--", "true"], 1, unknown),
        (&["machine", "exec", "--name", "nope", "-d", "--", "true"], 1, unknown),
        (&["machine", "cp", "nope:/etc/hostname", "/dev/stdout"], 1, unknown),
        (
            &["machine", "status", "--name", "nope", "--json"],
            1,
            "Error: config operation failed: machine status: machine 'nope' not found\n",
        ),
        (
            &["--error-format", "json", "machine", "exec", "--name", "nope", "--", "true"],
            1,
            "{\"error\":{\"code\":\"NOT_FOUND\",\"message\":\"vm not found: nope\"}}\n",
        ),
        (&["machine", "ls", "--bogus"], 2, "error: unexpected argument '--bogus' found\n"),
    ];
    for (arguments, code, text) in table {
        let ended = smolvm.run(arguments);
        assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
        assert!(ended.err.starts_with(text), "{arguments:?}: {ended:?}");
        assert!(ended.out.is_empty(), "{arguments:?}: {ended:?}");
    }
}

#[tokio::test]
#[ignore = "fetches smolvm"]
async fn an_artifact_of_ours_becomes_a_machine() {
    let smolvm = Smolvm::get();
    let artifact = smolvm.artifact().await;
    let from = ["machine", "create", "--name", "made", "--from", artifact.to_str().unwrap()];
    let created = smolvm.run(&from);
    assert_eq!(created.code, 0, "{created:?}");

    let listed = smolvm.run(&["machine", "ls", "--json"]);
    let machines: serde_json::Value = serde_json::from_str(&listed.out).unwrap();
    let made = &machines[0];
    for (field, expected) in [
        ("name", "made".into()),
        ("state", "created".into()),
        ("image", "127.0.0.1:5000/made:latest".into()),
        ("cpus", 2.into()),
        ("memory_mib", 384.into()),
        ("network", false.into()),
        ("entrypoint", serde_json::json!(["/bin/env"])),
        ("cmd", serde_json::json!(["/bin/sh"])),
        ("pid", serde_json::Value::Null),
    ] {
        assert_eq!(made[field], expected, "{field} in {made}");
    }

    let exec = smolvm.run(&["machine", "exec", "--name", "made", "--", "true"]);
    assert_eq!(exec.code, 1, "{exec:?}");
    let stopped = "Error: agent operation failed: connect: machine 'made' is not running.";
    assert!(exec.err.starts_with(stopped), "{exec:?}");
    let again = smolvm.run(&from);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.err.contains("create machine: machine 'made' already exists"), "{again:?}");
}

#[test]
#[ignore = "fetches smolvm"]
fn a_frozen_folder_becomes_a_machine() {
    let smolvm = Smolvm::get();
    let tree = smolvm.home.path().join("tree");
    for (file, content) in [("etc/name", "frozen"), ("workspace/notes", "first content")] {
        let path = tree.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let (source, pack) = (format!("dir:{}", tree.display()), smolvm.home.path().join("frozen"));
    let mut freeze = Command::new(env!("CARGO_BIN_EXE_smolfreeze"));
    // Its agent is found beside the executable.
    freeze.args(["freeze", "--no-known", &source, "--cmd", "sh", "--smolvm"]).arg(smolvm.installed.join("smolvm"));
    freeze.arg("--pack").arg(&pack).env("HOME", smolvm.home.path()).env_remove("SMOLVM_AGENT_ROOTFS");
    let output = freeze.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let artifact = pack.with_extension("smolmachine");
    let created = smolvm.run(&["machine", "create", "--name", "frozen", "--from", artifact.to_str().unwrap()]);
    assert_eq!(created.code, 0, "{created:?}");
    let listed = smolvm.run(&["machine", "ls", "--json"]);
    let machines: serde_json::Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!((&machines[0]["name"], &machines[0]["image"]), (&"frozen".into(), &source.as_str().into()));
    assert_eq!(machines[0]["cmd"], serde_json::json!(["sh"]));
}

#[tokio::test]
#[ignore = "fetches smolvm"]
async fn a_damaged_artifact_is_refused() {
    let smolvm = Smolvm::get();
    let artifact = smolvm.artifact().await;
    let mut bytes = std::fs::read(&artifact).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&artifact, bytes).unwrap();
    let refused = smolvm.run(&["machine", "create", "--name", "made", "--from", artifact.to_str().unwrap()]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert_eq!(smolvm.run(&["machine", "ls", "--json"]).out.trim(), "[]");
}

#[tokio::test]
#[ignore = "fetches smolvm"]
async fn a_thawed_machine_is_there_or_deleted_again() {
    let smolvm = Smolvm::get();
    let artifact = smolvm.artifact().await;
    let idle = smolvm.thaw(&artifact, &["--no-start", "--cpus", "3", "--memory", "640MiB", "--net"]);
    assert_eq!(idle.code, 0, "{idle:?}");
    let machines: serde_json::Value = serde_json::from_str(&smolvm.run(&["machine", "ls", "--json"]).out).unwrap();
    let made = &machines[0];
    assert_eq!((&made["name"], &made["state"], &made["cpus"]), (&"made".into(), &"created".into(), &3.into()));
    assert_eq!((&made["memory_mib"], &made["network"]), (&640.into(), &true.into()));
    let taken = smolvm.thaw(&artifact, &[]);
    assert_eq!(taken.code, 4, "{taken:?}");

    let unasked = smolvm.run(&["machine", "delete", "--name", "made"]);
    assert!(unasked.err.contains("needs confirmation") && unasked.code == 1, "{unasked:?}");
    assert_eq!(smolvm.run(&["machine", "delete", "--name", "made", "--force"]).code, 0);
    // Whatever this host has, its boot process ends at once.
    let failed = smolvm.thaw(&artifact, &[]);
    assert_eq!(failed.code, 4, "{failed:?}");
    assert!(failed.err.contains("starting the machine failed: machine 'made'"), "{failed:?}");
    assert_eq!(smolvm.run(&["machine", "ls", "--json"]).out.trim(), "[]");
}
