//! A thawed machine is the frozen one again: the same tree, `/workspace` included, the same user, place and environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::desk::files_of;
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::thawing::Thawing;
use crate::trees::{AWKWARD, Keeps, LONG, MODEST, assert_same};

/// What a plain exec shows of who and where it is.
const WHO: &str = "stat -L -c %u:%g:%a /workspace; id -u; id -g; pwd; echo \"$GREETING\"";

/// The files of a machine; not its root and what smolvm mounts below it, which are as old as the start.
fn own(mut files: BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
    for mounted in ["", "proc", "sys", "dev", "run", "tmp", "storage", "oldroot", "workspace"] {
        files.remove(Path::new(mounted));
    }
    files
}

/// Thaws, and compares the new machine with the frozen one.
fn comes_back(thawing: &Thawing, from: &[&str], name: &'static str) {
    let thawed = thawing.thaws(&[from, &["--name", name]].concat());
    assert_eq!((&thawed["machine"], &thawed["running"]), (&name.into(), &true.into()));
    let made = thawing.made(name);
    let wanted = own(thawing.desk.files(Keeps::Everything));
    let found = own(files_of(&made, Keeps::Everything));
    assert_same(&wanted, &found, &from.join(" "));
    assert!(found.contains_key(Path::new("workspace/project/capable")), "the workspace is empty");
    assert_eq!(thawing.exec(name, WHO), thawing.exec("m1", WHO));
}

fn awkward() -> Thawing {
    let thawing = Thawing::new(Kind::Debian);
    let all = [MODEST, LONG, AWKWARD].concat();
    for folder in ["srv/awkward", "workspace/project"] {
        thawing.desk.fill(folder, &all);
    }
    thawing.desk.fill("srv", "ln awkward/usr/bin/plain ../opt/hard; chown 5:6 ../workspace");
    thawing
}

#[test]
fn from_a_registry_a_layout_and_an_artifact() {
    let thawing = awkward();
    let registry = DockerRegistry::start();
    let reference = format!("{}/team/machine:v1", registry.address);
    let layout = format!("oci:{}", thawing.desk.host.text("layout"));
    thawing.desk.freeze(&["--to", &reference, "--to", &layout]);
    comes_back(&thawing, &[&reference], "from-registry");
    let kept = thawing.desk.host.text("kept.smolmachine");
    comes_back(&thawing, &[&layout, "--keep-artifact", &kept], "from-layout");
    thawing.desk.host.verify(&kept);
    comes_back(&thawing, &[&kept], "from-artifact");
    thawing.desk.host.verify(&kept);
}

#[test]
fn a_bare_machine_comes_back_as_one_with_an_image() {
    let thawing = Thawing::new(Kind::Bare);
    thawing.desk.fill("srv/awkward", &[MODEST, LONG, AWKWARD].concat());
    thawing.desk.fill("storage/workspace/project", &[MODEST, LONG, AWKWARD].concat());
    // The spool lies there, and busybox can't give it parts of a second back.
    thawing.desk.machine.sh("touch -d @1700000000 /var/tmp");
    let layout = format!("oci:{}", thawing.desk.host.text("layout"));
    thawing.desk.freeze(&["--to", &layout]);
    comes_back(&thawing, &[&layout], "from-bare");
}

#[test]
fn from_layers_that_are_stored_in_other_ways() {
    let thawing = awkward();
    for (compression, name) in [("gzip", "from-gzip"), ("none", "from-plain")] {
        let layout = format!("oci:{}", thawing.desk.host.text(compression));
        thawing.desk.freeze(&["--to", &layout, "--compression", compression]);
        comes_back(&thawing, &[&layout], name);
    }
}

#[test]
fn a_machine_is_what_was_wished_for() {
    let thawing = Thawing::new(Kind::Busybox);
    let artifact = thawing.artifact();
    let listed = |name: &str| {
        let output = thawing.desk.machine.smolvm(&["machine", "status", "--name", name, "--json"]);
        let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (listed["cpus"].clone(), listed["memory_mib"].clone(), listed["network"].clone(), listed["state"].clone())
    };
    let idle = thawing.thaws(&[&artifact, "--name", "plain", "--no-start"]);
    assert_eq!((&idle["running"], &idle["artifact"]), (&false.into(), &artifact.as_str().into()));
    assert_eq!(listed("plain"), (4.into(), 8192.into(), false.into(), "created".into()));
    let layout = format!("oci:{}", thawing.desk.host.text("layout"));
    for (from, name) in [(&artifact, "wished-1"), (&layout, "wished-2")] {
        thawing.thaws(&[from, "--name", name, "--no-start", "--cpus", "3", "--memory", "640MiB", "--net"]);
        assert_eq!(listed(name), (3.into(), 640.into(), true.into(), "created".into()));
    }
}

#[test]
fn from_what_is_remembered() {
    let thawing = Thawing::new(Kind::Busybox);
    let layout = format!("oci:{}", thawing.desk.host.text("layout"));
    let record = |snapshot: &smolfreeze::report::Snapshot| snapshot.record.clone().unwrap().to_string();
    thawing.desk.machine.sh("mkdir -p /srv; echo first >/srv/which");
    let first = record(&thawing.desk.freeze(&["--to", &layout]));
    thawing.desk.machine.sh("echo second >/srv/which");
    let artifact = thawing.desk.host.text("second.smolmachine");
    let agent = thawing.desk.host.text("agent");
    thawing.desk.freeze(&["--to", &layout, "--pack", &artifact, "--agent-rootfs", &agent]);

    // The newest of that name, and its artifact rather than its image.
    let thawed = thawing.thaws(&["m1", "--name", "newest"]);
    assert_eq!(thawed["from"], artifact.as_str());
    assert_eq!(thawing.made("newest").sh("cat /srv/which"), "second\n");
    std::fs::remove_file(&artifact).unwrap();
    let thawed = thawing.thaws(&["m1", "--name", "from-image"]);
    assert_eq!(thawed["from"], format!("{layout}:latest"));
    assert_eq!(thawing.made("from-image").sh("cat /srv/which"), "second\n");
    // The tag that the older one had is the newer one's by now.
    thawing.refuses(4, &["no longer there", &layout], &[&first, "--name", "older"]);
    assert_eq!(thawing.machines().len(), 3);
}
