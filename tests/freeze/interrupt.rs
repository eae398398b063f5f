//! Signals in the middle of a freeze: out within two seconds, and nothing half-written.

use std::fs;
use std::io::Write;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::archive::entry;
use crate::host::{Host, finish, names, one_line, open_sessions, tags, until};
use crate::support::docker_registry::DockerRegistry;
use crate::support::layers::random_bytes;
use crate::support::proxy::{Fault, Habits, Proxy, nth};

const LEAVE_WITHIN: Duration = Duration::from_secs(2);

pub fn start(host: &Host, words: &[&str]) -> Child {
    let mut command = host.command(&["freeze", "--quiet"]);
    command.args(words).stdin(Stdio::piped()).spawn().expect("the command")
}

/// A tar of `files` times two megabytes that is never complete; the pipe stays open.
pub fn feed(child: &mut Child, files: u64) -> ChildStdin {
    let mut stdin = child.stdin.take().expect("a pipe");
    for at in 0..files {
        let name = format!("./file-{at}");
        stdin.write_all(&entry(&name, b'0', &random_bytes(at, 2_000_000))).expect("a reader");
    }
    stdin.write_all(&entry("./last", b'0', &vec![7; 100_000])[..50_000]).expect("a reader");
    stdin
}

/// Sends it, and sees it leave in time, with the code that a shell expects.
fn leaves_by(signal: Signal, child: Child) -> String {
    let began = Instant::now();
    kill_process(Pid::from_child(&child), signal).expect("to be sent");
    let output = finish(child);
    let took = began.elapsed();
    let line = one_line(&output);
    assert!(line.contains("interrupted"), "{line}");
    assert_eq!(output.status.code(), Some(if signal == Signal::INT { 130 } else { 143 }), "{line}");
    assert!(took < LEAVE_WITHIN, "it took {took:?}");
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_while_a_slow_registry_takes_layers() {
    for signal in [Signal::INT, Signal::TERM] {
        let (host, registry) = (Host::new(), DockerRegistry::start());
        let source = format!("dir:{}", host.tree("tree", "head -c 60000000 /dev/urandom >noise").display());
        let habits = Habits { slowness: Some(Duration::from_millis(20)), ..Habits::default() };
        let proxy = Proxy::start(registry.address, habits, vec![]).await;
        let child = start(&host, &[&source, "--to", &format!("{}/space/name:tag", proxy.address)]);
        until("a layer is on its way", || proxy.seen().iter().any(|seen| seen.method == "PUT"));
        std::thread::sleep(Duration::from_millis(300));
        leaves_by(signal, child);
        assert!(proxy.seen().iter().any(|seen| seen.method == "DELETE"));
        assert_eq!(open_sessions(&proxy), Vec::<String>::new());
        assert!(tags(&registry, "space/name").is_empty());
        assert!(names(&host.path("scratch")).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_while_names_are_given_says_which_ones_are() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let source = format!("dir:{}", host.tree("tree", "echo x >x").display());
    // PUT ends the layer's session and the config's; the third one is the manifest.
    let proxy = Proxy::start(registry.address, Habits::default(), vec![nth("PUT", 3, Fault::Stall)]).await;
    let (name, layout) = (format!("{}/space/name:tag", proxy.address), format!("oci:{}", host.text("layout")));
    let child = start(&host, &[&source, "--to", &layout, "--to", &name]);
    until("the manifest is on its way", || {
        proxy.seen().iter().any(|seen| seen.method == "PUT" && seen.target.contains("/manifests/"))
    });
    let line = leaves_by(Signal::TERM, child);
    assert!(line.contains("the image is complete at oci:"), "{line}");
    assert!(tags(&registry, "space/name").is_empty());
    host.verify(&layout);
}

#[test]
fn a_signal_while_a_pipe_says_nothing_more() {
    for signal in [Signal::INT, Signal::TERM] {
        for files in [0, 4] {
            let (host, registry) = (Host::new(), DockerRegistry::start());
            let name = format!("{}/space/name:tag", registry.address);
            let mut child = start(&host, &["tar:-", "--to", &name, "--layer-size", "1MiB"]);
            let pipe = feed(&mut child, files);
            let blobs = registry.repository("space/name").join("_layers/sha256");
            until("layers are there", || files == 0 || names(&blobs).len() >= 2);
            std::thread::sleep(Duration::from_millis(200));
            leaves_by(signal, child);
            drop(pipe);
            assert!(tags(&registry, "space/name").is_empty());
            assert_eq!(registry.open_sessions("space/name"), 0);
        }
    }
}

#[test]
fn a_signal_while_nothing_was_read_yet() {
    let host = Host::new();
    let mut child = start(&host, &["tar:-", "--to", &format!("oci:{}", host.text("layout"))]);
    let pipe = child.stdin.take();
    std::thread::sleep(Duration::from_millis(300));
    leaves_by(Signal::TERM, child);
    drop(pipe);
    assert!(!host.path("layout").exists());
}

#[test]
fn a_signal_while_a_layout_is_written() {
    let host = Host::new();
    let small = format!("dir:{}", host.tree("small", "echo x >x").display());
    for (signal, is_new) in [(Signal::INT, true), (Signal::TERM, true), (Signal::INT, false), (Signal::TERM, false)] {
        // Each its own: what has its name stays.
        let name = format!("layout-{signal:?}-{is_new}");
        let (layout, blobs) = (host.text(&name), host.path(&name).join("blobs/sha256"));
        let index = host.path(&name).join("index.json");
        if !is_new {
            host.freeze(&[&small, "--to", &format!("oci:{layout}:old")]);
        }
        let before = (names(&blobs), fs::read(&index).ok());
        let mut child = start(&host, &["tar:-", "--to", &format!("oci:{layout}:new"), "--layer-size", "1MiB"]);
        let pipe = feed(&mut child, 4);
        until("layers are there", || names(&blobs).len() >= before.0.len() + 2);
        leaves_by(signal, child);
        drop(pipe);
        assert_eq!(fs::read(&index).ok(), before.1);
        // A blob that has its name may be somebody else's by now: it stays, and gc tells of it.
        assert!(before.0.iter().all(|name| names(&blobs).contains(name)));
        if is_new {
            assert!(!host.path(&name).exists(), "{:?}", names(&host.path(&name)));
        } else {
            host.verify(&format!("oci:{layout}:old"));
        }
    }
}

#[test]
fn a_killed_freeze_leaves_the_old_index_and_what_the_next_one_removes() {
    let host = Host::new();
    let (layout, blobs) = (host.text("layout"), host.path("layout/blobs/sha256"));
    let small = format!("dir:{}", host.tree("small", "echo x >x").display());
    host.freeze(&[&small, "--to", &format!("oci:{layout}:old")]);
    let before = fs::read(host.path("layout/index.json")).expect("an index");
    // One layer that neither memory nor scratch holds is written while it is made.
    let to = format!("oci:{layout}:new");
    let words = ["tar:-", "--to", &*to, "--layer-size", "0", "--memory", "96MiB", "--scratch", "0"];
    let mut child = start(&host, &words);
    let pipe = feed(&mut child, 45);
    let leftovers = || names(&blobs).into_iter().filter(|name| name.starts_with(".smolfreeze-")).count();
    until("a blob is half-written", || leftovers() > 0);
    child.kill().expect("to be killed");
    let _ = finish(child);
    drop(pipe);
    assert_eq!(leftovers(), 1);
    assert_eq!(fs::read(host.path("layout/index.json")).expect("an index"), before);
    host.verify(&format!("oci:{layout}:old"));
    host.freeze(&[&small, "--to", &to]);
    assert_eq!(leftovers(), 0);
    host.verify(&to);
}
