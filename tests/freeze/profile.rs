//! `--profile`: the trace of a freeze is what the report says, moment by moment, and is whole however the freeze ends.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use smolfreeze::progress::Measured;
use smolfreeze::report::Snapshot;

use crate::host::{Host, finish, names, until};
use crate::interrupt::{feed, start};
use crate::support::docker_registry::DockerRegistry;
use crate::support::proxy::{Fault, Habits, Proxy, Rule};

const TREE: &str = "head -c 30000000 /dev/urandom >noise; for i in {1..300}; do seq $((i * 300)) >$i; done";

fn events(host: &Host) -> Vec<Value> {
    let text = fs::read(host.path("trace.json")).expect("a trace");
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&text)))
}

/// The names of the rows that have spans, by number.
fn rows(events: &[Value]) -> BTreeMap<u64, String> {
    let row = |event: &Value| event["tid"].as_u64().expect("a row");
    let of_kind = |kind: &'static str| events.iter().filter(move |event| event["ph"] == kind);
    let named: BTreeMap<_, _> = of_kind("M")
        .filter(|event| event["name"] == "thread_name")
        .map(|event| (row(event), event["args"]["name"].as_str().expect("a name").to_owned()))
        .collect();
    for span in of_kind("X") {
        assert!(named.contains_key(&row(span)), "a row without a name: {span}");
    }
    named
}

/// From and to, in microseconds.
fn extent(span: &Value) -> (u64, u64) {
    let (from, length) = (span["ts"].as_u64().expect("a time"), span["dur"].as_u64().expect("a length"));
    (from, from + length)
}

fn spans_do_not_overlap(events: &[Value], rows: &BTreeMap<u64, String>) {
    for (number, name) in rows {
        let of_row = events.iter().filter(|event| event["ph"] == "X" && event["tid"] == *number);
        let mut extents: Vec<_> = of_row.map(extent).collect();
        extents.sort_unstable();
        assert!(!extents.is_empty(), "{name} has no spans");
        for pair in extents.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{name}: {pair:?}");
        }
    }
}

/// The sum of the spans with these names in rows that begin so, in seconds, agrees with the report.
fn agrees(events: &[Value], rows: &BTreeMap<u64, String>, (row, names): (&str, &[&str]), reported: f64) {
    let is_of_row = |event: &&Value| {
        let name = event["tid"].as_u64().and_then(|number| rows.get(&number));
        event["ph"] == "X" && name.is_some_and(|name| name.starts_with(row))
    };
    let of_name = |event: &&Value| names.iter().any(|name| event["name"] == *name);
    let lengths: Vec<_> =
        events.iter().filter(is_of_row).filter(of_name).map(extent).map(|(from, to)| to - from).collect();
    // Each span's ends are rounded to a microsecond.
    let (sum, tolerance) = (lengths.iter().sum::<u64>(), 2 * lengths.len() as u64 + 5);
    let difference = (std::time::Duration::from_secs_f64(reported).as_micros()).abs_diff(u128::from(sum));
    assert!(difference <= u128::from(tolerance), "{row} {names:?}: {sum} µs, reported {reported} s");
}

fn is_what_the_report_says(snapshot: &Snapshot, events: &[Value]) {
    let rows = rows(events);
    spans_do_not_overlap(events, &rows);
    let names: Vec<_> = rows.values().map(String::as_str).collect();
    for name in ["source", "cut", "packer 1", "upload 1"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let stages = &snapshot.stages;
    let agrees = |row, names: &[&str], seconds| agrees(events, &rows, (row, names), seconds);
    agrees("source", &["reads"], stages.source.busy_seconds);
    agrees("source", &["waits for the cut", "waits for memory"], stages.source.waiting_seconds);
    agrees("cut", &["cuts"], stages.cut.busy_seconds);
    agrees("cut", &["waits for the source", "waits for the packers", "waits for memory"], stages.cut.waiting_seconds);
    agrees("packer", &["hashes"], stages.hash.busy_seconds);
    agrees("packer", &["waits for the cut"], stages.hash.waiting_seconds);
    agrees("packer", &["compresses", "gathers"], stages.compress.busy_seconds);
    agrees("packer", &["asks the outputs", "waits for the uploads"], stages.compress.waiting_seconds);
    agrees("upload", &["sends"], stages.send.busy_seconds);
    agrees("upload", &["waits for layers"], stages.send.waiting_seconds);
    is_whole(events);
    for counter in ["held in memory", "layers waiting or being sent", "read", "sent"] {
        assert!(events.iter().any(|event| event["ph"] == "C" && event["name"] == counter), "no {counter}");
    }
}

/// Its last event says that it is the last.
fn is_whole(events: &[Value]) {
    let last = events.last().expect("events");
    assert!(last["name"].as_str().is_some_and(|name| name.starts_with("end of the profile")), "{last}");
    assert_eq!(last["args"]["dropped"], 0);
}

#[test]
fn a_trace_says_what_the_report_says() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let source = format!("dir:{}", host.tree("tree", TREE).display());
    let (trace, layout) = (host.text("trace.json"), format!("oci:{}", host.text("layout")));
    let remote = format!("{}/space/name:tag", registry.address);
    let outputs: [&[&str]; 3] = [&["--to", &layout], &["--to", &remote], &["--to", &layout, "--to", &remote]];
    for (outputs, more) in outputs.into_iter().zip([&["--layer-size", "4MiB"][..], &[], &["--layer-size", "0"]]) {
        let words = [&[&*source, "--no-known", "--profile", &trace], outputs, more].concat();
        let snapshot = host.freeze(&words);
        is_what_the_report_says(&snapshot, &events(&host));
    }
}

#[test]
fn processor_time_is_that_of_the_process() {
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", TREE).display());
    let snapshot = host.freeze(&[&source, "--to", &format!("oci:{}", host.text("layout")), "--no-known"]);
    let stages = &snapshot.stages;
    let all = [stages.source, stages.cut, stages.hash, stages.compress, stages.send];
    let sum: f64 = all.iter().map(|stage| stage.cpu_seconds).sum();
    assert!((sum - snapshot.cpu_seconds).abs() < 1e-3, "{sum} of {}", snapshot.cpu_seconds);
    let worked = |stage: Measured| stage.cpu_seconds > 0.0;
    assert!([stages.source, stages.cut, stages.hash, stages.compress].into_iter().all(worked), "{stages:?}");
    // The walker and its readers count as well as the thread that sends what they read.
    assert!(stages.source.threads >= 4 && stages.cut.threads == 1 && stages.compress.threads >= 1, "{stages:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_that_fails_leaves_a_whole_trace() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let source = format!("dir:{}", host.tree("tree", TREE).display());
    let trace = host.text("trace.json");
    let refusal = Rule { method: "PUT", skip: 0, times: usize::MAX, fault: Fault::Answer(400, "", "") };
    let proxy = Proxy::start(registry.address, Habits::default(), vec![refusal]).await;
    let name = format!("{}/space/name:tag", proxy.address);
    host.refuses(4, &proxy.address.to_string(), &[&source, "--to", &name, "--profile", &trace, "--no-known"]);
    let events = events(&host);
    spans_do_not_overlap(&events, &rows(&events));
    is_whole(&events);
}

#[test]
fn a_signal_leaves_a_whole_trace() {
    let host = Host::new();
    let (trace, layout) = (host.text("trace.json"), format!("oci:{}", host.text("layout")));
    let mut child = start(&host, &["tar:-", "--layer-size", "4MiB", "--to", &layout, "--profile", &trace]);
    let pipe = feed(&mut child, 20);
    until("a layer is there", || !names(&host.path("layout/blobs/sha256")).is_empty());
    kill_process(Pid::from_child(&child), Signal::INT).expect("to be sent");
    assert_eq!(finish(child).status.code(), Some(130));
    drop(pipe);
    is_whole(&events(&host));
}

#[test]
fn a_profile_that_cannot_be_written_is_told_before_anything_is_read() {
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", "echo x >x").display());
    let (layout, profile) = (host.text("layout"), host.text("nowhere/trace.json"));
    host.refuses(4, &profile, &[&source, "--to", &format!("oci:{layout}"), "--profile", &profile]);
    assert!(!host.path("layout").exists());
}

#[test]
fn a_profile_that_fails_at_its_end_leaves_the_freeze_complete() {
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", "head -c 3000000 /dev/urandom >noise").display());
    let layout = format!("oci:{}", host.text("layout"));
    let line = host.refuses(4, "/dev/full", &[&source, "--to", &layout, "--profile", "/dev/full"]);
    assert!(line.contains("the freeze itself is complete"), "{line}");
    host.verify(&layout);
}
