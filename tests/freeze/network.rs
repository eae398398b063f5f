//! Several uploads are several: each has a connection of its own, and one that hangs is alone in it. And `--bandwidth`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use smolfreeze::error::Kind;
use smolfreeze::freeze::freeze;
use smolfreeze::oci::Compression;
use smolfreeze::plan::{FreezeOptions, OutputSpec, Plan};
use smolfreeze::progress::{Observer, Silent};
use smolfreeze::report::Snapshot;
use smolfreeze::stop::Stop;
use tokio::sync::watch;

use crate::host::{Host, tags};
use crate::support::docker_registry::{DockerRegistry, Setup};
use crate::support::network::{Gate, Network, Shape};
use crate::support::sidecar;

/// Eight files that are layers of their own.
const SMALL: &str = "for i in {1..8}; do head -c 3000000 /dev/urandom >$i; done";
/// Six that no worker can hold in 96 MiB.
const LARGE: &str = "for i in {1..6}; do head -c 40000000 /dev/urandom >$i; done";

fn options(host: &Host, tree: &str, to: &str) -> FreezeOptions {
    let source = format!("dir:{}", host.path(tree).display());
    FreezeOptions {
        layer_bytes: Some(2 << 20),
        compression: Some(Compression::None),
        ..FreezeOptions::new(source.parse().unwrap(), vec![to.parse().unwrap()])
    }
}

/// Counts layers that arrived.
struct Arrivals(watch::Sender<usize>);

impl Observer for Arrivals {
    fn layer_sent(&self, _: usize) {
        self.0.send_modify(|sent| *sent += 1);
    }
}

/// Counts layers that waited in a file.
#[derive(Default)]
struct Aside(AtomicUsize);

impl Observer for Aside {
    fn layer_put_aside(&self, _: usize) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

async fn run(options: FreezeOptions, sent: watch::Sender<usize>) -> Snapshot {
    let stop = Stop::new();
    let plan = Plan::make(options, &stop).await.unwrap();
    freeze(plan, Arc::new(Arrivals(sent)), stop).await.unwrap()
}

fn network(registry: &DockerRegistry, gate: Gate) -> (Network, String) {
    let network = Network::start(registry.address, Shape { gate, ..Shape::default() }).unwrap();
    let name = format!("{}/space/name:tag", network.address);
    (network, name)
}

/// Each upload is held in mid-body until four connections are there: on fewer, the freeze would never end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_uploads_are_under_way_at_once_on_four_connections() {
    let host = Host::new();
    host.tree("tree", SMALL);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let ca_cert = host.path("ca.pem");
    std::fs::write(&ca_cert, authority.pem()).unwrap();
    // Go's server offers HTTP/2 to everybody who speaks TLS.
    for tls in [None, Some((certificate.pem(), key.serialize_pem()))] {
        let ca_cert = tls.is_some().then(|| ca_cert.clone());
        let registry = DockerRegistry::start_with(&Setup { tls, ..Setup::default() });
        let (network, name) = network(&registry, Gate::Meeting(4));
        let snapshot = run(FreezeOptions { ca_cert, ..options(&host, "tree", &name) }, watch::Sender::new(0)).await;
        assert!(snapshot.layers.len() >= 8 && network.arrived() >= 4, "{} connections", network.arrived());
    }
}

/// What a registry gets of `tree` while one upload hangs; the image is complete once it is let go.
async fn all_but_one(tree: &str, memory_bytes: u64) -> Snapshot {
    let host = Host::new();
    host.tree("tree", tree);
    let limited = |to: &str| FreezeOptions { memory_bytes, ..options(&host, "tree", to) };
    let layout = format!("oci:{}", host.text("layout"));
    let layers = run(limited(&layout), watch::Sender::new(0)).await.layers.len();
    assert!(layers >= 6);
    let registry = DockerRegistry::start();
    let (network, name) = network(&registry, Gate::Hanging);
    let (sent, mut arrivals) = watch::channel(0);
    let others = async {
        arrivals.wait_for(|sent| *sent == layers - 1).await.expect("the freeze to go on");
        assert!(network.arrived() >= 2);
        network.release();
    };
    let (snapshot, ()) = tokio::join!(run(limited(&name), sent), others);
    assert_eq!(snapshot.layers.len(), layers);
    host.verify(&name);
    snapshot
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_hangs_stops_no_other() {
    all_but_one(SMALL, 256 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_hangs_stops_no_other_with_layers_in_scratch() {
    let snapshot = all_but_one(LARGE, 96 << 20).await;
    assert!(snapshot.scratch_bytes_peak > 0);
}

/// More than memory holds, and when a short layer was sent, a long one has been on its way for longer than half a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_that_wait_for_a_slow_network_are_put_aside() {
    const MANY: &str = "for i in {1..18}; do head -c $((i % 2 ? 4000000 : 1500000)) /dev/urandom >$i; done";
    let host = Host::new();
    host.tree("tree", MANY);
    let registry = DockerRegistry::start();
    let shape = Shape { bytes_per_second: Some(4_000_000), ..Shape::default() };
    let network = Network::start(registry.address, shape).unwrap();
    let agent_rootfs = Some(sidecar::agent(&host.path(".")));
    let artifact = OutputSpec::Artifact(host.path("a.smolmachine"));
    // Stored as they are where there is no artifact: those that are kept there have to be zstd.
    for (tag, compression, artifact) in
        [("scratch", Compression::None, None), ("kept", Compression::Zstd, Some(artifact))]
    {
        let name = format!("{}/space/name:{tag}", network.address);
        let options = options(&host, "tree", &name);
        let options = FreezeOptions {
            memory_bytes: 96 << 20,
            compression: Some(compression),
            agent_rootfs: artifact.is_some().then(|| agent_rootfs.clone()).flatten(),
            outputs: options.outputs.iter().cloned().chain(artifact).collect(),
            ..options
        };
        let stop = Stop::new();
        let plan = Plan::make(options, &stop).await.unwrap();
        let aside = Arc::new(Aside::default());
        let snapshot = freeze(plan, aside.clone(), stop).await.unwrap();
        assert!(snapshot.layers.len() >= 18);
        assert!(aside.0.load(Ordering::Relaxed) > 0, "none was put aside");
        assert_eq!(snapshot.scratch_bytes_peak > 0, tag == "scratch", "{} of scratch", snapshot.scratch_bytes_peak);
        host.verify(&name);
    }
    sidecar::assert_whole(&host.path("a.smolmachine"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_on_the_bandwidth_is_planned_and_too_little_is_refused() {
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", SMALL).display());
    let registry = DockerRegistry::start();
    let name = format!("{}/space/name:tag", registry.address);
    let words = ["freeze", &*source, "--to", &name, "--bandwidth", "20MiB", "--dry-run"];
    let planned = host.command(&words).output().unwrap();
    assert!(String::from_utf8_lossy(&planned.stdout).contains("20 MiB a second"), "{planned:?}");
    host.refuses(2, "64KiB", &[&source, "--to", &name, "--bandwidth", "1000"]);
    let words = [&*source, "--to", &name, "--bandwidth", "1GiB", "--compression", "none"];
    host.freeze(&words);
    host.verify(&name);
}

/// Six minutes' worth of bytes: without the bound it would be complete before it is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_the_bandwidth() {
    let host = Host::new();
    host.tree("tree", LARGE);
    let registry = DockerRegistry::start();
    let (network, name) = network(&registry, Gate::Open);
    let stop = Stop::new();
    let bounded = FreezeOptions { bandwidth_bytes: Some(640 << 10), ..options(&host, "tree", &name) };
    let plan = Plan::make(bounded, &stop).await.unwrap();
    let interrupt = async {
        network.until_arrived(1).await;
        stop.interrupt();
    };
    let (frozen, ()) = tokio::join!(freeze(plan, Arc::new(Silent), stop.clone()), interrupt);
    let error = frozen.expect_err("an interruption");
    assert_eq!(error.kind(), Kind::Interrupted, "{error}");
    assert_eq!(registry.open_sessions("space/name"), 0, "{error}");
    assert!(tags(&registry, "space/name").is_empty());
}
