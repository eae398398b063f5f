//! What the walker asks the readers to do: each job fills one buffer with the next stretch of the stream.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use rustix::io::Errno;

use super::meta::{Id, Meta};
use crate::error::Result;
use crate::pipeline::memory::Buffer;
use crate::progress::NoticeKind;
use crate::stop::Stop;

/// Something to tell about the entry at a path.
pub(super) type Noticed = (NoticeKind, Vec<u8>);

/// One stretch of the stream, to be written by a reader.
pub(super) struct Job {
    pub(super) buffer: Buffer,
    pub(super) work: Work,
    pub(super) done: Sender<Result<Done>>,
}

/// What is to be written.
pub(super) struct Work {
    /// Finished headers, and the paths of [`File`]s.
    pub(super) text: Vec<u8>,
    pub(super) steps: VecDeque<Step>,
    pub(super) notices: Vec<Noticed>,
    pub(super) held: Held,
}

/// Folders and files that all jobs under way keep open.
#[derive(Default)]
pub(super) struct Opened {
    count: Mutex<usize>,
    fewer: Condvar,
}

/// How often a wait for readers looks whether the freeze was stopped.
const STOP_POLL: Duration = Duration::from_millis(50);

impl Opened {
    /// Waits until others than the `here` of the caller's own job keep fewer than `most` open. Readers close what they have
    /// read, whatever the caller does.
    pub(super) fn wait_for_others(&self, here: usize, most: usize, stop: &Stop) -> Result<()> {
        let mut count = self.lock();
        while count.saturating_sub(here) >= most {
            stop.check()?;
            count = self.fewer.wait_timeout(count, STOP_POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one job keeps open, counted with all others until it is dropped.
pub(super) struct Held {
    everywhere: Arc<Opened>,
    here: usize,
}

impl Held {
    /// Nothing yet.
    pub(super) fn none(everywhere: &Arc<Opened>) -> Self {
        Self { everywhere: Arc::clone(everywhere), here: 0 }
    }

    /// One more. Returns how many this job holds now, and how many all of them do.
    pub(super) fn add_one(&mut self) -> (usize, usize) {
        let mut count = self.everywhere.lock();
        (self.here, *count) = (self.here + 1, *count + 1);
        (self.here, *count)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.everywhere.lock() -= self.here;
        self.everywhere.fewer.notify_all();
    }
}

/// A stretch that was written.
pub(super) struct Done {
    pub(super) buffer: Buffer,
    pub(super) notices: Vec<Noticed>,
    /// What found no room: attributes and new sizes are known only when a file is open.
    pub(super) rest: Option<Work>,
}

/// The stretches in the order of the stream.
pub(super) enum Slot {
    /// One that a reader writes.
    Job(Receiver<Result<Done>>),
    /// So many zeros; a large hole needs no buffer.
    Zeros(u64),
}

/// A part of a job.
pub(super) enum Step {
    /// A header that the walker wrote, in the job's text.
    Header(Range<usize>),
    /// A small file: its header, its content, its padding.
    File(File),
    /// A stretch of a larger file's content.
    Segment { file: Arc<Split>, offset: u64, bytes: u64 },
    /// Padding, or a small hole.
    Zeros(u64),
}

/// A small file that a reader opens.
pub(super) struct File {
    pub(super) folder: Arc<OwnedFd>,
    /// Where its path is in the job's text; the name is the end of it.
    pub(super) path: Range<usize>,
    /// Which file the walk saw there.
    pub(super) id: Id,
}

/// A file that is read in several stretches, perhaps by several readers.
pub(super) struct Split {
    pub(super) open: OwnedFd,
    pub(super) path: Vec<u8>,
    meta: Meta,
    unfinished: AtomicUsize,
    is_short: AtomicBool,
}

impl Split {
    /// A file that the walker has opened and is about to divide.
    pub(super) fn new(open: OwnedFd, path: &[u8], meta: Meta) -> Self {
        Self { open, path: path.to_vec(), meta, unfinished: AtomicUsize::new(1), is_short: AtomicBool::new(false) }
    }

    /// One more stretch will be read.
    pub(super) fn expect_one_more(&self) {
        self.unfinished.fetch_add(1, Ordering::Relaxed);
    }

    /// The file ended within a stretch.
    pub(super) fn ended_early(&self) {
        self.is_short.store(true, Ordering::Relaxed);
    }

    /// A stretch, or the dividing, is finished. Whoever finishes last says what happened to the file meanwhile.
    pub(super) fn finish_one(&self) -> Result<Option<NoticeKind>, Errno> {
        if self.unfinished.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(None);
        }
        let later = Meta::of_open(&self.open)?;
        Ok(verdict(&self.meta, &later, self.is_short.load(Ordering::Relaxed)))
    }
}

/// What happened to a file between its header and the end of its content.
pub(super) fn verdict(header: &Meta, later: &Meta, is_short: bool) -> Option<NoticeKind> {
    if is_short || later.size_bytes < header.size_bytes {
        Some(NoticeKind::Shrank)
    } else if later.size_bytes > header.size_bytes {
        Some(NoticeKind::Grew)
    } else {
        (!header.is_settled(later)).then_some(NoticeKind::Changed)
    }
}
