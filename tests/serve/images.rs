//! Small images, and how they are pushed by hand.

use bytes::Bytes;
use serde_json::{Value, json};
use smolfreeze::oci::{CONFIG_MEDIA_TYPE, MANIFEST_MEDIA_TYPE};

use crate::served::Served;
use crate::support::layers::{descriptor, random_bytes};

pub const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// Blobs and a manifest that names them.
pub struct Image {
    pub config: Bytes,
    pub layer: Bytes,
    pub manifest: Bytes,
}

pub fn digest(bytes: &[u8]) -> String {
    descriptor("", bytes).digest.to_string()
}

/// An image that depends on `seed` and nothing else.
pub fn image(seed: u64, more: &Value) -> Image {
    let layer = random_bytes(seed, 10_000);
    let config = Bytes::from(json!({"architecture": "amd64", "os": "linux", "seed": seed}).to_string());
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_MEDIA_TYPE, "config": descriptor(CONFIG_MEDIA_TYPE, &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Image { config, layer, manifest: manifest.to_string().into() }
}

/// The descriptor of a manifest, as another one names it.
pub fn named(manifest: &[u8]) -> Value {
    json!(descriptor(MANIFEST_MEDIA_TYPE, manifest))
}

impl Served {
    /// Pushes a blob in one request.
    pub fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.expect(201, "POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), bytes);
        digest
    }

    /// Pushes an image under a tag, or under its digest alone; its digest.
    pub fn push(&self, repository: &str, tag: Option<&str>, image: &Image) -> String {
        self.push_blob(repository, &image.config);
        self.push_blob(repository, &image.layer);
        let digest = digest(&image.manifest);
        let reference = tag.unwrap_or(&digest);
        self.expect(201, "PUT", &format!("/v2/{repository}/manifests/{reference}"), &image.manifest);
        digest
    }
}
