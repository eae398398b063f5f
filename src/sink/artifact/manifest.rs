//! The manifest of an artifact: what the image's config says, in smolvm's words, and what is inside.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::image::ImageConfiguration;
use smolvm_pack::PackManifest;
use smolvm_pack::format::{AssetEntry, LayerEntry};

use crate::night::index::Extent;
use crate::oci::{DiffId, Platform};
use crate::sink::Image;

use super::MachineSettings;

/// Where the assets have the guest's agent, its layers, and the first content of `/workspace`. The last lies in a folder
/// of its own because smolvm takes every tar right below `layers/` for a layer.
pub(super) const AGENT_NAME: &str = "agent-rootfs.tar";
pub(super) const WORKSPACE_NAME: &str = "layers/workspace-seed/workspace.tar";

/// The name of a layer's file in the assets.
pub(super) fn layer_name(diff_id: DiffId) -> String {
    format!("layers/{}.tar", diff_id.hex())
}

/// What was embedded, with the uncompressed size of each.
#[derive(Debug, Default)]
pub(super) struct Embedded {
    pub(super) agent_bytes: u64,
    /// Layers of the image that became the content of `/workspace`.
    pub(super) workspace_layers: BTreeSet<DiffId>,
    pub(super) layers: BTreeMap<DiffId, Extent>,
    /// Layers of the image of which others were made, or of which nothing stayed.
    pub(super) stand_ins: BTreeMap<DiffId, Option<DiffId>>,
    /// Where the content of `/workspace` lies.
    pub(super) seed: Option<Extent>,
    /// All layers, bottom first, where they are not those of the image.
    pub(super) order: Option<Vec<DiffId>>,
    /// No mark of a deletion goes in.
    pub(super) without_marks: bool,
}

/// What a complete artifact has.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The checksum and the length of its assets.
    pub(crate) checksum: (u32, u64),
    embedded: Embedded,
}

impl Contents {
    pub(super) fn new(checksum: (u32, u64), embedded: Embedded) -> Self {
        Self { checksum, embedded }
    }

    /// What stands for a layer of the image, and where it lies; none where nothing does, or it is of `/workspace`.
    pub(crate) fn layer(&self, diff_id: DiffId) -> Option<(DiffId, Extent)> {
        let stands_for = self.embedded.stand_in(diff_id)?;
        Some((stands_for, *self.embedded.layers.get(&stands_for)?))
    }

    /// Where the content of `/workspace` lies.
    pub(crate) fn seed(&self) -> Option<Extent> {
        self.embedded.seed
    }
}

impl Embedded {
    /// Whether a layer is in, as one of the image or of the workspace.
    pub(super) fn has(&self, diff_id: DiffId) -> bool {
        self.layers.contains_key(&diff_id)
            || self.workspace_layers.contains(&diff_id)
            || self.stand_ins.contains_key(&diff_id)
    }

    /// The layer that is in it for one of the image.
    pub(super) fn stand_in(&self, diff_id: DiffId) -> Option<DiffId> {
        self.stand_ins.get(&diff_id).copied().unwrap_or(Some(diff_id))
    }

    /// The manifest of `image`. Says which layer is missing if one is.
    pub(super) fn manifest(&self, image: &Image, machine: &MachineSettings) -> Result<PackManifest, String> {
        let config: ImageConfiguration =
            serde_json::from_slice(&image.config.1).map_err(|error| format!("the image's config: {error}"))?;
        let platform = format!("{}/{}", config.os(), config.architecture());
        let digest = image.manifest.0.digest.to_string();
        let mut manifest = PackManifest::new(machine.image.clone(), digest, platform, host_platform());
        if let Some(run) = config.config() {
            let words = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
            manifest.entrypoint = words(run.entrypoint());
            manifest.cmd = words(run.cmd());
            manifest.env = words(run.env());
            manifest.workdir = run.working_dir().clone().filter(|folder| !folder.is_empty());
            // The image's config does not come along, so smolvm has its USER from here or not at all.
            manifest.user = run.user().clone().filter(|user| !user.is_empty());
        }
        manifest.cpus = machine.cpus;
        manifest.mem = machine.memory_mib;
        manifest.network = machine.network;
        if let Some(version) = &machine.smolvm_version {
            manifest.smolvm_version.clone_from(version);
        }
        manifest.assets.agent_rootfs = AssetEntry { path: AGENT_NAME.to_owned(), size: self.agent_bytes };
        manifest.assets.layers = if let Some(order) = &self.order {
            self.layers_bottom_up(order.iter().copied())?
        } else {
            let diff_ids = config.rootfs().diff_ids().iter().map(|text| text.parse());
            let diff_ids: Vec<DiffId> = diff_ids.collect::<Result<_, _>>()?;
            self.layers_bottom_up(diff_ids.into_iter())?
        };
        manifest.assets.workspace_seed =
            self.seed.map(|seed| AssetEntry { path: WORKSPACE_NAME.to_owned(), size: seed.tar_bytes });
        let layers_bytes: u64 = manifest.assets.layers.iter().map(|layer| layer.size).sum();
        manifest.image_size = layers_bytes + self.seed.map_or(0, |seed| seed.tar_bytes);
        Ok(manifest)
    }

    /// A layer that the image has twice is listed once, where it is last: an overlay can't have a folder twice, and what
    /// it holds hides the same below it. (Layers of ours never remove anything, so nothing else differs.)
    fn layers_bottom_up(&self, diff_ids: impl Iterator<Item = DiffId>) -> Result<Vec<LayerEntry>, String> {
        let mut layers: Vec<LayerEntry> = Vec::new();
        for diff_id in diff_ids {
            let text = diff_id.to_string();
            if self.workspace_layers.contains(&diff_id) {
                continue;
            }
            let layer = self.layers.get(&diff_id).ok_or_else(|| format!("layer {diff_id} was never put"))?;
            layers.retain(|layer| layer.digest != text);
            layers.push(LayerEntry { digest: text, path: layer_name(diff_id), size: layer.tar_bytes });
        }
        if layers.len() < self.layers.len() {
            return Err(format!("{} layers were put and the image has {}", self.layers.len(), layers.len()));
        }
        Ok(layers)
    }
}

/// This host, in smolvm's words; the guest's platform is the image's.
fn host_platform() -> String {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    format!("{system}/{}", Platform::host().architecture)
}
