//! Traps that others fell into, at the level of the whole engine. The single upload's are in `tests/registry/faults.rs`.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smolfreeze::freeze::freeze;
use smolfreeze::plan::{FreezeOptions, OutputSpec, Plan, SourceSpec};
use smolfreeze::progress::NoticeKind;
use smolfreeze::stop::Stop;

use crate::archive::{entry, tar};
use crate::host::{Host, Tmpfs, open_sessions, shell, tags};
use crate::support::docker_registry::DockerRegistry;
use crate::support::layers::{Told, random_bytes};
use crate::support::proxy::{Fault, Habits, Proxy, Rule, nth};

fn for_good(method: &'static str, skip: usize, fault: Fault) -> Rule {
    Rule { method, skip, times: usize::MAX, fault }
}

/// Forty megabytes in two large layers and some small ones.
const NOISE: &str = "for i in {1..2}; do head -c 17000000 /dev/urandom >$i; done; for i in {3..9}; do head -c 1000000 /dev/urandom >$i; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_dies_has_no_digest() {
    let registry = DockerRegistry::start();
    let proxy = Proxy::start(registry.address, Habits::default(), vec![]).await;
    let (host, name) = (Host::new(), format!("{}/space/name:tag", proxy.address));
    let files: Vec<_> = (0..8).map(|at| entry(&format!("./{at}"), b'0', &random_bytes(at, 1_500_000))).collect();
    let whole = tar(&files);
    for length in [700, 1_500_000 + 512, whole.len() / 2, whole.len() - 1024] {
        for layer_size in ["0", "1MiB"] {
            let words = ["tar:-", "--to", &name, "--layer-size", layer_size];
            host.refuses_from(3, "cut off", &words, Some(&whole[..length]));
            assert!(tags(&registry, "space/name").is_empty(), "{length}");
        }
    }
    assert_eq!(open_sessions(&proxy), Vec::<String>::new());
    assert!(proxy.seen().iter().all(|seen| !seen.target.contains("/manifests/")));
    // With one layer, whose digest nobody can know, no blob was ever finished.
    let host = Host::new();
    let (other, before) = (format!("{}/space/other:tag", proxy.address), proxy.seen().len());
    host.refuses_from(3, "cut off", &["tar:-", "--to", &other], Some(&whole[..whole.len() / 2]));
    assert!(proxy.seen()[before..].iter().all(|seen| seen.method != "PUT"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_fails_in_mid_stream_is_the_cause_and_a_failed_clean_up_follows() {
    let registry = DockerRegistry::start();
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", NOISE).display());
    for cleanup_fails in [false, true] {
        let mut rules = vec![for_good("PUT", 1, Fault::Answer(400, "", ""))];
        rules.extend(cleanup_fails.then(|| for_good("DELETE", 0, Fault::Answer(403, "", ""))));
        let proxy = Proxy::start(registry.address, Habits::default(), rules).await;
        let (name, layout) = (format!("{}/space/name:tag", proxy.address), format!("oci:{}", host.text("layout")));
        let words = [&*source, "--to", &layout, "--to", &name, "--layer-size", "4MiB", "--no-known"];
        let line = host.refuses(4, &proxy.address.to_string(), &words);
        assert!(line.contains("400") && !line.contains("hung up"), "{line}");
        let cause = line.find("400").expect("the cause");
        assert_eq!(line.find("and cleaning up").is_some_and(|at| at > cause), cleanup_fails, "{line}");
        assert!(tags(&registry, "space/name").is_empty());
        assert!(!host.path("layout").exists(), "the other output");
        assert_eq!(open_sessions(&proxy), Vec::<String>::new());
    }
}

/// `cargo test --test freeze -- --ignored bad_gateway`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is tried again for more than a minute"]
async fn a_bad_gateway_for_good_names_the_registry() {
    let registry = DockerRegistry::start();
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", NOISE).display());
    let rules = vec![for_good("PUT", 1, Fault::Answer(502, "", "<html>"))];
    let proxy = Proxy::start(registry.address, Habits::default(), rules).await;
    let words = [&*source, "--to", &format!("{}/space/name:tag", proxy.address)];
    let line = host.refuses(4, &proxy.address.to_string(), &words);
    assert!(line.contains("502") && line.contains("tried") && !line.contains("hung up"), "{line}");
    assert_eq!(registry.open_sessions("space/name"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_refuses_the_manifest_has_no_tag_and_the_other_one_is_named() {
    let registry = DockerRegistry::start();
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", "echo x >x").display());
    // PUT ends the layer's session and the config's; the third one is the manifest.
    let proxy =
        Proxy::start(registry.address, Habits::default(), vec![for_good("PUT", 2, Fault::Answer(400, "", ""))]).await;
    let (name, layout) = (format!("{}/space/name:tag", proxy.address), format!("oci:{}", host.text("layout")));
    let line = host.refuses(4, &proxy.address.to_string(), &[&source, "--to", &layout, "--to", &name]);
    assert!(line.contains("the image is complete at oci:"), "{line}");
    assert!(tags(&registry, "space/name").is_empty());
    host.verify(&layout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_output_does_not_make_memory_grow() {
    let registry = DockerRegistry::start();
    let host = Host::new();
    let tree = host.tree("tree", "for i in {1..12}; do head -c 12000000 /dev/urandom >$i; done");
    let habits = Habits { slowness: Some(Duration::from_millis(2)), ..Habits::default() };
    let proxy = Proxy::start(registry.address, habits, vec![]).await;
    let name = format!("{}/space/name:tag", proxy.address);
    let words = ["--memory", "96MiB", "--layer-size", "8MiB", "--scratch", "0", "--to", &name];
    let (snapshot, resident_bytes) = crate::memory::freeze(&host, &format!("dir:{}", tree.display()), &words);
    assert!(snapshot.stored_bytes > 140_000_000);
    assert!(snapshot.memory_bytes_max <= 96 << 20);
    assert!(snapshot.held_bytes_peak <= snapshot.memory_bytes_max, "{} held", snapshot.held_bytes_peak);
    assert!(resident_bytes <= 96 << 20, "{resident_bytes} resident");
}

#[test]
fn where_scratch_has_no_room_a_long_layer_goes_out_while_it_is_made() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let source = format!("dir:{}", host.tree("tree", "head -c 60000000 /dev/urandom >noise; seq 9 >numbers").display());
    let (name, layout) = (format!("{}/space/name:tag", registry.address), format!("oci:{}", host.text("layout")));
    // For no byte, and for the first ones.
    for size in ["4k", "5m"] {
        let _full = Tmpfs::mount(&host.path("scratch"), size);
        for to in [&name, &layout] {
            let snapshot = host.freeze(&[&source, "--to", to, "--memory", "96MiB", "--no-known"]);
            assert!(snapshot.scratch_trouble.is_some_and(|trouble| trouble.contains("No space left")), "{size}");
            host.verify(to);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_entries_and_small_reads_still_give_full_layers() {
    let registry = DockerRegistry::start();
    let host = Host::new();
    // A kibibyte of tar for each byte.
    let files: Vec<_> = (0..20_000).map(|at| entry(&format!("./{at}"), b'0', b"1")).collect();
    std::fs::write(host.path("t.tar"), tar(&files)).expect("a file");
    let proxy = Proxy::start(registry.address, Habits::default(), vec![]).await;
    let name = format!("{}/space/name:tag", proxy.address);
    let snapshot = host.freeze_from(&["tar:-", "--to", &name, "--compression", "none"], Some(&host.path("t.tar")));
    let seen = proxy.seen();
    let blobs: Vec<_> = seen.iter().filter(|seen| seen.target.contains("/uploads/") && seen.length > 0).collect();
    assert!(blobs.iter().all(|seen| seen.method == "PUT"), "{blobs:?}");
    let full = blobs.iter().filter(|seen| seen.length >= 8 << 20).count();
    // The config is a blob, too.
    assert!(full >= 1 && blobs.len() <= full + 2, "{blobs:?}");
    assert_eq!(snapshot.entries, 20_000);

    // One byte a write.
    let (other, small) = (format!("oci:{}", host.text("layout")), host.path("small.tar"));
    std::fs::write(&small, tar(&files[..100])).expect("a file");
    let mut feeder = Command::new("dd");
    feeder.arg(format!("if={}", small.display())).args(["bs=1", "status=none"]).stdout(Stdio::piped());
    let mut feeder = feeder.spawn().expect("dd");
    let mut command = host.command(&["freeze", "tar:-", "--to", &other]);
    let output = command.stdin(feeder.stdout.take().expect("its output")).output().expect("the command");
    assert!(output.status.success() && feeder.wait().expect("dd ends").success());
    host.verify(&other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_equals_size_after_any_script() {
    let registry = DockerRegistry::start();
    let host = Host::new();
    let tree = host.tree("tree", NOISE);
    let scripts = [
        vec![],
        vec![nth("PUT", 1, Fault::CutInBody), nth("PUT", 4, Fault::Answer(429, "Retry-After: 1\r\n", ""))],
        vec![nth("PUT", 1, Fault::Forget), nth("PUT", 3, Fault::CutAnswer), nth("POST", 2, Fault::Answer(502, "", ""))],
    ];
    for (at, script) in scripts.into_iter().enumerate() {
        let least_retries = script.len() as u64;
        let proxy = Proxy::start(registry.address, Habits::default(), script).await;
        let output = OutputSpec::Registry(format!("{}/space/name-{at}:tag", proxy.address));
        let options = FreezeOptions {
            layer_bytes: Some(4 << 20),
            ..FreezeOptions::new(SourceSpec::Directory(tree.clone()), vec![output])
        };
        let (told, stop) = (Arc::new(Told::default()), Stop::new());
        let plan = Plan::make(options, &stop).await.expect("a plan");
        let snapshot = freeze(plan, told.clone(), stop).await.expect("an image");
        assert_eq!(told.bytes.load(Ordering::Relaxed), snapshot.stored_bytes, "script {at}");
        assert!(snapshot.retries >= least_retries && snapshot.sent_bytes >= snapshot.stored_bytes, "script {at}");
        assert_eq!(told.retries.lock().expect("the list").len() as u64, snapshot.retries, "script {at}");
        host.verify(&format!("{}/space/name-{at}:tag", registry.address));
    }
}

#[test]
fn what_is_left_out_is_listed() {
    let host = Host::new();
    let tree = host.tree("tree", "echo x >x; mkdir mounted");
    let _mounted = Tmpfs::mount(&tree.join("mounted"), "1m");
    shell(&tree, "touch mounted/inside");
    let socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).expect("a socket");
    let inside = format!("oci:{}/layout", tree.display());
    let snapshot = host.freeze(&[&format!("dir:{}", tree.display()), "--to", &inside]);
    drop(socket);
    let mut named: Vec<_> = snapshot
        .notices
        .named()
        .iter()
        .map(|notice| (notice.kind, notice.path.trim_start_matches("./").to_owned()))
        .collect();
    named.sort();
    let wanted = [(NoticeKind::Socket, "socket"), (NoticeKind::Mount, "mounted"), (NoticeKind::Output, "layout")];
    assert_eq!(named, wanted.map(|(kind, path)| (kind, path.to_owned())));
    host.verify(&inside);
}
