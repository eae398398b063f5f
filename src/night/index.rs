//! The index of a source's last image: which layers it has, and entry by entry what is in them.
//!
//! ```text
//! "smolfreeze index 2\n"    the format
//! length of the head        4 bytes, little-endian
//! head                      JSON, see [`Head`]
//! records                   one frame of zstd, see [`super::record`]
//! seal                      see [`super::sealed`]
//! ```
//! It is this host's own and never leaves it: whoever could write it elsewhere could make us pass over a file. One that is
//! lost, damaged or of another format costs one whole reading.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::compare::Moment;
use super::record::Reader;
use super::{framed, sealed};
use crate::oci::{Descriptor, DiffId, Digest};

const MAGIC: &[u8] = b"smolfreeze index 2\n";

/// One layer of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What records call it. Upper layers have larger numbers, and no number comes twice.
    pub number: u32,
    /// SHA-256 of its tar.
    pub diff_id: DiffId,
    /// Its blob.
    pub descriptor: Descriptor,
    /// Bytes of its tar.
    pub tar_bytes: u64,
    /// Those of the entries that it was made of; folders that come again, and marks of deletions, are not.
    pub entry_bytes: u64,
    /// All of it is of `/workspace`.
    #[serde(default)]
    pub workspace: bool,
}

/// An artifact of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Where it is.
    pub path: PathBuf,
    /// The checksum and the length of its assets that its end states.
    pub checksum: (u32, u64),
    /// What it has of each layer, in their order.
    pub parts: Vec<Part>,
    /// What it has of all that are of `/workspace`, if anything is alive there.
    pub seed: Option<Extent>,
}

/// What an artifact has of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What was left out, by its name.
    pub left_out: Option<Digest>,
    /// The layer that stands for it, if anything stayed.
    pub layer: Option<(DiffId, Extent)>,
}

/// Where in a file a tar lies, in frames of zstd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Its first byte.
    pub start: u64,
    /// The bytes of the frames, and their digest.
    pub size: u64,
    /// See [`Self::size`].
    pub digest: Digest,
    /// Bytes of the tar.
    pub tar_bytes: u64,
}

/// What an index says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Whose files they are, then what was read, how, and in which form it was written: only the same again can go on from
    /// here.
    pub source: (String, String),
    /// When the listing began, by the clock that stamps the source's files.
    pub began: Moment,
    /// When a listing began last before which all was stored, see [`super::compare::Settled`]: what changed since is in doubt.
    #[serde(default)]
    pub stored: Option<Moment>,
    /// Nights since everything was read, or read and compared.
    pub nights: u32,
    /// The layers, the lowest first.
    pub layers: Vec<Kept>,
    /// Artifacts that were made of them.
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    /// Files in layers from this one on may have the bytes of others that had their names for a moment: they are in doubt.
    #[serde(default)]
    pub doubtful_from: Option<u32>,
}

/// Opens the index at `path` and checks its seal.
///
/// # Errors
/// When it is not there, damaged, or of another format.
pub(super) fn open(path: &Path) -> io::Result<(Head, Reader<impl Read + Send + use<>>)> {
    let mut file = sealed::open(path)?;
    let head = framed::read(&mut file, MAGIC)?;
    Ok((head, Reader::new(file)?))
}

/// The records of the index in `folder` that is of an image with these layers, the lowest first, if one is.
pub(crate) fn of_image(folder: &Path, layers: &[Digest]) -> Option<Reader<impl Read + Send + use<>>> {
    let indexes = std::fs::read_dir(folder).ok()?.filter_map(|entry| open(&entry.ok()?.path()).ok());
    let is_of_it = |head: &Head| head.layers.iter().map(|layer| layer.descriptor.digest).eq(layers.iter().copied());
    indexes.into_iter().find(|(head, _)| is_of_it(head)).map(|(_, records)| records)
}

/// Writes the index that will be at `path`, which gets its name when it is safe. `records` is the frame with all of them.
pub(super) fn write(path: &Path, head: &Head, records: &mut (impl Read + io::Seek)) -> io::Result<()> {
    sealed::write(path, |out| {
        framed::write(&mut *out, MAGIC, head)?;
        records.rewind()?;
        io::copy(records, out).map(drop)
    })
}
