//! The folder as others see it: what they wrote is served, and what was pushed they can read.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::host::{Host, names};
use crate::images::{INDEX_MEDIA_TYPE, digest, image, named};
use crate::served::{Served, client};

fn tags(served: &Served, repository: &str) -> Value {
    served.expect(200, "GET", &format!("/v2/{repository}/tags/list"), b"").json()["tags"].clone()
}

#[test]
fn images_with_a_plain_tag_are_in_the_home_repository() {
    let host = Host::new();
    let tree = host.tree("tree", "echo hello >file").display().to_string();
    host.freeze(&[&format!("dir:{tree}"), "--to", &format!("oci:{}:v1", host.text("images"))]);
    client(&host.path(""), "skopeo copy --quiet oci:images:v1 oci:images:team/app:v2");

    let served = Served::start(&host, "images");
    assert_eq!(tags(&served, "images"), json!(["v1"]));
    assert_eq!(tags(&served, "team/app"), json!(["v2"]));
    host.verify(&format!("{}/images:v1", served.address));
    host.verify(&format!("{}/team/app:v2", served.address));

    // A tag that is pushed anew is one tag still, whoever wrote it first.
    let pushed = served.push("images", Some("v1"), &image(1, &json!({})));
    assert_eq!(tags(&served, "images"), json!(["v1"]));
    host.freeze(&[&format!("dir:{tree}"), "--to", &format!("oci:{}:v1", host.text("images"))]);
    assert_eq!(tags(&served, "images"), json!(["v1"]));
    assert_ne!(digest(&served.expect(200, "GET", "/v2/images/manifests/v1", b"").body), pushed);
    drop(served);

    let served = Served::with(&host, "images", &["--repository", "elsewhere/x"]);
    assert!(tags(&served, "elsewhere/x").as_array().unwrap().contains(&json!("v1")));
}

#[test]
fn a_folder_whose_name_is_no_repositorys_is_called_layout() {
    let host = Host::new();
    let tree = host.tree("tree", "echo hello >file").display().to_string();
    host.freeze(&[&format!("dir:{tree}"), "--to", &format!("oci:{}", host.text("My Images"))]);
    let served = Served::start(&host, "My Images");
    assert_eq!(tags(&served, "layout"), json!(["latest"]));
}

#[test]
fn what_was_pushed_is_read_from_the_folder() {
    let host = Host::new();
    let tree = host.tree("tree", "echo hello >file; ln -s file link").display().to_string();
    let served = Served::start(&host, "layout");
    let to = format!("{}/team/app:v1", served.address);
    let first = host.freeze(&[&format!("dir:{tree}"), "--to", &to, "--compression", "gzip"]);
    let again = host.freeze(&[&format!("dir:{tree}"), "--to", &to, "--compression", "gzip"]);
    assert!(first.sent_bytes > 0 && again.layers_packed == 0 && again.sent_bytes == 0, "{again:?}");
    host.verify(&to);
    for words in [["inspect", &to], ["inspect", "oci:layout:team/app:v1"], ["verify", "oci:layout:team/app:v1"]] {
        let mut command = host.command(&words);
        let output = crate::host::finish(command.current_dir(host.path("")).spawn().unwrap());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    client(&host.path(""), "skopeo copy --quiet oci:layout:team/app:v1 oci:copy:x");
    client(
        &host.path(""),
        "umoci unpack --rootless --image copy:x bundle && test \"$(cat bundle/rootfs/file)\" = hello",
    );
}

#[test]
fn everything_is_found_again_after_a_restart() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let (tagged, bare, old) = (image(1, &json!({})), image(2, &json!({})), image(3, &json!({})));
    let old = served.push("team/app", Some("v1"), &old);
    let tagged = served.push("team/app", Some("v1"), &tagged);
    let bare = served.push("team/app", None, &bare);
    let session = served.expect(202, "POST", "/v2/team/app/blobs/uploads/", b"").location();
    served.expect(202, "PATCH", &session, b"some bytes");
    drop(served);
    assert_eq!(names(&host.path("layout/blobs/sha256")).iter().filter(|name| name.starts_with('.')).count(), 1);

    let served = Served::start(&host, "layout");
    served.assert_nothing_left();
    served.expect(404, "GET", &session, b"");
    for (reference, wanted) in [("v1", &tagged), (&*tagged, &tagged), (&*bare, &bare), (&*old, &old)] {
        let found = served.expect(200, "GET", &format!("/v2/team/app/manifests/{reference}"), b"");
        assert_eq!(digest(&found.body), *wanted);
        served.expect(404, "GET", &format!("/v2/other/manifests/{wanted}"), b"");
    }
}

#[test]
fn an_index_of_others_gives_its_manifests() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let image = image(1, &json!({}));
    let manifest = served.push("a", None, &image);
    let index =
        json!({"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": [named(&image.manifest)]}).to_string();
    served.expect(201, "PUT", "/v2/a/manifests/all", index.as_bytes());
    // As skopeo writes it: the index.json has the index alone.
    let path = host.path("layout/index.json");
    let mut entries: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    entries["manifests"].as_array_mut().unwrap().retain(|entry| entry["digest"] == digest(index.as_bytes()).as_str());
    fs::write(&path, entries.to_string()).unwrap();
    served.expect(200, "GET", &format!("/v2/a/manifests/{manifest}"), b"");
    served.expect(409, "DELETE", &format!("/v2/a/blobs/{}", digest(&image.layer)), b"");
    served.expect(202, "DELETE", &format!("/v2/a/manifests/{}", digest(index.as_bytes())), b"");
    served.expect(404, "GET", &format!("/v2/a/manifests/{manifest}"), b"");
}

#[test]
fn a_freeze_into_a_folder_that_is_served() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let session = served.expect(202, "POST", "/v2/a/blobs/uploads/", b"").location();
    served.expect(202, "PATCH", &session, b"some bytes");
    let tree = host.tree("tree", "echo hello >file").display().to_string();
    // It must not take the server's open session for a leftover.
    host.freeze(&[&format!("dir:{tree}"), "--to", &format!("oci:{}:frozen", host.text("layout"))]);
    served.expect(201, "PUT", &format!("{session}?digest={}", digest(b"some bytes")), b"");
    host.verify(&format!("{}/layout:frozen", served.address));
    assert_eq!(served.end(Signal::TERM).status.code(), Some(0));
}

#[test]
fn a_blob_that_somebody_may_count_on_is_not_deleted() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let blob = served.push_blob("a", b"a blob");
    let second = Served::start(&host, "layout");
    served.expect(409, "DELETE", &format!("/v2/a/blobs/{blob}"), b"");
    drop(second);
    served.expect(202, "DELETE", &format!("/v2/a/blobs/{blob}"), b"");
    served.expect(404, "DELETE", &format!("/v2/a/blobs/{blob}"), b"");
}

#[test]
fn a_manifest_that_rotted_is_not_served() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let pushed = served.push("a", Some("v1"), &image(1, &json!({})));
    fs::write(host.path("layout/blobs").join(pushed.replace(':', "/")), "{}").unwrap();
    let answer = served.expect(404, "GET", "/v2/a/manifests/v1", b"");
    assert!(answer.text().contains(&pushed) && answer.text().contains("whose bytes are others"), "{}", answer.text());
    // Whoever has it makes it good.
    assert_eq!(served.push("a", Some("v1"), &image(1, &json!({}))), pushed);
    served.expect(200, "GET", "/v2/a/manifests/v1", b"");
}

#[test]
fn a_blob_that_rotted_is_sent_again_and_never_served() {
    let host = Host::new();
    let tree = host.tree("tree", "head -c 300000 /dev/urandom >file").display().to_string();
    let served = Served::start(&host, "layout");
    let to = format!("{}/a:v1", served.address);
    let freeze = || host.freeze(&[&format!("dir:{tree}"), "--to", &to]);
    freeze();
    let manifest = served.expect(200, "GET", "/v2/a/manifests/v1", b"").json();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let path = host.path("layout/blobs").join(layer.replace(':', "/"));
    let good = fs::read(&path).unwrap();
    for at in [0, good.len() - 1] {
        let mut rotten = good.clone();
        rotten[at] ^= 1;
        fs::write(&path, rotten).unwrap();
        for method in ["HEAD", "GET"] {
            served.expect(404, method, &format!("/v2/a/blobs/{layer}"), b"");
        }
        let put = served.expect(400, "PUT", "/v2/a/manifests/v2", manifest.to_string().as_bytes());
        assert!(put.text().contains("MANIFEST_BLOB_UNKNOWN"), "{}", put.text());
        assert!(freeze().sent_bytes >= good.len() as u64);
        assert!(fs::read(&path).unwrap() == good);
        host.verify(&to);
    }
}

#[test]
fn a_blob_that_rotted_makes_no_freeze_into_the_folder_good() {
    let host = Host::new();
    let tree = host.tree("tree", "head -c 300000 /dev/urandom >file").display().to_string();
    let to = format!("oci:{}:v1", host.text("layout"));
    host.freeze(&[&format!("dir:{tree}"), "--to", &to]);
    let again = host.freeze(&[&format!("dir:{tree}"), "--to", &to]);
    assert_eq!((again.layers_packed, again.sent_bytes), (0, 0));
    for name in names(&host.path("layout/blobs/sha256")) {
        let path = host.path("layout/blobs/sha256").join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, vec![b'x'; good.len()]).unwrap();
    }
    let healed = host.freeze(&[&format!("dir:{tree}"), "--to", &to]);
    assert!(healed.sent_bytes > 300_000, "{healed:?}");
    host.verify(&to);
}

#[test]
fn what_a_tag_named_before_stays_as_it_was_without_the_tag() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let images = [1, 2].map(|seed| image(seed, &json!({})));
    served.push("layout", None, &images[0]);
    let note = |entry: &mut Value, name: &str| {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name, "note": "theirs"});
        entry["platform"] = json!({"os": "linux", "architecture": "arm64", "os.features": ["x"]});
    };
    let mut own = named(&images[0].manifest);
    let mut long = json!({"digest": format!("sha512:{}", "5".repeat(128)), "size": 1});
    note(&mut own, "v1");
    note(&mut long, "v1");
    let index = json!({"schemaVersion": 2, "artifactType": "a/b", "manifests": [own, long], "more": 1});
    fs::write(host.path("layout/index.json"), index.to_string()).unwrap();
    served.push("layout", Some("v1"), &images[1]);
    let after: Value = serde_json::from_slice(&fs::read(host.path("layout/index.json")).unwrap()).unwrap();
    for entry in [&mut own, &mut long] {
        entry["annotations"] = json!({"note": "theirs", "smolfreeze.repository": "layout"});
        assert!(after["manifests"].as_array().unwrap().contains(entry), "{after:#}");
    }
    assert_eq!((&after["artifactType"], &after["more"]), (&index["artifactType"], &index["more"]));
    assert_eq!(tags(&served, "layout"), json!(["v1"]));
}

#[test]
fn blobs_of_entries_that_are_not_understood_stay() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let images = [1, 2, 3].map(|seed| image(seed, &json!({"annotations": {"of": "others"}})));
    for image in &images {
        served.push("a", None, image);
    }
    let lost = served.push_blob("a", b"nobody's");
    let long = json!({"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": [named(&images[2].manifest)]});
    fs::create_dir(host.path("layout/blobs/sha512")).unwrap();
    fs::write(host.path(&format!("layout/blobs/sha512/{}", "5".repeat(128))), long.to_string()).unwrap();
    // As other programs might write it: no media type, a digest in a field of its own, and an index by its SHA-512.
    let mut untyped = named(&images[0].manifest);
    untyped.as_object_mut().unwrap().remove("mediaType");
    let foreign = json!({"blob": format!("blobs/{}", digest(&images[1].manifest).replace(':', "/"))});
    let long = json!({"mediaType": INDEX_MEDIA_TYPE, "digest": format!("sha512:{}", "5".repeat(128)), "size": 1});
    let index = json!({"schemaVersion": 2, "manifests": [untyped, foreign, long], "annotations": {"kept": "as it is"}});
    fs::write(host.path("layout/index.json"), index.to_string()).unwrap();
    for image in &images {
        for bytes in [&image.config, &image.layer, &image.manifest] {
            served.expect(409, "DELETE", &format!("/v2/a/blobs/{}", digest(bytes)), b"");
        }
    }
    served.expect(202, "DELETE", &format!("/v2/a/blobs/{lost}"), b"");
    // Nor does a push change what it does not understand.
    served.push("a", Some("v1"), &image(4, &json!({})));
    let after: Value = serde_json::from_slice(&fs::read(host.path("layout/index.json")).unwrap()).unwrap();
    assert_eq!(after["annotations"], index["annotations"]);
    assert_eq!(after["manifests"].as_array().unwrap()[..3], index["manifests"].as_array().unwrap()[..]);
}
