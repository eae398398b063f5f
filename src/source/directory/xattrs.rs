//! The extended attributes of one entry: file capabilities and ACLs are such attributes too.

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// The kernel gives no list and no value longer than this.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// No layer takes an entry with more of them, see [`crate::stage::cut`].
const ALL_BYTES_MAX: usize = 1 << 20;

/// Where smolvm keeps its own notes on what its guests own, on either side; they mean nothing in an image.
const SMOLVM_NOTES: &[u8] = b"user.krun.";

/// Room that is enough for nearly every list and value. Kept small: the kernel allocates as much as it is offered.
const USUAL_BYTES: usize = 512;

/// The attributes of one entry, sorted by name. Kept for its scratch memory.
#[derive(Default)]
pub(super) struct Xattrs {
    list: Vec<u8>,
    values: Vec<u8>,
    found: Vec<(Range<usize>, Range<usize>)>,
}

#[derive(Clone, Copy)]
enum Of<'a> {
    Open(BorrowedFd<'a>),
    Path(&'a [u8]),
}

impl Xattrs {
    /// Forgets what was read.
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.values.clear();
        self.found.clear();
        self.list.shrink_to(USUAL_BYTES);
        self.values.shrink_to(USUAL_BYTES);
    }

    /// Reads those of an open file or folder.
    pub(super) fn read_open(&mut self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.read(Of::Open(file))
    }

    /// Reads those of an entry that can't be opened: a symlink, a FIFO, a device. No system call takes a folder and a
    /// name here, but the folder's link in /proc does it; without /proc there are none.
    pub(super) fn read_entry(&mut self, folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        self.read(Of::Path(&path))
    }

    /// Names and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.found.iter().map(|(name, value)| (&self.list[name.clone()], &self.values[value.clone()]))
    }

    fn read(&mut self, of: Of<'_>) -> Result<(), Errno> {
        self.clear();
        let listed = grow_until_it_fits(&mut self.list, |list| match of {
            Of::Open(file) => rustix::fs::flistxattr(file, spare_capacity(list)),
            Of::Path(path) => rustix::fs::llistxattr(path, spare_capacity(list)),
        });
        match listed {
            Ok(()) if self.list.is_empty() => return Ok(()),
            Err(Errno::NOTSUP | Errno::NODATA | Errno::NOENT | Errno::NOSYS) => return Ok(()),
            result => result?,
        }
        let mut at = 0;
        while let Some(length) = self.list[at..].iter().position(|byte| *byte == 0) {
            let name = at..at + length;
            at += length + 1;
            if self.list[name.clone()].starts_with(SMOLVM_NOTES) {
                continue;
            }
            let began = self.values.len();
            if began > ALL_BYTES_MAX {
                return Err(Errno::TOOBIG);
            }
            let (list, values) = (&self.list[name.clone()], &mut self.values);
            let value = grow_until_it_fits(values, |values| match of {
                Of::Open(file) => rustix::fs::fgetxattr(file, list, spare_capacity(values)),
                Of::Path(path) => rustix::fs::lgetxattr(path, list, spare_capacity(values)),
            });
            match value {
                Ok(()) => self.found.push((name, began..self.values.len())),
                // Listed, but gone by now, or an attribute that only its own filesystem's tools can read.
                Err(Errno::NOTSUP | Errno::NODATA | Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        let list = &self.list;
        self.found.sort_unstable_by(|(one, _), (other, _)| list[one.clone()].cmp(&list[other.clone()]));
        Ok(())
    }
}

fn grow_until_it_fits(
    into: &mut Vec<u8>,
    mut read: impl FnMut(&mut Vec<u8>) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    into.reserve(USUAL_BYTES);
    loop {
        match read(into) {
            Err(Errno::RANGE) if into.capacity() - into.len() < XATTR_BYTES_MAX => into.reserve(XATTR_BYTES_MAX),
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
}
