//! The walker's side where not everything is read: what is picked, the folders above it, and marks of what is gone.

use std::os::fd::AsFd as _;

use super::header::{Header, Target};
use super::meta::{self, Kind, Meta, Time};
use super::plan::{Planner, reach};
use super::walk::Seen;
use super::xattrs::Xattrs;
use super::{last_name, unreadable};
use crate::error::{Error, Result};
use crate::exclude;
use crate::night::picker::{Gone, Picker, Verdict};
use crate::progress::NoticeKind;
use crate::stage::cut::{WHITEOUT, is_within};

/// What is known on the way.
pub(super) struct Night {
    picker: Picker,
    /// The folders above the entry at hand, the root first, by the lengths of their paths, with what their headers say, if
    /// those were not placed yet: they are, as soon as something below them is.
    above: Vec<(usize, Option<(Meta, Xattrs)>)>,
    /// A path that all of them are above.
    path: Vec<u8>,
}

impl Night {
    pub(super) fn new(picker: Picker) -> Self {
        Self { picker, above: Vec::new(), path: Vec::new() }
    }
}

/// Whether an entry is one of overlayfs's own marks, which no layer has: as if it were not there.
pub(super) fn is_mark(meta: &Meta) -> bool {
    meta.kind == Kind::CharDevice && meta.device == (0, 0)
}

impl Planner<'_> {
    /// Whether the entry at `path` is to be placed; what has to come before it was.
    pub(super) fn is_picked(&mut self, path: &[u8], seen: &Seen) -> Result<bool> {
        let meta = match seen {
            Seen::LeftOut(NoticeKind::Vanished) => {
                self.place_gone(Some(path))?;
                // What was listed is told of when the walk is past it.
                return Ok(self.night.as_ref().is_none_or(|night| !night.picker.lists(path)));
            }
            Seen::LeftOut(_) => return Ok(true),
            Seen::Folder { meta, .. } | Seen::Entry { meta, .. } | Seen::MountedFile { meta } => meta,
        };
        if self.night.is_none() {
            return Ok(true);
        }
        self.place_gone(Some(path))?;
        let Some(night) = self.night.as_mut().filter(|_| !is_mark(meta)) else { return Ok(true) };
        let Verdict { is_wanted, is_replaced } = night.picker.verdict(path, &meta.stat(0)).map_err(unread)?;
        night.leave_for(path);
        if is_replaced {
            self.notice(NoticeKind::Replaced, path)?;
        }
        if is_wanted {
            self.place_above(path)?;
            if last_name(path).starts_with(WHITEOUT) {
                let reason = "a name that starts with '.wh.' would delete things in other layers";
                let error = Error::source("reading the folder", crate::text::quoted(path), reason);
                return Err(error.hint(exclude::hint(path)));
            }
        }
        if let Seen::Folder { meta, open, .. } = seen {
            let mut attributes = Xattrs::default();
            if let Some(open) = open.as_ref().filter(|_| !is_wanted) {
                let read = attributes.read_open(open.as_fd());
                read.map_err(|error| unreadable("reading a folder's attributes", path, error))?;
            }
            if let Some(night) = &mut self.night {
                night.above.push((path.len(), (!is_wanted).then_some((*meta, attributes))));
            }
        }
        Ok(is_wanted)
    }

    /// The walk has ended.
    pub(super) fn end_picking(&mut self) -> Result<()> {
        self.place_gone(None)
    }

    /// Marks what is gone before `path`, and tells of what has vanished there.
    fn place_gone(&mut self, path: Option<&[u8]>) -> Result<()> {
        while let Some(night) = &mut self.night
            && let Some(gone) = night.picker.before(path).map_err(unread)?
        {
            match gone {
                Gone::Vanished(path) => {
                    self.check_gone(&path)?;
                    self.notice(NoticeKind::Vanished, &path)?;
                }
                Gone::Deleted(path) => {
                    night.leave_for(&path);
                    self.place_above(&path)?;
                    let name = last_name(&path);
                    let mark = [&path[..path.len() - name.len()], WHITEOUT, name].concat();
                    self.place_of(&mark, &Meta::of_nothing(), &Xattrs::default())?;
                }
            }
        }
        Ok(())
    }

    /// An overlay lists no file that it mistakes for another one; asked for it, it says so.
    fn check_gone(&self, path: &[u8]) -> Result<()> {
        let looked = reach(self.directory, path, &mut None).and_then(|folder| Meta::of_entry(&folder, last_name(path)));
        match looked {
            Err(error) if !meta::is_gone(error) => Err(unreadable("looking at an entry", path, error)),
            _ => Ok(()),
        }
    }

    /// The folders above `path` that were not placed yet.
    fn place_above(&mut self, path: &[u8]) -> Result<()> {
        let Some(night) = &mut self.night else { return Ok(()) };
        let waiting = |(bytes, entry): &mut (usize, Option<_>)| entry.take().map(|entry| (*bytes, entry));
        let folders: Vec<(usize, (Meta, Xattrs))> = night.above.iter_mut().filter_map(waiting).collect();
        folders.iter().try_for_each(|(bytes, (meta, attributes))| self.place_of(&path[..*bytes], meta, attributes))
    }

    fn place_of(&mut self, path: &[u8], meta: &Meta, xattrs: &Xattrs) -> Result<()> {
        let mut header = Vec::new();
        self.headers.write(&mut header, &Header { path, meta, target: Target::Nowhere, xattrs });
        self.place_bytes(&header)
    }
}

impl Night {
    /// Forgets the folders that are not above `path`.
    fn leave_for(&mut self, path: &[u8]) {
        let is_above = |bytes: usize| path.len() > bytes && is_within(path, &self.path[..bytes]);
        while self.above.last().is_some_and(|(bytes, _)| !is_above(*bytes)) {
            self.above.pop();
        }
        self.path.clear();
        self.path.extend_from_slice(path);
    }
}

impl Meta {
    /// Of a mark, which is a file of nothing, of nobody's and of no time.
    fn of_nothing() -> Self {
        Self {
            kind: Kind::Regular,
            mode: 0,
            owner: 0,
            group: 0,
            size_bytes: 0,
            stored_bytes: 0,
            modified: Time { seconds: 0, nanos: 0 },
            changed: Time { seconds: 0, nanos: 0 },
            id: super::meta::Id::NONE,
            links: 1,
            device: (0, 0),
            mount: 0,
        }
    }
}

fn unread(error: std::io::Error) -> Error {
    Error::source("comparing with the last freeze", "the listing", &error).because(error)
}
