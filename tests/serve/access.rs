//! Who may do what, on which address, and how it ends.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use rustix::process::Signal;
use smolfreeze::serve::{ServeOptions, Server};
use smolfreeze::stop::Stop;

use crate::host::{Host, finish, one_line};
use crate::images::{digest, image};
use crate::served::Served;
use crate::wire::{ask, begin, finish as answer_of};

fn run(host: &Host, words: &[&str]) -> Output {
    finish(host.command(&[&["serve"], words].concat()).spawn().unwrap())
}

#[test]
fn read_only_means_that_nothing_is_written() {
    let host = Host::new();
    let image = image(1, &serde_json::json!({}));
    let pushed = Served::start(&host, "layout").push("a", Some("v1"), &image);
    let served = Served::with(&host, "layout", &["--read-only"]);
    let before = served.blobs();
    for (method, target) in [
        ("POST", "/v2/a/blobs/uploads/".to_owned()),
        ("POST", format!("/v2/a/blobs/uploads/?digest={}", digest(b"x"))),
        ("PATCH", "/v2/a/blobs/uploads/0".to_owned()),
        ("PUT", "/v2/a/manifests/v2".to_owned()),
        ("DELETE", "/v2/a/manifests/v1".to_owned()),
        ("DELETE", format!("/v2/a/blobs/{}", digest(&image.layer))),
    ] {
        assert_eq!(served.expect(405, method, &target, b"x").json()["errors"][0]["code"], "UNSUPPORTED", "{method}");
    }
    assert_eq!(digest(&served.expect(200, "GET", "/v2/a/manifests/v1", b"").body), pushed);
    assert_eq!(served.blobs(), before);
    let refused = one_line(&run(&host, &[&host.text("none"), "--listen", "127.0.0.1:0", "--read-only"]));
    assert!(refused.contains("none") && !host.path("none").exists(), "{refused}");
}

#[test]
fn a_page_on_the_web_gets_nothing() {
    let host = Host::new();
    let served = Served::with(&host, "layout", &["--host", "build.example"]);
    let with = |method: &str, headers: &[(&str, &str)]| served.ask(method, "/v2/a/blobs/uploads/", headers, b"").status;
    for name in ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", ""] {
        assert_eq!(with("POST", &[("Host", name)]), 403, "{name}");
        assert_eq!(served.ask("GET", "/v2/", &[("Host", name)], b"").status, 403, "{name}");
    }
    assert_eq!(with("POST", &[("Origin", "http://evil.example")]), 403);
    assert_eq!(served.ask("GET", "http://evil.example/v2/", &[], b"").status, 403);
    for name in ["localhost:5000", "127.0.0.1", "[::1]:5000", "192.0.2.1", "build.example"] {
        assert_eq!(with("POST", &[("Host", name)]), 202, "{name}");
    }
}

#[test]
fn only_another_address_than_loopback_is_warned_of() {
    let host = Host::new();
    for (listen, is_warned) in [("127.0.0.1:0", false), ("[::1]:0", false), ("0.0.0.0:0", true)] {
        let output = Served::with(&host, "layout", &["--listen", listen]).end(Signal::TERM);
        let said = String::from_utf8(output.stderr).unwrap();
        let is_one_line = said.contains("no TLS and no authentication") && said.matches('\n').count() == 1;
        assert_eq!((is_one_line, said.is_empty()), (is_warned, !is_warned), "{said}");
    }
}

#[test]
fn a_server_that_was_asked_to_stop_has_done_its_job() {
    let host = Host::new();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let served = Served::start(&host, "layout");
        let blob = digest(b"in two halves");
        let target = format!("/v2/a/blobs/uploads/?digest={blob}");
        let mut under_way = begin(served.address, "POST", &target, &[], 13);
        under_way.write_all(b"in two ").unwrap();
        // A second one never goes on.
        let mut stuck = begin(served.address, "POST", &target, &[], 1000);
        stuck.write_all(b"in two ").unwrap();
        crate::host::until("both are under way", || served.blobs().len() >= 2);
        let folder = served.folder.clone();
        let rest = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            under_way.write_all(b"halves").unwrap();
            answer_of(&mut under_way, "POST").status
        });
        let output = served.end(signal);
        assert_eq!((output.status.code(), rest.join().unwrap()), (Some(0), 201));
        assert_eq!(output.stderr, b"");
        assert_eq!(crate::host::names(&folder.join("blobs/sha256")), [blob.trim_start_matches("sha256:")]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn what_can_not_be_served_is_said_in_a_line() {
    let host = Host::new();
    host.tree("other", "echo x >file");
    host.tree("broken", "echo '{}' >oci-layout; echo '[' >index.json");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (other, broken, layout) = (host.text("other"), host.text("broken"), host.text("layout"));
    for (code, words, subject) in [
        (4, [&other, "--listen", "127.0.0.1:0"].as_slice(), "neither empty nor an OCI image layout"),
        (4, &[&broken, "--listen", "127.0.0.1:0"], "reading the index failed"),
        (2, &[&layout, "--listen", &address], "in use"),
        (2, &[&layout, "--listen", "nowhere"], "--listen HOST:PORT"),
        (2, &[&layout, "--listen", "127.0.0.1:0", "--repository", "A"], "no repository's name"),
    ] {
        let output = run(&host, words);
        let line = one_line(&output);
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert!(line.contains(subject), "'{subject}' is not in: {line}");
    }
    assert!(!Path::new(&layout).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_starts_and_stops_one_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ServeOptions { home: Some("x".into()), ..ServeOptions::default() };
    let server = Server::open(&folder.path().join("layout"), listener, options).unwrap();
    let (address, stop) = (server.address(), Stop::new());
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { server.run(&stop).await }
    });
    let blob = digest(b"a blob");
    let target = format!("/v2/x/blobs/uploads/?digest={blob}");
    let pushed = tokio::task::spawn_blocking(move || ask(address, "POST", &target, &[], b"a blob").status);
    assert_eq!(pushed.await.unwrap(), 201);
    stop.interrupt();
    running.await.unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
    assert!(folder.path().join("layout/blobs").join(blob.replace(':', "/")).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_and_the_next_one_waits() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ServeOptions { connections_max: 1, ..ServeOptions::default() };
    let server = Server::open(folder.path(), listener, options).unwrap();
    let (address, stop) = (server.address(), Stop::new());
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { server.run(&stop).await }
    });
    let statuses = tokio::task::spawn_blocking(move || {
        let target = format!("/v2/x/blobs/uploads/?digest={}", digest(b"a blob"));
        let mut first = begin(address, "POST", &target, &[], 6);
        let mut second = begin(address, "GET", "/v2/", &[], 0);
        second.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert_eq!(answer_of(&mut second, "GET").status, 0, "nobody has time for it yet");
        first.write_all(b"a blob").unwrap();
        let first = answer_of(&mut first, "POST").status;
        second.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        (first, answer_of(&mut second, "GET").status)
    });
    assert_eq!(statuses.await.unwrap(), (201, 200));
    stop.interrupt();
    running.await.unwrap();
}
