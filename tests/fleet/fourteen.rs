//! A night of a whole host: good machines and ill ones, destinations that answer and one that does not.
//!
//! By default the machines are small; `SMOLFREEZE_FLEET_FULL=1` makes them 10 MB to 1 GB.

use std::fs;
use std::time::Duration;

use smolfreeze::fleet::night::Standing;

use crate::desk::{Desk, is_done, outcome, why};
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;

/// Whether the test has the time for large machines.
pub fn is_full() -> bool {
    std::env::var_os("SMOLFREEZE_FLEET_FULL").is_some()
}

/// Those that can be frozen, and the megabytes that are added to each.
const GOOD: [(&str, Kind, u64); 10] = [
    ("gnu-1", Kind::Debian, 1000),
    ("gnu-2", Kind::Debian, 200),
    ("box-1", Kind::Busybox, 10),
    ("box-2", Kind::Busybox, 20),
    ("box-3", Kind::Busybox, 40),
    ("box-4", Kind::Busybox, 80),
    ("bare-1", Kind::Bare, 20),
    ("bare-2", Kind::Bare, 100),
    ("asleep", Kind::Busybox, 10),
    ("woken", Kind::Busybox, 10),
];
const ILL: [(&str, Kind); 4] =
    [("refuses", Kind::Busybox), ("copies", Kind::Busybox), ("hangs", Kind::Debian), ("full", Kind::Busybox)];
/// What goes wrong with them.
const FAULTS: &str = "
\"machine exec --name refuses \"*) echo 'Error: agent operation failed: connect: Connection refused' >&2; exit 1;;
\"machine cp copies:\"*) echo 'Error: agent operation failed: read file: connection closed' >&2; exit 1;;
\"machine exec --name hangs \"*) exec sleep 1000;;";
const MEMORY_BYTES: u64 = 480 << 20;

fn desk() -> Desk {
    let machines: Vec<_> = GOOD.iter().map(|(name, kind, _)| (*name, *kind)).chain(ILL).collect();
    let desk = Desk::new(&machines);
    for (name, _, megabytes) in GOOD {
        let megabytes = if is_full() { megabytes } else { megabytes.div_ceil(50) };
        // Half of it compresses well.
        let half = megabytes.div_ceil(2);
        let script =
            format!("head -c {half}M /dev/urandom >random; head -c {half}M /dev/zero >zero; echo {name} >name");
        desk.fill(name, &script);
    }
    desk.machine("full").restart(&serde_json::json!({ "var_tmp_bytes": 64 << 10 }));
    desk.machine("full")
        .sh("dd if=/dev/zero of=/tmp/all bs=1M 2>/dev/null; dd if=/dev/zero of=/var/tmp/all bs=1k 2>/dev/null; true");
    for name in ["asleep", "woken"] {
        desk.stop(name);
    }
    desk.wrap(FAULTS);
    desk
}

fn file(registry: &DockerRegistry) -> String {
    let deadline = if is_full() { "10m" } else { "60s" };
    format!(
        "concurrency = 3
memory = \"{memory}\"
unselected = \"fail\"
[destinations.registry]
to = \"{address}/fleet/{{machine}}:{{night}}\"
[destinations.down]
to = \"127.0.0.1:1/{{machine}}:{{night}}\"
[destinations.disk]
to = \"oci:{{HOST}}images/{{machine}}:{{night}}\"
[defaults]
to = [\"registry\", \"down\", \"disk\"]
deadline = \"{deadline}\"
freeze = {{ link_patience = \"2s\" }}
retries = {{ attempts = 2, pause = \"500ms\" }}
[[policies]]
name = \"woken\"
machines = [\"woken\"]
stopped = \"start\"
[[policies]]
name = \"hanging\"
machines = [\"hangs\"]
deadline = \"8s\"
[[policies]]
name = \"others\"
",
        memory = MEMORY_BYTES,
        address = registry.address,
    )
}

/// Most resident memory of a process, in bytes; none when it is gone.
pub fn resident_bytes_peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

#[test]
fn a_night_of_fourteen_machines_and_three_destinations() {
    let registry = DockerRegistry::start();
    let desk = desk();
    desk.write(&file(&registry));
    let mut run = desk.begin(&["--night", "n1", "--quiet"]);
    let mut peak_bytes = 0;
    while run.try_wait().unwrap().is_none() {
        peak_bytes = resident_bytes_peak(run.id()).unwrap_or(0).max(peak_bytes);
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = run.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(10), "{said}");
    assert!((32 << 20..=MEMORY_BYTES).contains(&peak_bytes), "{peak_bytes} bytes");

    let night = desk.remembered("n1");
    assert_eq!(night.outcomes.len(), 14 * 3);
    for (name, ..) in GOOD.iter().filter(|(name, ..)| *name != "asleep") {
        for destination in ["registry", "disk"] {
            assert!(is_done(&night, name, destination), "{:#?}", outcome(&night, name, destination));
            let image = &outcome(&night, name, destination).name;
            let verified = desk.host.command(&["verify", image]).output().unwrap();
            assert!(verified.status.success(), "{image}: {}", String::from_utf8_lossy(&verified.stderr));
        }
        let (kind, text) = why(&night, name, "down");
        assert!(kind == "sink" && text.contains("127.0.0.1:1"), "{name}: {kind}: {text}");
        assert_eq!(outcome(&night, name, "down").attempts, 2, "{name}");
    }
    for (name, kind, cause) in [
        ("refuses", "source", "Connection refused"),
        ("copies", "source", "connection closed"),
        ("hangs", "deadline", "its deadline of 8s"),
        ("full", "source", "space"),
    ] {
        for destination in ["registry", "disk"] {
            let (its_kind, text) = why(&night, name, destination);
            assert!(its_kind == kind && text.contains(cause), "{name} {destination}: {its_kind}: {text}");
            assert!(said.contains(&format!("{name} ")) && said.contains(cause), "{name}: {said}");
        }
        let tries = if name == "hangs" { 1 } else { 2 };
        assert_eq!(outcome(&night, name, "disk").attempts, tries, "{name}");
    }
    assert_eq!(outcome(&night, "asleep", "disk").state, Standing::Skipped);
    assert!(!desk.is_running("asleep") && !desk.is_running("woken"));
    assert_eq!(outcome(&night, "woken", "disk").policy, "woken");
    for (name, ..) in GOOD.iter().filter(|(name, ..)| !["asleep", "woken"].contains(name)) {
        desk.machine(name).assert_clean();
        assert_eq!(registry.open_sessions(&format!("fleet/{name}")), 0);
    }
}
