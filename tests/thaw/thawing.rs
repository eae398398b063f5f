//! A user's host on which machines are thawed.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::desk::Desk;
use crate::host::{finish, names, one_line};
use crate::standin::{Kind, Standin};

/// A desk, and an agent for the artifacts that are made on it.
pub struct Thawing {
    pub desk: Desk,
    agent: PathBuf,
}

impl Thawing {
    pub fn new(kind: Kind) -> Self {
        let desk = Desk::new(kind);
        let agent = desk.host.tree("agent", "mkdir sbin; echo 'the agent' >sbin/init");
        Self { desk, agent }
    }

    /// `smolfreeze thaw` with these words behind it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.desk.host.command(&["thaw", "--smolvm"]);
        command.arg(self.desk.machine.smolvm_path()).arg("--agent-rootfs").arg(&self.agent).args(words);
        command
    }

    /// Thaws, which has to go well and to leave nothing but the machine: what it says.
    pub fn thaws(&self, words: &[&str]) -> serde_json::Value {
        let output = finish(self.command(&[words, &["--json", "--quiet"]].concat()).spawn().unwrap());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        self.assert_nothing_left();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Thaws, which has to fail with this exit code and one line with these causes, and to leave nothing.
    pub fn refuses(&self, code: i32, causes: &[&str], words: &[&str]) {
        let output = finish(self.command(&[words, &["--quiet"]].concat()).spawn().unwrap());
        self.assert_refused(code, causes, &output);
    }

    pub fn assert_refused(&self, code: i32, causes: &[&str], output: &Output) {
        let line = one_line(output);
        assert_eq!(output.status.code(), Some(code), "{line}");
        for cause in causes {
            assert!(line.contains(cause), "'{cause}' is not in: {line}");
        }
        self.assert_nothing_left();
    }

    /// No temporary artifact is left.
    pub fn assert_nothing_left(&self) {
        assert_eq!(names(&self.desk.host.path("cache/smolfreeze/thaw")), Vec::<String>::new());
    }

    /// The names of the machines that smolvm lists, and their states.
    pub fn machines(&self) -> Vec<(String, String)> {
        let output = self.desk.machine.smolvm(&["machine", "ls", "--json"]);
        let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        listed.as_array().unwrap().iter().map(|one| (text(&one["name"]), text(&one["state"]))).collect()
    }

    /// What a plain exec in a machine prints.
    pub fn exec(&self, name: &str, script: &str) -> String {
        let output = self.desk.machine.smolvm(&["machine", "exec", "--name", name, "--", "sh", "-c", script]);
        String::from_utf8(output.stdout).unwrap()
    }

    /// A machine that was thawed, to be looked into; it is stopped when dropped.
    pub fn made(&self, name: &'static str) -> Standin {
        self.desk.machine.beside(name, Kind::Debian)
    }

    /// An artifact of the machine, made by the command itself.
    pub fn artifact(&self) -> String {
        let (layout, path) =
            (format!("oci:{}", self.desk.host.text("layout")), self.desk.host.text("made.smolmachine"));
        self.desk.freeze(&["--to", &layout]);
        self.thaws(&[&layout, "--name", "first", "--no-start", "--keep-artifact", &path]);
        self.desk.machine.smolvm(&["machine", "delete", "--name", "first", "--force"]);
        path
    }
}
