//! The index of a source's last image: which layers it has, and entry by entry what is in them.
//!
//! ```text
//! "smolfreeze index 1\n"    the format
//! length of the head        4 bytes, little-endian
//! head                      JSON, see [`Head`]
//! records                   one frame of zstd, see [`super::record`]
//! seal                      SHA-256 of all before it, in hexadecimal
//! ```
//! It is this host's own and never leaves it: whoever could write it elsewhere could make us pass over a file. One that is
//! lost, damaged or of another format costs one whole reading.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::compare::Moment;
use super::record::{Reader, Writer};
use crate::oci::{Descriptor, DiffId};
use crate::stage::digest::DigestHasher;

const MAGIC: &[u8] = b"smolfreeze index 1\n";
const SEAL_BYTES: usize = 64;
/// A head has a line for each of at most 125 layers.
const HEAD_BYTES_MAX: u32 = 1 << 20;

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
}

/// What an index says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// What was read, how, and in which form it was written: only the same again can go on from here.
    pub source: String,
    /// When the listing began, by the clock that stamps the source's files.
    pub began: Moment,
    /// Nights since everything was read, or read and compared.
    pub nights: u32,
    /// The layers, the lowest first.
    pub layers: Vec<Kept>,
}

/// Opens the index at `path` and checks its seal.
///
/// # Errors
/// When it is not there, damaged, or of another format.
pub(super) fn open(path: &Path) -> io::Result<(Head, Reader<impl Read + Send + use<>>)> {
    let mut file = File::open(path)?;
    let sealed_bytes = file.metadata()?.len().checked_sub(SEAL_BYTES as u64).ok_or_else(damaged)?;
    let mut hasher = DigestHasher::default();
    let mut buffer = vec![0; 256 << 10];
    let mut left = Read::by_ref(&mut file).take(sealed_bytes);
    loop {
        match left.read(&mut buffer)? {
            0 => break,
            bytes => hasher.update(&buffer[..bytes]),
        }
    }
    let mut seal = [0; SEAL_BYTES];
    file.read_exact(&mut seal)?;
    if hasher.finish().0.hex().as_bytes() != seal {
        return Err(damaged());
    }
    file.seek(SeekFrom::Start(0))?;
    let mut file = file.take(sealed_bytes);
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    let mut length = [0; 4];
    file.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if magic != *MAGIC || length > HEAD_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is of another format"));
    }
    let mut head = vec![0; length as usize];
    file.read_exact(&mut head)?;
    let head = serde_json::from_slice(&head).map_err(|_| damaged())?;
    Ok((head, Reader::new(file)?))
}

/// An index on its way to its name.
pub(super) struct Draft {
    file: tempfile::NamedTempFile,
    writer: Writer<Sealing>,
}

/// Hashes what it hands on.
struct Sealing {
    file: File,
    hasher: DigestHasher,
}

impl Write for Sealing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Draft {
    /// Begins an index in the folder of `path`.
    pub(super) fn begin(path: &Path, head: &Head) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let file = tempfile::Builder::new().prefix(".smolfreeze-").tempfile_in(folder)?;
        let mut sealing = Sealing { file: file.reopen()?, hasher: DigestHasher::default() };
        let head = serde_json::to_vec(head)?;
        sealing.write_all(MAGIC)?;
        let length = u32::try_from(head.len()).ok().filter(|length| *length <= HEAD_BYTES_MAX);
        sealing.write_all(&length.ok_or_else(damaged)?.to_le_bytes())?;
        sealing.write_all(&head)?;
        Ok(Self { file, writer: Writer::new(sealing)? })
    }

    pub(super) fn writer(&mut self) -> &mut Writer<impl Write + use<>> {
        &mut self.writer
    }

    /// The index gets its name, when it is safe.
    pub(super) fn publish(self, path: &Path) -> io::Result<()> {
        let Sealing { mut file, hasher } = self.writer.finish()?;
        file.write_all(hasher.finish().0.hex().as_bytes())?;
        file.sync_all()?;
        self.file.persist(path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is damaged")
}
