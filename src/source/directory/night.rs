//! The walker's side where not everything is read: what is picked, the folders above it, and marks of what is gone.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::header::{Header, Target};
use super::meta::{Kind, Meta, Time};
use super::plan::Planner;
use super::walk::Seen;
use super::xattrs::Xattrs;
use super::{last_name, unreadable};
use crate::error::{Error, Result};
use crate::exclude;
use crate::night::picker::{Gone, Picker};
use crate::progress::NoticeKind;
use crate::source::wanted::Wanted;
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
            Seen::LeftOut(_) => return Ok(true),
            Seen::Folder { meta, .. } | Seen::Entry { meta, .. } | Seen::MountedFile { meta } => meta,
        };
        if self.night.is_none() {
            return Ok(true);
        }
        self.place_gone(Some(path))?;
        let Some(night) = self.night.as_mut().filter(|_| !is_mark(meta)) else { return Ok(true) };
        let is_wanted = night.picker.wants(path, &meta.stat(0)).map_err(unread)?;
        night.leave_for(path);
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
                Gone::Vanished(path) => self.notice(NoticeKind::Vanished, &path)?,
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

/// Entries are written in this form: with another one, what is unchanged would be written in another way.
const FORM: u32 = 2;

/// File systems of this host's own disks that keep an inode's number, and give it a new time with each change, be it through
/// a mapping (statfs(2)). tmpfs does not, nor does overlayfs over one.
const LASTING: &[(i64, &str)] =
    &[(0xef53, "ext4"), (0x5846_5342, "xfs"), (0x9123_683e, "btrfs"), (0xf2f5_2010, "f2fs")];

/// The folders that may be on a file system of their own: the root and what is included.
fn roots(root: &OwnedFd, wanted: &Wanted) -> Result<Vec<OwnedFd>, Errno> {
    let mut roots = Vec::new();
    for path in std::iter::once(std::path::Path::new(".")).chain(wanted.include.iter().map(PathBuf::as_path)) {
        match rustix::fs::openat(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(open) => roots.push(open),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(roots)
}

/// See [`super::Directory::settle`].
pub(super) fn settle(root: &OwnedFd, wanted: &Wanted) {
    // A file system that can't do that says so when it loses something.
    for open in roots(root, wanted).unwrap_or_default() {
        let _ = rustix::fs::syncfs(&open);
    }
}

/// See [`super::Directory::identity`].
pub(super) fn identity(root: &OwnedFd, wanted: &Wanted) -> Result<String, String> {
    let unknown = |error: Errno| format!("its file system can't be told: {}", std::io::Error::from(error));
    let mut file_systems = Vec::new();
    for open in roots(root, wanted).map_err(unknown)? {
        let kind = rustix::fs::fstatfs(&open).map_err(unknown)?.f_type;
        let Some((_, name)) = LASTING.iter().find(|(lasting, _)| *lasting == kind) else {
            return Err(format!("its file system ({kind:#x}) does not tell of each change"));
        };
        let id = rustix::fs::fstatvfs(&open).map_err(unknown)?.f_fsid;
        file_systems.push(format!("{name}:{id:x}"));
    }
    let wanted = serde_json::to_string(wanted).map_err(|error| error.to_string())?;
    Ok(format!("form {FORM}, {}, {wanted}", file_systems.join(" ")))
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
