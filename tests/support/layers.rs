//! Layers of bytes that no compression shrinks, and a context that remembers what it was told.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use smolfreeze::oci::{CONFIG_MEDIA_TYPE, Compression, Descriptor, MANIFEST_MEDIA_TYPE};
use smolfreeze::pipeline::gather::{Body, Layer};
use smolfreeze::progress::{Meters, Observer};
use smolfreeze::sink::{Image, SinkContext};
use smolfreeze::stop::Stop;

/// Bytes that depend on `seed` and nothing else.
pub fn random_bytes(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes.into()
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    let mut name = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        write!(name, "{byte:02x}").expect("a string takes all");
    }
    let digest = name.parse().expect("a digest");
    Descriptor { media_type: media_type.to_owned(), digest, size: bytes.len() as u64 }
}

/// A gathered layer in chunks of an odd size, so that chunks and parts never end together.
pub fn layer(index: usize, seed: u64, length: usize) -> Arc<Layer> {
    let bytes = random_bytes(seed, length);
    let descriptor = descriptor(Compression::Zstd.media_type(), &bytes);
    let chunks = (0..length).step_by(777_777).map(|from| bytes.slice(from..length.min(from + 777_777))).collect();
    let diff_id = descriptor.digest.to_string().parse().expect("a diff_id");
    let body = Body::from_chunks(chunks);
    Arc::new(Layer { index, diff_id, tar_bytes: 0, descriptor, workspace: false, body })
}

/// An image of these layers.
pub fn image(layers: &[Arc<Layer>]) -> Image {
    let config = Bytes::from_static(b"{\"architecture\":\"amd64\",\"os\":\"linux\"}");
    let config = (descriptor(CONFIG_MEDIA_TYPE, &config), config);
    let layers: Vec<&Descriptor> = layers.iter().map(|layer| &layer.descriptor).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST_MEDIA_TYPE, "config": config.0, "layers": layers,
    });
    let manifest = Bytes::from(manifest.to_string());
    Image { config, manifest: (descriptor(MANIFEST_MEDIA_TYPE, &manifest), manifest) }
}

/// An observer that adds up.
#[derive(Default)]
pub struct Told {
    pub bytes: AtomicU64,
    pub retries: Mutex<Vec<(String, String, Duration)>>,
}

impl Observer for Told {
    fn part_sent(&self, _: usize, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn retrying(&self, subject: &str, reason: &str, delay: Duration) {
        self.retries.lock().expect("the list").push((subject.to_owned(), reason.to_owned(), delay));
    }
}

pub fn context() -> (SinkContext, Arc<Told>) {
    let told = Arc::new(Told::default());
    (SinkContext { observer: told.clone(), meters: Arc::new(Meters::default()), stop: Stop::new() }, told)
}
