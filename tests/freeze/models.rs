//! Models of what registries are reported to do: each gets the same 60 MB, whole and with bodies that are cut, in layers whose
//! digests are known and in one that is sent while it is made. What it has then is compared, and read back.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::host::Host;
use crate::support::model::{Habits, Model, Parts, Told, Torn};

const MIB: u64 = 1 << 20;
/// Models side by side.
const AT_ONCE: usize = 4;
const TREE: &str = "for i in {1..4}; do head -c 15000000 /dev/urandom >$i; done";
/// Layers whose digests are known before they are sent.
const GATHERED: &[&str] = &["--layer-size", "8MiB"];
/// One layer that neither memory nor scratch holds.
const LIVE: &[&str] = &["--layer-size", "0", "--memory", "96MiB", "--scratch", "0"];
/// A live layer's end where its bytes can't be sent again.
const GONE: &str = "--scratch";

/// How a registry takes a layer that is sent while it is made.
#[derive(Clone, Copy)]
enum Live {
    /// In parts; a cut costs one of them.
    InParts,
    /// In parts, and a cut ends the session.
    InPartsUntilCut,
    /// In one body, whose beginning is gone when it is cut.
    AtOnce,
    /// Not at all, which the error says with these words.
    Refused(&'static str),
}

struct Row {
    name: &'static str,
    habits: Habits,
    live: Live,
}

fn row(name: &'static str, live: Live, habits: Habits) -> Row {
    Row { name, habits, live }
}

fn rows() -> Vec<Row> {
    let usual = Habits::default;
    let atomic = || Habits { torn: Torn::Dropped, ..usual() };
    let whole = |parts| Habits { parts, ..usual() };
    let silent = Habits { is_located: false, is_numbered: false, told: Told::Nothing, finish_status: 202, ..atomic() };
    let words = "takes layers only whole";
    vec![
        row("the specification", Live::InParts, usual()),
        row("Amazon ECR", Live::InParts, Habits { patch_status: 201, told: Told::FirstPart, ..atomic() }),
        row("Alibaba ACR", Live::InParts, Habits { told: Told::LastPart, ..atomic() }),
        row(
            "no GET of a session, no HEAD",
            Live::InParts,
            Habits { status_refused: Some(405), head_refused: Some(405), ..atomic() },
        ),
        row("no Range, Location or UUID, and 202 to PUT", Live::InParts, silent),
        row("parts of 10 MiB and more", Live::InParts, Habits { part_bytes_min: Some(10 * MIB), ..usual() }),
        row("307", Live::InParts, Habits { passed_on: Some(307), ..usual() }),
        row("308", Live::InParts, Habits { passed_on: Some(308), ..usual() }),
        row("bodies of 1 MiB", Live::InParts, Habits { body_bytes_max: MIB, ..usual() }),
        row("bodies of 8 MB", Live::InParts, Habits { body_bytes_max: 8_000_000, ..usual() }),
        row("docker-registry 2.8", Live::InPartsUntilCut, Habits { torn: Torn::EndsSession, ..usual() }),
        row("blobs are known late", Live::InParts, Habits { lag: Duration::from_secs(2), ..usual() }),
        row("GHCR", Live::AtOnce, Habits { ranged_bytes_max: 4 * MIB, ..whole(Parts::Replacing) }),
        row("JFrog", Live::AtOnce, whole(Parts::Replacing)),
        row("Google's", Live::AtOnce, whole(Parts::Single)),
        row("no PATCH (400)", Live::Refused(words), whole(Parts::Refused(400))),
        // As if the session were lost.
        row("no PATCH (404)", Live::Refused(GONE), whole(Parts::Refused(404))),
        row("no PATCH (405)", Live::Refused(words), whole(Parts::Refused(405))),
    ]
}

/// What a freeze writes into a layout, which every model has to have, too.
fn layers_of(host: &Host, source: &str, layout: &str, words: &[&str]) -> Value {
    let to = format!("oci:{}", host.text(layout));
    let snapshot = host.freeze(&[&[source, "--to", &to, "--compression", "none"], words].concat());
    let digest = snapshot.outputs[0].digest.to_string();
    let path = host.path(layout).join("blobs").join(digest.replace(':', "/"));
    let manifest: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    manifest["layers"].clone()
}

/// What is frozen, how, and the layers that come of it.
struct Case<'a> {
    source: &'a str,
    words: &'a [&'a str],
    wanted: Value,
}

/// One freeze to a model of its own; `failure` are words of its error, if it has to be one.
fn push(row: &Row, case: &Case, cut: &'static [usize], failure: Option<&str>) {
    let Case { source, words, wanted } = case;
    let name = format!("{}, {words:?}, cut {cut:?}", row.name);
    let model = Model::start(Habits { cut, ..row.habits.clone() });
    let host = host_of(&model);
    let to = format!("{}/space/name:tag", model.address);
    let words = [&[*source, "--to", &to, "--compression", "none"], *words].concat();
    if let Some(failure) = failure {
        host.refuses(4, failure, &words);
        assert!(model.manifest("space/name", "tag").is_none(), "{name}");
    } else {
        host.freeze(&words);
        let manifest = model.manifest("space/name", "tag").expect("a manifest");
        assert_eq!(manifest["layers"], *wanted, "{name}");
        host.verify(&to);
        let largest = wanted.as_array().unwrap().iter().filter_map(|layer| layer["size"].as_u64()).max().unwrap();
        let again = model.body_bytes() - model.blob_bytes();
        // Whether it keeps parts was tried with two bytes.
        let allowed = largest * model.cuts() as u64 + 2;
        assert!(again <= allowed, "{name}: {again} bytes again, after {} cuts: {:#?}", model.cuts(), model.requests());
    }
    assert_eq!(model.open_sessions(), 0, "{name}: {:#?}", model.requests());
    assert!(!model.is_leaked(), "{name}: credentials went to another host");
}

/// With a password for the front end that some models have.
fn host_of(model: &Model) -> Host {
    let host = Host::new();
    let docker = host.path("home/.docker");
    std::fs::create_dir_all(&docker).unwrap();
    let file = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNzd29yZA=="}}}}}}"#, model.address);
    std::fs::write(docker.join("config.json"), file).unwrap();
    host
}

/// Some rows at a time; those that fail are named.
fn each(rows: Vec<Row>, check: impl Fn(&Row) + Sync) {
    let (rows, failed) = (Mutex::new(VecDeque::from(rows)), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = rows.lock().unwrap().pop_front();
                    let Some(row) = next else { return };
                    if catch_unwind(AssertUnwindSafe(|| check(&row))).is_err() {
                        failed.lock().unwrap().push(row.name);
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner().unwrap(), Vec::<&str>::new());
}

#[test]
fn every_registry_takes_layers_whose_digests_are_known() {
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", TREE).display());
    let case = Case { source: &source, words: GATHERED, wanted: layers_of(&host, &source, "layout", GATHERED) };
    assert!(case.wanted.as_array().unwrap().len() >= 4);
    each(rows(), |row| {
        push(row, &case, &[], None);
        push(row, &case, &[1, 3], None);
    });
}

/// A content network in front takes bodies of 100 MB.
#[test]
fn a_layer_that_is_too_large_for_one_body_goes_in_two() {
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", "truncate -s 110000000 zeros").display());
    let case = Case { source: &source, words: &[], wanted: layers_of(&host, &source, "layout", &[]) };
    let row = row("bodies of 100 MB", Live::InParts, Habits { body_bytes_max: 100_000_000, ..Habits::default() });
    push(&row, &case, &[], None);
    push(&row, &case, &[2], None);
}

#[test]
fn a_registry_that_refuses_zstd_says_so_at_the_manifest() {
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", "head -c 9000000 /dev/urandom >file").display());
    let model = Model::start(Habits { refuses_zstd: true, ..Habits::default() });
    let to = format!("{}/space/name:tag", model.address);
    host.refuses(4, "--compression gzip", &[&source, "--to", &to]);
    assert!(model.manifest("space/name", "tag").is_none());
    host.freeze(&[&source, "--to", &to, "--compression", "gzip"]);
    host.verify(&to);
}

/// Nothing is tried again: what it says is of its disk, not of the network.
#[test]
fn a_registry_without_room_ends_the_freeze() {
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", TREE).display());
    let model = Model::start(Habits { room: 10_000_000, ..Habits::default() });
    let to = format!("{}/space/name:tag", model.address);
    let line = host.refuses(4, "507", &[&[&*source, "--to", &to, "--compression", "none"], GATHERED].concat());
    assert!(line.contains("the registry's own disk is full"), "{line}");
    assert_eq!(model.open_sessions(), 0);
}

#[test]
fn every_registry_takes_a_live_layer_or_says_what_helps() {
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", TREE).display());
    // The same layer, made in another way.
    let wanted = layers_of(&host, &source, "layout", &["--layer-size", "0"]);
    assert_eq!(wanted.as_array().unwrap().len(), 1);
    let case = Case { source: &source, words: LIVE, wanted };
    each(rows(), |row| {
        let live = |cut, failure| push(row, &case, cut, failure);
        match row.live {
            Live::InParts => (live(&[], None), live(&[4], None)),
            Live::InPartsUntilCut => (live(&[], None), live(&[4], Some(GONE))),
            Live::AtOnce => (live(&[], None), live(&[1], Some(GONE))),
            Live::Refused(words) => (live(&[], Some(words)), ()),
        };
    });
}
