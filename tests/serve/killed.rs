//! The server is killed in the middle of pushes. What it acknowledged is there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::json;
use smolfreeze::oci::CONFIG_MEDIA_TYPE;

use crate::host::{Host, until};
use crate::images::digest;
use crate::served::Served;
use crate::support::layers::{descriptor, random_bytes};
use crate::wire::ask;

const MOMENTS: u64 = 12;
const PUSHERS: u64 = 3;
/// Where a tag is that was never moved.
const NOWHERE: &str = "nowhere";

/// What was acknowledged: targets, and the digests of what has to be there.
#[derive(Default)]
struct Acknowledged {
    there: Mutex<BTreeMap<String, String>>,
    /// What the tag that moves may be, by pusher: what it was moved to last, and what it was to be moved to.
    moving: Mutex<BTreeMap<u64, Vec<String>>>,
    count: AtomicU64,
}

impl Acknowledged {
    fn note(&self, target: String, digest: String) {
        self.there.lock().unwrap_or_else(PoisonError::into_inner).insert(target, digest);
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    fn moves(&self, pusher: u64, change: impl FnOnce(&mut Vec<String>)) {
        change(
            self.moving
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(pusher)
                .or_insert_with(|| vec![NOWHERE.to_owned()]),
        );
    }
}

/// Pushes one image after the other, until an answer fails to come.
fn push_on(served: &Served, pusher: u64, first: u64, done: &Acknowledged) {
    let repository = format!("team/{pusher}");
    let status = |method: &str, target: &str, body: &[u8]| ask(served.address, method, target, &[], body).status;
    for round in 0.. {
        let seed = first + round * PUSHERS + pusher;
        let layer = random_bytes(seed, 200_000 + usize::try_from(seed % 100).unwrap() * 10_000);
        let config = Bytes::from(json!({"architecture": "amd64", "os": "linux", "seed": seed}).to_string());
        for blob in [&layer, &config] {
            let digest = digest(blob);
            if status("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), blob) != 201 {
                return;
            }
            done.note(format!("/v2/{repository}/blobs/{digest}"), digest);
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor(CONFIG_MEDIA_TYPE, &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string();
        let digest = digest(manifest.as_bytes());
        if status("PUT", &format!("/v2/{repository}/manifests/v{seed}"), manifest.as_bytes()) != 201 {
            return;
        }
        done.note(format!("/v2/{repository}/manifests/v{seed}"), digest.clone());
        done.note(format!("/v2/{repository}/manifests/{digest}"), digest.clone());
        done.moves(pusher, |may_be| may_be.push(digest.clone()));
        if status("PUT", &format!("/v2/{repository}/manifests/moving"), manifest.as_bytes()) != 201 {
            return;
        }
        done.moves(pusher, |may_be| *may_be = vec![digest.clone()]);
    }
}

#[test]
fn nothing_that_was_acknowledged_is_lost() {
    let host = Host::new();
    let done = Acknowledged::default();
    for moment in 0..MOMENTS {
        let served = Served::start(&host, "layout");
        served.assert_nothing_left();
        let before = done.count.load(Ordering::SeqCst);
        let killed = AtomicBool::new(false);
        thread::scope(|scope| {
            for pusher in 0..PUSHERS {
                let (served, done, killed) = (&served, &done, &killed);
                scope.spawn(move || {
                    push_on(served, pusher, moment * 10_000, done);
                    assert!(killed.load(Ordering::SeqCst), "a push failed before the server was killed");
                });
            }
            until("some of it is acknowledged", || done.count.load(Ordering::SeqCst) >= before + moment * 3);
            thread::sleep(Duration::from_micros(fastrand::u64(..20_000)));
            killed.store(true, Ordering::SeqCst);
            served.kill(Signal::KILL);
        });
        drop(served);
        check(&host, &done);
    }
    assert!(done.count.load(Ordering::SeqCst) > 100, "too little was pushed to mean anything");
}

fn check(host: &Host, done: &Acknowledged) {
    let served = Served::start(host, "layout");
    served.assert_nothing_left();
    for (target, wanted) in done.there.lock().unwrap().iter() {
        let answer = served.expect(200, "GET", target, b"");
        assert_eq!(digest(&answer.body), *wanted, "{target}");
    }
    for (pusher, may_be) in done.moving.lock().unwrap().iter() {
        let answer = served.ask("GET", &format!("/v2/team/{pusher}/manifests/moving"), &[], b"");
        let is = if answer.status == 404 { NOWHERE.to_owned() } else { digest(&answer.body) };
        assert!(may_be.contains(&is), "team/{pusher}:moving is {}", answer.text());
    }
}
