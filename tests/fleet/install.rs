//! `fleet install`, judged by systemd's and Python's own readers.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::made_up;
use crate::status::{Home, text};

/// A home whose destinations and metrics are below it, so that nothing is made elsewhere.
fn home() -> Home {
    let home = Home::new(&[]);
    let file = made_up::FILE.replace("/srv", home.path().to_str().unwrap());
    let metrics = format!("{file}\n[metrics]\nfile = \"{}/metrics/a.prom\"\n", home.path().display());
    fs::write(home.path().join(".config/smolfreeze/fleet.toml"), metrics).unwrap();
    home
}

fn systemd_analyze(arguments: &[&str], units: &[&Path]) -> String {
    let runtime = tempfile::tempdir().unwrap();
    let mut command = Command::new("systemd-analyze");
    // A user's own has its folder from a login, which tests have none of.
    let output = command.env("XDG_RUNTIME_DIR", runtime.path()).args(arguments).args(units).output();
    let output = output.expect("systemd-analyze is in Debian's package systemd: tests/run installs it");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "systemd-analyze {arguments:?}: {said}");
    said
}

#[test]
fn systemd_finds_nothing_to_say_of_the_units() {
    for user in [&[][..], &["--user"]] {
        let home = home();
        let units = home.path().join("units");
        let arguments = [&["install", "--into", units.to_str().unwrap()], user].concat();
        let output = home.fleet(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("enable --now smolfreeze-fleet.timer"));
        let paths = ["service", "timer"].map(|kind| units.join(format!("smolfreeze-fleet.{kind}")));
        let said = systemd_analyze(&[&["verify", "--man=no"], user].concat(), &[&paths[0], &paths[1]]);
        assert!(said.trim().is_empty(), "{said}");
        for made in ["smolfreeze", "metrics", ".local/state/smolfreeze"] {
            assert!(home.path().join(made).is_dir(), "the service could not make {made} itself");
        }
    }
}

#[test]
fn the_service_is_shut_in() {
    let home = home();
    let units = home.path().join("units");
    home.fleet(&["install", "--into", units.to_str().unwrap()]);
    let path = units.join("smolfreeze-fleet.service");
    let said = systemd_analyze(&["security", "--offline=true", "--no-pager"], &[&path]);
    let verdict = said.lines().rev().find(|line| line.contains("Overall exposure level")).unwrap().to_owned();
    let score = verdict.split(':').nth(1).unwrap().split_whitespace().next().unwrap();
    println!("{verdict}");
    assert!(score.parse::<f64>().unwrap() < 5.0, "{verdict}");
}

#[test]
fn the_service_finds_smolvm_as_who_installs_it_does() {
    let variables = [("SMOLVM_AGENT_ROOTFS", "/opt/agent"), ("XDG_DATA_HOME", "/data"), ("LANG", "C")];
    let shown = text(&home().fleet_with(&variables, &["install", "--dry-run"]).stdout);
    for line in [
        "Environment=SMOLVM_AGENT_ROOTFS=/opt/agent",
        "Environment=XDG_DATA_HOME=/data",
        "ReadWritePaths=-/data/smolvm",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line} in\n{shown}");
    }
    assert!(!shown.contains("LANG"), "{shown}");
}

#[test]
fn a_dry_run_writes_nothing_and_foreign_units_stay() {
    let home = home();
    let units = home.path().join("units");
    let into = ["install", "--into", units.to_str().unwrap()];
    let shown = text(&home.fleet(&[&into[..], &["--dry-run"]].concat()).stdout);
    assert!(!units.exists() && !home.path().join("metrics").exists());
    home.fleet(&into);
    for kind in ["service", "timer"] {
        let path = units.join(format!("smolfreeze-fleet.{kind}"));
        let written = fs::read_to_string(&path).unwrap();
        assert!(shown.contains(written.trim_end()), "{kind} is not what was shown:\n{shown}");
    }
    assert_eq!(home.fleet(&into).status.code(), Some(0), "its own are written over");
    let service = units.join("smolfreeze-fleet.service");
    fs::write(&service, "[Unit]\n").unwrap();
    let refused = home.fleet(&into);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("was not written by this command"), "{}", text(&refused.stderr));
    assert_eq!(fs::read_to_string(&service).unwrap(), "[Unit]\n");
}

#[test]
fn cron_and_kubernetes_get_what_they_read() {
    let home = home();
    let line = text(&home.fleet(&["install", "--cron"]).stdout);
    assert!(line.starts_with("30 2 * * * /") && line.trim_end().ends_with("fleet.toml"), "{line}");
    let manifest = home.fleet(&["install", "--kubernetes", "--image", "registry.example/smolfreeze:1"]);
    let path = home.path().join("manifest.yml");
    fs::write(&path, &manifest.stdout).unwrap();
    let script = r"
import sys, json, yaml
print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let read = Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
    assert!(read.status.success(), "python3-yaml: tests/run installs it; {}", text(&read.stderr));
    let [map, job]: [serde_json::Value; 2] = serde_json::from_slice(&read.stdout).unwrap();
    let file = fs::read_to_string(home.path().join(".config/smolfreeze/fleet.toml")).unwrap();
    assert_eq!((&map["kind"], &map["data"]["fleet.toml"]), (&"ConfigMap".into(), &file.into()));
    assert_eq!((&job["kind"], &job["spec"]["schedule"]), (&"CronJob".into(), &"30 2 * * *".into()));
    let pod = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    let (mounts, volumes) = (&pod["containers"][0]["volumeMounts"], &pod["volumes"]);
    let names = |list: &serde_json::Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut mounted = names(mounts);
    mounted.sort();
    let mut there = names(volumes);
    there.sort();
    assert_eq!(mounted, there);
    assert_eq!(pod["containers"][0]["image"], "registry.example/smolfreeze:1");
    assert!(pod["nodeSelector"]["kubernetes.io/hostname"].is_string());
}
