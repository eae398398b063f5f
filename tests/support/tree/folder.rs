//! An open folder, and what can be made in it. What the filesystem can't hold is not made: the inventory that is taken
//! afterwards is what counts.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

/// What a file holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes that no compression shrinks.
    Noise(u64),
    /// Lines of text.
    Text(u64),
    /// This size, and holes everywhere but at these offsets, where so many bytes of noise are.
    Sparse { size: u64, data: Vec<(u64, u64)> },
}

/// A folder that is open.
pub struct Folder {
    open: OwnedFd,
}

impl Folder {
    pub fn open(path: &Path) -> Self {
        Self { open: open_folder(CWD, path.as_os_str().as_bytes()).expect("a folder") }
    }

    /// The folder of this name in here; made if it isn't there.
    pub fn folder(&self, name: impl AsRef<[u8]>) -> Self {
        let name = OsStr::from_bytes(name.as_ref());
        match rustix::fs::mkdirat(&self.open, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => panic!("a folder {}: {error}", name.display()),
        }
        Self { open: open_folder(&self.open, name.as_bytes()).expect("the folder") }
    }

    /// Several folders in each other.
    pub fn path(&self, path: &str) -> Self {
        let mut names = path.split('/');
        let first = self.folder(names.next().expect("a name"));
        names.fold(first, |folder, name| folder.folder(name))
    }

    /// A new file; whatever had its name is written over.
    pub fn file(&self, name: impl AsRef<[u8]>, content: &Content, random: &mut fastrand::Rng) {
        let name = OsStr::from_bytes(name.as_ref());
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::openat(&self.open, name, flags, Mode::from_raw_mode(0o644));
        let open = open.unwrap_or_else(|error| panic!("a file {}: {error}", name.display()));
        match content {
            Content::Noise(bytes) => write(&open, 0, &noise(random, *bytes)),
            Content::Text(bytes) => write(&open, 0, &text(random, *bytes)),
            Content::Sparse { size, data } => {
                rustix::fs::ftruncate(&open, *size).expect("a size");
                for (at, bytes) in data {
                    write(&open, *at, &noise(random, *bytes));
                }
            }
        }
    }

    pub fn symlink(&self, name: impl AsRef<[u8]>, text: &[u8]) {
        let made = rustix::fs::symlinkat(OsStr::from_bytes(text), &self.open, OsStr::from_bytes(name.as_ref()));
        made.expect("a symlink");
    }

    /// A FIFO or a device. Some filesystems refuse some of them.
    pub fn node(&self, name: impl AsRef<[u8]>, kind: FileType, (major, minor): (u32, u32)) {
        let device = rustix::fs::makedev(major, minor);
        let made =
            rustix::fs::mknodat(&self.open, OsStr::from_bytes(name.as_ref()), kind, Mode::from_raw_mode(0o640), device);
        assert!(matches!(made, Ok(()) | Err(Errno::PERM | Errno::INVAL)), "a node: {made:?}");
    }

    pub fn socket(&self, name: impl AsRef<[u8]>) {
        UnixListener::bind(self.below_proc(name.as_ref())).expect("a socket");
    }

    /// Another name, in `into`, of the entry here.
    pub fn link(&self, name: impl AsRef<[u8]>, into: &Self, other: impl AsRef<[u8]>) {
        let (name, other) = (OsStr::from_bytes(name.as_ref()), OsStr::from_bytes(other.as_ref()));
        rustix::fs::linkat(&self.open, name, &into.open, other, AtFlags::empty()).expect("a link");
    }

    /// Sets an attribute of the entry itself; `false` where the filesystem has no room or no use for it.
    pub fn attribute(&self, name: impl AsRef<[u8]>, key: &[u8], value: &[u8]) -> bool {
        let path = self.below_proc(name.as_ref());
        rustix::fs::lsetxattr(&path, OsStr::from_bytes(key), value, rustix::fs::XattrFlags::empty()).is_ok()
    }

    /// Removes one, if it is there.
    pub fn remove_attribute(&self, name: impl AsRef<[u8]>, key: &[u8]) {
        let _ = rustix::fs::lremovexattr(self.below_proc(name.as_ref()), OsStr::from_bytes(key));
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.open
    }

    /// A path to an entry for calls that take nothing else.
    pub fn below_proc(&self, name: &[u8]) -> PathBuf {
        let folder = PathBuf::from(format!("/proc/self/fd/{}", self.open.as_raw_fd()));
        folder.join(OsStr::from_bytes(name))
    }
}

pub fn open_folder(at: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, OsStr::from_bytes(name), flags, Mode::empty())
}

/// The names in a folder, sorted bytewise.
pub fn names(open: &OwnedFd) -> Vec<Vec<u8>> {
    let entries = rustix::fs::Dir::read_from(open).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_bytes().to_vec());
    let mut names: Vec<_> = names.filter(|name| name != b"." && name != b"..").collect();
    names.sort();
    names
}

/// One of these.
pub fn pick<T: Copy>(random: &mut fastrand::Rng, from: &[T]) -> T {
    from[random.usize(..from.len())]
}

pub fn noise(random: &mut fastrand::Rng, bytes: u64) -> Vec<u8> {
    let mut noise = vec![0; usize::try_from(bytes).expect("a size")];
    random.fill(&mut noise);
    noise
}

fn text(random: &mut fastrand::Rng, bytes: u64) -> Vec<u8> {
    let bytes = usize::try_from(bytes).expect("a size");
    let mut text = Vec::with_capacity(bytes + 64);
    while text.len() < bytes {
        let line = random.u32(..).to_string();
        text.extend_from_slice(line.repeat(4).as_bytes());
        text.push(b'\n');
    }
    text.truncate(bytes);
    text
}

fn write(open: &OwnedFd, at: u64, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        done += rustix::io::pwrite(open, &bytes[done..], at + done as u64).expect("a write");
    }
}
