//! Our own reader in the guest: `smolfreeze-guest`, or a copy of the whole program, that does what the guest's find, sort,
//! tar, dd and cksum would do, on the same spool, in a fraction of their time and with everything that a folder's stream
//! keeps.
//!
//! It runs under `guest.sh`, which keeps the lease and cleans up; all it does is fill slots as `cut_up` there does.
//! The host trusts what it writes no more than what a tar writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::checksum::PieceSums;
use super::listing;
use super::order::Order;
use super::verdict::notice_line;
use crate::error::{Error, Result};
use crate::night::picker::Picker;
use crate::pipeline::memory::{BUFFER_BYTES, Memory};
use crate::progress::{Meters, NoticeKind, Notices, Silent};
use crate::source::directory::Directory;
use crate::source::mounts::Mount;
use crate::source::{Outlet, Piece};
use crate::stop::Stop;

/// Buffers between the folder and the spool.
const MEMORY_BUFFERS: u64 = 16;
/// How long to wait before looking again whether a slot is free.
const SLOT_PAUSE: Duration = Duration::from_millis(8);
/// How long to wait before looking again whether there is something new.
const LOOK_PAUSE: Duration = Duration::from_millis(3);
/// The first chunk is no larger: the host has something to do while the second one is filled.
const FIRST_CHUNK_BYTES: u64 = 4 << 20;

/// A spool of `guest.sh`, as its reader is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Spool<'a> {
    /// Its folder, made by `guest.sh prepare`.
    pub folder: &'a Path,
    /// Chunks that may lie there unacknowledged, at least 1.
    pub window_chunks: u64,
    /// Bytes of each but the first and the last, which may be smaller.
    pub chunk_bytes: u64,
}

/// Reads what `order` (JSON) says of the folder `root` into the spool, as its last archive; what happened to files
/// meanwhile goes, a line each, to `words`. Ends when all was published.
///
/// # Errors
/// An entry that is there and can't be read, or a spool that can't be written. What was published until then is counted.
pub fn fill(root: &Path, order: &str, spool: Spool<'_>, words: &mut dyn io::Write) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::usage("reading what is wanted", "the guest's reader", error);
    let Order { wanted, list } = serde_json::from_str(order).map_err(|error| failed(&error))?;
    let directory = Directory::open_root(root, wanted)?;
    let stop = Stop::new();
    let mut slots = Slots { spool, index: 0, chunk: None };
    look_anew();
    let picker = list.map(|order| listing::list(&directory, order, &mut slots, &stop)).transpose();
    let streamed = picker.and_then(|picker| stream(directory, picker, &mut slots, &stop));
    let counted = slots.count();
    let notices = streamed?;
    counted.map_err(|error| unwritten(spool, &error))?;
    tell(&notices, words).map_err(|error| Error::source("telling of notices", spool.folder.display(), &error))
}

/// A bare machine's root is an overlay over virtiofs, whose kernel may, after a restart, take a file that was changed for another
/// one that it knows: then it leaves it out of its folder, or says that it is stale. So it has to forget what it knows before each
/// walk.
fn look_anew() {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let is_lower = |mount: Mount| mount.point == b"/oldroot" && mount.kind == "virtiofs";
    if mounts.split(|byte| *byte == b'\n').filter_map(Mount::read).any(is_lower) {
        // Where it can't, the walk fails of what it meets.
        let _ = std::fs::write("/proc/sys/vm/drop_caches", "2");
    }
}

/// The tar, as an archive of its own.
fn stream(directory: Directory, picker: Option<Picker>, slots: &mut Slots<'_>, stop: &Stop) -> Result<Notices> {
    look_anew();
    let memory = Memory::new(MEMORY_BUFFERS * BUFFER_BYTES as u64, stop.clone());
    let (pieces_end, pieces) = bounded(4);
    let outlet = Outlet::new(pieces_end, memory, Arc::new(Meters::default()), Arc::new(Silent));
    let (streamed, written) = std::thread::scope(|scope| {
        let source = scope.spawn(|| directory.stream_picked(picker, outlet, stop));
        let mut written = Ok(());
        let mut complete = false;
        for piece in &pieces {
            match piece {
                Piece::Bytes(bytes) => written = slots.take(&bytes),
                Piece::End => complete = true,
            }
            if written.is_err() {
                stop.stop(Error::hung_up("the spool"));
                break;
            }
        }
        drop(pieces);
        if complete {
            written = slots.end();
        }
        (source.join().unwrap_or_else(|_| Err(Error::hung_up("the folder"))), written)
    });
    written.map_err(|error| unwritten(slots.spool, &error))?;
    streamed
}

fn unwritten(spool: Spool<'_>, error: &io::Error) -> Error {
    Error::source("writing the spool", spool.folder.display(), error)
}

/// Returns when there is an item `index` in `spool`, when nothing makes one any more, or after `limit`. For `guest.sh
/// next`, which needs a process for each look by itself.
pub fn wait(spool: &Path, index: u64, limit: Duration) {
    let (item, state) = (spool.join(format!("m.{index}")), spool.join("state"));
    // Before the producer has a state, it starts.
    let goes_on = || std::fs::read(&state).map_or_else(|_| spool.exists(), |state| state.starts_with(b"running"));
    wait_while(limit, || !item.exists() && goes_on());
}

/// Returns when `guest.sh` is asked to end, or after `limit`.
pub fn pause(spool: &Path, limit: Duration) {
    let stop = spool.join("stop");
    wait_while(limit, || !stop.exists() && spool.exists());
}

fn wait_while(limit: Duration, goes_on: impl Fn() -> bool) {
    let began = Instant::now();
    while goes_on() && began.elapsed() < limit {
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// One line each. Mounts are the host's to tell.
fn tell(notices: &Notices, words: &mut dyn io::Write) -> io::Result<()> {
    for notice in notices.named().iter().filter(|notice| notice.kind != NoticeKind::Mount) {
        words.write_all(&notice_line(notice.kind, notice.path.as_bytes()))?;
        words.write_all(b"\n")?;
    }
    words.flush()
}

/// The slots of a spool, one after the other.
pub(super) struct Slots<'a> {
    spool: Spool<'a>,
    /// Of the chunk that is filled, or the next one.
    index: u64,
    chunk: Option<Chunk>,
}

/// A chunk that is being filled.
struct Chunk {
    file: File,
    bytes: u64,
    sums: PieceSums,
}

impl<'a> Slots<'a> {
    pub(super) fn folder(&self) -> &'a Path {
        self.spool.folder
    }

    pub(super) fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut chunk = match self.chunk.take() {
                Some(chunk) => chunk,
                None => self.next()?,
            };
            let whole =
                if self.index == 0 { FIRST_CHUNK_BYTES.min(self.spool.chunk_bytes) } else { self.spool.chunk_bytes };
            let room = usize::try_from(whole - chunk.bytes).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            chunk.file.write_all_at(now, chunk.bytes)?;
            chunk.sums.update(now);
            chunk.bytes += now.len() as u64;
            bytes = later;
            if chunk.bytes == whole {
                self.publish(chunk)?;
            } else {
                self.chunk = Some(chunk);
            }
        }
        Ok(())
    }

    /// The archive is complete: its last chunk, and the mark of its end.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if let Some(chunk) = self.chunk.take() {
            self.publish(chunk)?;
        }
        self.await_turn()?;
        self.show(&format!("seam {}", self.index))?;
        self.index += 1;
        Ok(())
    }

    /// Leaves the number of items for `guest.sh`, whatever became of them.
    fn count(&self) -> io::Result<()> {
        std::fs::write(self.spool.folder.join("index"), format!("{}\n", self.index))
    }

    /// Waits until the index may be used: when the one whose slot it takes was acknowledged.
    fn await_turn(&self) -> io::Result<()> {
        let folder = self.spool.folder;
        if let Some(earlier) = self.index.checked_sub(self.spool.window_chunks) {
            let taken = folder.join(format!("u.{earlier}"));
            while taken.exists() {
                std::thread::sleep(SLOT_PAUSE);
            }
        }
        File::create(folder.join(format!("u.{}", self.index))).map(drop)
    }

    /// The next slot's file. It is written over: that takes half the time of new pages for each chunk.
    fn next(&self) -> io::Result<Chunk> {
        self.await_turn()?;
        let slot = self.spool.folder.join(format!("c.{}", self.index % self.spool.window_chunks));
        let file = File::options().write(true).create(true).truncate(false).open(slot)?;
        Ok(Chunk { file, bytes: 0, sums: PieceSums::default() })
    }

    fn publish(&mut self, chunk: Chunk) -> io::Result<()> {
        if chunk.bytes < self.spool.chunk_bytes {
            chunk.file.set_len(chunk.bytes)?;
        }
        let sums: Vec<String> = chunk.sums.finish().iter().map(u32::to_string).collect();
        self.show(&format!("chunk {} {} pieces {}", self.index, chunk.bytes, sums.join(",")))?;
        self.index += 1;
        Ok(())
    }

    fn show(&self, line: &str) -> io::Result<()> {
        let (made, shown) = (self.spool.folder.join("m.new"), self.spool.folder.join(format!("m.{}", self.index)));
        std::fs::write(&made, format!("{line}\n"))?;
        std::fs::rename(made, shown)
    }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::of_piece;
    use super::*;
    use crate::source::wanted::Wanted;

    #[test]
    fn chunks_are_cut_summed_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, root) = (folder.path().join("spool"), folder.path().join("root"));
        std::fs::create_dir_all(&spool).unwrap();
        std::fs::create_dir_all(root.join("left out")).unwrap();
        std::fs::write(root.join("file"), vec![7; 200_000]).unwrap();
        std::fs::write(root.join("left out/file"), "x").unwrap();
        let wanted = r#"{"exclude":["*.pyc"],"include":[],"hollow":["left out"],"apart":[],"placed":null}"#;
        let spool_here = Spool { folder: &spool, window_chunks: 8, chunk_bytes: 64 << 10 };
        let mut words = Vec::new();
        fill(&root, wanted, spool_here, &mut words).unwrap();
        assert_eq!(words, b"");
        assert_eq!(std::fs::read_to_string(spool.join("index")).unwrap(), "5\n");
        let mut tar = Vec::new();
        for index in 0..4 {
            let line = std::fs::read_to_string(spool.join(format!("m.{index}"))).unwrap();
            let bytes = std::fs::read(spool.join(format!("c.{index}"))).unwrap();
            assert_eq!(line, format!("chunk {index} {} pieces {}\n", bytes.len(), of_piece(&bytes)));
            tar.extend(bytes);
        }
        assert_eq!(std::fs::read_to_string(spool.join("m.4")).unwrap(), "seam 4\n");
        let mut archive = tar::Archive::new(&tar[..]);
        let names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["./", "./file", "./left out/"]);
    }

    #[test]
    fn the_first_chunk_is_small() {
        let folder = tempfile::tempdir().unwrap();
        let mut slots = Slots {
            spool: Spool { folder: folder.path(), window_chunks: 4, chunk_bytes: 6 << 20 },
            index: 0,
            chunk: None,
        };
        slots.take(&vec![7; 11 << 20]).unwrap();
        slots.end().unwrap();
        let sizes: Vec<_> =
            (0..3).map(|slot| folder.path().join(format!("c.{slot}")).metadata().unwrap().len()).collect();
        assert_eq!(sizes, [4 << 20, 6 << 20, 1 << 20]);
        assert_eq!(std::fs::read_to_string(folder.path().join("m.3")).unwrap(), "seam 3\n");
    }

    #[test]
    fn waiting_ends_with_an_item_an_end_or_the_spool() {
        const LONG: Duration = Duration::from_secs(600);
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().join("spool");
        std::fs::create_dir(&spool).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| wait(&spool, 3, LONG));
            std::fs::write(spool.join("state"), "running\n").unwrap();
            std::fs::write(spool.join("m.3"), "seam 3\n").unwrap();
            waits.join().unwrap();
            let waits = scope.spawn(|| wait(&spool, 4, LONG));
            std::fs::write(spool.join("state"), "end 4\n").unwrap();
            waits.join().unwrap();
            std::fs::remove_file(spool.join("state")).unwrap();
            wait(&spool, 4, Duration::from_millis(1));
            let waits = scope.spawn(|| wait(&spool, 4, LONG));
            std::fs::remove_dir_all(&spool).unwrap();
            waits.join().unwrap();
        });
    }

    #[test]
    fn a_spool_that_is_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let spool = Spool { folder: &gone, window_chunks: 1, chunk_bytes: 64 << 10 };
        let wanted = serde_json::to_string(&Wanted::default()).unwrap();
        assert!(fill(folder.path(), &wanted, spool, &mut Vec::new()).is_err());
    }
}
