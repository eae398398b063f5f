//! What is removed from a layout, and what never is: by a freeze that is stopped, and by `gc`. With skopeo and umoci.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};

use crate::host::{Host, finish, names, one_line, shell};
use crate::remembered::Desk;
use crate::support::layers::random_bytes;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// Writes a blob: its descriptor.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let name = hex(&Sha256::digest(bytes));
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::write(layout.join("blobs/sha256").join(&name), bytes).unwrap();
    json!({"mediaType": media_type, "digest": format!("sha256:{name}"), "size": bytes.len()})
}

fn document(layout: &Path, media_type: &str, mut value: Value) -> Value {
    value["schemaVersion"] = json!(2);
    blob(layout, media_type, value.to_string().as_bytes())
}

/// An image of random bytes: its descriptor.
fn image(layout: &Path, seed: u64, more: &Value) -> Value {
    let config = blob(layout, "application/vnd.oci.image.config.v1+json", json!({"seed": seed}).to_string().as_bytes());
    let layer = blob(layout, "application/vnd.oci.image.layer.v1.tar+gzip", &random_bytes(seed, 5000));
    let mut manifest = json!({"mediaType": MANIFEST, "config": config, "layers": [layer]});
    manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document(layout, MANIFEST, manifest)
}

fn write_index(layout: &Path, manifests: &Value) {
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": manifests}).to_string()).unwrap();
}

fn blobs(layout: &Path) -> BTreeSet<String> {
    names(&layout.join("blobs/sha256")).into_iter().collect()
}

fn gc(host: &Host, words: &[&str]) -> Value {
    let output = finish(host.command(&[&["gc", "--json"], words].concat()).spawn().unwrap());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_freeze_that_is_stopped_takes_nothing_of_others() {
    let desk = Desk::new();
    let layout = desk.host.path("layout");
    // It has made the layout, and published a layer.
    let (child, pipe) = desk.endless_after(&random_bytes(1, 3 << 20));
    let published = blobs(&layout);
    // Another one comes, needs the same layer, and is done.
    fs::write(desk.host.path("same.tar"), Desk::fed(&random_bytes(1, 3 << 20))).unwrap();
    let same = format!("tar:{}", desk.host.text("same.tar"));
    let to = format!("oci:{}:other", layout.display());
    let report = desk.host.freeze(&[&same, "--to", &to, "--layer-size", "1MiB", "--no-known"]);
    assert!(report.layers.iter().any(|layer| published.contains(&layer.descriptor.digest.hex())), "they share a layer");
    desk.host.verify(&to);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    finish(child);
    drop(pipe);
    desk.host.verify(&to);
    assert!(layout.join("oci-layout").exists());
    assert!(blobs(&layout).iter().all(|name| !name.starts_with('.')), "{:?}", blobs(&layout));

    // What it published and nobody names is collected when it is old enough.
    let text = layout.to_str().unwrap();
    let before = blobs(&layout);
    assert_eq!(gc(&desk.host, &[text, "--delete"])["blobs"], json!([]));
    let found = gc(&desk.host, &[text, "--older-than", "0s"]);
    assert_eq!((blobs(&layout), &found["deleted"]), (before, &json!(false)), "only told");
    gc(&desk.host, &[text, "--older-than", "0s", "--delete"]);
    assert_eq!(gc(&desk.host, &[text, "--older-than", "0s"])["blobs"], json!([]));
    desk.host.verify(&to);
}

#[test]
fn a_layout_that_nobody_else_needs_goes_with_its_freeze() {
    let desk = Desk::new();
    let layout = desk.host.path("layout");
    let (child, pipe) = desk.endless_after(&random_bytes(1, 3 << 20));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    finish(child);
    drop(pipe);
    assert!(!layout.exists(), "{:?}", names(&layout));

    // But not one into which another program, which knows none of our locks, is writing.
    let (child, pipe) = desk.endless_after(&random_bytes(1, 3 << 20));
    fs::write(layout.join("oci-put-blob123"), "half").unwrap();
    let before = blobs(&layout);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    finish(child);
    drop(pipe);
    assert!(layout.join("oci-layout").exists());
    assert!(before.iter().filter(|name| !name.starts_with('.')).all(|name| blobs(&layout).contains(name)));
}

#[test]
fn no_image_is_named_whose_layers_another_program_removed() {
    let desk = Desk::new();
    let layout = desk.host.path("layout");
    let (child, pipe) = desk.endless_after(&random_bytes(1, 3 << 20));
    shell(&layout, "find blobs -type f ! -name '.*' -delete");
    Desk::feed_the_rest(pipe, &random_bytes(1, 3 << 20));
    let output = finish(child);
    let line = one_line(&output);
    assert_eq!(output.status.code(), Some(4), "{line}");
    assert!(line.contains("is not in the layout any more"), "{line}");
    assert!(!layout.join("index.json").exists());
}

#[test]
fn whatever_the_index_can_reach_stays() {
    let host = Host::new();
    let layout = host.path("layout");
    fs::create_dir(&layout).unwrap();
    let plain = image(&layout, 1, &json!({}));
    let nested = image(&layout, 2, &json!({}));
    let inner = document(&layout, INDEX, json!({"mediaType": INDEX, "manifests": [nested]}));
    let outer = document(&layout, INDEX, json!({"mediaType": INDEX, "manifests": [inner]}));
    let subject = image(&layout, 3, &json!({}));
    let referrer = image(&layout, 4, &json!({"subject": subject}));
    // Without a media type, with one that nobody knows, by a digest in a field of its own, and by SHA-512.
    let mut untyped = image(&layout, 5, &json!({}));
    untyped.as_object_mut().unwrap().remove("mediaType");
    let mut foreign = image(&layout, 6, &json!({}));
    foreign["mediaType"] = json!("application/x-foreign+json");
    let named = json!({"what": {"is": format!("see {}", image(&layout, 7, &json!({}))["digest"].as_str().unwrap())}});
    let inside = image(&layout, 8, &json!({}));
    let long = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inside]}).to_string();
    let long_name = hex(&Sha512::digest(&long));
    fs::create_dir(layout.join("blobs/sha512")).unwrap();
    fs::write(layout.join("blobs/sha512").join(&long_name), &long).unwrap();
    let long = json!({"mediaType": INDEX, "digest": format!("sha512:{long_name}"), "size": long.len()});
    let needed = blobs(&layout);
    // Not needed: an image that an annotation alone mentions, a blob by SHA-512, and what a dead writer left.
    let lost = image(&layout, 9, &json!({}));
    let lost_blobs = &blobs(&layout) - &needed;
    let based = image(&layout, 10, &json!({"annotations": {"org.opencontainers.image.base.digest": lost["digest"]}}));
    let kept = &blobs(&layout) - &lost_blobs;
    fs::write(layout.join("blobs/sha512").join(hex(&Sha512::digest(b"lost"))), "lost").unwrap();
    let leftover = layout.join("blobs/sha256/.smolfreeze-dead");
    fs::write(&leftover, "half").unwrap();
    write_index(&layout, &json!([plain, outer, referrer, untyped, foreign, named, long, based, {"digest": 1}, null]));

    let text = layout.to_str().unwrap();
    let found = gc(&host, &[text, "--older-than", "0s", "--delete"]);
    assert_eq!(blobs(&layout), kept, "{found}");
    assert_eq!(names(&layout.join("blobs/sha512")), [long_name]);
    assert_eq!((found["blobs"].as_array().unwrap().len(), &found["deleted"]), (4, &json!(true)), "{found}");
    assert_eq!(found["leftovers"], json!([leftover]));
    assert!(!leftover.exists());
}

#[test]
fn what_can_not_be_read_keeps_all() {
    let host = Host::new();
    let layout = host.path("layout");
    fs::create_dir(&layout).unwrap();
    let (whole, rotten) = (image(&layout, 1, &json!({})), image(&layout, 2, &json!({})));
    write_index(&layout, &json!([whole, rotten]));
    image(&layout, 3, &json!({}));
    fs::write(layout.join("blobs").join(rotten["digest"].as_str().unwrap().replace(':', "/")), "{}").unwrap();
    let before = blobs(&layout);
    let words = ["gc", layout.to_str().unwrap(), "--older-than", "0s", "--delete"];
    let output = finish(host.command(&words).spawn().unwrap());
    let line = one_line(&output);
    assert_eq!((output.status.code(), blobs(&layout)), (Some(4), before), "{line}");
    assert!(line.contains("reading a manifest") && line.contains("its bytes are"), "{line}");
}

#[test]
fn images_of_skopeo_and_umoci_stay_and_what_they_lost_goes() {
    let desk = Desk::new();
    let host = &desk.host;
    let (layout, work) = (host.path("layout"), host.path("."));
    let to = format!("oci:{}:v1", layout.display());
    shell(&work, "umoci init --layout layout; umoci new --image layout:empty");
    host.freeze(&[&desk.tree, "--to", &to, "--compression", "gzip"]);
    shell(
        &work,
        "skopeo copy -q --insecure-policy oci:layout:v1 oci:layout:copy; umoci unpack --rootless --image layout:v1 bundle; echo more >bundle/rootfs/more
         umoci repack --image layout:more bundle; umoci repack --image layout:gone bundle; umoci rm --image layout:gone",
    );
    fs::write(host.path("tree/file"), "another").unwrap();
    host.freeze(&[&desk.tree, "--to", &to, "--compression", "gzip"]);
    // The same layout, collected by umoci: what it keeps and what it removes.
    shell(&work, "cp -r layout reference; umoci gc --layout reference");
    let found = gc(host, &[layout.to_str().unwrap(), "--older-than", "0s", "--delete"]);
    assert_eq!(blobs(&layout), blobs(&host.path("reference")), "{found}");
    assert!(!found["blobs"].as_array().unwrap().is_empty());
    for tag in ["v1", "copy", "more"] {
        host.verify(&format!("oci:{}:{tag}", layout.display()));
    }
    shell(&work, "umoci stat --image layout:empty >/dev/null");
}

#[test]
fn nothing_goes_while_somebody_writes() {
    let desk = Desk::new();
    let (mut child, _pipe) = desk.endless_after(&random_bytes(1, 3 << 20));
    let layout = desk.host.path("layout");
    let before = blobs(&layout);
    let words = ["gc", layout.to_str().unwrap(), "--older-than", "0s"];
    assert!(desk.says(&words).contains("somebody is using the folder"));
    let output = desk.run(&[&words[..], &["--delete"]].concat());
    assert_eq!(output.status.code(), Some(4));
    assert!(one_line(&output).contains("is using it"));
    assert_eq!(blobs(&layout), before);
    child.kill().unwrap();
    finish(child);
    fs::write(layout.join(".smolfreeze-dead"), "half").unwrap();
    let said = desk.says(&[&words[..], &["--delete"]].concat());
    assert!(said.contains("removed sha256:") && said.contains("/.smolfreeze-"), "{said}");
    assert_eq!(blobs(&layout), BTreeSet::new());
}
