//! The options of `freeze`, as keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Part, Period, Size};
use crate::oci::Compression;
use crate::plan::PackWith;

/// The options of `smolfreeze freeze`, where they are not said elsewhere (destinations, memory, commands in the guest).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FreezeKeys {
    /// Leave out entries that match: a name anywhere (`*.pyc`), or a path from the root (`/var/cache`).
    pub exclude: Vec<String>,
    /// Take in the contents of what is mounted at these paths of the machine.
    pub include_mounts: Vec<PathBuf>,
    /// Bytes of tar in a layer, about; 0 for one layer. By default 32MiB, doubled with the machine's size.
    pub layer_size: Option<Size>,
    /// Blobs that one freeze sends at a time; a destination may have a limit of its own.
    #[schemars(range(min = 1, max = 64))]
    pub uploads: u16,
    /// Most scratch space in TMPDIR that one freeze takes; by default what its plan says.
    pub scratch: Option<Size>,
    /// How layers are stored; by default zstd.
    pub compression: Option<CompressionKey>,
    /// The compressor's level: 1 to 19 for zstd, 1 to 12 for gzip; by default 1.
    pub level: Option<i32>,
    /// Refuse a machine of more than so many bytes of tar.
    pub max_size: Option<Size>,
    /// Who packs artifacts.
    pub pack_with: PackWithKey,
    /// The root filesystem of smolvm's guest agent, which an artifact carries.
    pub agent_rootfs: Option<PathBuf>,
    /// Bytes of one chunk of what crosses a machine's link; by default up to 48MiB, and never more than an eighth of a
    /// running freeze's memory.
    pub chunk_size: Option<Size>,
    /// Chunks that may lie in a machine at once.
    #[schemars(range(min = 1, max = 1024))]
    pub window: u64,
    /// How the guest compresses what crosses the link.
    pub guest_compression: CompressionKey,
    /// Who reads a guest's files: `auto`, `tar`, or the path of a `smolfreeze-guest`.
    pub guest_reader: String,
    /// Wait so long while another freeze has the machine.
    pub wait: Period,
    /// Fail when one operation on the machine goes on failing for so long; at most 4m.
    pub link_patience: Period,
    /// Use and fill the map of layers that this host packed before.
    pub known: bool,
    /// Remember the freeze for `ls`, `prune` and the next night.
    pub record: bool,
    /// Of what is unchanged since the last freeze, read so much all the same, and compare.
    pub reread: Part,
    /// Keep no layer of the last image, so that nothing of what was deleted or changed since is in this one.
    pub squash: bool,
    /// What the image says about running it; what is missing comes from the machine.
    pub image: ImageKeys,
}

/// What an image says about running it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImageKeys {
    /// The user that commands run as.
    pub user: Option<String>,
    /// The working directory of commands.
    pub workdir: Option<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The entrypoint's words.
    pub entrypoint: Vec<String>,
    /// The command's words.
    pub cmd: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The architecture, in Go's words (`amd64`, `arm64`); by default the machine's.
    pub architecture: Option<String>,
}

/// How layers are stored, or cross a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CompressionKey {
    /// Zstandard.
    Zstd,
    /// gzip.
    Gzip,
    /// As they are.
    None,
}

/// Who packs artifacts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PackWithKey {
    /// This program, where it finds smolvm's guest agent; else smolvm.
    #[default]
    Auto,
    /// This program.
    Own,
    /// `smolvm pack create`.
    Smolvm,
}

impl From<CompressionKey> for Compression {
    fn from(key: CompressionKey) -> Self {
        match key {
            CompressionKey::Zstd => Self::Zstd,
            CompressionKey::Gzip => Self::Gzip,
            CompressionKey::None => Self::None,
        }
    }
}

impl From<PackWithKey> for PackWith {
    fn from(key: PackWithKey) -> Self {
        match key {
            PackWithKey::Auto => Self::Auto,
            PackWithKey::Own => Self::Own,
            PackWithKey::Smolvm => Self::Smolvm,
        }
    }
}

impl Default for FreezeKeys {
    fn default() -> Self {
        Self {
            exclude: Vec::new(),
            include_mounts: Vec::new(),
            layer_size: None,
            uploads: 4,
            scratch: None,
            compression: None,
            level: None,
            max_size: None,
            pack_with: PackWithKey::default(),
            agent_rootfs: None,
            chunk_size: None,
            window: 4,
            guest_compression: CompressionKey::None,
            guest_reader: "auto".to_owned(),
            wait: Period(std::time::Duration::ZERO),
            link_patience: Period(std::time::Duration::from_secs(120)),
            known: true,
            record: true,
            reread: Part { percent: 1 },
            squash: false,
            image: ImageKeys::default(),
        }
    }
}
