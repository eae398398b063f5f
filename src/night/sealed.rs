//! Files that are whole or not there: with a seal behind all that they hold, and a name when they are safe.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::path::Path;

use super::framed::damaged;
use crate::stage::digest::DigestHasher;

/// SHA-256, in hexadecimal.
const SEAL_BYTES: usize = 64;

/// Opens the file at `path`, whose seal is right.
///
/// # Errors
/// When it is not there, or damaged.
pub(super) fn open(path: &Path) -> io::Result<io::Take<File>> {
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
    file.rewind()?;
    Ok(file.take(sealed_bytes))
}

/// Writes the file that will be at `path`.
///
/// # Errors
/// When it can't be written: the one that was there before still is.
pub(super) fn write(path: &Path, contents: impl FnOnce(&mut Sealing) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let file = tempfile::Builder::new().prefix(".smolfreeze-").tempfile_in(folder)?;
    let mut sealing = Sealing { file: file.reopen()?, hasher: DigestHasher::default() };
    contents(&mut sealing)?;
    let Sealing { file: mut sealed, hasher } = sealing;
    sealed.write_all(hasher.finish().0.hex().as_bytes())?;
    sealed.sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

/// Hashes what it hands on.
pub(super) struct Sealing {
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
