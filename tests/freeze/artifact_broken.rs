//! An artifact that does not come to be: a kill, a signal, a full disk, a registry that refuses. And one whose layers fit
//! nowhere on the way.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::host::{Host, Tmpfs, finish, names, one_line, open_sessions, shell, tags, until};
use crate::support::docker_registry::DockerRegistry;
use crate::support::kills::Kills;
use crate::support::proxy::{Fault, Habits, Proxy, Rule};
use crate::support::sidecar::{self, assert_whole, is_whole, unpacked};
use crate::trees::{Keeps, assert_same, inventory};

const KILLS: u32 = 20;
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// A host with an agent, a folder for the artifact, and something to freeze.
struct Bench {
    host: Host,
    source: String,
    pack: String,
    agent: String,
}

impl Bench {
    fn new(script: &str) -> Self {
        let host = Host::new();
        fs::create_dir(host.path("out")).unwrap();
        let source = format!("dir:{}", host.tree("tree", script).display());
        let (pack, agent) = (host.text("out/a.smolmachine"), sidecar::agent(&host.path(".")).display().to_string());
        Self { host, source, pack, agent }
    }

    fn words<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&[&*self.source, "--pack", &self.pack, "--agent-rootfs", &self.agent][..], more].concat()
    }

    fn spawn(&self, more: &[&str]) -> std::process::Child {
        self.host.command(&["freeze", "--quiet"]).args(self.words(more)).spawn().unwrap()
    }

    fn out(&self) -> Vec<String> {
        names(&self.host.path("out"))
    }
}

/// Sixteen megabytes that no compression makes smaller, a little of them in `/workspace`.
const NOISE: &str = "mkdir workspace; head -c 900000 /dev/urandom >workspace/x; for i in {1..15}; do head -c 1000000 /dev/urandom >$i; done";

#[test]
fn a_killed_freeze_leaves_a_whole_artifact_or_none() {
    let bench = Bench::new(NOISE);
    let (artifact, size) = (bench.host.path("out/a.smolmachine"), ["--layer-size", "2MiB"]);
    let began = Instant::now();
    bench.host.freeze(&bench.words(&size));
    let mut kills = Kills::within(began.elapsed());
    let (mut finished, mut unfinished) = (0, 0);
    for _ in 0..KILLS {
        fs::remove_file(&artifact).ok();
        let mut child = bench.spawn(&size);
        kills.wait();
        child.kill().unwrap();
        child.wait().unwrap();
        if artifact.exists() {
            assert!(is_whole(&artifact), "{kills}");
            finished += 1;
        } else {
            unfinished += 1;
        }
        // What this round left, at most: it removed what the one before it did.
        let left = bench.out().into_iter().filter(|name| name != "a.smolmachine").count();
        assert!(left <= 1, "{kills}: {:?}", bench.out());
    }
    assert!(unfinished > 0, "{kills}: all {finished} were too fast to be killed");
    bench.host.freeze(&bench.words(&size));
    assert_eq!(bench.out(), ["a.smolmachine"], "{kills}");
    let wanted = inventory(&bench.host.path("tree"), Keeps::Everything);
    let root = unpacked(&artifact, &bench.host.path("unpacked"));
    assert_same(&wanted, &inventory(&root, Keeps::Everything), "after the kills");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_while_a_slow_registry_takes_layers() {
    for signal in [Signal::INT, Signal::TERM] {
        let (bench, registry) = (Bench::new("head -c 60000000 /dev/urandom >noise"), DockerRegistry::start());
        fs::write(&bench.pack, "the last good one").unwrap();
        let habits = Habits { slowness: Some(Duration::from_millis(20)), ..Habits::default() };
        let proxy = Proxy::start(registry.address, habits, vec![]).await;
        let child = bench.spawn(&["--to", &format!("{}/space/name:tag", proxy.address)]);
        until("a layer is on its way", || proxy.seen().iter().any(|seen| seen.method == "PUT"));
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = finish(child);
        assert!(began.elapsed() < LEAVE_WITHIN, "it took {:?}", began.elapsed());
        assert!(one_line(&output).contains("interrupted"));
        assert_eq!(output.status.code(), Some(if signal == Signal::INT { 130 } else { 143 }));
        assert_eq!(open_sessions(&proxy), Vec::<String>::new());
        assert!(tags(&registry, "space/name").is_empty());
        assert_eq!(bench.out(), ["a.smolmachine"]);
        assert_eq!(fs::read(&bench.pack).unwrap(), b"the last good one");
    }
}

/// Ctrl-C at any moment, with nothing else that would slow it down: all of it, or as if it had never been.
#[test]
fn a_signal_at_any_moment_leaves_all_or_nothing() {
    let bench = Bench::new(NOISE);
    let began = Instant::now();
    bench.host.freeze(&bench.words(&[]));
    let whole = began.elapsed();
    for round in 1..12 {
        fs::write(&bench.pack, "the last good one").unwrap();
        let child = bench.spawn(&[]);
        std::thread::sleep(Duration::from_millis(60) + whole * round / 12);
        // It may have ended by now.
        let _ = kill_process(Pid::from_child(&child), Signal::INT);
        let output = finish(child);
        assert_eq!(bench.out(), ["a.smolmachine"]);
        if output.status.success() {
            assert_whole(bench.pack.as_ref());
        } else {
            assert_eq!(output.status.code(), Some(130), "{}", one_line(&output));
            assert_eq!(fs::read(&bench.pack).unwrap(), b"the last good one");
        }
    }
}

#[test]
fn a_full_disk_is_said_once_and_nothing_is_left() {
    let streaming = ["--memory", "96MiB", "--scratch", "0", "--layer-size", "0"];
    let large = "for i in {1..2}; do head -c 60000000 /dev/urandom >$i; done";
    for (script, words) in [(NOISE, &[][..]), (large, &streaming)] {
        let (bench, registry) = (Bench::new(script), DockerRegistry::start());
        let _disk = Tmpfs::mount(&bench.host.path("out"), "8m");
        let name = format!("{}/space/name:tag", registry.address);
        for to in [&[][..], &["--to", &name]] {
            let line = bench.host.refuses(4, "a.smolmachine", &bench.words(&[to, words].concat()));
            assert!(line.contains("No space left") && line.contains("free some space there"), "{line}");
            assert_eq!(line.matches("failed").count(), 1, "{line}");
            assert!(bench.out().is_empty(), "{:?}", bench.out());
            assert!(tags(&registry, "space/name").is_empty());
        }
    }
}

/// What was streamed beside the artifact goes into it and leaves at the same time: a live layer, and the workspace.
#[test]
fn a_layer_that_was_streamed_takes_the_disk_once() {
    let bench = Bench::new("mkdir workspace; head -c 60000000 /dev/urandom >workspace/x");
    let _disk = Tmpfs::mount(&bench.host.path("out"), "85m");
    let freeze = || {
        let snapshot = bench.host.freeze(&bench.words(&["--memory", "96MiB", "--scratch", "0"]));
        assert!(snapshot.held_bytes_peak < 60_000_000, "it was held");
        assert_whole(bench.pack.as_ref());
    };
    freeze();
    fs::remove_file(&bench.pack).unwrap();
    let script = "mv workspace/x .; head -c 10000000 /dev/urandom >workspace/y";
    shell(&bench.host.path("tree"), script);
    freeze();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_refuses_the_image_leaves_the_old_artifact() {
    let (bench, registry) = (Bench::new("echo x >x"), DockerRegistry::start());
    fs::write(&bench.pack, "the last good one").unwrap();
    // PUT ends the layer's session and the config's; the third one is the manifest.
    let refusal = Rule { method: "PUT", skip: 2, times: usize::MAX, fault: Fault::Answer(400, "", "") };
    let proxy = Proxy::start(registry.address, Habits::default(), vec![refusal]).await;
    let name = format!("{}/space/name:tag", proxy.address);
    let line = bench.host.refuses(4, &proxy.address.to_string(), &bench.words(&["--to", &name]));
    assert!(line.contains("400") && !line.contains("complete at"), "{line}");
    assert!(tags(&registry, "space/name").is_empty());
    assert_eq!(bench.out(), ["a.smolmachine"]);
    assert_eq!(fs::read(&bench.pack).unwrap(), b"the last good one");
}

/// Two layers larger than all memory, live at once with small ones that wait for the artifact, in both outputs.
#[test]
fn layers_larger_than_memory_go_to_both_outputs_without_a_deadlock() {
    let script =
        "mkdir workspace; head -c 110000000 /dev/urandom >5-large; head -c 110000000 /dev/urandom >workspace/large;
        for i in {1..9}; do head -c 1500000 /dev/urandom >$i; head -c 1500000 /dev/urandom >z$i; done";
    let (bench, registry) = (Bench::new(script), DockerRegistry::start());
    let wanted = inventory(&bench.host.path("tree"), Keeps::Everything);
    for compression in ["zstd", "none"] {
        let name = format!("{}/space/name:{compression}", registry.address);
        let words = ["--memory", "96MiB", "--scratch", "0", "--layer-size", "1MiB", "--compression", compression];
        let source = &*bench.source;
        let more = [&words[..], &["--to", &name, "--pack", &bench.pack, "--agent-rootfs", &bench.agent]].concat();
        let (snapshot, resident_bytes) = crate::memory::freeze(&bench.host, source, &more);
        let larger = snapshot.layers.iter().filter(|layer| layer.descriptor.size > snapshot.memory_bytes_max);
        assert_eq!(larger.count(), 2, "they were held");
        assert_eq!(snapshot.scratch_bytes_peak, 0);
        assert!(resident_bytes <= 96 << 20, "{} MiB resident", resident_bytes >> 20);
        assert_eq!(bench.out(), ["a.smolmachine"]);
        bench.host.verify(&name);
        let root = unpacked(bench.pack.as_ref(), &bench.host.path("unpacked"));
        assert_same(&wanted, &inventory(&root, Keeps::Everything), compression);
    }
}
