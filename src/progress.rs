//! What may be observed while a freeze runs.
//!
//! The library tells an [`Observer`] what happens, at the moment it happens. An observer returns nothing and must not
//! block: it is called from the threads that do the work. [`Silent`] is the one that listens to nothing.

use std::time::{Duration, Instant};

mod meter;
pub(crate) mod processor;
mod track;

pub use meter::{Measured, Meter, Meters};
pub use track::{Activity, Doing, Row, Track};

/// Something about an entry of a live filesystem that the user should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// The file's size stayed, its time of change did not.
    Changed,
    /// The file got shorter; the missing bytes are zeros in the image.
    Shrank,
    /// The file got longer; the bytes past its first size are not in the image.
    Grew,
    /// The entry was listed but was gone when it was to be read; it is not in the image.
    Vanished,
    /// Another file has taken the name since it was listed; that one is in the image.
    Replaced,
    /// A socket; no archive can hold one, and it means nothing without its process.
    Socket,
    /// Another filesystem is mounted here; its mount point is in the image, its contents are not.
    Mount,
    /// A file with more hard links than the guest's tar takes at a time: from here on, they lead to a copy of it.
    Divided,
    /// One of overlayfs's own marks: a device 0:0 is not in the image, an entry is there without its attributes of overlayfs.
    Overlay,
    /// An output of this very freeze, or the state folder's artifacts, lie inside its source; they were left out.
    Output,
}

/// What a running freeze reports. Every method has an empty body, so that an observer names only what it wants.
pub trait Observer: Send + Sync {
    /// The size of the whole is known, in bytes of tar, as well as it can be before reading it.
    fn expected(&self, _tar_bytes: u64) {}
    /// The source handed on this many more bytes of tar.
    fn read(&self, _bytes: u64) {}
    /// Layer `index` has begun.
    fn layer_began(&self, _index: usize) {}
    /// Layer `index` is complete and compressed.
    fn layer_packed(&self, _index: usize, _tar_bytes: u64, _blob_bytes: u64) {}
    /// Layer `index` is what this host packed before, and every sink has it.
    fn layer_known(&self, _index: usize, _tar_bytes: u64, _blob_bytes: u64) {}
    /// A sink confirmed this many more bytes of layer `index`. Bytes sent twice count once.
    fn part_sent(&self, _index: usize, _bytes: u64) {}
    /// Layer `index` waits in a file for slow uploads, and takes no memory meanwhile.
    fn layer_put_aside(&self, _index: usize) {}
    /// Every sink has layer `index`.
    fn layer_sent(&self, _index: usize) {}
    /// An operation failed and is tried again after `delay`.
    fn retrying(&self, _subject: &str, _reason: &str, _delay: Duration) {}
    /// A row did this for so long. The spans of a row never overlap; very short ones come together, as one.
    fn span(&self, _row: Row, _activity: Activity, _began: Instant, _took: Duration) {}
    /// Layers hold this many bytes of memory now.
    fn held(&self, _bytes: u64) {}
    /// An entry that the user should know about. `path` is relative to the root, as the bytes it is made of.
    fn noticed(&self, _kind: NoticeKind, _path: &[u8]) {}
}

/// The observer that listens to nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {}

/// The entries a freeze has to tell about: exact counts, and the first names of each kind.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Notices {
    counts: std::collections::BTreeMap<NoticeKind, u64>,
    named: Vec<Notice>,
}

/// One named entry of [`Notices`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Notice {
    /// What happened.
    pub kind: NoticeKind,
    /// The entry's path relative to the root; bytes that are not UTF-8 are replaced.
    pub path: String,
}

impl Notices {
    /// So many names are kept of each kind; the counts go on.
    pub const NAMES_KEPT: u64 = 1000;

    /// Counts one, and keeps its name while there is room.
    pub fn add(&mut self, kind: NoticeKind, path: &[u8]) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= Self::NAMES_KEPT {
            self.named.push(Notice { kind, path: String::from_utf8_lossy(path).into_owned() });
        }
    }

    /// Adds what another part of the freeze had to tell.
    pub fn extend(&mut self, other: Self) {
        for (kind, count) in other.counts {
            let before = self.counts.entry(kind).or_default();
            let room = usize::try_from(Self::NAMES_KEPT.saturating_sub(*before)).unwrap_or(usize::MAX);
            self.named.extend(other.named.iter().filter(|notice| notice.kind == kind).take(room).cloned());
            *before += count;
        }
    }

    /// How many there were of one kind.
    #[must_use]
    pub fn count(&self, kind: NoticeKind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// The counts, by kind.
    #[must_use]
    pub fn counts(&self) -> &std::collections::BTreeMap<NoticeKind, u64> {
        &self.counts
    }

    /// The names that were kept, in the order they came.
    #[must_use]
    pub fn named(&self) -> &[Notice] {
        &self.named
    }

    /// The same counts with at most so many names of each kind.
    #[must_use]
    pub fn first_names(&self, names_max: usize) -> Self {
        let of_kind = |kind| self.named.iter().filter(move |notice| notice.kind == kind).take(names_max).cloned();
        Self { counts: self.counts.clone(), named: self.counts.keys().copied().flat_map(of_kind).collect() }
    }

    /// Files that changed in any way while they were read.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        [NoticeKind::Changed, NoticeKind::Shrank, NoticeKind::Grew, NoticeKind::Vanished, NoticeKind::Replaced]
            .map(|kind| self.count(kind))
            .iter()
            .sum()
    }
}
