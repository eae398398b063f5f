//! The stand-in's folder: machines, whether they run, and how a failure is said.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A call that failed, in smolvm's words.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) exit: u8,
}

impl Failure {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), exit: 1 }
    }

    /// An operation of the guest's agent that failed.
    pub(crate) fn agent(message: impl std::fmt::Display) -> Self {
        Self::new("SMOLVM_ERROR", format!("agent operation failed: {message}"))
    }

    pub(crate) fn status_unknown(name: &str) -> Self {
        Self::new("NOT_FOUND", format!("config operation failed: machine status: machine '{name}' not found"))
    }

    #[expect(clippy::print_stderr, reason = "a command line")]
    pub(crate) fn print(&self, json: bool) {
        if json {
            eprintln!("{}", serde_json::json!({"error": {"code": self.code, "message": self.message}}));
        } else {
            eprintln!("Error: {}", self.message);
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new("SMOLVM_ERROR", format!("stand-in: {error}"))
    }
}

/// What a test writes to `NAME/machine.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) name: String,
    /// `None`: a bare machine.
    pub(crate) image: Option<String>,
    /// The folder that the machine's root begins as, or several, the top one first; they are never written to.
    pub(crate) rootfs: PathBuf,
    /// The image's USER, as a number.
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
    #[serde(default = "root")]
    pub(crate) workdir: String,
    #[serde(default)]
    pub(crate) env: Vec<String>,
    #[serde(default)]
    pub(crate) entrypoint: Vec<String>,
    #[serde(default)]
    pub(crate) cmd: Vec<String>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Folders of the storage disk, as `-v PATH` makes them.
    #[serde(default)]
    pub(crate) volumes: Vec<String>,
    /// Mounts a tmpfs of this many bytes on /var/tmp.
    #[serde(default)]
    pub(crate) var_tmp_bytes: Option<u64>,
    #[serde(default = "two")]
    pub(crate) cpus: u8,
    #[serde(default = "one_gibibyte")]
    pub(crate) memory_mib: u32,
    #[serde(default)]
    pub(crate) network: bool,
    #[serde(default = "created_at")]
    pub(crate) created_at: u64,
    /// Further options of the root's overlay: `xino=on` numbers inodes in another way.
    #[serde(default)]
    pub(crate) overlay: String,
}

fn created_at() -> u64 {
    1_760_000_000
}

fn two() -> u8 {
    2
}

fn one_gibibyte() -> u32 {
    1024
}

fn root() -> String {
    "/".to_owned()
}

impl Machine {
    /// The object that `machine ls --json` prints.
    pub(crate) fn listing(&self, state: &State) -> serde_json::Value {
        let pid = state.holder(&self.name);
        let was_started = state.folder(&self.name).join("storage.ext4").exists();
        let at_rest = if was_started { "stopped" } else { "created" };
        serde_json::json!({
            "name": self.name, "image": self.image, "state": if pid.is_some() { "running" } else { at_rest },
            "cpus": self.cpus, "memory_mib": self.memory_mib, "pid": pid, "network": self.network, "labels": self.labels,
            "entrypoint": self.entrypoint, "cmd": self.cmd, "created_at": self.created_at, "mounts": 0,
            "storage_gb": 20, "overlay_gb": 10, "ephemeral": false, "restart_policy": "no", "parent_machine": null,
        })
    }
}

/// The stand-in's folder.
pub(crate) struct State(PathBuf);

impl State {
    pub(crate) fn from_env() -> Result<Self, Failure> {
        let folder = std::env::var_os("STANDIN_STATE")
            .ok_or_else(|| Failure::new("CONFIG_ERROR", "stand-in: STANDIN_STATE is not set"))?;
        Ok(Self(folder.into()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Appends the call's arguments to `calls`, one line a call.
    pub(crate) fn log_call(&self) -> Result<(), Failure> {
        let words: Vec<String> =
            std::env::args().skip(1).map(|word| word.lines().next().unwrap_or("").to_owned()).collect();
        let mut file = std::fs::File::options().create(true).append(true).open(self.0.join("calls"))?;
        file.write_all(format!("{}\n", words.join(" ")).as_bytes())?;
        Ok(())
    }

    pub(crate) fn machines(&self) -> Result<Vec<Machine>, Failure> {
        let mut machines = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if self.folder(&name).join("machine.json").exists() {
                machines.push(self.machine(&name)?);
            }
        }
        machines.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(machines)
    }

    pub(crate) fn machine(&self, name: &str) -> Result<Machine, Failure> {
        let text = std::fs::read(self.folder(name).join("machine.json"))
            .map_err(|_| Failure::new("NOT_FOUND", format!("vm not found: {name}")))?;
        serde_json::from_slice(&text).map_err(|error| Failure::new("CONFIG_ERROR", format!("stand-in: {error}")))
    }

    /// The pid, on the host, of the machine's first process, if it runs.
    pub(crate) fn holder(&self, name: &str) -> Option<u32> {
        let pid = std::fs::read_to_string(self.folder(name).join("holder")).ok()?.trim().parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        (!stat.contains(") Z ")).then_some(pid)
    }

    /// The same, with smolvm's words for a machine that does not run.
    pub(crate) fn running(&self, name: &str) -> Result<u32, Failure> {
        self.holder(name).ok_or_else(|| {
            Failure::agent(format!(
                "connect: machine '{name}' is not running. Start it with 'smolvm machine start --name {name}'; \
                 if a start is already in progress, retry once it finishes."
            ))
        })
    }
}
