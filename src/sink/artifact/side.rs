//! Bytes that wait beside the artifact for their turn, in a file without a name, and are moved into it without taking
//! the disk's space twice; or that lie in it already, where a place was kept for them.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use crc32fast::Hasher;
use rustix::fs::{FallocateFlags, fallocate};

use crate::stop::Stop;

/// Bytes that are read at a time.
const STEP_BYTES: u64 = 1 << 20;

/// What was read is given back to the disk in pieces of this size: more than a call's cost, less than anybody misses.
const HOLE_BYTES: u64 = 8 << 20;

/// A file that is being filled. Whatever ends the process frees it.
#[derive(Debug)]
pub(crate) struct SideFile {
    file: Arc<File>,
    bytes: u64,
    place: Option<Place>,
}

/// Where bytes lie in the artifact's own file.
#[derive(Debug)]
struct Place {
    start: u64,
    length: u64,
    /// Of the bytes so far.
    checksum: Hasher,
}

impl SideFile {
    /// An empty one, on the same disk as `artifact`.
    pub(crate) fn beside(artifact: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(super::temporary::folder_of(artifact))?;
        Ok(Self { file: Arc::new(file), bytes: 0, place: None })
    }

    /// An empty one, whose bytes go to `start` in the artifact's own `file`: `length` of them, and what comes behind them
    /// nowhere.
    pub(super) fn within(file: Arc<File>, start: u64, length: u64) -> Self {
        Self { file, bytes: 0, place: Some(Place { start, length, checksum: Hasher::new() }) }
    }

    /// Where in the artifact it begins, and the checksum of its bytes, if a place was kept for it and is full.
    pub(super) fn placed(&self) -> Option<(u64, &Hasher)> {
        let place = self.place.as_ref().filter(|place| place.length == self.bytes)?;
        Some((place.start, &place.checksum))
    }

    /// Frees the disk at once of what lies in the artifact and does not stay there, where the filesystem can.
    pub(crate) fn discard(self) {
        if let Some(Place { start, length, .. }) = self.place {
            let _ = punch(&self.file, start, length);
        }
    }

    fn start(&self) -> u64 {
        self.place.as_ref().map_or(0, |place| place.start)
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
    pub(super) fn into_file(self) -> Arc<File> {
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

/// Makes a hole of `length` bytes at `start`.
fn punch(file: &File, start: u64, length: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, length)?)
}

/// Makes zeros of `length` bytes at `start`: a hole where the filesystem can.
pub(super) fn clear(file: &File, start: u64, length: u64) -> io::Result<()> {
    if length == 0 || punch(file, start, length).is_ok() {
        return Ok(());
    }
    let zeros = vec![0; usize::try_from(length.min(STEP_BYTES)).unwrap_or(0)];
    let mut cleared = 0;
    while cleared < length {
        let step = (length - cleared).min(STEP_BYTES);
        file.write_all_at(&zeros[..usize::try_from(step).unwrap_or(0)], start + cleared)?;
        cleared += step;
    }
    Ok(())
}

impl Write for SideFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let start = self.start();
        let mut fitting = bytes;
        if let Some(place) = &mut self.place {
            let left = usize::try_from(place.length.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
            fitting = &bytes[..bytes.len().min(left)];
            place.checksum.update(fitting);
        }
        self.file.write_all_at(fitting, start + self.bytes)?;
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
        let left = usize::try_from(self.from.bytes - self.at).unwrap_or(usize::MAX).min(into.len());
        let read = self.from.file.read_at(&mut into[..left], self.from.start() + self.at)?;
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
            self.can_free = punch(&self.from.file, self.from.start() + self.freed_bytes, bytes).is_ok();
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
            self.from.file.read_exact_at(&mut self.step, self.from.start() + self.read_bytes)?;
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
    fn a_place_takes_what_fits_and_nothing_beside_it_is_touched() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 30_000]).unwrap();
        let file = Arc::new(file);
        let mut side = SideFile::within(Arc::clone(&file), 5000, 20_000);
        side.write_all(&vec![2; 19_999]).unwrap();
        assert!(side.placed().is_none(), "it is not full");
        side.write_all(&[3]).unwrap();
        let (start, checksum) = side.placed().unwrap();
        let content = [vec![2; 19_999], vec![3]].concat();
        assert_eq!((start, checksum.clone().finalize()), (5000, crc32fast::hash(&content)));
        let (stop, mut moved) = (Stop::new(), Vec::new());
        io::copy(&mut side.reading(&stop), &mut moved).unwrap();
        assert!(moved == content);
        side.write_all(&[4; 10]).unwrap();
        assert!(side.placed().is_none(), "more came than it is for");
        clear(&file, 5000, 20_000).unwrap();
        let mut whole = vec![0; 30_000];
        file.read_exact_at(&mut whole, 0).unwrap();
        assert!(whole == [vec![1; 5000], vec![0; 20_000], vec![1; 5000]].concat());
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
