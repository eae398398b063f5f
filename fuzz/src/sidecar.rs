//! Sidecars for the fuzzer, written as smolvm lays them out and then damaged on purpose.

use arbitrary::Arbitrary;
use smolvm_pack::format::LayerEntry;
use smolvm_pack::{PackFooter, PackManifest};

use crate::build::Built;

/// Layers of a sidecar at most: more of them show nothing new.
const LAYERS_MAX: usize = 4;

/// What a sidecar is made of.
#[derive(Debug, Arbitrary)]
pub struct Sidecar {
    layers: Vec<Layer>,
    workspace: Option<Vec<u8>>,
    frame_bytes: u16,
    changes: Vec<Change>,
}

#[derive(Debug, Arbitrary)]
enum Layer {
    /// A tar of one plain file.
    Plain(Vec<u8>),
    Built(Built),
}

/// A byte that is another one.
#[derive(Debug, Arbitrary)]
enum Change {
    /// Of the tar of assets, before it is compressed.
    Assets(u16, u8),
    /// Of the frames.
    Frames(u16, u8),
    /// Of the manifest.
    Manifest(u16, u8),
    /// Of the footer.
    Footer(u8, u8),
}

impl Sidecar {
    /// Whether all of it is as it should be.
    pub fn is_untouched(&self) -> bool {
        self.changes.is_empty() && self.layers.iter().all(|layer| matches!(layer, Layer::Plain(_)))
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut manifest = PackManifest::new("image".into(), "none".into(), "linux/amd64".into(), "linux/amd64".into());
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content).expect("a tar in memory");
        };
        manifest.assets.agent_rootfs.size = 5;
        add("agent-rootfs.tar", b"agent");
        for layer in self.layers.iter().take(LAYERS_MAX) {
            let content = layer.bytes();
            let hex = sha256(&content);
            let (digest, path) = (format!("sha256:{hex}"), format!("layers/{hex}.tar"));
            if manifest.assets.layers.iter().any(|other| other.digest == digest) {
                continue;
            }
            add(&path, &content);
            manifest.assets.layers.push(LayerEntry { digest, path, size: content.len() as u64 });
        }
        if let Some(workspace) = &self.workspace {
            let path = "layers/workspace-seed/workspace.tar".to_owned();
            add(&path, workspace);
            let size = workspace.len() as u64;
            manifest.assets.workspace_seed = Some(smolvm_pack::format::AssetEntry { path, size });
        }
        self.finish(tar.into_inner().expect("a tar in memory"), &manifest)
    }

    fn finish(&self, mut assets: Vec<u8>, manifest: &PackManifest) -> Vec<u8> {
        let mut json = manifest.to_json().expect("a manifest");
        self.change(&mut assets, |change| match change {
            Change::Assets(at, byte) => Some((*at, *byte)),
            _ => None,
        });
        let frame_bytes = usize::from(self.frame_bytes).max(512);
        let mut bytes = Vec::new();
        for part in assets.chunks(frame_bytes) {
            bytes.extend(zstd::encode_all(part, 1).expect("zstd in memory"));
        }
        self.change(&mut bytes, |change| match change {
            Change::Frames(at, byte) => Some((*at, *byte)),
            _ => None,
        });
        self.change(&mut json, |change| match change {
            Change::Manifest(at, byte) => Some((*at, *byte)),
            _ => None,
        });
        let (assets_size, manifest_size) = (bytes.len() as u64, json.len() as u64);
        bytes.extend(json);
        let checksum = smolvm_pack::assets::crc32(&bytes);
        let footer = PackFooter {
            stub_size: 0,
            assets_offset: 0,
            assets_size,
            manifest_offset: assets_size,
            manifest_size,
            checksum,
        };
        let mut footer = footer.to_bytes();
        self.change(&mut footer, |change| match change {
            Change::Footer(at, byte) => Some((u16::from(*at), *byte)),
            _ => None,
        });
        bytes.extend(footer);
        bytes
    }

    fn change(&self, bytes: &mut [u8], of: impl Fn(&Change) -> Option<(u16, u8)>) {
        for (at, byte) in self.changes.iter().filter_map(of) {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
    }
}

impl Layer {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Built(built) => built.bytes(),
            Self::Plain(content) => {
                let mut tar = tar::Builder::new(Vec::new());
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, "file", &content[..]).expect("a tar in memory");
                tar.into_inner().expect("a tar in memory")
            }
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    smolfreeze::stage::digest::DigestHasher::of(bytes).hex()
}
