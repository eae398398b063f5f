//! The last artifact of a source, of which a night takes what has not changed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;

use smolvm_pack::PackFooter;
use smolvm_pack::format::FOOTER_SIZE;

use super::side::SideFile;
use crate::night::index::{Artifact, Extent, Part};
use crate::stage::digest::DigestHasher;
use crate::stop::Stop;

/// Bytes that are copied at a time.
const STEP_BYTES: u64 = 1 << 20;

/// An artifact that ends as the one does that an index remembers. It can be read whatever becomes of its name.
#[derive(Debug)]
pub(crate) struct LastArtifact {
    file: File,
    remembered: Artifact,
}

impl LastArtifact {
    /// Opens it.
    ///
    /// # Errors
    /// When it is not there any more, or is another one.
    pub(crate) fn open(remembered: &Artifact) -> io::Result<Self> {
        let mut file = File::open(&remembered.path)?;
        let mut end = [0; FOOTER_SIZE];
        let bytes = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(bytes.saturating_sub(FOOTER_SIZE as u64)))?;
        file.read_exact(&mut end)?;
        let footer = PackFooter::from_bytes(&end).map_err(io::Error::other)?;
        if (footer.checksum, footer.assets_size) != remembered.checksum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is another one by now"));
        }
        Ok(Self { file, remembered: remembered.clone() })
    }

    /// What it has of the layer at this place of the last image.
    pub(crate) fn part(&self, at: usize) -> Option<&Part> {
        self.remembered.parts.get(at)
    }

    /// Where its content of `/workspace` lies, if anything was alive there.
    pub(crate) fn seed(&self) -> Option<Extent> {
        self.remembered.seed
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.remembered.path
    }

    /// Copies a part of it into `side`.
    ///
    /// # Errors
    /// When its bytes are not those that were written, or the disk fails.
    pub(crate) fn copy(&self, from: &Extent, mut side: SideFile, stop: &Stop) -> io::Result<SideFile> {
        let (mut bytes, mut copied, mut digest) = (Vec::new(), 0, DigestHasher::default());
        while copied < from.size {
            stop.check().map_err(io::Error::other)?;
            bytes.resize(usize::try_from((from.size - copied).min(STEP_BYTES)).unwrap_or(0), 0);
            self.file.read_exact_at(&mut bytes, from.start + copied)?;
            digest.update(&bytes);
            side.write_all(&bytes)?;
            copied += bytes.len() as u64;
        }
        if digest.finish().0 == from.digest {
            return Ok(side);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "its bytes are not those that were written"))
    }
}
