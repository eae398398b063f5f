//! Runs that are killed at random moments, and gone on with.

use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::desk::{Desk, finish, is_done, outcome};
use crate::fourteen::is_full;
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::support::kills::Kills;

const MACHINES: [(&str, Kind); 4] =
    [("a", Kind::Busybox), ("b", Kind::Bare), ("c", Kind::Busybox), ("d", Kind::Busybox)];

fn file(registry: &DockerRegistry) -> String {
    format!(
        "[destinations.registry]
to = \"{}/{{machine}}:{{night}}\"
[destinations.disk]
to = \"oci:{{HOST}}images/{{machine}}:{{night}}\"
[[policies]]
to = [\"registry\", \"disk\"]
stopped = \"start\"
freeze = {{ wait = \"30s\" }}
",
        registry.address
    )
}

#[test]
fn what_was_done_is_skipped_and_the_rest_completes() {
    let registry = DockerRegistry::start();
    let desk = Desk::new(&MACHINES);
    for name in ["a", "c"] {
        desk.fill(name, "head -c 6M /dev/urandom >random");
    }
    desk.stop("d");
    desk.write(&file(&registry));
    let begun = Instant::now();
    desk.night(0, &["--night", "whole"]);
    let mut kills = Kills::within(begun.elapsed());
    let rounds = if is_full() { 30 } else { 10 };
    for round in 0..rounds {
        let night = format!("n{round}");
        let run = desk.begin(&["--night", &night, "--quiet"]);
        kills.wait();
        // It may be over.
        let _ = kill_process(Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap(), Signal::KILL);
        finish(run);
        let before = desk.nights().read(&night).unwrap();
        let after = desk.night(0, &["--night", &night]);
        for (name, _) in MACHINES {
            for destination in ["registry", "disk"] {
                assert!(is_done(&after, name, destination), "{kills}: {after:#?}");
                let was_done = before.as_ref().is_some_and(|before| {
                    before.outcome(name, destination).is_some_and(|outcome| outcome.image.is_some())
                });
                if was_done {
                    let before = before.as_ref().unwrap();
                    let moments = [before, &after].map(|night| outcome(night, name, destination).began);
                    assert_eq!(moments[0], moments[1], "{kills}: done again");
                }
            }
        }
        assert!(after.started.is_empty() && !desk.is_running("d"), "{kills}");
    }
    for (name, _) in &MACHINES[..3] {
        desk.machine(name).assert_clean();
    }
    for (name, _) in MACHINES {
        // Nobody else can cancel what a killed process had begun to upload; registries do, in time.
        assert!(registry.open_sessions(name) <= rounds, "{name}: {kills}");
        for image in ["whole", "n0", "n9"] {
            let image = format!("oci:{}images/{name}:{image}", desk.host.text(""));
            let verified = desk.host.command(&["verify", &image]).output().unwrap();
            assert!(verified.status.success(), "{image}: {}", String::from_utf8_lossy(&verified.stderr));
        }
    }
    let state = desk.host.path("home/.local/state/smolfreeze");
    let left = std::process::Command::new("find").arg(&state).args(["-name", ".smolfreeze-*"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "{kills}");
}
