//! `fleet status` and `fleet history`, as a person calls them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::made_up;

/// A home with a file, a history until today, and a smolvm that lists machines.
pub struct Home {
    pub folder: tempfile::TempDir,
}

impl Home {
    pub fn new(machines: &[&str]) -> Self {
        let home = Self { folder: tempfile::tempdir().unwrap() };
        home.smolvm(&format!("echo '{}'", listing(machines)));
        let folder = home.path().join(".config/smolfreeze");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("fleet.toml"), made_up::FILE).unwrap();
        let today = Timestamp::now().to_zoned_datetime(TimeZone::UTC).date();
        made_up::write(&home.path().join(".local/state/smolfreeze"), &made_up::nights(today));
        home
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn smolvm(&self, script: &str) -> PathBuf {
        let path = self.path().join("smolvm");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub fn fleet(&self, arguments: &[&str]) -> Output {
        self.fleet_with(&[], arguments)
    }

    /// `smolfreeze fleet` with further variables.
    pub fn fleet_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smolfreeze"));
        let command = command.env_clear().env("HOME", self.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(variables.iter().copied());
        command.env("SMOLFREEZE_SMOLVM", self.path().join("smolvm")).arg("fleet").args(arguments).output().unwrap()
    }
}

fn listing(machines: &[&str]) -> Value {
    machines.iter().map(|name| serde_json::json!({ "name": name, "state": "running", "labels": {} })).collect()
}

pub fn machines() -> Vec<&'static str> {
    made_up::MACHINES.map(|(name, ..)| name).to_vec()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a JSON that is printed says.
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

#[test]
fn status_names_every_machine_and_fails_for_what_is_too_old() {
    let home = Home::new(&[machines(), vec!["brand-new"]].concat());
    let output = home.fleet(&["status"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(13), "{shown}{}", text(&output.stderr));
    for machine in machines() {
        assert_eq!(shown.lines().filter(|line| line.split(' ').next() == Some(machine)).count(), 2, "{shown}");
    }
    let line = |begin: &[&str]| {
        let found = shown.lines().find(|line| line.split_whitespace().take(begin.len()).eq(begin.iter().copied()));
        found.unwrap_or_else(|| panic!("{begin:?} in\n{shown}")).to_owned()
    };
    assert!(line(&["git", "registry", "good"]).contains("36h"));
    assert!(line(&["wiki", "disk", "OLD"]).contains("the disk of the machine is full"));
    line(&["brand-new", "disk", "NEVER", "-", "-"]);
    assert!(line(&["web-1", "registry", "good"]).contains("(not since): asking the registry failed"));
    let json = json(&home.fleet(&["status", "--json"]));
    assert_eq!((&json["is_right"], json["pairs"].as_array().unwrap().len()), (&Value::Bool(false), 30));
    let wiki = json["pairs"].as_array().unwrap().iter().find(|pair| pair["machine"] == "wiki").unwrap();
    assert_eq!((&wiki["standing"], &wiki["last_error"]["kind"]), (&"old".into(), &"source".into()));
    assert_eq!(home.fleet(&["status", "--json"]).status.code(), Some(13));
}

#[test]
fn status_is_right_where_all_is_well_and_says_where_smolvm_is_silent() {
    let home = Home::new(&["git", "web-1"]);
    let output = home.fleet(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    home.smolvm("echo 'Error: no socket' >&2; exit 1");
    let output = home.fleet(&["status"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(13), "{shown}");
    assert!(shown.starts_with("smolvm could not be asked"), "{shown}");
    assert!(shown.contains("no socket") && machines().iter().all(|machine| shown.contains(machine)), "{shown}");
}

#[test]
fn history_has_a_line_for_each_night() {
    let home = Home::new(&[]);
    let shown = text(&home.fleet(&["history"]).stdout);
    assert_eq!(shown.lines().count(), 1 + 29, "{shown}");
    let killed = json(&home.fleet(&["history", "--json"]));
    let nights = killed.as_array().unwrap();
    assert_eq!(nights.iter().filter(|night| night["exit_code"].is_null() && night["pending"] == 6).count(), 1);
    assert!(nights.iter().all(|night| night["read_bytes"].as_u64() <= night["size_bytes"].as_u64()));
    let wiki = text(&home.fleet(&["history", "wiki", "--nights", "4"]).stdout);
    assert_eq!(wiki.lines().filter(|line| line.contains("FAILED")).count(), 6, "{wiki}");
    assert_eq!(json(&home.fleet(&["history", "wiki", "--json"])).as_array().unwrap().len(), 58);
    assert!(home.fleet(&["history", "nobody"]).stdout.is_empty());
}

#[test]
fn a_night_that_can_not_be_read_is_named_and_left_alone() {
    let home = Home::new(&["git"]);
    let path = home.path().join(".local/state/smolfreeze/fleet/fleet/nights/broken.json");
    std::fs::write(&path, "{").unwrap();
    let output = home.fleet(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("broken.json"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{");
}
