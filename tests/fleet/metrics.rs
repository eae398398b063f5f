//! The metrics and the example alerts, as Prometheus' own tool reads them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use jiff::Timestamp;
use smolfreeze::fleet::file::File;
use smolfreeze::fleet::metrics;
use smolfreeze::fleet::night::History;
use smolfreeze::fleet::select::Listed;
use smolfreeze::fleet::status::Status;

use crate::made_up;

/// What it says goes into the test's own failure.
pub fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is in Debian's package prometheus: tests/run installs it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}\n{input}");
    // `check metrics` has exit code 0 for some of what it finds.
    assert!(arguments != ["check", "metrics"] || said.trim().is_empty(), "promtool {arguments:?}: {said}");
}

fn history() -> History {
    History { nights: made_up::nights(jiff::civil::date(2026, 11, 29)), unreadable: Vec::new() }
}

fn text(fleet: &str, machines: &[&str]) -> String {
    let file = File { name: fleet.to_owned(), ..File::parse(made_up::FILE).unwrap() };
    let machines = machines.iter().map(|name| Listed { name: (*name).to_owned(), ..Listed::default() }).collect();
    let now: Timestamp = "2026-11-29T08:00:00Z".parse().unwrap();
    let status = Status::of(&file, &history(), Ok(machines), now).unwrap();
    metrics::text(&status, &history())
}

fn machines() -> Vec<&'static str> {
    made_up::MACHINES.map(|(name, ..)| name).to_vec()
}

/// The value of the one sample that begins so.
pub fn value(text: &str, sample: &str) -> f64 {
    let found: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(sample)).collect();
    assert_eq!(found.len(), 1, "{sample} in\n{text}");
    found[0].trim().parse().unwrap()
}

#[test]
fn promtool_finds_nothing_to_say_of_the_metrics() {
    promtool(&["check", "metrics"], &text("fleet", &machines()));
    promtool(&["check", "metrics"], &text("fleet", &[]));
    promtool(&["check", "metrics"], &text("a\\b\"c\nd", &["a\"}\n\\x"]));
}

#[test]
fn metrics_say_what_the_nights_do() {
    let mut all = machines();
    all.push("new");
    let text = text("fleet", &all);
    let is = |value: f64, expected: f64| (value - expected).abs() < 1e-9;
    let pair = |name: &str, machine: &str, destination: &str, more: &str| {
        let labels = format!(r#"fleet="fleet",machine="{machine}",destination="{destination}"{more}"#);
        value(&text, &format!("smolfreeze_{name}{{{labels}}}"))
    };
    let seconds = |time: &str| time.parse::<Timestamp>().unwrap().as_second();
    #[expect(clippy::cast_possible_truncation, reason = "seconds of this century")]
    let last =
        |machine: &str, destination: &str| pair("last_success_timestamp_seconds", machine, destination, "") as i64;
    let of_night = |night: &str| seconds(&format!("{night}T02:30:04Z"))..seconds(&format!("{night}T04:30:00Z"));
    assert!(of_night("2026-11-29").contains(&last("git", "registry")));
    assert!(of_night("2026-11-28").contains(&last("old-crm", "registry")), "it failed in the last night");
    assert!(of_night("2026-11-29").contains(&last("old-crm", "disk")));
    assert!(of_night("2026-11-26").contains(&last("wiki", "disk")));
    assert_eq!(last("new", "disk"), 0, "never made");
    assert!((pair("max_age_seconds", "wiki", "disk", "") - 36.0 * 3600.0).abs() < 0.5);
    for (machine, done, failed, skipped) in [("git", 1.0, 0.0, 0.0), ("wiki", 0.0, 1.0, 0.0), ("edge", 0.0, 0.0, 1.0)] {
        let state = |state: &str| pair("outcome", machine, "disk", &format!(r#",state="{state}""#));
        assert_eq!((state("done"), state("failed"), state("skipped")), (done, failed, skipped), "{machine}");
    }
    assert!(is(value(&text, r#"smolfreeze_run_exit_code{fleet="fleet"}"#), 10.0));
    assert!(is(value(&text, r#"smolfreeze_night_outcomes{fleet="fleet",state="failed"}"#), 5.0));
    assert!(is(value(&text, r#"smolfreeze_unselected_machines{fleet="fleet"}"#), 0.0));
    assert!(is(pair("drill_success", "git", "registry", ""), 0.0));
    assert!(pair("verification_timestamp_seconds", "git", "disk", "") > 0.0);
}

#[test]
fn a_reader_sees_whole_metrics_under_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("smolfreeze.prom");
    let mut file = File::parse(made_up::FILE).unwrap();
    let status = Status::of(&file, &history(), Ok(Vec::new()), Timestamp::UNIX_EPOCH).unwrap();
    metrics::write(&file, &status, &history()).unwrap();
    assert!(!path.exists(), "the file does not ask for any");
    file.metrics.file = Some(path.clone());
    std::fs::write(&path, "old").unwrap();
    metrics::write(&file, &status, &history()).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), metrics::text(&status, &history()));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644, "the collector is another user");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    file.metrics.file = Some(folder.path().join("absent/smolfreeze.prom"));
    assert!(metrics::write(&file, &status, &history()).unwrap_err().to_string().contains("absent/smolfreeze.prom"));
}

#[test]
fn the_example_alerts_fire_when_they_should() {
    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/alerts.yml");
    promtool(&["check", "rules", alerts.to_str().unwrap()], "");
    let folder = tempfile::tempdir().unwrap();
    let tests = folder.path().join("tests.yml");
    // Time begins at 0 here: a snapshot of then is 36 hours old after 2160 minutes.
    let text = format!(
        r#"
rule_files: ["{}"]
evaluation_interval: 5m
tests:
  - interval: 5m
    input_series:
      - series: 'smolfreeze_last_success_timestamp_seconds{{machine="a", destination="d"}}'
        values: '1x600'
      - series: 'smolfreeze_max_age_seconds{{machine="a", destination="d"}}'
        values: '129600x600'
      - series: 'smolfreeze_run_end_timestamp_seconds'
        values: '1x600'
      - series: 'smolfreeze_damaged_snapshots{{machine="a", destination="d"}}'
        values: '0x600'
      - series: 'smolfreeze_drill_success{{machine="a", destination="d"}}'
        values: '1x500 0x100'
    alert_rule_test:
      - {{eval_time: 2150m, alertname: SmolfreezeSnapshotTooOld, exp_alerts: []}}
      - eval_time: 2190m
        alertname: SmolfreezeSnapshotTooOld
        exp_alerts:
          - exp_labels: {{severity: critical, machine: a, destination: d}}
            exp_annotations:
              summary: a has no snapshot at d that is young enough
              description: 'The last good one is 1d 12h 29m 59s old. `smolfreeze fleet status` says why.'
      - {{eval_time: 2200m, alertname: SmolfreezeNoRun, exp_alerts: []}}
      - eval_time: 2970m
        alertname: SmolfreezeNoRun
        exp_alerts:
          - exp_labels: {{severity: critical}}
            exp_annotations:
              summary: no run of smolfreeze fleet has ended for two nights
              description: 'Look at `systemctl status smolfreeze-fleet.timer smolfreeze-fleet.service`.'
      - {{eval_time: 2400m, alertname: SmolfreezeSnapshotDamaged, exp_alerts: []}}
      - eval_time: 2900m
        alertname: SmolfreezeSnapshotDamaged
        exp_alerts:
          - exp_labels: {{severity: critical, machine: a, destination: d}}
            exp_annotations:
              summary: a snapshot of a at d is damaged, or its drill failed
"#,
        alerts.display()
    );
    std::fs::write(&tests, text).unwrap();
    promtool(&["test", "rules", tests.to_str().unwrap()], "");
}

#[test]
fn every_metric_is_documented() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fleet.md")).unwrap();
    let text = text("fleet", &machines());
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in &names {
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not in docs/fleet.md");
    }
    let documented = page.lines().filter_map(|line| line.strip_prefix("| `smolfreeze_")?.split('`').next());
    for name in documented {
        assert!(names.contains(&format!("smolfreeze_{name}").as_str()), "docs/fleet.md has a smolfreeze_{name}");
    }
}
