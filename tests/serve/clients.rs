//! Real clients: skopeo, buildah, smolfreeze itself.

use std::time::Duration;

use serde_json::{Value, json};

use crate::host::Host;
use crate::images::{INDEX_MEDIA_TYPE, digest, image, named};
use crate::served::{Served, client};
use crate::support::proxy::{Fault, Habits, Proxy, Rule, nth};

/// An image of a few files in the layout `source`, tagged `v1`.
fn source(host: &Host) {
    let tree = host
        .tree("tree", "echo hello >file; mkdir folder; head -c 3000000 /dev/urandom >folder/noise")
        .display()
        .to_string();
    let to = format!("oci:{}:v1", host.text("source"));
    host.freeze(&[&format!("dir:{tree}"), "--to", &to, "--compression", "gzip"]);
}

#[test]
fn skopeo_copies_in_and_out() {
    let host = Host::new();
    source(&host);
    let served = Served::start(&host, "layout");
    let (folder, name) = (host.path(""), format!("docker://{}/team/app", served.address));
    client(&folder, &format!("skopeo copy --quiet --dest-tls-verify=false oci:source:v1 {name}:v1"));
    client(&folder, &format!("skopeo copy --quiet --dest-tls-verify=false oci:source:v1 {name}:v2"));
    // Docker's own format, by way of its archive.
    client(&folder, &format!("skopeo copy --quiet --src-tls-verify=false {name}:v1 docker-archive:archive.tar:x:v1"));
    client(&folder, &format!("skopeo copy --quiet --dest-tls-verify=false docker-archive:archive.tar {name}:docker"));
    let manifest: Value = served.expect(200, "GET", "/v2/team/app/manifests/docker", b"").json();
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");

    client(&folder, &format!("skopeo copy --quiet --src-tls-verify=false {name}:v1 oci:back:v1"));
    client(&folder, "diff -r --exclude index.json source/blobs back/blobs");
    host.verify(&format!("oci:{}:v1", host.text("back")));
    let listed: Value =
        serde_json::from_str(&client(&folder, &format!("skopeo list-tags --tls-verify=false {name}"))).unwrap();
    assert_eq!(listed["Tags"], json!(["docker", "v1", "v2"]));
    let inspected: Value =
        serde_json::from_str(&client(&folder, &format!("skopeo inspect --tls-verify=false {name}:v1"))).unwrap();
    assert_eq!(inspected["RepoTags"], listed["Tags"]);
    client(&folder, &format!("skopeo delete --tls-verify=false {name}:v1"));
    let listed: Value =
        serde_json::from_str(&client(&folder, &format!("skopeo list-tags --tls-verify=false {name}"))).unwrap();
    assert_eq!(listed["Tags"], json!(["docker"]), "skopeo deletes the manifest, with all its tags");
    served.assert_nothing_left();
}

#[test]
fn skopeo_copies_every_platform() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let images = [image(1, &json!({})), image(2, &json!({}))];
    let mut entries: Vec<_> = images.iter().map(|image| named(&image.manifest)).collect();
    for (entry, architecture) in entries.iter_mut().zip(["amd64", "arm64"]) {
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
    }
    for image in &images {
        served.push("all", None, image);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": entries}).to_string();
    served.expect(201, "PUT", "/v2/all/manifests/v1", index.as_bytes());
    let name = format!("docker://{}", served.address);
    client(
        &host.path(""),
        &format!("skopeo copy --all --preserve-digests --quiet --src-tls-verify=false {name}/all:v1 oci:all:v1"),
    );
    client(
        &host.path(""),
        &format!("skopeo copy --all --preserve-digests --quiet --dest-tls-verify=false oci:all:v1 {name}/again:v1"),
    );
    let again = served.expect(200, "GET", "/v2/again/manifests/v1", b"");
    assert_eq!(digest(&again.body), digest(index.as_bytes()));
    served.expect(200, "GET", &format!("/v2/again/manifests/{}", digest(&images[1].manifest)), b"");
}

#[test]
fn buildah_pushes_and_pulls() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let name = format!("docker://{}/team/built", served.address);
    // Two stores: what the second has can only come from the registry.
    let script = format!(
        r#"
        echo hello >file
        first="buildah --storage-driver vfs --root $PWD/first --runroot $PWD/first-run"
        second="buildah --storage-driver vfs --root $PWD/second --runroot $PWD/second-run"
        made=$($first from scratch)
        $first copy $made file /file
        $first config --cmd /bin/true $made
        $first commit --quiet $made built
        $first push --quiet --tls-verify=false built {name}:oci
        $first push --quiet --tls-verify=false --format docker built {name}:docker
        for tag in oci docker; do
            pulled=$($second from --quiet --pull --tls-verify=false {name}:$tag)
            test "$(cat "$($second mount $pulled)/file")" = hello
            $second umount $pulled >/dev/null
        done
        "#
    );
    client(&host.path(""), &script);
    let tags = served.expect(200, "GET", "/v2/team/built/tags/list", b"").json();
    assert_eq!(tags["tags"], json!(["docker", "oci"]));
    served.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_was_cut_goes_on_where_it_was() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let cut = |method, skip| Rule { method, skip, times: 1, fault: Fault::CutInBody };
    // The first body is a whole layer; what follows is the rest of it, and again the rest.
    let rules =
        vec![cut("PUT", 0), cut("PATCH", 0), nth("PATCH", 1, Fault::CutAnswer), nth("PUT", 1, Fault::CutBefore)];
    let proxy = Proxy::start(served.address, Habits::default(), rules).await;
    let tree = host.tree("tree", "head -c 40000000 /dev/urandom >noise").display().to_string();
    let name = format!("{}/team/noise:v1", proxy.address);
    let frozen = host.freeze(&[&format!("dir:{tree}"), "--to", &name, "--uploads", "1"]);
    assert!(frozen.retries >= 4, "{} retries", frozen.retries);
    let seen = proxy.seen();
    let rest = seen.iter().find(|seen| seen.method == "PATCH").and_then(|seen| seen.header("content-range"));
    assert!(rest.is_some_and(|range| !range.starts_with("0-")), "{rest:?}");
    let large = seen.iter().filter(|seen| seen.method == "POST").count();
    assert_eq!(large, frozen.layers.len() + 1, "no session was lost: one for each layer and one for the config");
    host.verify(&format!("{}/team/noise:v1", served.address));
    served.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_freezes_at_once() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let proxy =
        Proxy::start(served.address, Habits { slowness: Some(Duration::from_millis(1)), ..Habits::default() }, vec![])
            .await;
    let tree = host.tree("tree", "head -c 5000000 /dev/urandom >shared").display().to_string();
    std::thread::scope(|scope| {
        for at in 0..4 {
            let (host, tree, name) = (&host, format!("dir:{tree}"), format!("{}/team/app:v{at}", proxy.address));
            scope.spawn(move || {
                let output =
                    crate::host::finish(host.command(&["freeze", "--quiet", &tree, "--to", &name]).spawn().unwrap());
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            });
        }
    });
    for at in 0..4 {
        host.verify(&format!("{}/team/app:v{at}", served.address));
    }
    served.assert_nothing_left();
}
