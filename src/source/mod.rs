//! Where a root filesystem comes from: each source gives one stream of tar bytes, in bounded memory.
//!
//! A source is surveyed first (how large is it), and then streamed, on a thread of its own, into an [`Outlet`].
//! Entries with several links come last and group by group, so that no layer has a link into another.

pub mod archive;
pub mod directory;
pub mod machine;
#[doc(hidden)]
pub mod mounts;
pub mod wanted;

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::error::{Error, Result};
use crate::pipeline::memory::{Buffer, Memory, Slice, Table};
use crate::progress::{Activity, Meters, NoticeKind, Notices, Observer, Row, Track};

/// What is known about a source before it is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    /// Bytes of tar, about; `None` where nobody can know (`tar:-`).
    pub tar_bytes: Option<u64>,
    /// Entries, about.
    pub entries: u64,
    /// The largest entry's content, about.
    pub largest_entry_bytes: u64,
    /// Whether entries may mean something else in another order or apart from each other: links, a name that comes twice,
    /// an entry below a link. They stay in one layer, unless it is cut and nothing reaches across.
    pub unordered: bool,
}

/// Buffers that a source may have taken and not yet sent, where nobody says how many.
const AHEAD_MAX: usize = 64;

/// What travels on the edge from a source to the cut.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The next bytes of the tar.
    Bytes(Slice),
    /// The source is complete. An edge that closes without it was cut off.
    End,
}

/// The writing end of a source's edge.
pub struct Outlet {
    pieces: Sender<Piece>,
    buffers: Buffers,
    notices: Notices,
    meters: Arc<Meters>,
    observer: Arc<dyn Observer>,
}

/// Where a source's buffers come from.
#[derive(Clone)]
pub struct Buffers {
    memory: Memory,
    ahead_max: usize,
    track: Arc<Track>,
}

impl Buffers {
    /// An empty buffer; blocks until one is free. They must be taken in the order in which they will be sent: one that
    /// waits for its turn while a later one has taken the last free buffer would wait for ever.
    ///
    /// # Errors
    /// When the freeze is stopped meanwhile.
    pub fn take(&self) -> Result<Buffer> {
        self.track.during(Activity::WaitsForMemory, || self.memory.buffer())
    }

    /// So many buffers may be taken and not yet sent, at most.
    #[must_use]
    pub fn ahead_max(&self) -> usize {
        self.ahead_max
    }

    /// Counts that `table` has so many bytes now.
    ///
    /// # Errors
    /// Those of [`Memory::count`].
    pub fn count(&self, table: &mut Table, bytes: usize) -> Result<()> {
        self.memory.count(table, bytes)
    }
}

impl Outlet {
    pub(crate) fn new(pieces: Sender<Piece>, memory: Memory, meters: Arc<Meters>, observer: Arc<dyn Observer>) -> Self {
        let track = Arc::new(Track::new(Row::Source, Arc::clone(&meters), Arc::clone(&observer)));
        let buffers = Buffers { memory, ahead_max: AHEAD_MAX, track };
        Self { pieces, buffers, notices: Notices::default(), meters, observer }
    }

    /// At most so many buffers may be taken and not yet sent.
    pub(crate) fn with_ahead_max(mut self, buffers: usize) -> Self {
        self.buffers.ahead_max = buffers;
        self
    }

    /// For threads of a source's own that fill buffers.
    #[must_use]
    pub fn buffers(&self) -> Buffers {
        self.buffers.clone()
    }

    /// What a source tells of its retries to.
    pub(crate) fn watchers(&self) -> (Arc<Meters>, Arc<dyn Observer>) {
        (Arc::clone(&self.meters), Arc::clone(&self.observer))
    }

    /// An empty buffer; blocks until one is free.
    ///
    /// # Errors
    /// When the freeze is stopped meanwhile.
    pub fn buffer(&self) -> Result<Buffer> {
        self.buffers.take()
    }

    /// Hands on the next bytes of the tar; blocks while the edge is full.
    ///
    /// # Errors
    /// When the cut has hung up.
    pub fn send(&mut self, bytes: Slice) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let length = bytes.len() as u64;
        let sent = self.buffers.track.during(Activity::WaitsForCut, || self.pieces.send(Piece::Bytes(bytes)));
        sent.map_err(|_| Error::hung_up("the cut"))?;
        self.meters.source.gave(length);
        self.observer.read(length);
        self.observer.held(self.buffers.memory.held_bytes());
        Ok(())
    }

    /// Remembers an entry that the user should know about.
    pub fn notice(&mut self, kind: NoticeKind, path: &[u8]) {
        self.observer.noticed(kind, path);
        self.notices.add(kind, path);
    }

    /// The source is complete: everything was sent.
    ///
    /// # Errors
    /// When the cut has hung up.
    pub fn end(self) -> Result<Notices> {
        self.complete()?;
        Ok(self.tidied())
    }

    /// Everything was sent, and is right; the source itself has still to tidy up. The last layers need not wait for that,
    /// but no image is named before it is done.
    ///
    /// # Errors
    /// When the cut has hung up.
    pub fn complete(&self) -> Result<()> {
        self.pieces.send(Piece::End).map_err(|_| Error::hung_up("the cut"))
    }

    /// The end of a source that was [complete](Self::complete).
    #[must_use]
    pub fn tidied(self) -> Notices {
        self.notices
    }
}

/// What to leave out of a source, and what to bring back.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Patterns of entries to leave out, see [`crate::exclude`].
    pub exclude: crate::exclude::Exclude,
    /// Mounts whose contents are wanted, as paths relative to the root.
    pub include_mounts: Vec<PathBuf>,
    /// Files and folders of this very freeze (outputs, scratch) that must not become part of it.
    pub own_outputs: Vec<PathBuf>,
    /// Folders, relative to the root, that no hard link leads into or out of: a file with names on both sides becomes
    /// two. Of `dir:` alone.
    pub apart: Vec<PathBuf>,
}
