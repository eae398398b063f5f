//! The walker's side: turns the walk into jobs, in the order of the stream.
//!
//! A job's buffer is taken when the job begins, so buffers are taken in the order in which they will be sent; a reader
//! never waits for one. Files of [`SPLIT_BYTES`] and more are opened here and divided where a buffer is full.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::header::{BLOCK_BYTES, Header, Target, Writer, padding};
use super::job::{File, Held, Job, Opened, Slot, Split, Step, Work};
use super::links::{self, Links};
use super::meta::{self, Id, Kind, Meta};
use super::night::Night;
use super::walk::{Seen, Walk};
use super::xattrs::Xattrs;
use super::{Directory, last_name, unreadable};
use crate::error::{Error, Result};
use crate::night::picker::Picker;
use crate::pipeline::memory::{BUFFER_BYTES, Buffer, Table};
use crate::progress::NoticeKind;
use crate::source::Buffers;
use crate::stop::Stop;

/// Smaller files are opened by the readers and never divided.
const SPLIT_BYTES: u64 = 128 << 10;

/// So much of a buffer is planned; the rest is for attributes, which only the reader knows.
const PLANNED_BYTES: usize = BUFFER_BYTES - (16 << 10);

/// What a small file's header takes without its path and attributes: the header, and a block and a header of records.
const HEADER_BYTES: usize = 3 * BLOCK_BYTES;

/// A shorter hole is read like data.
const HOLE_BYTES_MIN: u64 = 64 << 10;

/// A longer hole needs no buffer; the one before it is handed on as full as it is.
const LONG_HOLE_BYTES: u64 = BUFFER_BYTES as u64;

/// Folders and files that one job keeps open, and that all the others under way do. A process has 1,024 descriptors unless
/// it asks for more.
const OPEN_MAX: usize = 320;

/// Where jobs go, and what they are made of.
pub(super) struct Edges {
    pub(super) jobs: Sender<Job>,
    pub(super) slots: Sender<Slot>,
    pub(super) buffers: Buffers,
}

/// The walker.
pub(super) struct Planner<'a> {
    pub(super) directory: &'a Directory,
    edges: Edges,
    /// Where not everything is read.
    pub(super) night: Option<Night>,
    job: Option<Draft>,
    opened: Arc<Opened>,
    stop: &'a Stop,
    pub(super) headers: Writer,
    pub(super) header: Vec<u8>,
    pub(super) xattrs: Xattrs,
    links: Links,
    /// What the links take.
    tables: Table,
}

/// The job that is being made.
struct Draft {
    buffer: Buffer,
    work: Work,
    planned_bytes: usize,
    last_folder: Option<Arc<OwnedFd>>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(directory: &'a Directory, edges: Edges, picker: Option<Picker>, stop: &'a Stop) -> Self {
        Self {
            directory,
            edges,
            night: picker.map(Night::new),
            job: None,
            opened: Arc::default(),
            stop,
            tables: Table::default(),
            headers: Writer::default(),
            header: Vec::new(),
            xattrs: Xattrs::default(),
            links: Links::default(),
        }
    }

    /// Makes all jobs; blocks while too many are under way, or no buffer is free.
    ///
    /// # Errors
    /// An entry that is there and can't be read, a hang-up, the stop.
    pub(super) fn run(mut self) -> Result<()> {
        let mut walk = Walk::new(self.directory, self.stop);
        while let Some(seen) = walk.next()? {
            if self.is_picked(walk.path(), &seen)? {
                self.place(walk.path(), seen)?;
            } else if let Some(kind) = seen.left_out().filter(|kind| *kind != NoticeKind::Vanished) {
                self.notice(kind, walk.path())?;
            }
        }
        drop(walk);
        self.end_picking()?;
        self.place_links()?;
        self.submit()
    }

    fn place(&mut self, path: &[u8], seen: Seen) -> Result<()> {
        match seen {
            Seen::LeftOut(kind) => self.notice(kind, path),
            Seen::MountedFile { meta } => {
                self.notice(NoticeKind::Mount, path)?;
                self.xattrs.clear();
                self.place_header(path, &meta, Target::Nowhere)
            }
            Seen::Folder { meta, open, is_mount } => {
                if is_mount {
                    self.notice(NoticeKind::Mount, path)?;
                }
                self.xattrs.clear();
                if let Some(open) = open {
                    let read = self.xattrs.read_open(open.as_fd());
                    read.map_err(|error| unreadable("reading a folder's attributes", path, error))?;
                }
                self.place_header(path, &meta, Target::Nowhere)
            }
            Seen::Entry { meta, .. } if meta.links > 1 => {
                self.links.add(self.directory.rules.file(meta.id, path), path);
                self.edges.buffers.count(&mut self.tables, self.links.bytes())
            }
            Seen::Entry { folder, meta } if meta.kind == Kind::Regular && meta.size_bytes < SPLIT_BYTES => {
                self.place_small(path, folder, &meta)
            }
            Seen::Entry { folder, meta } => self.place_now(path, &folder, &meta).map(|_| ()),
        }
    }

    fn place_small(&mut self, path: &[u8], folder: Arc<OwnedFd>, meta: &Meta) -> Result<()> {
        // Below SPLIT_BYTES, so it fits.
        let content_bytes = usize::try_from(meta.size_bytes).unwrap_or(0) + padding(meta.size_bytes);
        let draft = self.draft(content_bytes + HEADER_BYTES + path.len())?;
        let from = draft.work.text.len();
        draft.work.text.extend_from_slice(path);
        let is_new = !draft.last_folder.as_ref().is_some_and(|last| Arc::ptr_eq(last, &folder));
        if is_new {
            draft.last_folder = Some(Arc::clone(&folder));
        }
        let path = from..draft.work.text.len();
        draft.work.steps.push_back(Step::File(File { folder, path, id: meta.id }));
        if is_new { self.keeps_one_open() } else { Ok(()) }
    }

    /// Places an entry whose header is written here. Returns which file it was, unless that is gone.
    fn place_now(&mut self, path: &[u8], folder: &OwnedFd, meta: &Meta) -> Result<Option<Id>> {
        let name = last_name(path);
        let placed = match meta.kind {
            Kind::Regular => return self.place_split(path, folder, meta.id),
            Kind::Directory | Kind::Socket => Err(Errno::NOENT),
            Kind::Symlink => meta::link_text(folder, name),
            Kind::Fifo | Kind::CharDevice | Kind::BlockDevice => Ok(Vec::new()),
        };
        let text = match placed {
            Ok(text) => text,
            Err(error) if meta::is_gone(error) || error == Errno::INVAL => return self.vanished(path),
            Err(error) => return Err(unreadable("reading a link", path, error)),
        };
        let read = self.xattrs.read_entry(folder, name);
        read.map_err(|error| unreadable("reading an entry's attributes", path, error))?;
        let target = if meta.kind == Kind::Symlink { Target::Symlink(&text) } else { Target::Nowhere };
        self.place_header(path, meta, target)?;
        Ok(Some(meta.id))
    }

    fn place_split(&mut self, path: &[u8], folder: &OwnedFd, id: Id) -> Result<Option<Id>> {
        let failed = |error| unreadable("reading a file", path, error);
        let open = match meta::open(folder, last_name(path), OFlags::empty()) {
            Ok(open) => open,
            Err(error) if meta::is_gone(error) => return self.vanished(path),
            Err(error) => return Err(failed(error)),
        };
        let meta = Meta::of_open(&open).map_err(failed)?;
        if meta.kind != Kind::Regular {
            return self.vanished(path);
        }
        if meta.id != id {
            self.notice(NoticeKind::Replaced, path)?;
        }
        #[cfg(test)]
        self.directory.at(super::Moment::Opened, path);
        self.xattrs.read_open(open.as_fd()).map_err(failed)?;
        self.place_header(path, &meta, Target::Nowhere)?;
        let file = Arc::new(Split::new(open, path, meta));
        self.place_content(&file, &meta)?;
        if let Some(kind) = file.finish_one().map_err(failed)? {
            self.notice(kind, path)?;
        }
        self.keeps_one_open()?;
        Ok(Some(meta.id))
    }

    fn place_content(&mut self, file: &Arc<Split>, meta: &Meta) -> Result<()> {
        let size_bytes = meta.size_bytes;
        let has_holes = meta.stored_bytes < size_bytes;
        let mut at = 0;
        while at < size_bytes {
            let data = if has_holes { next_data(&file.open, at, size_bytes) } else { at..size_bytes };
            if data.start - at >= HOLE_BYTES_MIN {
                self.place_zeros(data.start - at)?;
                at = data.start;
            }
            while at < data.end {
                let (draft, bytes) = self.draft_up_to(data.end - at)?;
                file.expect_one_more();
                draft.work.steps.push_back(Step::Segment { file: Arc::clone(file), offset: at, bytes });
                at += bytes;
            }
        }
        self.place_zeros(padding(size_bytes) as u64)
    }

    fn place_zeros(&mut self, mut bytes: u64) -> Result<()> {
        if bytes >= LONG_HOLE_BYTES {
            self.submit()?;
            return self.edges.slots.send(Slot::Zeros(bytes)).map_err(|_| hung_up());
        }
        while bytes > 0 {
            let (draft, now) = self.draft_up_to(bytes)?;
            draft.work.steps.push_back(Step::Zeros(now));
            bytes -= now;
        }
        Ok(())
    }

    /// The job that has room for a part of `bytes`, and how large that is; it is counted as planned.
    fn draft_up_to(&mut self, bytes: u64) -> Result<(&mut Draft, u64)> {
        let draft = self.draft(1)?;
        let room = PLANNED_BYTES.max(draft.planned_bytes + 1) - draft.planned_bytes;
        let now = usize::try_from(bytes).unwrap_or(room).min(room);
        draft.planned_bytes += now - 1;
        Ok((draft, now as u64))
    }

    /// Places a header with the attributes in `self.xattrs`.
    fn place_header(&mut self, path: &[u8], meta: &Meta, target: Target<'_>) -> Result<()> {
        self.header.clear();
        self.headers.write(&mut self.header, &Header { path, meta, target, xattrs: &self.xattrs });
        let header = std::mem::take(&mut self.header);
        self.place_bytes(&header)?;
        self.header = header;
        Ok(())
    }

    /// Places a header as it is.
    pub(super) fn place_bytes(&mut self, header: &[u8]) -> Result<()> {
        let draft = self.draft(header.len())?;
        let from = draft.work.text.len();
        draft.work.text.extend_from_slice(header);
        draft.work.steps.push_back(Step::Header(from..draft.work.text.len()));
        Ok(())
    }

    /// Files with several links, each followed by its other names.
    fn place_links(&mut self) -> Result<()> {
        let mut links = std::mem::take(&mut self.links);
        links.sort();
        let mut first: Option<(links::File, &[u8])> = None;
        let mut folder = None;
        for index in 0..links.len() {
            self.stop.check()?;
            let (file, path) = links.get(index);
            let looked = reach(self.directory, path, &mut folder).and_then(|folder| {
                let meta = Meta::of_entry(&folder, last_name(path))?;
                Ok((folder, meta))
            });
            match (looked, first) {
                (Err(error), _) if meta::is_gone(error) => self.notice(NoticeKind::Vanished, path)?,
                (Err(error), _) => return Err(unreadable("looking at an entry", path, error)),
                (Ok((_, meta)), Some((first_file, first_path))) if first_file == file && meta.id == file.id => {
                    self.xattrs.clear();
                    self.place_header(path, &meta, Target::SameAs(first_path))?;
                }
                (Ok((folder, meta)), _) => {
                    // The first name, or one that another file has taken meanwhile.
                    if meta.id != file.id {
                        self.notice(NoticeKind::Replaced, path)?;
                    }
                    if self.place_now(path, &folder, &meta)? == Some(file.id) {
                        first = Some((file, path));
                    }
                }
            }
        }
        Ok(())
    }

    fn vanished(&mut self, path: &[u8]) -> Result<Option<Id>> {
        self.notice(NoticeKind::Vanished, path)?;
        Ok(None)
    }

    pub(super) fn notice(&mut self, kind: NoticeKind, path: &[u8]) -> Result<()> {
        self.draft(0)?.work.notices.push((kind, path.to_vec()));
        Ok(())
    }

    /// The job that has room for `bytes` more, which are counted as planned.
    fn draft(&mut self, bytes: usize) -> Result<&mut Draft> {
        if self.job.as_ref().is_some_and(|draft| draft.planned_bytes > 0 && draft.planned_bytes + bytes > PLANNED_BYTES)
        {
            self.submit()?;
        }
        if self.job.is_none() {
            self.job = Some(Draft::new(self.edges.buffers.take()?, Held::none(&self.opened)));
        }
        let draft = self.job.as_mut().ok_or_else(hung_up)?;
        draft.planned_bytes += bytes;
        Ok(draft)
    }

    /// The job holds one more open folder or file. Where there are too many, it waits for the readers rather than waste its
    /// buffer on few entries.
    fn keeps_one_open(&mut self) -> Result<()> {
        let Some(draft) = self.job.as_mut() else { return Ok(()) };
        let (here, everywhere) = draft.work.held.add_one();
        if here >= OPEN_MAX {
            return self.submit();
        }
        if everywhere >= 2 * OPEN_MAX {
            self.opened.wait_for_others(here, OPEN_MAX, self.stop)?;
        }
        Ok(())
    }

    /// Hands the job on, if there is one.
    fn submit(&mut self) -> Result<()> {
        let Some(Draft { buffer, work, .. }) = self.job.take() else { return Ok(()) };
        let (done, slot) = bounded(1);
        self.edges.slots.send(Slot::Job(slot)).map_err(|_| hung_up())?;
        self.edges.jobs.send(Job { buffer, work, done }).map_err(|_| hung_up())
    }
}

impl Draft {
    fn new(buffer: Buffer, held: Held) -> Self {
        let work = Work { text: Vec::new(), steps: VecDeque::new(), notices: Vec::new(), held };
        Self { buffer, work, planned_bytes: 0, last_folder: None }
    }
}

/// The next stretch of data at or after `at`. Filesystems that know no holes say that all is data.
fn next_data(open: &OwnedFd, at: u64, size_bytes: u64) -> std::ops::Range<u64> {
    let start = match rustix::fs::seek(open, SeekFrom::Data(at)) {
        Ok(start) => start.clamp(at, size_bytes),
        // No more data.
        Err(Errno::NXIO) => return size_bytes..size_bytes,
        Err(_) => return at..size_bytes,
    };
    let end = rustix::fs::seek(open, SeekFrom::Hole(start)).unwrap_or(size_bytes);
    start..end.clamp(start, size_bytes)
}

/// The folder that the entry at `path` is in, opened step by step; the one of the previous call is remembered.
pub(super) fn reach(
    directory: &Directory,
    path: &[u8],
    last: &mut Option<(Vec<u8>, Arc<OwnedFd>)>,
) -> Result<Arc<OwnedFd>, Errno> {
    let folder = &path[..path.len() - last_name(path).len()];
    if let Some((path, open)) = last.as_ref()
        && path == folder
    {
        return Ok(Arc::clone(open));
    }
    let mut open = meta::step_into(&directory.root, b".")?;
    let mut at = 0;
    for name in folder.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        open = directory.rules.step_into(&open, &folder[..at + name.len()], name)?;
        at += name.len() + 1;
    }
    let open = Arc::new(open);
    *last = Some((folder.to_vec(), Arc::clone(&open)));
    Ok(open)
}

fn hung_up() -> Error {
    Error::hung_up("the folder's stream")
}
