//! What a folder holds, entry by entry.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, StatxFlags};
use sha2::{Digest as _, Sha256};

use super::folder::{Folder, names};

/// Entries by their path from the root; the root's is empty.
pub type Inventory = BTreeMap<Vec<u8>, Entry>;

/// What is compared of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The letter that `ls` has for it.
    pub kind: char,
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: (i64, u32),
    /// Of a regular file.
    pub size: u64,
    pub content: Fingerprint,
    /// A symlink's text.
    pub text: Vec<u8>,
    pub device: (u32, u32),
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path, in order, of the file that this is a name of.
    pub same_as: Vec<u8>,
}

/// Of all bytes that are not zero, and where they are: two files of one size are alike if it is the same.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint([u8; 8]);

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Takes a file's bytes, of which zeros may be skipped.
#[derive(Default)]
pub struct Fingerprinting {
    hash: Sha256,
    page: Vec<u8>,
    at: u64,
}

const PAGE_BYTES: usize = 4096;

impl Fingerprinting {
    /// The next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let now = bytes.len().min(PAGE_BYTES - self.page.len());
            self.page.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            if self.page.len() == PAGE_BYTES {
                self.end_page();
            }
        }
    }

    /// What comes next is at `offset`, a whole number of pages from the start.
    pub fn skip_to(&mut self, offset: u64) {
        self.end_page();
        self.at = offset;
    }

    pub fn finish(mut self) -> Fingerprint {
        self.end_page();
        let mut print = [0; 8];
        print.copy_from_slice(&self.hash.finalize()[..8]);
        Fingerprint(print)
    }

    fn end_page(&mut self) {
        if self.page.iter().any(|byte| *byte != 0) {
            self.page.resize(PAGE_BYTES, 0);
            self.hash.update(self.at.to_le_bytes());
            self.hash.update(&self.page);
        }
        self.at += PAGE_BYTES as u64;
        self.page.clear();
    }
}

/// Entries that were looked into, by inode and time of change: whoever looks often need not read everything each time.
pub type Known = HashMap<(u64, i64, u32), Entry>;

/// What changed within a tick of the file system's clock may change again without another time.
const TICK: Duration = Duration::from_millis(50);

/// [`of_folder`], but what is known is not looked into.
pub fn of_folder_again(root: &Path, known: &mut Known) -> Inventory {
    taken(root, Some(known), &|_| false)
}

/// All that is in `root`, and itself.
pub fn of_folder(root: &Path) -> Inventory {
    of_folder_without(root, &|_| false)
}

/// [`of_folder`] but for the paths that are `left` out, and what is below them.
pub fn of_folder_without(root: &Path, left: &dyn Fn(&[u8]) -> bool) -> Inventory {
    taken(root, None, left)
}

fn taken(root: &Path, known: Option<&mut Known>, left: &dyn Fn(&[u8]) -> bool) -> Inventory {
    let mut taking = Taking { found: Inventory::new(), groups: HashMap::new(), known, left };
    let folder = Folder::open(root);
    taking.entry(&folder, b".", Vec::new());
    taking.below(&folder, &[]);
    taking.found
}

struct Taking<'a> {
    found: Inventory,
    groups: HashMap<(u32, u32, u64), Vec<u8>>,
    known: Option<&'a mut Known>,
    left: &'a dyn Fn(&[u8]) -> bool,
}

impl Taking<'_> {
    fn below(&mut self, folder: &Folder, path: &[u8]) {
        for name in names(folder.fd()) {
            let path = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
            if !(self.left)(&path) && self.entry(folder, &name, path.clone()) == Some('d') {
                self.below(&folder.folder(&name), &path);
            }
        }
    }

    /// Its letter; nothing where a name is listed and nothing is there, as overlayfs does it with a mark of a deletion.
    fn entry(&mut self, folder: &Folder, name: &[u8], path: Vec<u8>) -> Option<char> {
        let mask = StatxFlags::BASIC_STATS;
        let stat = match rustix::fs::statx(folder.fd(), OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW, mask) {
            Err(rustix::io::Errno::NOENT) => return None,
            stat => stat.expect("an entry"),
        };
        let kind = letter(FileType::from_raw_mode(stat.stx_mode.into()));
        let same_as = if kind == 'd' {
            path.clone()
        } else {
            let id = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
            self.groups.entry(id).or_insert_with(|| path.clone()).clone()
        };
        let time = (stat.stx_ino, stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec);
        if let Some(entry) = self.known.as_ref().and_then(|known| known.get(&time)) {
            self.found.insert(path, Entry { same_as, ..entry.clone() });
            return Some(kind);
        }
        // The first name of a file was looked into already.
        let content = match self.found.get(&same_as) {
            Some(first) => first.content,
            None if kind == '-' => fingerprint(folder.fd(), name, stat.stx_size),
            None => Fingerprint::default(),
        };
        let is_device = matches!(kind, 'c' | 'b');
        let entry = Entry {
            kind,
            mode: if kind == 'l' { 0o777 } else { u32::from(stat.stx_mode) & 0o7777 },
            owner: (stat.stx_uid, stat.stx_gid),
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            size: if kind == '-' { stat.stx_size } else { 0 },
            content,
            text: if kind == 'l' { link_text(folder, name) } else { Vec::new() },
            device: if is_device { (stat.stx_rdev_major, stat.stx_rdev_minor) } else { (0, 0) },
            attributes: attributes(&folder.below_proc(name)),
            same_as,
        };
        let changed = Duration::new(time.1.try_into().unwrap_or(0), time.2);
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed).unwrap_or_default();
        if let Some(known) = self.known.as_mut().filter(|_| age > TICK) {
            known.insert(time, entry.clone());
        }
        self.found.insert(path, entry);
        Some(kind)
    }
}

fn letter(kind: FileType) -> char {
    match kind {
        FileType::RegularFile => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        _ => 's',
    }
}

fn link_text(folder: &Folder, name: &[u8]) -> Vec<u8> {
    rustix::fs::readlinkat(folder.fd(), OsStr::from_bytes(name), Vec::new()).expect("a link").into_bytes()
}

fn fingerprint(folder: &OwnedFd, name: &[u8], size: u64) -> Fingerprint {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::openat(folder, OsStr::from_bytes(name), flags, Mode::empty()).expect("a file");
    let (mut hash, mut buffer, mut at) = (Fingerprinting::default(), vec![0; 1 << 18], 0);
    while at < size {
        if at.is_multiple_of(PAGE_BYTES as u64) {
            let data = rustix::fs::seek(&open, SeekFrom::Data(at)).unwrap_or(size);
            let data = data - data % PAGE_BYTES as u64;
            if data > at {
                at = data;
                hash.skip_to(at);
                continue;
            }
        }
        match rustix::io::pread(&open, &mut buffer[..], at).expect("its bytes") {
            0 => break,
            bytes => {
                hash.push(&buffer[..bytes]);
                at += bytes as u64;
            }
        }
    }
    hash.finish()
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut listed = vec![0; 1 << 16];
    let bytes = rustix::fs::llistxattr(path, &mut listed[..]).unwrap_or(0);
    let names = listed[..bytes].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut value = vec![0; 1 << 16];
    let pairs = names.map(|name| {
        let bytes = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).expect("an attribute");
        (name.to_vec(), value[..bytes].to_vec())
    });
    pairs.collect()
}
