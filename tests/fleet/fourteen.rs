//! A night of a whole host: good machines and ill ones, destinations that answer and one that does not.
//!
//! By default the machines are small; `SMOLFREEZE_FLEET_FULL=1` makes them 10 MB to 1 GB.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use smolfreeze::fleet::night::{Night, Outcome, Standing};

use crate::desk::{Desk, is_done, outcome, why};
use crate::metrics::{promtool, value};
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
    for (at, (name, _, megabytes)) in GOOD.iter().enumerate() {
        let megabytes = if is_full() { *megabytes } else { megabytes.div_ceil(50) };
        // Half of it compresses well, and none of it is another machine's.
        let half = megabytes.div_ceil(2);
        let script = format!(
            "head -c {half}M /dev/urandom | split -a 3 -b 3000000 - random-
            {{ seq {}0000000 999999999 2>&- || true; }} | head -c {half}M | split -a 3 -b 700000 - text-; echo {name} >name",
            at + 1
        );
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
[metrics]
file = \"{{HOST}}smolfreeze.prom\"
[destinations.registry]
to = \"{address}/fleet/{{machine}}:{{night}}\"
[destinations.down]
to = \"127.0.0.1:1/{{machine}}:{{night}}\"
[destinations.disk]
to = \"oci:{{HOST}}images/{{machine}}:{{night}}\"
[defaults]
to = [\"registry\", \"down\", \"disk\"]
deadline = \"{deadline}\"
max_age = \"1day\"
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
    let begun = Instant::now();
    let mut run = desk.begin(&["--night", "n1", "--quiet"]);
    let mut peak_bytes = 0;
    while run.try_wait().unwrap().is_none() {
        peak_bytes = resident_bytes_peak(run.id()).unwrap_or(0).max(peak_bytes);
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = begun.elapsed();
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
    let seconds = outcome(&night, "hangs", "disk").seconds;
    assert!((8.0..38.0).contains(&seconds), "{seconds} s, of which it may take 30 to leave");
    assert_eq!(outcome(&night, "asleep", "disk").state, Standing::Skipped);
    assert!(!desk.is_running("asleep") && !desk.is_running("woken"));
    assert_eq!(outcome(&night, "woken", "disk").policy, "woken");
    for (name, ..) in GOOD.iter().filter(|(name, ..)| !["asleep", "woken"].contains(name)) {
        desk.machine(name).assert_clean();
        assert_eq!(registry.open_sessions(&format!("fleet/{name}")), 0);
    }
    status_is_right(&desk, &night);
    metrics_are_right(&desk, &night);
    if is_full() {
        tell(&night, took, peak_bytes);
    }
}

/// The pairs that have an image: nine machines, two destinations.
fn is_there(outcome: &Outcome) -> bool {
    let is_good = GOOD.iter().any(|(name, ..)| *name == outcome.machine && *name != "asleep");
    is_good && outcome.destination != "down"
}

/// `fleet status` says of each pair what the run did.
fn status_is_right(desk: &Desk, night: &Night) {
    let output =
        desk.host.command(&["fleet", "status", "--json", "--file", &desk.host.text("fleet.toml")]).output().unwrap();
    assert_eq!(output.status.code(), Some(13), "{}", String::from_utf8_lossy(&output.stderr));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["is_right"], &status["smolvm"]), (&Value::Bool(false), &Value::Null));
    assert_eq!(status["last_night"]["run"]["exit"], 10);
    assert_eq!(status["unselected"].as_array().map(Vec::len), Some(0));
    let pairs = status["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 14 * 3);
    for pair in pairs {
        let outcome = outcome(night, pair["machine"].as_str().unwrap(), pair["destination"].as_str().unwrap());
        assert_eq!((&pair["policy"], &pair["max_age_seconds"]), (&outcome.policy.as_str().into(), &86400.into()));
        if is_there(outcome) {
            let good = &pair["last_good"];
            assert_eq!((&pair["standing"], &pair["last_error"]), (&"good".into(), &Value::Null), "{pair}");
            assert_eq!((&good["night"], &good["name"]), (&"n1".into(), &outcome.name.as_str().into()));
            assert_eq!(good["digest"], serde_json::json!(outcome.image.as_ref().unwrap().digest), "{pair}");
            assert_eq!(good["taken"], serde_json::json!(outcome.began.unwrap()), "{pair}");
        } else {
            let trouble = outcome.trouble.as_ref().unwrap();
            assert_eq!((&pair["standing"], &pair["last_good"]), (&"never".into(), &Value::Null), "{pair}");
            assert_eq!(pair["last_error"]["text"], trouble.text.as_str(), "{pair}");
            assert_eq!(pair["last_error"]["is_mended"], false, "{pair}");
        }
    }
}

/// So do the metrics, which the run wrote at its end.
fn metrics_are_right(desk: &Desk, night: &Night) {
    let text = fs::read_to_string(desk.host.path("smolfreeze.prom")).unwrap();
    promtool(&["check", "metrics"], &text);
    let is = |sample: &str, expected: f64| {
        let value = value(&text, sample);
        assert!((value - expected).abs() < 1e-3, "{sample} is {value}, and {expected} is right");
    };
    let run = &night.runs[0];
    let seconds = |at: jiff::Timestamp| at.as_duration().as_secs_f64();
    for (name, expected) in [
        ("run_exit_code", 10.0),
        ("run_begin_timestamp_seconds", seconds(run.began)),
        ("run_end_timestamp_seconds", seconds(run.ended.unwrap())),
        ("run_duration_seconds", seconds(run.ended.unwrap()) - seconds(run.began)),
        ("night_troubles", 0.0),
        ("unselected_machines", 0.0),
    ] {
        is(&format!("smolfreeze_{name}{{fleet=\"fleet\"}}"), expected);
    }
    // Nine machines at two destinations; 'asleep'; and all others.
    for (state, expected) in [("done", 18.0), ("skipped", 3.0), ("failed", 21.0), ("pending", 0.0)] {
        is(&format!("smolfreeze_night_outcomes{{fleet=\"fleet\",state=\"{state}\"}}"), expected);
    }
    for outcome in &night.outcomes {
        let pair = format!("{{fleet=\"fleet\",machine=\"{}\",destination=\"{}\"", outcome.machine, outcome.destination);
        let of_pair = |name: &str| format!("smolfreeze_{name}{pair}}}");
        let (is_there, made) = (is_there(outcome), outcome.image.as_ref());
        is(&of_pair("last_success_timestamp_seconds"), if is_there { seconds(outcome.began.unwrap()) } else { 0.0 });
        is(&of_pair("snapshots"), f64::from(u8::from(is_there)));
        is(&of_pair("attempts"), f64::from(outcome.attempts));
        let state = match outcome.state {
            Standing::Done => "done",
            Standing::Failed => "failed",
            Standing::Skipped => "skipped",
            Standing::Pending => "pending",
        };
        for other in ["done", "failed", "skipped", "pending"] {
            let sample = format!("smolfreeze_outcome{pair},state=\"{other}\"}}");
            is(&sample, f64::from(u8::from(other == state)));
        }
        if outcome.state != Standing::Skipped {
            is(&of_pair("duration_seconds"), outcome.seconds);
        }
        #[expect(clippy::cast_precision_loss, reason = "so many bytes have no more digits")]
        let float = |bytes: u64| bytes as f64;
        let sizes = made.map(|made| [made.tar_bytes, made.stored_bytes, made.read_bytes, made.sent_bytes]);
        for (at, name) in ["image_size", "image_stored", "image_read", "image_sent"].iter().enumerate() {
            let name = of_pair(&format!("{name}_bytes"));
            match sizes {
                Some(sizes) => is(&name, float(sizes[at])),
                None => assert!(!text.contains(&name), "{name}"),
            }
        }
    }
}

/// The figures of a full run.
#[expect(clippy::print_stdout, reason = "figures for whoever asked for the full form")]
fn tell(night: &Night, took: Duration, peak_bytes: u64) {
    let of = |destination: &str, bytes: fn(&smolfreeze::fleet::night::Made) -> u64| {
        let made = night.made().filter(|(outcome, _)| outcome.destination == destination);
        made.map(|(_, made)| bytes(made)).sum::<u64>() >> 20
    };
    println!(
        "{took:?}, at most {} MiB resident of {} MiB; {} MiB of tar read; sent to the registry {} MiB, to the layout {} MiB",
        peak_bytes >> 20,
        MEMORY_BYTES >> 20,
        of("disk", |made| made.read_bytes),
        of("registry", |made| made.sent_bytes),
        of("disk", |made| made.sent_bytes),
    );
    for outcome in night.outcomes.iter().filter(|outcome| outcome.destination == "registry") {
        let Outcome { machine, state, seconds, image, .. } = outcome;
        let made =
            image.as_ref().map(|made| (made.tar_bytes >> 20, made.stored_bytes >> 20, made.held_bytes_peak >> 20));
        println!("{machine}: {state:?} in {seconds:.1} s, MiB of tar, stored, held: {made:?}");
    }
}
