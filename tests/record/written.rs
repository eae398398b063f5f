//! The record of a freeze: right where the freeze went well, and not there where it did not.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::host::{finish, shell};
use crate::remembered::Desk;
use crate::support::docker_registry::DockerRegistry;

#[test]
fn a_record_says_where_everything_went() {
    let (desk, registry) = (Desk::new(), DockerRegistry::start());
    shell(&desk.host.path("tree"), "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'");
    let name = format!("{}/space/name:tag", registry.address);
    let words =
        [&*desk.tree, "--to", &name, "--to", "oci:layout:v1", "--user", "node", "--workdir", "/srv", "--env", "A=B"];
    let report = {
        // A relative folder is recorded as an absolute one.
        let mut command = desk.host.command(&["freeze", "--report", "report.json"]);
        let output = finish(command.args(words).current_dir(desk.host.path(".")).spawn().unwrap());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&fs::read(desk.host.path("report.json")).unwrap()).unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains(report["record"].as_str().unwrap()));
        report
    };
    let records = desk.records();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record["id"], report["record"]);
    assert_eq!(desk.names(), [format!("{}.json", record["id"].as_str().unwrap())]);
    assert_eq!((&record["source"], &record["version"]), (&desk.tree.as_str().into(), &1.into()));
    assert_eq!((&record["machine"]["user"], &record["machine"]["workdir"]), (&"node".into(), &"/srv".into()));
    for field in ["entries", "tar_bytes", "stored_bytes", "sent_bytes", "seconds", "notices"] {
        assert_eq!(record[field], report[field], "{field}");
    }
    assert_eq!(record["notices"]["named"][0], serde_json::json!({"kind": "socket", "path": "socket"}));
    let layers = serde_json::json!({"count": 1, "known": report["layers_known"], "sent": report["layers_sent"]});
    assert_eq!(record["layers"], layers);
    assert!(!record.to_string().contains("A=B"), "an environment may hold secrets");

    // As skopeo sees them.
    let script = format!(
        "skopeo inspect --tls-verify=false --format '{{{{.Digest}}}}' docker://{name} >digests
         skopeo inspect --format '{{{{.Digest}}}}' oci:layout:v1 >>digests"
    );
    shell(&desk.host.path("."), &script);
    let digests = fs::read_to_string(desk.host.path("digests")).unwrap();
    let recorded = |at: usize| record["outputs"][at]["digest"].as_str().unwrap();
    assert_eq!(digests.lines().collect::<Vec<_>>(), [recorded(0), recorded(1)]);
    assert_eq!((&record["outputs"][0]["kind"], &record["outputs"][1]["kind"]), (&"registry".into(), &"layout".into()));
    assert_eq!(record["outputs"][0]["path"], Value::Null);
    assert_eq!(fs::canonicalize(record["outputs"][1]["path"].as_str().unwrap()).unwrap(), desk.host.path("layout"));
    assert_eq!(desk.json(&["ls", "--json", &desk.tree])[0]["id"], record["id"]);
    assert_eq!(desk.says(&["ls", "other"]), "");
}

#[test]
fn a_freeze_that_fails_leaves_no_record() {
    let desk = Desk::new();
    desk.host.refuses(4, "127.0.0.1:9", &[&desk.tree, "--to", "127.0.0.1:9/space/name:tag"]);
    let to = format!("oci:{}", desk.host.text("layout"));
    desk.host.refuses(3, "nowhere", &["dir:/nowhere", "--to", &to]);
    let (child, pipe) = desk.endless();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(finish(child).status.code(), Some(143));
    drop(pipe);
    assert_eq!(desk.names(), Vec::<String>::new());
    assert_eq!(desk.json(&["ls", "--json"]), serde_json::json!([]));
}

#[test]
fn who_wants_none_has_none() {
    let desk = Desk::new();
    let to = format!("oci:{}", desk.host.text("layout"));
    let report = desk.host.freeze(&[&desk.tree, "--to", &to, "--no-record"]);
    assert_eq!(report.record, None);
    assert!(!desk.state().exists());
    assert_eq!(desk.says(&["ls"]), "");
    assert!(!desk.state().exists(), "listing makes nothing");
}

#[test]
fn two_freezes_at_once_have_a_record_each() {
    let desk = Desk::new();
    let start = |at: usize| {
        let to = format!("oci:{}", desk.host.text(&format!("layout-{at}")));
        desk.host.command(&["freeze", &desk.tree, "--to", &to, "--quiet"]).spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(start).collect();
    for child in children {
        assert!(finish(child).status.success());
    }
    let records = desk.records();
    let mut names: Vec<_> = records.iter().map(|record| record["outputs"][0]["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), records.len()), (4, 4));
}
