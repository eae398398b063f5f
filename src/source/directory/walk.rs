//! The walk: one entry after the other, folders before what is in them, names sorted bytewise.
//!
//! Every step is relative to an open folder, so neither a link that is put in the way nor a path past the kernel's limit
//! leads astray. Memory: the names of the folders from the root to the current one. Open folders: [`OPEN_MAX`].

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::meta::{self, Id, Kind, Meta};
use super::names::{LISTING_BYTES, Names};
use super::rules::{Contents, Reason};
use super::{Directory, unreadable};
use crate::error::Result;
use crate::progress::NoticeKind;
use crate::stop::Stop;

/// So many folders between the root and the current one are kept open; those above are opened again on the way back.
const OPEN_MAX: usize = 64;

/// So many entries are looked at between two looks at the switch, which takes a lock.
const ENTRIES_A_STOP_CHECK: u32 = 256;

/// One step of the walk; its path is [`Walk::path`].
pub(super) enum Seen {
    /// A folder, open where its attributes or its contents are wanted.
    Folder { meta: Meta, open: Option<Arc<OwnedFd>>, is_mount: bool },
    /// Anything else that a tar can hold.
    Entry { folder: Arc<OwnedFd>, meta: Meta },
    /// A file on which another one is mounted.
    MountedFile { meta: Meta },
    /// An entry that is left out, worth telling.
    LeftOut(NoticeKind),
}

impl Seen {
    /// What there is to tell of an entry of which not all is in an image, whatever else becomes of it.
    pub(super) fn left_out(&self) -> Option<NoticeKind> {
        match self {
            Self::LeftOut(kind) => Some(*kind),
            Self::Folder { is_mount: true, .. } | Self::MountedFile { .. } => Some(NoticeKind::Mount),
            Self::Entry { meta, .. } if super::night::is_mark(meta) => Some(NoticeKind::Overlay),
            Self::Folder { .. } | Self::Entry { .. } => None,
        }
    }
}

/// A walk under way.
pub(super) struct Walk<'a> {
    directory: &'a Directory,
    stop: &'a Stop,
    outputs: Vec<Id>,
    frames: Vec<Frame>,
    path: Vec<u8>,
    listing: Vec<u8>,
    has_begun: bool,
    until_stop_check: u32,
}

/// A folder between the root and the current entry, both included.
struct Frame {
    handle: Handle,
    id: Id,
    names: Names,
    path_bytes: usize,
    contents: Contents,
    mount: u64,
}

enum Handle {
    Open(Arc<OwnedFd>),
    Closed,
    /// Closed, and no longer at its path when it was wanted again.
    Gone,
}

impl<'a> Walk<'a> {
    pub(super) fn new(directory: &'a Directory, stop: &'a Stop) -> Self {
        Self {
            directory,
            stop,
            outputs: directory.rules.outputs(),
            frames: Vec::new(),
            path: Vec::new(),
            listing: Vec::with_capacity(LISTING_BYTES),
            has_begun: false,
            until_stop_check: 0,
        }
    }

    /// The path of the entry that was seen last, relative to the root; empty for the root.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// The next entry; `None` after the last one.
    ///
    /// # Errors
    /// An entry that is there and can't be looked at, or the stop.
    pub(super) fn next(&mut self) -> Result<Option<Seen>> {
        if !self.has_begun {
            self.has_begun = true;
            let root = meta::open(&self.directory.root, b".", OFlags::DIRECTORY);
            return self.enter(root, (Contents::Whole, self.directory.mount)).map(Some);
        }
        loop {
            if self.until_stop_check == 0 {
                self.stop.check()?;
                self.until_stop_check = ENTRIES_A_STOP_CHECK;
            }
            self.until_stop_check -= 1;
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            self.path.truncate(frame.path_bytes);
            let Some(name) = frame.names.next() else {
                self.frames.pop();
                continue;
            };
            if frame.path_bytes > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            let (above, name_bytes) = ((frame.contents, frame.mount), name.len());
            let rules = &self.directory.rules;
            let is_wanted = above.0 == Contents::Whole || rules.leads_to_included(&self.path);
            if is_wanted && !rules.excludes(&self.path) {
                return self.look(name_bytes, above).map(Some);
            }
        }
    }

    fn look(&mut self, name_bytes: usize, above: (Contents, u64)) -> Result<Seen> {
        let rules = &self.directory.rules;
        let Some(folder) = self.current_folder()? else { return Ok(Seen::LeftOut(NoticeKind::Vanished)) };
        let looked = match rules.placed(&self.path) {
            Some(placed) => Meta::of_open(placed),
            None => Meta::of_entry(&folder, self.name(name_bytes)),
        };
        let meta = match looked {
            Ok(meta) => meta,
            Err(error) => return self.gone_or("looking at an entry", error),
        };
        #[cfg(test)]
        self.directory.at(super::Moment::Looked, &self.path);
        if self.outputs.contains(&meta.id) {
            return Ok(Seen::LeftOut(NoticeKind::Output));
        }
        let is_foreign = rules.is_foreign(&self.path, &meta, above.1);
        if meta.kind != Kind::Directory {
            return Ok(match meta.kind {
                _ if is_foreign => {
                    Seen::MountedFile { meta: Meta { kind: Kind::Regular, size_bytes: 0, links: 1, ..meta } }
                }
                Kind::Socket => Seen::LeftOut(NoticeKind::Socket),
                _ => Seen::Entry { folder, meta },
            });
        }
        if is_foreign && !rules.leads_to_included(&self.path) {
            let is_mount = rules.contents(&self.path, &meta, above) == Contents::Hollow(Reason::Mount);
            return Ok(Seen::Folder { meta, open: None, is_mount });
        }
        match rules.placed(&self.path) {
            Some(placed) => self.enter(meta::open(placed, b".", OFlags::DIRECTORY), above),
            None => self.enter(meta::open(&folder, self.name(name_bytes), OFlags::DIRECTORY), above),
        }
    }

    /// Lists what is wanted of the folder at the current path.
    fn enter(&mut self, opened: Result<OwnedFd, Errno>, above: (Contents, u64)) -> Result<Seen> {
        let rules = &self.directory.rules;
        let open = match opened {
            Ok(open) => Arc::new(open),
            Err(error) => return self.gone_or("opening a folder", error),
        };
        let meta = Meta::of_open(&open).map_err(|error| unreadable("looking at a folder", &self.path, error))?;
        let contents = rules.contents(&self.path, &meta, above);
        if contents == Contents::Whole || rules.leads_to_included(&self.path) {
            match Names::read(&open, &mut self.listing) {
                Ok(names) => self.push(Frame {
                    handle: Handle::Open(Arc::clone(&open)),
                    id: meta.id,
                    names,
                    path_bytes: self.path.len(),
                    contents,
                    mount: meta.mount,
                }),
                Err(error) => return self.gone_or("listing a folder", error),
            }
        }
        let is_mount = contents == Contents::Hollow(Reason::Mount);
        Ok(Seen::Folder { meta, open: Some(open), is_mount })
    }

    fn push(&mut self, frame: Frame) {
        self.frames.push(frame);
        if let Some(far) = self.frames.len().checked_sub(OPEN_MAX + 1) {
            self.frames[far].handle = Handle::Closed;
        }
    }

    /// The open folder that the current entry is in; `None` if it had to be closed and is no longer there.
    fn current_folder(&mut self) -> Result<Option<Arc<OwnedFd>>> {
        match self.frames.last().map(|frame| &frame.handle) {
            Some(Handle::Open(open)) => return Ok(Some(Arc::clone(open))),
            Some(Handle::Closed) => {}
            Some(Handle::Gone) | None => return Ok(None),
        }
        let open = match self.reopen() {
            Ok(open) => open,
            Err(error) if meta::is_gone(error) => None,
            Err(error) => return Err(unreadable("opening a folder again", &self.path, error)),
        };
        if let (None, Some(frame)) = (&open, self.frames.last_mut()) {
            frame.handle = Handle::Gone;
        }
        Ok(open)
    }

    /// Goes down from the root to the last frame, and keeps the folders nearest to it open.
    fn reopen(&mut self) -> Result<Option<Arc<OwnedFd>>, Errno> {
        let mut open: Option<Arc<OwnedFd>> = None;
        let mut path_bytes = 0;
        let kept_from = self.frames.len().saturating_sub(OPEN_MAX);
        for (depth, frame) in self.frames.iter_mut().enumerate() {
            let below = &self.path[path_bytes..frame.path_bytes];
            let name = below.strip_prefix(b"/").unwrap_or(below);
            let name = if name.is_empty() { b"." } else { name };
            let above = open.as_deref().unwrap_or(&self.directory.root);
            let next = Arc::new(self.directory.rules.step_into(above, &self.path[..frame.path_bytes], name)?);
            if Meta::of_open(&next)?.id != frame.id {
                return Ok(None);
            }
            if depth >= kept_from {
                frame.handle = Handle::Open(Arc::clone(&next));
            }
            path_bytes = frame.path_bytes;
            open = Some(next);
        }
        Ok(open)
    }

    fn name(&self, name_bytes: usize) -> &[u8] {
        &self.path[self.path.len() - name_bytes..]
    }

    fn gone_or(&self, operation: &str, error: Errno) -> Result<Seen> {
        if meta::is_gone(error) && !self.path.is_empty() {
            Ok(Seen::LeftOut(NoticeKind::Vanished))
        } else {
            Err(unreadable(operation, &self.path, error))
        }
    }
}
