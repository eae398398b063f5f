//! Uploads that are cut off, that meet, that are wrong, that are too many.

use std::io::Write as _;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use crate::host::{Host, Tmpfs, until};
use crate::images::{digest, image};
use crate::served::Served;
use crate::support::layers::random_bytes;
use crate::support::proxy::{Fault, Habits, Proxy, nth};
use crate::wire::{begin, finish};

#[test]
fn what_arrived_before_a_cut_is_kept() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let blob = random_bytes(1, 5_000_000);
    let session = served.expect(202, "POST", "/v2/a/blobs/uploads/", b"").location();
    served.expect(202, "PATCH", &session, &blob[..1_000_000]);
    // Two cuts: one that the server sees as an end, one as an error.
    for (from, to) in [(1_000_000, 2_500_001), (2_500_001, 2_600_000)] {
        let range = format!("{from}-4999999");
        let mut stream = begin(served.address, "PATCH", &session, &[("Content-Range", &range)], 5_000_000 - from);
        stream.write_all(&blob[from..to]).unwrap();
        let expected = format!("0-{}", to - 1);
        stream.shutdown(Shutdown::Both).unwrap();
        drop(stream);
        until("all that arrived is there", || {
            served.expect(204, "GET", &session, b"").header("range") == Some(&expected)
        });
    }
    let target = format!("{session}?digest={}", digest(&blob));
    // The last part is cut as well; it is no reason to lose the session.
    let mut stream = begin(served.address, "PUT", &target, &[], 2_400_000);
    stream.write_all(&blob[2_600_000..3_000_000]).unwrap();
    drop(stream);
    until("the last part is there", || served.expect(204, "GET", &session, b"").header("range") == Some("0-2999999"));
    served.expect(201, "PUT", &target, &blob[3_000_000..]);
    assert_eq!(served.expect(200, "GET", &format!("/v2/a/blobs/{}", digest(&blob)), b"").body, blob);
    served.expect(404, "GET", &session, b"");
    served.assert_nothing_left();
}

#[test]
fn a_session_takes_one_request_at_a_time() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let blob = random_bytes(1, 3_000_000);
    let session = served.expect(202, "POST", "/v2/a/blobs/uploads/", b"").location();
    let mut first = begin(served.address, "PATCH", &session, &[], blob.len());
    first.write_all(&blob[..2_000_000]).unwrap();
    until("the first has it", || served.expect(204, "GET", &session, b"").header("range") != Some("0-0"));
    let answer = served.expect(416, "PATCH", &session, b"more");
    assert_eq!((answer.header("retry-after"), answer.header("range")), (Some("1"), None));
    served.expect(416, "PUT", &format!("{session}?digest={}", digest(b"more")), b"more");
    first.write_all(&blob[2_000_000..]).unwrap();
    assert_eq!(finish(&mut first, "PATCH").header("range"), Some("0-2999999"));
    served.expect(201, "PUT", &format!("{session}?digest={}", digest(&blob)), b"");
    served.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_repositories_get_a_layer_once() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let proxy = Proxy::start(served.address, Habits::default(), vec![]).await;
    let source = format!("dir:{}", host.tree("tree", "head -c 6000000 /dev/urandom >file").display());
    let [one, other] = ["a", "b"].map(|repository| format!("{}/{repository}:tag", proxy.address));
    let snapshot = host.freeze(&[&source, "--to", &one, "--to", &other]);
    assert!(proxy.bytes("PUT") < snapshot.stored_bytes + 50_000, "{} bytes", proxy.bytes("PUT"));
    host.verify(&one);
    host.verify(&other);
}

/// The connection that broke is still open on the server's side. A live layer can't begin anew, so the freeze has to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_waits_for_a_request_of_its_own_that_the_server_still_has() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let fault = Fault::CutUnseen(Duration::from_secs(9));
    let proxy = Proxy::start(served.address, Habits::default(), vec![nth("PATCH", 6, fault)]).await;
    let source = format!("dir:{}", host.tree("tree", "head -c 60000000 /dev/urandom >file").display());
    let name = format!("{}/a:live", proxy.address);
    let live = ["--layer-size", "0", "--memory", "96MiB", "--scratch", "0", "--compression", "none"];
    host.freeze(&[&[&*source, "--to", &name], &live[..]].concat());
    host.verify(&name);
    served.assert_nothing_left();
}

#[test]
fn another_repository_has_other_sessions() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let session = served.expect(202, "POST", "/v2/a/blobs/uploads/", b"").location();
    let elsewhere = session.replace("/v2/a/", "/v2/b/");
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        assert_eq!(
            served.ask(method, &format!("{elsewhere}?digest={}", digest(b"")), &[], b"").status,
            404,
            "{method}"
        );
    }
    served.expect(204, "DELETE", &session, b"");
    served.assert_nothing_left();
}

#[test]
fn nothing_of_a_wrong_upload_is_kept() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let (wrong, right) = (digest(b"something else"), random_bytes(1, 3_000_000));
    let session = served.expect(202, "POST", "/v2/a/blobs/uploads/", b"").location();
    served.expect(202, "PATCH", &session, &right);
    served.expect(400, "PUT", &format!("{session}?digest={wrong}"), b"");
    served.expect(404, "GET", &session, b"");
    served.expect(400, "POST", &format!("/v2/a/blobs/uploads/?digest={wrong}"), &right);
    let mut stream = begin(served.address, "POST", &format!("/v2/a/blobs/uploads/?digest={wrong}"), &[], 4_000_000);
    stream.write_all(&right).unwrap();
    drop(stream);
    until("its file is gone", || served.blobs().is_empty());
}

#[test]
fn a_digest_of_none_is_no_reason_to_lose_an_upload() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let session = served.expect(202, "POST", "/v2/a/blobs/uploads/", b"").location();
    served.expect(202, "PATCH", &session, b"bytes");
    for bad in ["", "?digest=", "?digest=sha256:12", &format!("?digest=sha512:{}", "a".repeat(128))] {
        let answer = served.expect(400, "PUT", &format!("{session}{bad}"), b"");
        assert_eq!(answer.json()["errors"][0]["code"], "DIGEST_INVALID", "{bad}");
    }
    let encoded = digest(b"bytes").replace(':', "%3A");
    served.expect(201, "PUT", &format!("{session}?digest={encoded}"), b"");
    served.expect(200, "HEAD", &format!("/v2/a/blobs/{encoded}"), b"");
}

#[test]
fn sessions_are_bounded() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let open = || served.ask("POST", "/v2/a/blobs/uploads/", &[], b"");
    let sessions: Vec<_> = std::iter::from_fn(|| Some(open())).take_while(|answer| answer.status == 202).collect();
    assert_eq!(sessions.len(), 256);
    assert_eq!(open().json()["errors"][0]["code"], "TOOMANYREQUESTS");
    assert_eq!(open().status, 429);
    served.expect(204, "DELETE", &sessions[7].location(), b"");
    assert_eq!(open().status, 202);
    assert_eq!(served.blobs().len(), 256);
}

#[test]
fn images_pushed_at_once_are_all_there() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    thread::scope(|scope| {
        for pusher in 0..8 {
            let served = &served;
            scope.spawn(move || {
                for round in 0..5 {
                    let image = image(pusher % 4, &serde_json::json!({}));
                    served.push(&format!("team/{}", pusher / 4), Some(&format!("v{pusher}-{round}")), &image);
                }
            });
        }
    });
    for (repository, tag) in [("team/0", "v0-0"), ("team/1", "v4-4")] {
        let tags = served.expect(200, "GET", &format!("/v2/{repository}/tags/list"), b"").json();
        assert_eq!(tags["tags"].as_array().unwrap().len(), 20, "{tags}");
        let manifest = served.expect(200, "GET", &format!("/v2/{repository}/manifests/{tag}"), b"").body;
        assert_eq!(manifest, image(0, &serde_json::json!({})).manifest);
    }
    served.assert_nothing_left();
}

#[test]
fn a_full_disk_is_said_and_leaves_room_for_less() {
    let host = Host::new();
    std::fs::create_dir(host.path("disk")).unwrap();
    let _disk = Tmpfs::mount(&host.path("disk"), "4m");
    let served = Served::start(&host, "disk/layout");
    let (large, small) = (random_bytes(1, 6_000_000), random_bytes(2, 2_000_000));
    let answer = served.expect(507, "POST", &format!("/v2/a/blobs/uploads/?digest={}", digest(&large)), &large);
    assert!(answer.text().contains("No space left"), "{}", answer.text());
    until("what did not fit is gone", || served.blobs().is_empty());
    let session = served.expect(202, "POST", "/v2/a/blobs/uploads/", b"").location();
    served.expect(202, "PATCH", &session, &small);
    served.expect(507, "PATCH", &session, &large);
    // What fitted counts; how much that was, the session knows.
    let range = served.expect(204, "GET", &session, b"").header("range").unwrap().to_owned();
    assert!(range.trim_start_matches("0-").parse::<usize>().unwrap() >= small.len() - 1, "{range}");
    served.expect(204, "DELETE", &session, b"");
    served.push_blob("a", &small);
    served.assert_nothing_left();
    // One line: it is not tried again.
    let source = format!("dir:{}", host.tree("tree", "head -c 6000000 /dev/urandom >file").display());
    let line = host.refuses(4, "507", &[&source, "--to", &format!("{}/a:full", served.address)]);
    assert!(line.contains("the registry's own disk is full"), "{line}");
    served.end(rustix::process::Signal::TERM);
}

#[test]
fn memory_does_not_grow_with_what_is_pushed_and_pulled() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let blobs: Vec<_> = (0..4).map(|seed| random_bytes(seed, 60_000_000)).collect();
    thread::scope(|scope| {
        for blob in &blobs {
            let served = &served;
            scope.spawn(move || {
                let pushed = served.push_blob("a", blob);
                let mut slow = begin(served.address, "GET", &format!("/v2/a/blobs/{pushed}"), &[], 0);
                assert_eq!(served.expect(200, "GET", &format!("/v2/a/blobs/{pushed}"), b"").body, *blob);
                assert_eq!(finish(&mut slow, "GET").body, *blob);
            });
        }
    });
    let peak = served.memory_bytes_peak();
    assert!(peak < 100 << 20, "{peak} bytes for 240 MB");
}
