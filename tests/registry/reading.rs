//! What is read from a registry, and what is not believed.

use bytes::Bytes;
use smolfreeze::error::Kind;
use smolfreeze::oci::{CONFIG_MEDIA_TYPE, Descriptor, MANIFEST_MEDIA_TYPE};
use smolfreeze::sink::Image;
use smolfreeze::sink::registry::{RegistryOptions, RegistryReader, RegistrySink};
use smolfreeze::stored::{Inspected, Stored, StoredName, Wanted};

use crate::support::docker_registry::DockerRegistry;
use crate::support::layers::{context, descriptor, layer};
use crate::support::proxy::{Fault, Habits, Proxy, Rule, nth};

const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";

fn options() -> RegistryOptions {
    RegistryOptions { auth_files: Some(Vec::new()), ..RegistryOptions::default() }
}

fn image(manifest: &serde_json::Value, config: &Bytes) -> Image {
    let bytes = Bytes::from(manifest.to_string());
    let media_type = manifest["mediaType"].as_str().expect("a media type");
    Image {
        config: (descriptor(CONFIG_MEDIA_TYPE, config), config.clone()),
        manifest: (descriptor(media_type, &bytes), bytes),
    }
}

/// An image without layers.
fn empty_image() -> Image {
    let config = Bytes::from_static(b"{\"architecture\":\"amd64\",\"os\":\"linux\"}");
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST_MEDIA_TYPE, "config": descriptor(CONFIG_MEDIA_TYPE, &config), "layers": [],
    });
    image(&manifest, &config)
}

async fn sink(name: String) -> RegistrySink {
    RegistrySink::connect(&name, options(), context().0).await.expect("a connection")
}

async fn reader(name: String) -> RegistryReader {
    RegistryReader::connect(&name, options(), context().0).await.expect("a connection")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_gives_this_machines_image() {
    let registry = DockerRegistry::start();
    let image_of_ours = empty_image();
    sink(format!("{}/name:image", registry.address)).await.commit(&image_of_ours).await.unwrap();
    let entry = |os: &str, architecture: &str, descriptor: &Descriptor| {
        let mut entry = serde_json::to_value(descriptor).unwrap();
        entry["platform"] = serde_json::json!({"os": os, "architecture": architecture});
        entry
    };
    let ours = &image_of_ours.manifest.0;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    for (tag, entries, is_there) in [
        ("both", vec![entry("unknown", "unknown", ours), entry("linux", architecture, ours)], true),
        ("other", vec![entry("windows", architecture, ours), entry("linux", "s390x", ours)], false),
    ] {
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": entries});
        let index = image(&index, &image_of_ours.config.1);
        sink(format!("{}/name:{tag}", registry.address)).await.commit(&index).await.unwrap();
        let name = StoredName::Registry(format!("{}/name:{tag}", registry.address));
        let wanted = Wanted { name: &name, platform: None, tar_bytes_max: None };
        let found = Stored::open(wanted, options(), context().0).await.unwrap().inspect("x").await;
        if is_there {
            let Inspected::Image(found) = found.unwrap() else { panic!("an artifact") };
            assert_eq!(found.manifest, image_of_ours.manifest.0);
        } else {
            assert!(found.unwrap_err().to_string().contains(&format!("linux/{architecture}")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_another_is_corrupt() {
    let registry = DockerRegistry::start();
    let image = empty_image();
    sink(format!("{}/name:tag", registry.address)).await.commit(&image).await.unwrap();
    let large: &'static str = "x".repeat(5 << 20).leak();
    for (body, kind) in [("{}", Kind::Corrupt), (large, Kind::Sink)] {
        // The first GET is the one that reaches the registry.
        let proxy =
            Proxy::start(registry.address, Habits::default(), vec![nth("GET", 2, Fault::Answer(200, "", body))]).await;
        let reader = reader(format!("{}/name@{}", proxy.address, image.manifest.0.digest)).await;
        assert_eq!(reader.manifest().await.unwrap_err().kind(), kind);
        assert_eq!(reader.manifest().await.unwrap(), image.manifest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_stored_another_manifest_is_found_out() {
    let registry = DockerRegistry::start();
    let wrong = "Docker-Content-Digest: sha256:0000\r\n";
    // The first PUT is the config's.
    let proxy =
        Proxy::start(registry.address, Habits::default(), vec![nth("PUT", 2, Fault::Answer(201, wrong, ""))]).await;
    let sink = sink(format!("{}/name:tag", proxy.address)).await;
    assert!(sink.commit(&empty_image()).await.unwrap_err().to_string().contains("sha256:0000"));
    sink.commit(&empty_image()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_cut_in_the_middle_is_read_on_from_there() {
    let registry = DockerRegistry::start();
    let layer = layer(0, 1, 3 << 20);
    sink(format!("{}/name:tag", registry.address)).await.put(&layer).await.unwrap();
    let rules = vec![Rule { method: "GET", skip: 1, times: 2, fault: Fault::CutInAnswer(1_000_000) }];
    let proxy = Proxy::start(registry.address, Habits::default(), rules).await;
    let mut blob = reader(format!("{}/name:tag", proxy.address)).await.blob(&layer.descriptor);
    let mut bytes = Vec::new();
    while let Some(chunk) = blob.next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert!(bytes == layer.body.slice(0, u64::MAX).await.unwrap().concat());
    let seen = proxy.seen();
    let ranges: Vec<_> = seen.iter().filter_map(|seen| seen.header("range")).collect();
    assert_eq!(ranges, ["bytes=1000000-", "bytes=2000000-"]);
}
