//! Owners, modes, times and attributes, after a tree was grown: a folder's time is set when nothing is put into it any more.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid};

use super::folder::{Folder, names, pick};

/// How far it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dress {
    /// What the oldest header has room for.
    Modest,
    /// What a filesystem has room for.
    Odd,
}

/// Dresses all that is in `root`, and `root` itself.
pub fn dress(root: &Path, dress: Dress, random: &mut fastrand::Rng) {
    let folder = Folder::open(root);
    below(&folder, dress, random);
    set_time(&folder, b".", dress, random);
}

fn below(folder: &Folder, dress: Dress, random: &mut fastrand::Rng) {
    for name in names(folder.fd()) {
        let path = OsStr::from_bytes(&name);
        let stat = rustix::fs::statat(folder.fd(), path, AtFlags::SYMLINK_NOFOLLOW).expect("an entry");
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            below(&folder.folder(&name), dress, random);
        }
        if random.u8(..4) == 0 {
            let owners: &[u32] = match dress {
                Dress::Modest => &[0, 1, 1000, 65_534, 2_097_151],
                Dress::Odd => &[0, 1000, 65_535, 2_097_151, 2_097_152, 0x7fff_ffff, 0x8000_0000, 4_294_967_294],
            };
            let mut owner = || pick(random, owners);
            let (user, group) = (Some(Uid::from_raw(owner())), Some(Gid::from_raw(owner())));
            rustix::fs::chownat(folder.fd(), path, user, group, AtFlags::SYMLINK_NOFOLLOW).expect("an owner");
        }
        if kind != FileType::Symlink && random.u8(..4) == 0 {
            let mode = Mode::from_raw_mode(random.u32(..0o10000));
            rustix::fs::chmodat(folder.fd(), path, mode, AtFlags::empty()).expect("a mode");
        }
        if dress == Dress::Odd && random.u8(..24) == 0 {
            folder.attribute(&name, b"trusted.dress", &random.u64(..).to_le_bytes());
        }
        set_time(folder, &name, dress, random);
    }
}

fn set_time(folder: &Folder, name: &[u8], dress: Dress, random: &mut fastrand::Rng) {
    let seconds = match (dress, random.u8(..8)) {
        (Dress::Odd, 0) => -random.i64(1..2_000_000_000),
        (Dress::Odd, 1) => 0x7fff_ffff + random.i64(0..4),
        (Dress::Odd, 2) => random.i64(4_294_967_290..8_589_934_600),
        (_, 3) => 0,
        _ => random.i64(1..1_900_000_000),
    };
    let nanoseconds = match (dress, random.u8(..4)) {
        (Dress::Odd, 0) => random.i64(0..1_000_000_000),
        (Dress::Odd, 1) => pick(random, &[1, 500_000_000, 999_999_999, 100]),
        _ => 0,
    };
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    let set = rustix::fs::utimensat(folder.fd(), OsStr::from_bytes(name), &times, AtFlags::SYMLINK_NOFOLLOW);
    set.expect("a time");
}
