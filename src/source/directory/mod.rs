//! A folder of this host as one tar stream.
//!
//! One thread walks, in a fixed order, and makes jobs; a few readers carry them out; the calling thread sends what they
//! made, in the order of the walk. All three are coupled by bounded channels and by the memory, whose buffers the walker
//! takes in the order of the stream.
//!
//! ```text
//! walk ▸ plan ──jobs──▶ read, read, … ──┐
//!          └───────────slots──────────▶ send, in order ▸ outlet
//! ```
//!
//! The stream: PAX, numeric owners, paths as `./a/b`, folders before what is in them, names sorted bytewise, files with
//! several links at the end. A folder that rests gives the same bytes every time.

mod header;
mod identity;
mod job;
mod links;
mod meta;
mod names;
mod night;
mod plan;
mod read;
mod rules;
mod survey;
#[cfg(test)]
mod tests;
mod walk;
mod xattrs;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use self::job::Slot;
use self::meta::Meta;
use self::plan::{Edges, Planner};
use self::rules::Rules;
use crate::error::{Error, Kind, Result, Side};
use crate::exclude;
use crate::night::Identity;
use crate::night::listing::Entries;
use crate::night::picker::Picker;
use crate::pipeline::memory::Slice;
use crate::progress::Notices;
use crate::source::wanted::Wanted;
use crate::source::{Outlet, Selection, Survey};
use crate::stop::Stop;
use crate::text;

/// Reading is mostly copying out of the page cache, but a disk wants more than one request.
const READERS_MIN: usize = 2;

/// Jobs under way, waiting ones included, for each reader. Each holds a buffer.
const JOBS_A_READER: usize = 4;

/// What holes and the end of the tar are made of. Not in the program's file, which a guest is given.
static ZEROS: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; 64 << 10]);

/// A folder that can be surveyed, and then streamed.
pub struct Directory {
    root: OwnedFd,
    /// What the root is mounted as.
    mount: u64,
    rules: Rules,
    wanted: Wanted,
    /// It is the root of a machine: what its overlay lies on is an image, which nobody changes.
    is_machines: bool,
    /// Grows as long as a listing or a comparison goes on: with each entry, and with each part of a content.
    work: AtomicU64,
    #[cfg(test)]
    seam: Option<tests::Seam>,
}

/// Moments at which a test may change the folder.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// An entry was looked at.
    Looked,
    /// A file that will be divided was opened.
    Opened,
}

impl Directory {
    /// Opens the folder at `path`, of which `selection` is wanted. `path` itself may be a link to it.
    ///
    /// # Errors
    /// [`Kind::Source`] if there is no such folder, or it can't be read.
    pub fn open(path: &Path, selection: &Selection) -> Result<Self> {
        Self::opened(path, &selection.own_outputs, |root| {
            if rules::is_root_filesystem(path, root) {
                Wanted::of_root(selection)
            } else {
                Wanted::of_folder(selection)
            }
        })
    }

    /// Opens a machine's root filesystem at `path`, of which `wanted` was decided elsewhere.
    ///
    /// # Errors
    /// Those of [`Self::open`], and a pattern that is none.
    pub fn open_root(path: &Path, wanted: Wanted) -> Result<Self> {
        Ok(Self { is_machines: true, ..Self::opened(path, &[], |_| wanted)? })
    }

    fn opened(path: &Path, own_outputs: &[PathBuf], wanted: impl FnOnce(&Meta) -> Wanted) -> Result<Self> {
        let failed = |error: Errno| {
            let reason = match error {
                Errno::NOENT => "there is no such folder".to_owned(),
                Errno::NOTDIR => "it is not a folder".to_owned(),
                other => std::io::Error::from(other).to_string(),
            };
            Error::source("opening the folder", format!("'{}'", path.display()), reason).because(error)
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let meta = Meta::of_open(&root).map_err(failed)?;
        let wanted = wanted(&meta);
        let rules = Rules::new(&wanted, &root, own_outputs)?;
        Ok(Self {
            root,
            mount: meta.mount,
            rules,
            wanted,
            is_machines: false,
            work: AtomicU64::new(0),
            #[cfg(test)]
            seam: None,
        })
    }

    /// Adds up what [`Self::stream`] will give, about, without reading a file.
    ///
    /// # Errors
    /// A folder that can't be read, or the stop.
    pub fn survey(&self, stop: &Stop) -> Result<Survey> {
        survey::survey(self, stop, None)
    }

    /// The same, and tells `entries` what is there.
    ///
    /// # Errors
    /// Those of [`Self::survey`].
    pub fn list(&self, entries: &mut dyn Entries, stop: &Stop) -> Result<Survey> {
        survey::survey(self, stop, Some(entries))
    }

    /// What is read of which folder, so that another reading can be told from the same one.
    ///
    /// # Errors
    /// Why nobody can tell whether a file there has changed.
    pub fn identity(&self) -> std::result::Result<Identity, String> {
        identity::identity(&self.root, &self.wanted, self.is_machines)
    }

    /// Has what was written so far stored, so that whatever is written from now on leaves its time, or says that this takes too
    /// long. A moment before that, by the clock that it is told by.
    #[must_use]
    pub fn settle(&self) -> Option<crate::night::compare::Settled> {
        identity::settle(&self.root, &self.wanted)
    }

    /// Another number than before, if a listing or a comparison has gone on since.
    #[must_use]
    pub fn work(&self) -> u64 {
        self.work.load(Ordering::Relaxed)
    }

    fn worked(&self) {
        self.work.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells the checksums of files' content, one after the other.
    #[must_use]
    pub fn checker<'a>(&'a self, stop: &'a Stop) -> survey::Checker<'a> {
        survey::Checker::new(self, stop)
    }

    /// Sends the whole tar into `outlet`. Blocks the calling thread as long as that takes; all threads that it starts
    /// have ended when it returns.
    ///
    /// # Errors
    /// An entry that is there and can't be read, a hang-up, the stop. Throws `stop` itself when it fails, so that none
    /// of its threads waits for memory that nobody gives back.
    pub fn stream(self, outlet: Outlet, stop: &Stop) -> Result<Notices> {
        self.stream_picked(None, outlet, stop)
    }

    /// The same of what `picker` takes.
    ///
    /// # Errors
    /// Those of [`Self::stream`].
    pub fn stream_picked(self, picker: Option<Picker>, mut outlet: Outlet, stop: &Stop) -> Result<Notices> {
        let readers = thread::available_parallelism().map_or(READERS_MIN, usize::from).max(READERS_MIN);
        // Beside those that wait in line, one job is made and one is sent.
        let buffers = outlet.buffers();
        let jobs_max = (readers * JOBS_A_READER).min(buffers.ahead_max().saturating_sub(2)).max(1);
        let (jobs, jobs_out) = bounded(jobs_max);
        let (slots, slots_out) = bounded(jobs_max);
        let edges = Edges { jobs, slots, buffers };
        let (meters, _) = outlet.watchers();
        let meter = &meters.source;
        let planner = Planner::new(&self, edges, picker, stop);
        thread::scope(|scope| {
            let mut threads = vec![scope.spawn(|| meter.on_thread(|| planner.run()))];
            for _ in 0..readers {
                let jobs = jobs_out.clone();
                threads.push(scope.spawn(move || {
                    meter.on_thread(|| read::run(&jobs, stop));
                    Ok(())
                }));
            }
            drop(jobs_out);
            let mut result = send_in_order(&mut outlet, slots_out, stop);
            if result.is_err() {
                stop.stop(Error::hung_up("the folder's stream"));
            }
            for thread in threads {
                let ended = thread.join().unwrap_or_else(|_| Err(panicked()));
                result = match (result, ended) {
                    (Err(earlier), Err(later)) => Err(Error::first_cause(earlier, later)),
                    (Ok(()), ended) => ended,
                    (failed, Ok(())) => failed,
                };
            }
            result
        })
        .inspect_err(|_| stop.stop(Error::hung_up("the folder's stream")))?;
        outlet.send(Slice::from_static(&ZEROS[..2 * header::BLOCK_BYTES]))?;
        outlet.end()
    }

    #[cfg(test)]
    fn at(&self, moment: Moment, path: &[u8]) {
        if let Some(seam) = &self.seam {
            seam(moment, path);
        }
    }
}

fn send_in_order(outlet: &mut Outlet, slots: Receiver<Slot>, stop: &Stop) -> Result<()> {
    let mut reader = read::Reader::default();
    for slot in slots {
        match slot {
            Slot::Zeros(bytes) => send_zeros(outlet, bytes, stop)?,
            Slot::Job(slot) => {
                let Ok(done) = slot.recv() else {
                    stop.check()?;
                    return Err(panicked());
                };
                let mut done = done?;
                loop {
                    for (kind, path) in done.notices {
                        outlet.notice(kind, &path);
                    }
                    outlet.send(done.buffer.freeze())?;
                    let Some(rest) = done.rest else { break };
                    done = reader.write(rest, outlet.buffer()?)?;
                }
            }
        }
    }
    Ok(())
}

fn send_zeros(outlet: &mut Outlet, bytes: u64, stop: &Stop) -> Result<()> {
    let mut left = bytes;
    while left > 0 {
        stop.check()?;
        let part = usize::try_from(left).unwrap_or(ZEROS.len()).min(ZEROS.len());
        outlet.send(Slice::from_static(&ZEROS[..part]))?;
        left -= part as u64;
    }
    Ok(())
}

fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn unreadable(operation: &str, path: &[u8], error: Errno) -> Error {
    let subject = format!("'./{}'", text::name(path));
    let failed = Error::source(operation, subject, std::io::Error::from(error)).because(error);
    match error {
        // Whoever opens it is told the same, so it is not for the user to leave out.
        Errno::STALE => failed
            .hint("the kernel mistakes it for another file; 'echo 2 >/proc/sys/vm/drop_caches' there has it look anew"),
        _ if path.is_empty() => failed,
        _ => failed.hint(exclude::hint(path)),
    }
}

fn panicked() -> Error {
    Error::new(Kind::Internal, Side::Source, "reading a folder", "a thread", "it panicked")
}
