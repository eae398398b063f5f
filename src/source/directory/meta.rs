//! What the kernel says about one entry, kept compactly.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::night::record::Stat;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    CharDevice,
    BlockDevice,
    /// A socket, or something that no tar has a letter for.
    Socket,
}

/// Which inode: the same for all names of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id {
    device: u64,
    inode: u64,
}

impl Id {
    /// Of nothing.
    pub(super) const NONE: Self = Self { device: 0, inode: 0 };
}

/// A moment, in seconds since 1970 (negative before) and the nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) nanos: u32,
}

/// One entry at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    pub(super) kind: Kind,
    /// Permissions, set-id bits and sticky bit; no type.
    pub(super) mode: u32,
    pub(super) owner: u32,
    pub(super) group: u32,
    pub(super) size_bytes: u64,
    /// What the file occupies; less than its size where it has holes.
    pub(super) stored_bytes: u64,
    pub(super) modified: Time,
    pub(super) changed: Time,
    pub(super) id: Id,
    pub(super) links: u32,
    pub(super) device: (u32, u32),
    /// The mount it is on; before Linux 5.8 its device.
    pub(super) mount: u64,
}

const MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

impl Meta {
    /// Looks at the entry `name` of `folder` itself: no link is followed and nothing is mounted for it.
    pub(super) fn of_entry(folder: &OwnedFd, name: &[u8]) -> Result<Self, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        by_name(folder, rustix::fs::statx(folder, name, flags, MASK).map(Self::from))
    }

    /// Looks at what is open.
    pub(super) fn of_open(file: impl AsFd) -> Result<Self, Errno> {
        rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, MASK).map(Self::from)
    }

    /// Looks at `path` as this process sees it; links are followed.
    pub(super) fn of_path(path: &std::path::Path) -> Result<Self, Errno> {
        rustix::fs::statx(rustix::fs::CWD, path, AtFlags::empty(), MASK).map(Self::from)
    }

    /// What tells an entry that changed; `extra` is a checksum of what is not here.
    pub(super) fn stat(&self, extra: u64) -> Stat {
        let is_folder = self.kind == Kind::Directory;
        let links = if is_folder { 1 } else { self.links };
        let is_device = matches!(self.kind, Kind::CharDevice | Kind::BlockDevice);
        Stat {
            kind: match self.kind {
                Kind::Regular | Kind::Socket => b'f',
                Kind::Directory => b'd',
                Kind::Symlink => b'l',
                Kind::Fifo => b'p',
                Kind::CharDevice => b'c',
                Kind::BlockDevice => b'b',
            },
            mode: self.mode,
            owner: (self.owner, self.group),
            size_bytes: if is_folder { 0 } else { self.size_bytes },
            modified: (self.modified.seconds, self.modified.nanos),
            changed: (self.changed.seconds, self.changed.nanos),
            // Of a folder it tells nothing, and overlayfs may give it another number any time.
            inode: if is_folder { 0 } else { self.id.inode },
            device: if links > 1 { self.id.device } else { 0 },
            links,
            number: if is_device { self.device } else { (0, 0) },
            extra,
        }
    }

    /// Whether content that was read between `self` and `later` is that of one moment.
    pub(super) fn is_settled(&self, later: &Self) -> bool {
        self.size_bytes == later.size_bytes && self.modified == later.modified && self.changed == later.changed
    }
}

impl From<Statx> for Meta {
    fn from(stat: Statx) -> Self {
        let device = (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor);
        let has_mount = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
        let time = |stamp: rustix::fs::StatxTimestamp| Time { seconds: stamp.tv_sec, nanos: stamp.tv_nsec };
        Self {
            kind: match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
                FileType::RegularFile => Kind::Regular,
                FileType::Directory => Kind::Directory,
                FileType::Symlink => Kind::Symlink,
                FileType::Fifo => Kind::Fifo,
                FileType::CharacterDevice => Kind::CharDevice,
                FileType::BlockDevice => Kind::BlockDevice,
                _ => Kind::Socket,
            },
            mode: u32::from(stat.stx_mode) & 0o7777,
            owner: stat.stx_uid,
            group: stat.stx_gid,
            size_bytes: stat.stx_size,
            stored_bytes: stat.stx_blocks.saturating_mul(512),
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
            id: Id { device, inode: stat.stx_ino },
            links: stat.stx_nlink,
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            mount: if has_mount { stat.stx_mnt_id } else { device },
        }
    }
}

/// Opens the entry `name` of `folder` for reading, without following a link, waiting for a FIFO's writer or leaving an
/// access time behind (which only a file's owner may ask for).
pub(super) fn open(folder: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(folder, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(folder, name, flags, Mode::empty()),
        result => result,
    };
    by_name(folder, opened)
}

/// The text of the link `name` of `folder`.
pub(super) fn link_text(folder: &OwnedFd, name: &[u8]) -> Result<Vec<u8>, Errno> {
    by_name(folder, rustix::fs::readlinkat(folder, name, Vec::new()).map(std::ffi::CString::into_bytes))
}

/// Opens a folder in a folder as a place to start from, not to list.
pub(super) fn step_into(folder: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    by_name(folder, rustix::fs::openat(folder, name, flags, Mode::empty()))
}

/// What a call by an entry's name says. `STALE` is no word on whether it is there: an overlay whose upper file has the handle
/// of another file (as in smolvm's bare machines, after a restart) says so for as long as it knows that other one. But in a
/// folder that is stale itself, nothing is there.
fn by_name<T>(folder: &OwnedFd, said: Result<T, Errno>) -> Result<T, Errno> {
    match said {
        Err(Errno::STALE) if Meta::of_open(folder).is_err() => Err(Errno::NOENT),
        said => said,
    }
}

/// Whether an error means that the entry, as it was listed, is no longer there.
pub(super) fn is_gone(error: Errno) -> bool {
    // LOOP and NOTDIR: something else took its name. NXIO and NODEV: a socket or a device did.
    [Errno::NOENT, Errno::LOOP, Errno::NOTDIR, Errno::NXIO, Errno::NODEV].contains(&error)
}
