//! How large a folder is as a tar, and what is in it, from looking at its entries alone.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Directory;
use super::header::{BLOCK_BYTES, Header, Target, Writer, padding};
use super::links::{File, Links};
use super::meta::{self, Kind, Meta};
use super::walk::{Seen, Walk};
use super::xattrs::Xattrs;
use super::{last_name, plan, unreadable};
use crate::error::Result;
use crate::night::listing::Entries;
use crate::night::record::Stat;
use crate::source::Survey;
use crate::stage::extra::Extra;
use crate::stage::sum::Sum;
use crate::stop::Stop;

/// Entries that travel together from the walk, and how many such batches wait. Each entry may keep a folder open.
const BATCH_ENTRIES: usize = 64;
/// See [`BATCH_ENTRIES`].
const BATCHES: usize = 2;

/// Entries of a walk, and where each one's path ends.
#[derive(Default)]
struct Batch {
    entries: Vec<(Seen, usize)>,
    paths: Vec<u8>,
}

impl Batch {
    fn push(&mut self, path: &[u8], seen: Seen) {
        self.paths.extend_from_slice(path);
        self.entries.push((seen, self.paths.len()));
    }

    fn is_full(&self) -> bool {
        self.entries.len() == BATCH_ENTRIES
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &Seen)> {
        let mut begin = 0;
        self.entries.iter().map(move |(seen, end)| (&self.paths[std::mem::replace(&mut begin, *end)..*end], seen))
    }
}

/// Walks through `directory` and adds up. Exact on a folder that rests, but for attributes and links' long texts.
/// What is there is told to `entries`. A thread of its own walks, for that is half of the work.
pub(super) fn survey(directory: &Directory, stop: &Stop, mut entries: Option<&mut dyn Entries>) -> Result<Survey> {
    let (out, batches) = bounded(BATCHES);
    std::thread::scope(|scope| {
        let walking = scope.spawn(move || walk(directory, stop, &out));
        let mut adding = Adding { directory, stop, totals: Totals::default(), survey: Survey::default() };
        let mut tar_bytes = 2 * BLOCK_BYTES as u64;
        let added = batches.into_iter().try_for_each(|batch: Batch| {
            batch.iter().try_for_each(|(path, seen)| {
                tar_bytes += adding.add(path, seen, entries.as_deref_mut())?;
                Ok(())
            })
        });
        // Whoever is not listened to any more has met no error.
        let walked = walking.join().unwrap_or_else(|_| Err(super::panicked()));
        added.and(walked)?;
        Ok(Survey { tar_bytes: Some(tar_bytes), ..adding.survey })
    })
}

fn walk(directory: &Directory, stop: &Stop, out: &Sender<Batch>) -> Result<()> {
    let (mut walk, mut batch) = (Walk::new(directory, stop), Batch::default());
    while let Some(seen) = walk.next()? {
        batch.push(walk.path(), seen);
        if batch.is_full() && out.send(std::mem::take(&mut batch)).is_err() {
            return Ok(());
        }
    }
    let _ = out.send(batch);
    Ok(())
}

/// A survey under way.
struct Adding<'a> {
    directory: &'a Directory,
    stop: &'a Stop,
    totals: Totals,
    survey: Survey,
}

impl Adding<'_> {
    /// One entry; its bytes of tar.
    fn add<'e>(&mut self, path: &[u8], seen: &Seen, mut entries: Option<&mut (dyn Entries + 'e)>) -> Result<u64> {
        if let (Some(entries), Some(kind)) = (&mut entries, seen.left_out()) {
            entries.left_out(kind, path);
        }
        let (Seen::Folder { meta, .. } | Seen::Entry { meta, .. } | Seen::MountedFile { meta }) = seen else {
            return Ok(0);
        };
        self.survey.entries += 1;
        self.directory.worked();
        let stat = match &mut entries {
            Some(_) if super::night::is_mark(meta) => None,
            Some(entries) => match self.totals.stat(seen, path, *entries) {
                Ok(stat) => Some(stat),
                // As if it had gone before: whatever there is then is new.
                Err(error) if meta::is_gone(error) => None,
                Err(error) => return Err(unreadable("reading an entry's attributes", path, error)),
            },
            None => None,
        };
        let file = self.directory.rules.file(meta.id, path);
        let content_bytes = self.totals.content_bytes(meta, file, path);
        self.survey.largest_entry_bytes = self.survey.largest_entry_bytes.max(content_bytes);
        let entry_bytes = self.totals.header_bytes(meta, path) + content_bytes + padding(content_bytes) as u64;
        if let (Some(entries), Some(stat)) = (&mut entries, stat)
            && entries.see(path, stat, entry_bytes)
        {
            let found = match seen {
                Seen::Entry { folder, meta } => content(self.directory, folder, last_name(path), meta, self.stop)?,
                _ => None,
            };
            entries.answer(found);
        }
        Ok(entry_bytes)
    }
}

#[derive(Default)]
struct Totals {
    headers: Writer,
    header: Vec<u8>,
    none: Xattrs,
    xattrs: Xattrs,
    links: Links,
}

impl Totals {
    fn stat(&mut self, seen: &Seen, path: &[u8], entries: &mut dyn Entries) -> Result<Stat, Errno> {
        let meta = match seen {
            Seen::Folder { meta, .. } | Seen::Entry { meta, .. } | Seen::MountedFile { meta } => meta,
            Seen::LeftOut(_) => return Err(Errno::NOENT),
        };
        let stat = meta.stat(0);
        Ok(if entries.asks_for_extra(path, &stat) { Stat { extra: self.extra(seen, path)?, ..stat } } else { stat })
    }

    fn extra(&mut self, seen: &Seen, path: &[u8]) -> Result<u64, Errno> {
        self.xattrs.clear();
        match seen {
            Seen::Folder { open: Some(open), .. } => self.xattrs.read_open(open.as_fd())?,
            Seen::Entry { folder, .. } => self.xattrs.read_entry(folder, last_name(path))?,
            Seen::Folder { open: None, .. } | Seen::MountedFile { .. } | Seen::LeftOut(_) => {}
        }
        let mut extra = Extra::default();
        self.xattrs.iter().for_each(|(name, value)| extra.attribute(name, value));
        if let Seen::Entry { folder, meta } = seen
            && meta.kind == Kind::Symlink
        {
            extra.link_text(&meta::link_text(folder, last_name(path))?);
        }
        Ok(extra.value())
    }

    fn content_bytes(&mut self, meta: &Meta, file: File, path: &[u8]) -> u64 {
        let is_another_name = meta.kind != Kind::Directory && meta.links > 1 && !self.links.add(file, path);
        if meta.kind == Kind::Regular && !is_another_name { meta.size_bytes } else { 0 }
    }

    fn header_bytes(&mut self, meta: &Meta, path: &[u8]) -> u64 {
        self.header.clear();
        self.headers.write(&mut self.header, &Header { path, meta, target: Target::Nowhere, xattrs: &self.none });
        self.header.len() as u64
    }
}

/// Reads single files of a folder.
pub struct Checker<'a> {
    directory: &'a Directory,
    stop: &'a Stop,
    folder: Option<(Vec<u8>, Arc<OwnedFd>)>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(directory: &'a Directory, stop: &'a Stop) -> Self {
        Self { directory, stop, folder: None }
    }

    /// The checksum of the content of the file that was listed as `listed` at `path`; none if it can't be read, or is another
    /// one by now.
    ///
    /// # Errors
    /// The stop.
    pub fn check(&mut self, path: &[u8], listed: &Stat) -> Result<Option<u64>> {
        let looked = plan::reach(self.directory, path, &mut self.folder).and_then(|folder| {
            let meta = Meta::of_entry(&folder, last_name(path))?;
            Ok((folder, meta))
        });
        match looked {
            Ok((folder, meta)) if meta.kind == Kind::Regular && meta.stat(listed.extra) == *listed => {
                content(self.directory, &folder, last_name(path), &meta, self.stop)
            }
            _ => Ok(None),
        }
    }
}

/// Bytes that are read at a time.
const READ_BYTES: usize = 256 << 10;

/// The checksum of a file's content, as an index has it; none if it can't be read, or changes meanwhile.
fn content(directory: &Directory, folder: &OwnedFd, name: &[u8], meta: &Meta, stop: &Stop) -> Result<Option<u64>> {
    let Ok(open) = meta::open(folder, name, OFlags::empty()) else { return Ok(None) };
    let (mut sum, mut buffer) = (Sum::new(), vec![0; READ_BYTES]);
    let mut left = meta.size_bytes;
    while left > 0 {
        stop.check()?;
        directory.worked();
        let most = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
        match rustix::io::read(&open, &mut buffer[..most]) {
            Ok(0) => break,
            Ok(bytes) => {
                sum.update(&buffer[..bytes]);
                left -= bytes as u64;
            }
            Err(Errno::INTR) => {}
            Err(_) => return Ok(None),
        }
    }
    let is_settled = Meta::of_open(&open).is_ok_and(|later| meta.is_settled(&later));
    Ok(is_settled.then(|| sum.finish()))
}
