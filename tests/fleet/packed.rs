//! Artifacts as destinations: made in the same pass, verified, and removed when they are old, whoever packs them.

use crate::desk::{Desk, is_done, outcome, why};
use crate::host::names;
use crate::standin::Kind;
use crate::support::sidecar;

fn file(to: &str, agent: &str) -> String {
    format!(
        "
[destinations.file]
pack = \"{{HOST}}artifacts/{{machine}}-{{night}}\"
[destinations.disk]
to = \"oci:{{HOST}}images/{{machine}}:{{night}}\"
[destinations.nowhere]
pack = \"{{HOST}}fleet.toml/{{machine}}-{{night}}\"
[defaults]
to = [{to}]
verify = {{}}
retention = {{ keep_last = 1 }}
retries = {{ attempts = 1 }}
[[policies]]
name = \"smolvm-packs\"
machines = [\"theirs\"]
freeze = {{ pack_with = \"smolvm\" }}
[[policies]]
name = \"smolfreeze-packs\"
freeze = {{ pack_with = \"own\", agent_rootfs = \"{agent}\" }}
"
    )
}

#[test]
fn artifacts_are_made_and_verified_and_the_old_ones_go() {
    let desk = Desk::new(&[("ours", Kind::Busybox), ("theirs", Kind::Busybox)]);
    let agent = sidecar::agent(&desk.host.path(".")).display().to_string();
    std::fs::create_dir(desk.host.path("artifacts")).unwrap();
    desk.write(&file("\"file\", \"disk\"", &agent));
    for name in ["n1", "n2"] {
        let night = desk.night(0, &["--night", name]);
        for (machine, destination) in [("ours", "file"), ("ours", "disk"), ("theirs", "file"), ("theirs", "disk")] {
            assert!(is_done(&night, machine, destination), "{night:#?}");
            let verified = outcome(&night, machine, destination).verified.as_ref();
            assert!(verified.is_some_and(|verified| verified.fault.is_none()), "{night:#?}");
        }
        // Those of the night before are gone, with the launcher that smolvm makes.
        let there = ["ours-NIGHT.smolmachine", "theirs-NIGHT", "theirs-NIGHT.smolmachine"];
        assert_eq!(names(&desk.host.path("artifacts")), there.map(|file| file.replace("NIGHT", name)));
        for machine in ["ours", "theirs"] {
            sidecar::assert_whole(&desk.host.path(&format!("artifacts/{machine}-{name}.smolmachine")));
        }
        let removed: Vec<_> = night.after.removed.iter().map(|removed| &removed.name[..]).collect();
        assert_eq!(removed.len(), if name == "n1" { 0 } else { 4 }, "{removed:?}");
    }
    let file_name = desk.host.text("fleet.toml");
    let status = desk.host.command(&["fleet", "status", "--json", "--file", &file_name]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["is_right"], true, "{status:#}");
    for pair in status["pairs"].as_array().unwrap() {
        assert!(pair["last_good"]["name"].as_str().unwrap().contains("n2"), "{pair}");
    }
    // What can't be packed to costs the other destination nothing, and what is there stays.
    desk.write(&file("\"nowhere\", \"disk\"", &agent));
    let night = desk.night(10, &["--night", "n3", "--only", "ours"]);
    assert!(is_done(&night, "ours", "disk"), "{night:#?}");
    let (kind, text) = why(&night, "ours", "nowhere");
    assert!(kind == "sink" && text.contains("fleet.toml"), "{kind}: {text}");
    assert_eq!(names(&desk.host.path("artifacts")).len(), 3);
}
