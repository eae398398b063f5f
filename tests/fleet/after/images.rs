//! Small images: a layer that all nights share, one that those of a month do, and one of their own.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use smolfreeze::error::Error;
use smolfreeze::layout::Layout;
use smolfreeze::oci::{Descriptor, Digest};
use smolfreeze::progress::{Meters, Silent};
use smolfreeze::sink::registry::{RegistryOptions, RegistrySink};
use smolfreeze::sink::{Image, SinkContext};
use smolfreeze::stage::digest::DigestHasher;
use smolfreeze::stop::Stop;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const NAME: &str = "org.opencontainers.image.ref.name";

/// An image, whole.
pub struct Small {
    pub layers: Vec<(Descriptor, Bytes)>,
    pub image: Image,
}

fn blob(media_type: &str, bytes: Vec<u8>) -> (Descriptor, Bytes) {
    let (digest, size) = (DigestHasher::of(&bytes), bytes.len() as u64);
    (Descriptor { media_type: media_type.to_owned(), digest, size }, bytes.into())
}

fn tar(name: &str, content: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

impl Small {
    /// `own` is what nobody else has.
    pub fn new(machine: &str, month: &str, own: &str) -> Self {
        let layers: Vec<_> = [("base", machine), ("month", month), ("own", own)]
            .map(|(name, content)| blob(LAYER, tar(name, &format!("{machine} {content}"))))
            .into();
        let diff_ids: Vec<_> = layers.iter().map(|(layer, _)| layer.digest).collect();
        let config =
            json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = blob(CONFIG, config.to_string().into_bytes());
        let listed: Vec<_> = layers.iter().map(|(layer, _)| layer).collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config.0, "layers": listed });
        let manifest = blob(MANIFEST, manifest.to_string().into_bytes());
        Self { layers, image: Image { config, manifest } }
    }

    pub fn digest(&self) -> Digest {
        self.image.manifest.0.digest
    }

    fn blobs(&self) -> impl Iterator<Item = &(Descriptor, Bytes)> {
        self.layers.iter().chain([&self.image.config, &self.image.manifest])
    }

    pub fn to_layout(&self, folder: &Path, tag: &str) {
        let layout = Layout::make(folder).unwrap();
        for (blob, bytes) in self.blobs() {
            fs::write(layout.blob_path(blob.digest), bytes).unwrap();
        }
        let manifest = &self.image.manifest.0;
        let changed = layout.change_index(|manifests| {
            manifests.retain(|other| other["annotations"][NAME] != tag);
            manifests.push(json!({
                "mediaType": MANIFEST, "digest": manifest.digest, "size": manifest.size, "annotations": { NAME: tag },
            }));
            Ok::<_, Error>(())
        });
        changed.unwrap();
    }

    pub async fn to_registry(&self, reference: &str) {
        let context =
            SinkContext { observer: Arc::new(Silent), meters: Arc::new(Meters::default()), stop: Stop::new() };
        let sink = RegistrySink::connect(reference, RegistryOptions::default(), context).await.unwrap();
        for (blob, bytes) in &self.layers {
            sink.put_blob(blob, bytes.clone()).await.unwrap();
        }
        sink.commit(&self.image).await.unwrap();
    }
}

/// The names in a layout's index, sorted.
pub fn tags(folder: &Path) -> Vec<String> {
    let index: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    let names = index["manifests"].as_array().unwrap().iter();
    let mut tags: Vec<_> = names.map(|one| one["annotations"][NAME].as_str().unwrap_or("-").to_owned()).collect();
    tags.sort();
    tags
}

/// How many blobs a layout has.
pub fn blobs(folder: &Path) -> usize {
    fs::read_dir(folder.join("blobs/sha256")).unwrap().count()
}
