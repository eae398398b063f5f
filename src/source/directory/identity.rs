//! What is read of which file systems: whether anybody can tell what has changed there since another reading.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags, StatFs};
use rustix::io::Errno;

use crate::night::Identity;
use crate::night::compare::Settled;
use crate::source::mounts::Mount;
use crate::source::wanted::Wanted;

/// Entries are written, and told apart, in this form: with another one, what is unchanged would be written in another way.
const FORM: u32 = 3;

/// File systems of a host's own disks that keep an inode's number, and give it a new time with each change, be it through
/// a mapping (statfs(2)). tmpfs does not.
const LASTING: [(i64, &str); 4] =
    [(0xef53, "ext4"), (0x5846_5342, "xfs"), (0x9123_683e, "btrfs"), (0xf2f5_2010, "f2fs")];

/// An overlayfs gives a file the times that the file system below has for it. A machine's writes to the one of its upper
/// folder alone; what lies lower is the image that it was made of. Its numbers of inodes may be others with each mount.
const OVERLAY: i64 = 0x794c_7630;

/// File systems store what anybody has written, and that may be more than a freeze can wait for.
const PATIENCE: Duration = Duration::from_secs(20);

/// See [`super::Directory::settle`].
pub(super) fn settle(root: &OwnedFd, wanted: &Wanted) -> Option<Settled> {
    // Before it settles, for that may take long, and what is written meanwhile is in doubt.
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let is_stored = roots(root, wanted).is_ok_and(|roots| {
        within(PATIENCE, move || roots.iter().all(|open| rustix::fs::syncfs(open).is_ok())) == Some(true)
    });
    Some(Settled { began: (began.as_secs().cast_signed(), began.subsec_nanos()), is_stored })
}

/// What comes of `work`, if that is done within `patience`. It goes on where it is not: nobody can end it.
fn within<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, awaited) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || drop(done.send(work())));
    awaited.recv_timeout(patience).ok()
}

/// See [`super::Directory::identity`].
pub(super) fn identity(root: &OwnedFd, wanted: &Wanted, is_machines: bool) -> Result<Identity, String> {
    let unknown = |error: Errno| format!("its file system can't be told: {}", std::io::Error::from(error));
    let (mut file_systems, mut inodes_last) = (Vec::new(), true);
    for open in roots(root, wanted).map_err(unknown)? {
        let found = rustix::fs::fstatfs(&open).map_err(unknown)?;
        let id = rustix::fs::fstatvfs(&open).map_err(unknown)?.f_fsid;
        if let Some(name) = name_of(&found) {
            file_systems.push(format!("{name}:{id:x}"));
            continue;
        }
        let Some(upper) = Some(&found).filter(|_| is_machines).and_then(upper) else {
            return Err(format!("its file system ({:#x}) does not tell of each change", found.f_type));
        };
        inodes_last = false;
        file_systems.push(format!("overlay on {upper}"));
    }
    let wanted = serde_json::to_string(wanted).map_err(|error| error.to_string())?;
    Ok(Identity { text: format!("form {FORM}, {}, {wanted}", file_systems.join(" ")), inodes_last })
}

fn name_of(found: &StatFs) -> Option<&'static str> {
    LASTING.iter().find(|(kind, _)| *kind == found.f_type).map(|(_, name)| *name)
}

/// The folders that may be on a file system of their own: the root and what is included.
fn roots(root: &OwnedFd, wanted: &Wanted) -> Result<Vec<OwnedFd>, Errno> {
    let mut roots = Vec::new();
    for path in std::iter::once(Path::new(".")).chain(wanted.include.iter().map(PathBuf::as_path)) {
        match rustix::fs::openat(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(open) => roots.push(open),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(roots)
}

/// The file system that an overlayfs writes to, if that is mounted somewhere else, too, and is a lasting one. An overlayfs
/// says of its size what that one says (`ovl_statfs`), and the option with the upper folder's path may be of another root.
fn upper(overlay: &StatFs) -> Option<String> {
    if overlay.f_type != OVERLAY {
        return None;
    }
    let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
    let points = mounts.split(|byte| *byte == b'\n').filter_map(Mount::read);
    let lasting = points.filter(|mount| LASTING.iter().any(|(_, name)| *name == mount.kind));
    let point = lasting.map(|mount| mount.point).find(|point| {
        let size = |found: &StatFs| (found.f_blocks, found.f_bsize, found.f_files);
        let found = rustix::fs::statfs(&point[..]);
        found.is_ok_and(|found| name_of(&found).is_some() && size(&found) == size(overlay))
    })?;
    let (kind, id) = (rustix::fs::statfs(&point[..]).ok()?, rustix::fs::statvfs(&point[..]).ok()?.f_fsid);
    Some(format!("{}:{id:x}", name_of(&kind)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_not_waited_for() {
        let slow = || std::thread::sleep(Duration::from_secs(60));
        assert_eq!(within(Duration::from_millis(10), slow), None);
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
    }
}
