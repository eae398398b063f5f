//! Layers that are made here: what stays of others.

use std::io::{self, Read, Write};
use std::path::Path;

use super::seed::Seed;
use super::side::SideFile;
use crate::oci::{Compression, Descriptor};
use crate::pipeline::gather::LiveEnd;
use crate::stage::digest::{DiffIdHasher, DigestHasher};
use crate::stage::header::BLOCK_BYTES;
use crate::stage::stack::{self, Output};
use crate::stage::walk::Entry;

/// What is rewritten is compressed fast.
const LEVEL: i32 = 1;
const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

/// A layer that is made here.
pub(crate) struct Made {
    tar: zstd::Encoder<'static, Hashed<SideFile>>,
    diff_id: DiffIdHasher,
    bytes: u64,
}

/// Hashes what it hands on.
pub(super) struct Hashed<W> {
    pub(super) to: W,
    pub(super) digest: DigestHasher,
}

impl<W: Write> Hashed<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, digest: DigestHasher::default() }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.digest.update(bytes);
        self.to.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Made {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.diff_id.update(bytes);
        self.bytes += bytes.len() as u64;
        self.tar.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Made {
    pub(crate) fn beside(target: &Path) -> io::Result<Self> {
        let hashed = Hashed::new(SideFile::beside(target)?);
        Ok(Self { tar: zstd::Encoder::new(hashed, LEVEL)?, diff_id: DiffIdHasher::default(), bytes: 0 })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(crate) fn finish(mut self) -> io::Result<(SideFile, LiveEnd)> {
        self.write_all(&END)?;
        let Hashed { to: gathered, digest } = self.tar.finish()?;
        let ((digest, size), (diff_id, tar_bytes)) = (digest.finish(), self.diff_id.finish());
        let descriptor = Descriptor { media_type: Compression::Zstd.media_type().to_owned(), digest, size };
        Ok((gathered, LiveEnd { descriptor, diff_id, tar_bytes }))
    }
}

/// Entries of `/workspace` go to its seed, others to the layer.
pub(crate) struct Split<'a> {
    pub(crate) layer: Made,
    pub(crate) seed: &'a mut Option<Seed>,
    pub(crate) target: &'a Path,
    /// The layer is one of `/workspace`: what is above that is only there to hold it.
    pub(crate) drop_rest: bool,
}

impl Output for Split<'_> {
    fn put(&mut self, entry: &Entry, path: &[u8], changed: Option<&[u8]>, content: &mut dyn Read) -> io::Result<()> {
        let below = stack::is_below(path, stack::WORKSPACE);
        if below {
            if self.seed.is_none() {
                *self.seed = Some(Seed::beside(self.target)?);
            }
            let Some(seed) = self.seed else { return Ok(()) };
            seed.put(entry, path, changed, content)?;
        }
        if self.drop_rest || (below && path != stack::WORKSPACE) {
            return Ok(());
        }
        if changed.is_none() && entry.path()? == path {
            self.layer.write_all(&entry.head)?;
        } else {
            self.layer.write_all(&entry.renamed(path, changed)?)?;
        }
        io::copy(content, &mut self.layer)?;
        self.layer.write_all(&END[..entry.padding()])
    }
}
