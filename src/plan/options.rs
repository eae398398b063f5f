//! What a user asks for.

use std::path::PathBuf;
use std::time::Duration;

use super::{OutputSpec, PackWith, SourceSpec, cores};
use crate::image::ImageOptions;
use crate::night;
use crate::oci::Compression;
use crate::pipeline::budget::default_memory_bytes;
use crate::sink::registry::RegistryOptions;
use crate::source::machine::Options as MachineOptions;

/// What a user asks for; everything has a default.
#[derive(Debug, Clone)]
pub struct FreezeOptions {
    /// Where the root filesystem comes from.
    pub source: SourceSpec,
    /// Where the image goes. With none, an artifact goes into the state folder that `records` names. Artifacts get their names last, whatever the order here.
    pub outputs: Vec<OutputSpec>,
    /// Where smolvm's agent root filesystem is, which every artifact carries; looked for as
    /// [`Lookup`](crate::sink::artifact::Lookup) does by default.
    pub agent_rootfs: Option<PathBuf>,
    /// Who packs artifacts; smolfreeze by default, where it can.
    pub pack_with: PackWith,
    /// Patterns of entries to leave out.
    pub exclude: Vec<String>,
    /// Mounts to bring back in, as paths in the source.
    pub include_mounts: Vec<PathBuf>,
    /// Bytes of tar in a layer, about; `Some(0)` for one layer. By default 32 MiB, growing with the source.
    pub layer_bytes: Option<u64>,
    /// Blobs to send at a time; 4 by default.
    pub uploads: usize,
    /// Most resident bytes; by default [`default_memory_bytes`].
    pub memory_bytes: u64,
    /// Most bytes of scratch files; computed by default.
    pub scratch_bytes: Option<u64>,
    /// Most bytes a second that all registries together are sent, at least [`BANDWIDTH_BYTES_MIN`](super::BANDWIDTH_BYTES_MIN); without a bound by default.
    pub bandwidth_bytes: Option<u64>,
    /// How layers are stored; zstd by default, and not compressed where smolvm packs and nobody else gets them.
    pub compression: Option<Compression>,
    /// The compressor's level; 1 by default for zstd and gzip.
    pub level: Option<i32>,
    /// A source with more bytes of tar than this is refused.
    pub tar_bytes_max: Option<u64>,
    /// How a machine is read.
    pub machine: MachineOptions,
    /// What the image says about running it. What is empty here comes from the machine, if one is frozen. Architecture, date and source are filled in where empty.
    pub image: ImageOptions,
    /// Files that the caller writes meanwhile, a report say: a folder is frozen without them.
    pub own_files: Vec<PathBuf>,
    /// Certificates to trust besides the system's, as a PEM file.
    pub ca_cert: Option<PathBuf>,
    /// Speak plain http to the registry, wherever it is.
    pub plain_http: bool,
    /// How long a registry may fail, or stand still, before it is given up; 10 min by default.
    pub patience: Option<Duration>,
    /// Where the map of known layers is kept; none forgets.
    pub known: Option<PathBuf>,
    /// The state folder in which the freeze is recorded once it is complete; by default it is not.
    pub records: Option<PathBuf>,
    /// The name of the series that the freeze is one of; by default those of its source are one.
    pub name: Option<String>,
    /// Read and send only what changed since the last freeze of the source, where that can be told; by default everything
    /// is read. Takes `records`.
    pub night: Option<night::Wish>,
    /// How single registries among the outputs are spoken to, instead of what is said here for all.
    pub reach: Vec<Reach>,
    /// Go on without a registry or a layout that fails, as long as another output is left: the snapshot tells of it. By
    /// default the first output that fails ends the freeze.
    pub spare_outputs: bool,
}

/// How one registry is spoken to, and what of it is shared with other freezes.
#[derive(Debug, Clone)]
pub struct Reach {
    /// The output.
    pub output: OutputSpec,
    /// The map of known layers is the freeze's own all the same.
    pub registry: RegistryOptions,
}

impl FreezeOptions {
    /// The defaults for `source` and `outputs`.
    #[must_use]
    pub fn new(source: SourceSpec, outputs: Vec<OutputSpec>) -> Self {
        Self {
            source,
            outputs,
            agent_rootfs: None,
            pack_with: PackWith::default(),
            exclude: Vec::new(),
            include_mounts: Vec::new(),
            layer_bytes: None,
            uploads: 4,
            memory_bytes: default_memory_bytes(cores()),
            scratch_bytes: None,
            bandwidth_bytes: None,
            compression: None,
            level: None,
            tar_bytes_max: None,
            machine: MachineOptions::default(),
            image: ImageOptions::default(),
            own_files: Vec::new(),
            ca_cert: None,
            plain_http: false,
            patience: None,
            known: None,
            records: None,
            name: None,
            night: None,
            reach: Vec::new(),
            spare_outputs: false,
        }
    }
}
