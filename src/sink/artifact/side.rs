//! Bytes that wait beside the artifact for their turn, in a file without a name, and are moved into it without taking
//! the disk's space twice.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};

use crate::stop::Stop;

/// Bytes that are read at a time.
const STEP_BYTES: u64 = 1 << 20;

/// What was read is given back to the disk in pieces of this size: more than a call's cost, less than anybody misses.
const HOLE_BYTES: u64 = 8 << 20;

/// A file that is being filled. Whatever ends the process frees it.
#[derive(Debug)]
pub(crate) struct SideFile {
    file: File,
    bytes: u64,
}

impl SideFile {
    /// An empty one, on the same disk as `artifact`.
    pub(crate) fn beside(artifact: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(super::temporary::folder_of(artifact))?, bytes: 0 })
    }

    /// With `slices` behind what there is.
    pub(super) fn appended(mut self, slices: &[Bytes]) -> io::Result<Self> {
        slices.iter().try_for_each(|bytes| self.write_all(bytes))?;
        Ok(self)
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.bytes
    }

    /// The file, of which nothing was moved.
    pub(super) fn into_file(self) -> File {
        self.file
    }

    /// All of it from the start; nothing is gone.
    pub(crate) fn reading<'a>(&'a self, stop: &'a Stop) -> impl Read + 'a {
        Reading { from: self, at: 0, stop }
    }

    /// All of it from the start, once: what was read is gone.
    pub(super) fn moving(self, stop: &Stop) -> Moving<'_> {
        Moving { from: self, step: Vec::new(), taken: 0, read_bytes: 0, freed_bytes: 0, can_free: true, stop }
    }
}

impl Write for SideFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Reading<'a> {
    from: &'a SideFile,
    at: u64,
    stop: &'a Stop,
}

impl Read for Reading<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stop.check().map_err(io::Error::other)?;
        let read = self.from.file.read_at(into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A side file on its way out: a hole grows behind what was read.
#[derive(Debug)]
pub(super) struct Moving<'a> {
    from: SideFile,
    step: Vec<u8>,
    /// How much of `step` was taken.
    taken: usize,
    read_bytes: u64,
    freed_bytes: u64,
    can_free: bool,
    stop: &'a Stop,
}

impl Moving<'_> {
    /// Gives back the space of what was taken. Some filesystems can't (NFS before 4.2); then it is held a while longer.
    fn free(&mut self) {
        let bytes = self.read_bytes - self.freed_bytes;
        if self.can_free && bytes >= HOLE_BYTES {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            self.can_free = fallocate(&self.from.file, how, self.freed_bytes, bytes).is_ok();
            self.freed_bytes = self.read_bytes;
        }
    }
}

impl BufRead for Moving<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.step.len() {
            self.stop.check().map_err(io::Error::other)?;
            self.free();
            let length = (self.from.bytes - self.read_bytes).min(STEP_BYTES);
            self.step.resize(usize::try_from(length).unwrap_or(0), 0);
            self.from.file.read_exact_at(&mut self.step, self.read_bytes)?;
            self.read_bytes += length;
            self.taken = 0;
        }
        Ok(&self.step[self.taken..])
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount;
    }
}

impl Read for Moving<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let length = available.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// 20 MB of it, so that there are holes to be punched.
    fn filled(folder: &Path) -> (SideFile, Vec<u8>) {
        let content: Vec<u8> = (0..=250_u8).cycle().take(20_000_000).collect();
        let mut side = SideFile::beside(&folder.join("artifact")).unwrap();
        for part in content.chunks(700_000) {
            side = side.appended(&[Bytes::copy_from_slice(part)]).unwrap();
        }
        (side, content)
    }

    #[test]
    fn what_was_read_takes_no_space_any_more() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (side, content) = filled(folder.path());
        assert_eq!((side.len(), std::fs::read_dir(folder.path()).unwrap().count()), (content.len() as u64, 0));
        let file = side.file.try_clone().unwrap();
        // What is not on its way to the disk yet has no blocks.
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        let stop = Stop::new();
        let mut moving = side.moving(&stop);
        let mut moved = Vec::new();
        io::copy(&mut moving, &mut moved).unwrap();
        assert!(moved == content);
        let after = file.metadata().unwrap().blocks();
        assert!(after < before / 2, "{before} blocks before, {after} after");
    }

    #[test]
    fn a_stop_ends_the_move() {
        let folder = tempfile::tempdir().unwrap();
        let stop = Stop::new();
        let (side, _) = filled(folder.path());
        let mut moving = side.moving(&stop);
        moving.read_exact(&mut [0; 1000]).unwrap();
        stop.interrupt();
        assert!(io::copy(&mut moving, &mut io::sink()).is_err());
    }
}
