//! kill -9 at any moment: no record without its outputs, and nothing left that the next run does not remove.

use std::fs;
use std::time::Instant;

use serde_json::Value;

use crate::host::finish;
use crate::remembered::Desk;
use crate::support::kills::Kills;

const ROUNDS: u32 = 40;

/// The digest that a layout has under a tag.
fn tagged(index: &Value, tag: &str) -> Option<String> {
    let manifests = index["manifests"].as_array()?;
    let named = |manifest: &&Value| manifest["annotations"]["org.opencontainers.image.ref.name"] == tag;
    Some(manifests.iter().find(named)?["digest"].as_str()?.to_owned())
}

#[test]
fn a_killed_freeze_leaves_no_record_that_lies() {
    let desk = Desk::new();
    let layout = desk.host.text("layout");
    let freeze = |tag: &str| {
        fs::write(desk.host.path("tree/file"), tag).unwrap();
        let to = format!("oci:{layout}:{tag}");
        desk.host.command(&["freeze", &desk.tree, "--to", &to, "--quiet"]).spawn().unwrap()
    };
    let began = Instant::now();
    assert!(finish(freeze("first")).status.success());
    let mut kills = Kills::within(began.elapsed());
    for round in 0..ROUNDS {
        let mut child = freeze(&format!("round-{round}"));
        kills.wait();
        let _ = child.kill();
        child.wait().unwrap();
        let index: Value = serde_json::from_slice(&fs::read(desk.host.path("layout/index.json")).unwrap()).unwrap();
        for record in desk.json(&["ls", "--json"]).as_array().unwrap() {
            let output = &record["outputs"][0];
            let (_, tag) = output["name"].as_str().unwrap().rsplit_once(':').unwrap();
            assert_eq!(tagged(&index, tag).as_deref(), output["digest"].as_str(), "{kills}: {tag}");
        }
    }
    let recorded = desk.json(&["ls", "--json"]).as_array().unwrap().len();
    assert!(recorded >= 1 && recorded < ROUNDS as usize + 1, "{kills}: {recorded} were over before they were killed");
    assert!(finish(freeze("last")).status.success());
    assert!(desk.names().iter().all(|name| !name.starts_with('.')), "{kills}: {:?}", desk.names());
    assert_eq!(desk.json(&["ls", "--json"]).as_array().unwrap().len(), recorded + 1, "{kills}");
    desk.host.verify(&format!("oci:{layout}:last"));
}

#[test]
fn what_a_dead_freeze_left_goes_once_no_freeze_is_alive() {
    let desk = Desk::new();
    let (kept, its_artifact) = desk.remember("dev", "20260102T030405Z", None);
    let (lost, orphan) = desk.remember("dev", "20260103T030405Z", None);
    fs::remove_file(desk.state().join(format!("records/{lost}.json"))).unwrap();
    let half = orphan.with_file_name(".smolfreeze-half.partial");
    fs::write(&half, "half").unwrap();

    let (mut child, _pipe) = desk.endless();
    // Its own sweep comes before its hold; what appears then could be its own.
    assert!(!orphan.exists() && !half.exists());
    fs::write(&orphan, "artifact").unwrap();
    fs::write(&half, "half").unwrap();
    let words = ["prune", "--keep-last", "1", "--json"];
    assert_eq!(desk.json(&words)["swept"], serde_json::json!([]));
    assert!(orphan.exists());
    child.kill().unwrap();
    finish(child);

    assert_eq!(desk.json(&[&words[..], &["--dry-run"]].concat())["swept"], serde_json::json!([]));
    assert!(orphan.exists());
    let mut report = desk.json(&words);
    report["swept"].as_array_mut().unwrap().sort_by_key(Value::to_string);
    assert_eq!(report["swept"], serde_json::json!([half, orphan]));
    assert_eq!(report["kept"][0]["id"], kept.as_str());
    assert!(!orphan.exists() && !half.exists() && its_artifact.exists());
}
