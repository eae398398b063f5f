//! Layers and images made by hand, for tests that need some without a freeze.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use smolfreeze::oci::{CONFIG_MEDIA_TYPE, Compression, Descriptor, Digest, MANIFEST_MEDIA_TYPE};
use smolfreeze::pipeline::gather::{Body, Layer};
use smolfreeze::sink::Image;

/// So small that a layer of a test has several pieces, which is what the sinks get in earnest.
const PIECE_BYTES: usize = 100_000;

/// `sha256:<hex>` of these bytes.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The layer that holds `tar`, stored as `compression` says.
pub fn layer(index: usize, tar: &[u8], compression: Compression) -> Arc<Layer> {
    let stored = match compression {
        Compression::Zstd => zstd::encode_all(tar, 3).expect("zstd in memory"),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).and_then(|()| encoder.finish()).expect("gzip in memory")
        }
        Compression::None => tar.to_vec(),
    };
    Arc::new(Layer {
        index,
        diff_id: sha256(tar).parse().expect("a digest"),
        tar_bytes: tar.len() as u64,
        descriptor: describe(compression.media_type(), &stored),
        workspace: false,
        body: Body::from_chunks(stored.chunks(PIECE_BYTES).map(Bytes::copy_from_slice).collect()),
    })
}

/// The image of these layers, bottom first, with `run` as the `config` of its config.
pub fn image(layers: &[Arc<Layer>], run: &serde_json::Value) -> Image {
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = Bytes::from(config.to_string());
    let config_name = describe(CONFIG_MEDIA_TYPE, &config);
    let layer_names: Vec<&Descriptor> = layers.iter().map(|layer| &layer.descriptor).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_MEDIA_TYPE,
        "config": config_name,
        "layers": layer_names,
    });
    let manifest = Bytes::from(manifest.to_string());
    Image { config: (config_name, config), manifest: (describe(MANIFEST_MEDIA_TYPE, &manifest), manifest) }
}

fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    let digest: Digest = sha256(bytes).parse().expect("a digest");
    Descriptor { media_type: media_type.to_owned(), digest, size: bytes.len() as u64 }
}
