//! Faults, and what an upload makes of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::docker_registry::DockerRegistry;
use crate::support::layers::{Told, context, descriptor, image, layer, random_bytes};
use crate::support::proxy::{Fault, Habits, Location, Proxy, Rule, nth};
use smolfreeze::error::Kind;
use smolfreeze::oci::Descriptor;
use smolfreeze::pipeline::gather::{Body, Layer, LiveEnd, LiveLayer, LivePiece};
use smolfreeze::sink::Put;
use smolfreeze::sink::registry::{Patience, RegistryOptions, RegistryReader, RegistrySink};

const MIB: usize = 1 << 20;
const PART_BYTES: u64 = 1 << 20;

fn options() -> RegistryOptions {
    let patience = Patience { first_delay: Duration::from_millis(20), random: Arc::new(|| 0.5), ..Patience::default() };
    RegistryOptions { part_bytes: PART_BYTES, auth_files: Some(Vec::new()), patience, ..RegistryOptions::default() }
}

async fn connect(address: SocketAddr, options: RegistryOptions) -> (RegistrySink, Arc<Told>) {
    let (context, told) = context();
    let sink =
        RegistrySink::connect(&format!("{address}/space/name:tag"), options, context).await.expect("a connection");
    (sink, told)
}

/// Reads a blob back, past any proxy: all of it, and nothing else.
async fn read_back(registry: &DockerRegistry, wanted: &Descriptor) -> Vec<u8> {
    let name = format!("{}/space/name:tag", registry.address);
    let reader = RegistryReader::connect(&name, options(), context().0).await.expect("a connection");
    let mut blob = reader.blob(wanted);
    let mut bytes = Vec::new();
    while let Some(chunk) = blob.next().await.expect("the blob") {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(descriptor(&wanted.media_type, &bytes), *wanted);
    bytes
}

/// A script of faults, and what it may cost.
struct Case {
    name: &'static str,
    rules: Vec<Rule>,
    habits: Habits,
    retries: usize,
    /// How often the whole layer may be sent again.
    times_again: u64,
}

fn case(name: &'static str, rules: Vec<Rule>, retries: usize, times_again: u64) -> Case {
    Case { name, rules, habits: Habits::default(), retries, times_again }
}

/// To the first body, which is all of it.
fn too_large() -> Rule {
    nth("PUT", 1, Fault::Answer(413, "", "<html>"))
}

fn cases() -> Vec<Case> {
    let unknown = r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"no such upload"}]}"#;
    let habit = |name, habits| Case { habits, ..case(name, vec![], 0, 0) };
    vec![
        case("nothing", vec![], 0, 0),
        habit("relative Location", Habits { location: Location::Relative, ..Habits::default() }),
        habit("Location with more query", Habits { location: Location::MoreQuery, ..Habits::default() }),
        habit("slow", Habits { slowness: Some(Duration::from_millis(2)), ..Habits::default() }),
        // This registry's Location holds the offset it expects. When it got more than we know, it knows its own session
        // no more: what was sent is sent again, one layer at most, and nobody can cancel the old one.
        case("cut in mid-body", vec![nth("PUT", 1, Fault::CutInBody)], 1, 1),
        case("cut before the body is passed on", vec![nth("PUT", 1, Fault::CutBefore)], 1, 1),
        case("answer lost", vec![nth("PUT", 1, Fault::CutAnswer)], 1, 0),
        case("429 with Retry-After", vec![nth("PUT", 1, Fault::Answer(429, "Retry-After: 1\r\n", ""))], 1, 1),
        case("500", vec![nth("PUT", 1, Fault::Answer(500, "", "oops"))], 1, 1),
        case("502 twice", vec![Rule { method: "PUT", skip: 0, times: 2, fault: Fault::Answer(502, "", "") }], 2, 2),
        case(
            "500 to POST and HEAD and PUT",
            ["POST", "HEAD", "PUT"].map(|method| nth(method, 1, Fault::Answer(500, "", ""))).to_vec(),
            3,
            1,
        ),
        case("405 to HEAD", vec![nth("HEAD", 1, Fault::Answer(405, "", ""))], 0, 0),
        case("session forgotten", vec![nth("PUT", 1, Fault::Forget)], 1, 1),
        case("404 from elsewhere", vec![nth("PUT", 1, Fault::Answer(404, "", unknown))], 1, 1),
        case(
            "416 to everything for a while",
            vec![Rule { method: "PUT", skip: 0, times: 2, fault: Fault::Answer(416, "", "") }],
            2,
            2,
        ),
        case(
            "wrong digest once",
            vec![nth("PUT", 1, Fault::Answer(400, "", r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#))],
            1,
            1,
        ),
        case("stalled", vec![nth("PUT", 1, Fault::Stall)], 1, 1),
        case(
            "asking fails too",
            vec![nth("PUT", 1, Fault::CutBefore), nth("GET", 2, Fault::Answer(503, "", ""))],
            2,
            1,
        ),
        case(
            "a session can't be asked",
            vec![nth("PUT", 1, Fault::CutBefore), nth("GET", 2, Fault::Answer(405, "", ""))],
            1,
            1,
        ),
        case("too large, then parts", vec![too_large()], 0, 1),
        case("cut in mid-body of the second part", vec![too_large(), nth("PATCH", 2, Fault::CutInBody)], 1, 2),
        case("cut before the second part is passed on", vec![too_large(), nth("PATCH", 2, Fault::CutBefore)], 1, 2),
        case("answer to a part lost", vec![too_large(), nth("PATCH", 1, Fault::CutAnswer)], 1, 2),
        case("502 to a part", vec![too_large(), nth("PATCH", 1, Fault::Answer(502, "", ""))], 1, 2),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_ends_well() {
    let (registry, mut lost) = (DockerRegistry::start(), 0);
    for (index, case) in cases().into_iter().enumerate() {
        let proxy = Proxy::start(registry.address, case.habits, case.rules).await;
        let stall_timeout = Duration::from_millis(1500);
        let (sink, told) = connect(proxy.address, RegistryOptions { stall_timeout, ..options() }).await;
        let length = 3 * MIB + 500_000;
        let layer = layer(index, index as u64, length);
        let put = sink.put(&layer).await.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let sent = proxy.bytes("PATCH") + proxy.bytes("PUT");
        // What was announced, and not what was on its way when the connection ended.
        assert!((length as u64..=sent).contains(&put.bytes_sent()), "{}: {put:?} of {sent}", case.name);
        assert_eq!(told.bytes.load(Ordering::Relaxed), length as u64, "{}: progress", case.name);
        let again = sent - length as u64;
        assert!(again <= case.times_again * length as u64, "{}: {again} bytes again", case.name);
        let retries = told.retries.lock().unwrap().clone();
        assert_eq!(retries.len(), case.retries, "{}: {retries:?}", case.name);
        assert!(read_back(&registry, &layer.descriptor).await == layer.body.slice(0, u64::MAX).await.unwrap().concat());
        assert!(sink.has(&layer.descriptor).await.unwrap());
        assert_eq!(sink.put(&layer).await.unwrap(), Put::Present, "{}", case.name);
        sink.abort().await.unwrap();
        lost += usize::from(case.name.starts_with("cut in") || case.name.starts_with("answer to a part"));
        assert_eq!(registry.open_sessions("space/name"), lost, "{}: open sessions", case.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_fails_for_good_is_named_and_left_clean() {
    let registry = DockerRegistry::start();
    let rule = Rule { method: "PUT", skip: 0, times: usize::MAX, fault: Fault::Answer(502, "", "<html>") };
    let proxy = Proxy::start(registry.address, Habits::default(), vec![rule]).await;
    let (sink, told) = connect(proxy.address, options()).await;
    let error = sink.put(&layer(0, 1, 4 * MIB)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Sink);
    let words = error.to_string();
    assert!(
        words.contains(&proxy.address.to_string()) && words.contains("502") && words.contains("tried 9 times"),
        "{words}"
    );
    assert_eq!(told.bytes.load(Ordering::Relaxed), 4 << 20, "told once, however often it was sent");
    assert_eq!(registry.open_sessions("space/name"), 1);
    sink.abort().await.unwrap();
    assert_eq!(registry.open_sessions("space/name"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_an_upload_and_leaves_the_registry_clean() {
    let registry = DockerRegistry::start();
    let habits = Habits { slowness: Some(Duration::from_millis(20)), ..Habits::default() };
    let proxy = Proxy::start(registry.address, habits, vec![]).await;
    let (context, told) = context();
    let stop = context.stop.clone();
    let sink = RegistrySink::connect(&format!("{}/space/name:tag", proxy.address), options(), context).await.unwrap();
    let layer = layer(0, 1, 8 * MIB);
    let (outcome, ()) = tokio::join!(sink.put(&layer), async {
        while told.bytes.load(Ordering::Relaxed) < 2 * PART_BYTES {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.interrupt();
    });
    assert_eq!(outcome.unwrap_err().kind(), Kind::HungUp);
    sink.abort().await.unwrap();
    assert!(proxy.seen().iter().any(|seen| seen.method == "DELETE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_that_fails_says_so_in_time() {
    let registry = DockerRegistry::start();
    let bad = |method, fault| Rule { method, skip: 0, times: usize::MAX, fault };
    let rules = vec![bad("PUT", Fault::Answer(400, "", "")), bad("DELETE", Fault::Stall)];
    let proxy = Proxy::start(registry.address, Habits::default(), rules).await;
    let (sink, _) = connect(proxy.address, options()).await;
    sink.put(&layer(0, 1, 2 * MIB)).await.unwrap_err();
    let began = Instant::now();
    assert!(sink.abort().await.unwrap_err().to_string().contains(&proxy.address.to_string()));
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_exists_only_after_commit() {
    let registry = DockerRegistry::start();
    let (sink, _) = connect(registry.address, options()).await;
    let layers: Vec<Arc<Layer>> =
        [0, 5, 2 * MIB].into_iter().enumerate().map(|(at, length)| layer(at, 7, length)).collect();
    for layer in &layers {
        assert!(!sink.has(&layer.descriptor).await.unwrap());
        assert!(matches!(sink.put(layer).await.unwrap(), Put::Sent { .. }));
    }
    let image = image(&layers);

    let name = format!("{}/space/name:tag", registry.address);
    let reader = RegistryReader::connect(&name, options(), context().0).await.unwrap();
    assert!(reader.manifest().await.unwrap_err().to_string().contains("404"));
    let committed = sink.commit(&image).await.unwrap();
    assert_eq!((committed.name.as_str(), committed.digest), (name.as_str(), image.manifest.0.digest));
    assert_eq!(reader.manifest().await.unwrap(), image.manifest);
    let wrong = Descriptor { size: 6, ..layers[1].descriptor.clone() };
    assert!(reader.blob(&wrong).next().await.is_ok());
    let mut blob = reader.blob(&Descriptor { size: 4, ..wrong });
    assert_eq!(blob.next().await.unwrap_err().kind(), Kind::Corrupt);
}

/// Streams a layer of 5 MiB, of which the first half MiB is held, through a proxy.
async fn stream(proxy: &Proxy, seed: u64) -> (smolfreeze::error::Result<Descriptor>, Descriptor, u64) {
    let (sink, told) = connect(proxy.address, options()).await;
    let bytes = random_bytes(seed, 5 * MIB + 1);
    let whole = descriptor("application/vnd.oci.image.layer.v1.tar+zstd", &bytes);
    let (sender, tail) = tokio::sync::mpsc::channel(2);
    let head = Body::from_chunks(vec![bytes.slice(..MIB / 2)]);
    let layer = LiveLayer { index: 0, media_type: whole.media_type.clone(), workspace: false, head, tail };
    let diff_id = whole.digest.to_string().parse().expect("a diff_id");
    let end = LiveEnd { descriptor: whole.clone(), diff_id, tar_bytes: 0 };
    let feeder = tokio::spawn(async move {
        for from in (MIB / 2..bytes.len()).step_by(100_000) {
            let piece = bytes.slice(from..bytes.len().min(from + 100_000));
            if sender.send(LivePiece::Bytes(piece)).await.is_err() {
                return;
            }
        }
        let _ = sender.send(LivePiece::End(end)).await;
    });
    let outcome = sink.put_live(layer).await;
    feeder.await.expect("all pieces sent");
    sink.abort().await.expect("nothing left open");
    (outcome, whole, told.bytes.load(Ordering::Relaxed))
}

/// Parts are tried first, with two bytes: the first two of PATCH, and the first PUT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_layer_resumes_while_its_session_lives() {
    let registry = DockerRegistry::start();
    let harmless = [
        vec![],
        vec![nth("PATCH", 5, Fault::CutBefore)],
        vec![nth("PATCH", 5, Fault::Answer(502, "", "")), nth("PUT", 2, Fault::Answer(500, "", ""))],
        vec![nth("PATCH", 4, Fault::Answer(416, "", ""))],
        // The session is lost, and the blob is there.
        vec![nth("PUT", 2, Fault::CutAnswer)],
        // The session is lost, and nothing of the tail is gone yet.
        vec![nth("PATCH", 3, Fault::CutInBody)],
    ];
    let mut lost = 0;
    for (seed, rules) in harmless.into_iter().enumerate().map(|(seed, rules)| (seed as u64, rules)) {
        let words = format!("{rules:?}");
        lost += usize::from(words.contains("CutInBody"));
        let proxy = Proxy::start(registry.address, Habits::default(), rules).await;
        let (outcome, whole, progress) = stream(&proxy, seed).await;
        assert_eq!(outcome.unwrap_or_else(|error| panic!("{words}: {error}")), whole);
        assert_eq!(progress, whole.size, "{words}");
        assert_eq!(read_back(&registry, &whole).await.len() as u64, whole.size);
    }
    let proxy = Proxy::start(registry.address, Habits::default(), vec![nth("PATCH", 6, Fault::Forget)]).await;
    let (outcome, _, _) = stream(&proxy, 99).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), Kind::Sink);
    assert!(error.to_string().contains("--scratch"), "{error}");
    assert_eq!(registry.open_sessions("space/name"), lost);
}

/// Others take the last part for all of it, or no second one. They get one request, whose end is not known when it begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_layer_goes_at_once_where_parts_are_not_kept() {
    let registry = DockerRegistry::start();
    let refusals = [
        // It wants parts that are larger than an upload may hold.
        vec![],
        vec![nth("PATCH", 1, Fault::Answer(416, "", ""))],
        vec![nth("PATCH", 2, Fault::Answer(400, "", "you must use monolithic uploads"))],
        vec![nth("PUT", 1, Fault::Answer(400, "", r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#))],
    ];
    for (seed, rules) in refusals.into_iter().enumerate() {
        let words = format!("{rules:?}");
        let habits = Habits { part_bytes_min: rules.is_empty().then_some(1 << 30), ..Habits::default() };
        let proxy = Proxy::start(registry.address, habits, rules).await;
        let (outcome, whole, progress) = stream(&proxy, seed as u64).await;
        assert_eq!(outcome.unwrap_or_else(|error| panic!("{words}: {error}")), whole);
        assert_eq!(progress, whole.size, "{words}");
        assert_eq!(read_back(&registry, &whole).await.len() as u64, whole.size);
        let seen = proxy.seen();
        let streamed: Vec<_> = seen.iter().filter(|seen| seen.is_chunked()).collect();
        assert!(streamed.len() == 1 && streamed[0].header("content-range").is_none(), "{words}: {streamed:?}");
        assert_eq!(registry.open_sessions("space/name"), 0, "{words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_names_the_size_of_parts_gets_them() {
    let registry = DockerRegistry::start();
    let part_bytes_min = Some(PART_BYTES + 1);
    let proxy = Proxy::start(registry.address, Habits { part_bytes_min, ..Habits::default() }, vec![]).await;
    let (outcome, whole, _) = stream(&proxy, 1).await;
    assert_eq!(outcome.unwrap(), whole);
    let seen = proxy.seen();
    let ranges: Vec<_> = seen.iter().filter_map(|seen| seen.header("content-range")).collect();
    assert_eq!(ranges[..2], ["0-1048576", "1048577-2097153"]);
    assert!(seen.iter().all(|seen| seen.header("user-agent").unwrap().starts_with("smolfreeze/")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_do_not_wait_for_each_other() {
    let registry = DockerRegistry::start();
    let habits = Habits { slowness: Some(Duration::from_millis(10)), ..Habits::default() };
    let proxy = Proxy::start(registry.address, habits, vec![]).await;
    let (sink, _) = connect(proxy.address, options()).await;
    let began = Instant::now();
    for seed in 0..4 {
        sink.put(&layer(0, seed, 3 * MIB)).await.unwrap();
    }
    let one_by_one = began.elapsed();
    let began = Instant::now();
    let running: Vec<_> = (10..14)
        .map(|seed| {
            let sink = sink.clone();
            tokio::spawn(async move { sink.put(&layer(0, seed, 3 * MIB)).await.unwrap() })
        })
        .collect();
    for put in running {
        put.await.unwrap();
    }
    assert!(began.elapsed() < one_by_one / 2, "{:?} at once, {one_by_one:?} one by one", began.elapsed());
}

/// docker-registry that is killed while it names a blob leaves an empty link, and says 500 to every look at the blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_the_registry_cannot_look_at_is_sent_anew() {
    let registry = DockerRegistry::start();
    let layer = layer(0, 11, 3 * MIB);
    let (sink, _) = connect(registry.address, options()).await;
    sink.put(&layer).await.expect("to be sent");
    let digest = layer.descriptor.digest.to_string().replace(':', "/");
    std::fs::write(registry.repository("space/name").join("_layers").join(digest).join("link"), "").expect("a link");
    assert!(!sink.has(&layer.descriptor).await.expect("an answer"));
    assert!(matches!(sink.put(&layer).await.expect("to be sent"), Put::Sent { .. }));
    assert!(sink.has(&layer.descriptor).await.expect("an answer"));
    read_back(&registry, &layer.descriptor).await;
    assert_eq!(registry.open_sessions("space/name"), 0);
}
