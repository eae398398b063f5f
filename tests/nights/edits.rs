//! A folder that changes by a seed, as machines do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;

/// Longer than the moment in which nobody can tell whether a file changed.
const SETTLED: Duration = Duration::from_millis(2_200);

/// What an entry takes without its content, about.
const ENTRY_BYTES: u64 = 100;

/// Files of the first night.
const FILES: usize = 400;

/// What an entry has besides its content and its name.
#[derive(Debug, Clone, Copy)]
pub enum Dress {
    Mode,
    Owner,
    Attribute,
    NoAttribute,
    Time,
}

/// Of each path what would be another after a change: inode, size, mode and owner, and when it changed.
type Listed = BTreeMap<PathBuf, [i64; 6]>;

pub struct Editor {
    pub(super) root: PathBuf,
    pub(super) random: Rng,
    listed: Listed,
}

impl Editor {
    pub fn new(root: PathBuf, seed: u64) -> Self {
        Self { root, random: Rng::with_seed(seed), listed: Listed::new() }
    }

    /// The folder of the first night.
    pub fn grow(&mut self) {
        for _ in 0..60 {
            self.make_folder();
        }
        for _ in 0..FILES {
            self.make_file();
        }
        for _ in 0..30 {
            self.make_link();
            self.make_other();
        }
        std::thread::sleep(SETTLED);
    }

    /// Edits of one night, in words: none in some nights, a few in most, many in some. Some nights nothing settles.
    pub fn night(&mut self) -> Vec<String> {
        let count = match self.random.u8(..8) {
            0 => 0,
            1 => self.random.usize(20..60),
            _ => self.random.usize(1..12),
        };
        let edits = (0..count).map(|_| self.edit()).collect();
        if self.random.u8(..4) > 0 {
            std::thread::sleep(SETTLED);
        }
        edits
    }

    /// Bytes of the files that are new or other than when it was asked last, and a little for each entry that is, or is gone.
    pub fn changed_bytes(&mut self) -> u64 {
        let (mut changed_bytes, mut listed, mut files) = (0, Listed::new(), BTreeSet::new());
        for path in self.entries() {
            let entry = path.symlink_metadata().unwrap();
            let owner = i64::from(entry.uid()) << 32 | i64::from(entry.mode());
            let (inode, size) = (entry.ino().cast_signed(), entry.len().cast_signed());
            let now = [inode, size, owner, entry.ctime(), entry.ctime_nsec(), entry.nlink().cast_signed()];
            if self.listed.remove(&path).is_none_or(|before| before != now) {
                let is_first = entry.is_file() && files.insert(inode);
                changed_bytes += ENTRY_BYTES + if is_first { entry.len() } else { 0 };
            }
            listed.insert(path, now);
        }
        changed_bytes += ENTRY_BYTES * self.listed.len() as u64;
        self.listed = listed;
        changed_bytes
    }

    fn edit(&mut self) -> String {
        let path = self.any();
        match self.random.u8(..22) {
            0..=3 => self.rewrite(),
            4 | 5 => self.make_file(),
            6 => self.make_folder(),
            7 => self.make_link(),
            8 => self.make_other(),
            9..=11 => self.remove(&path),
            12 | 13 => self.rename(&path),
            14 => self.dress(&path, Dress::Mode),
            15 => self.dress(&path, Dress::Owner),
            16 => self.dress(&path, Dress::Attribute),
            17 => self.dress(&path, Dress::NoAttribute),
            // Kinds change.
            18 | 19 => {
                self.remove(&path);
                match self.random.u8(..3) {
                    _ if path == self.root || path.symlink_metadata().is_ok() => {}
                    0 => self.write(&path),
                    1 => symlink("elsewhere", &path).unwrap(),
                    _ => {
                        fs::create_dir(&path).unwrap();
                        self.write(&path.join("new"));
                    }
                }
                format!("another kind of {}", path.display())
            }
            20 => self.back_again(),
            _ => self.dress(&path, Dress::Time),
        }
    }

    /// By one call.
    pub(super) fn dress(&mut self, path: &Path, what: Dress) -> String {
        match what {
            Dress::Mode => {
                let mode = if path.is_dir() { 0o755 } else { *self.random.choice(&[0o600, 0o4755, 0o444]).unwrap() };
                if !path.is_symlink() {
                    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
                }
                format!("chmod {mode:o} {}", path.display())
            }
            Dress::Owner => {
                let owner = self.random.u32(..2_000);
                if path.is_symlink() { lchown(path, Some(owner), None) } else { chown(path, Some(owner), None) }
                    .unwrap();
                format!("chown {owner} {}", path.display())
            }
            Dress::Attribute => {
                let value: Vec<u8> = (0..self.random.usize(1..300)).map(|_| self.random.u8(..)).collect();
                let flags = rustix::fs::XattrFlags::empty();
                let _ = rustix::fs::lsetxattr(path, "user.test", &value, flags);
                format!("attribute of {}", path.display())
            }
            Dress::NoAttribute => {
                let _ = rustix::fs::lremovexattr(path, "user.test");
                format!("no attribute of {}", path.display())
            }
            Dress::Time => {
                if !path.is_symlink() && path.is_file() {
                    let file = fs::File::options().write(true).open(path).unwrap();
                    file.set_modified(
                        std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(self.random.u64(..1 << 30)),
                    )
                    .unwrap();
                }
                format!("touch {}", path.display())
            }
        }
    }

    /// A folder that goes, and comes back with other things in it.
    fn back_again(&mut self) -> String {
        let folder = self.folder();
        if folder != self.root {
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
            self.write(&folder.join("back"));
        }
        format!("made anew: {}", folder.display())
    }

    /// All entries but the root, in an order that depends on their names alone.
    fn entries(&self) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![self.root.clone()]);
        while let Some(folder) = folders.pop() {
            let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            folders.extend(names.iter().filter(|path| path.is_dir() && !path.is_symlink()).cloned());
            found.extend(names);
        }
        found
    }

    pub(super) fn any(&mut self) -> PathBuf {
        let entries = self.entries();
        self.random.choice(&entries).cloned().unwrap_or_else(|| self.root.clone())
    }

    fn folder(&mut self) -> PathBuf {
        let folders: Vec<_> = self.entries().into_iter().filter(|path| path.is_dir() && !path.is_symlink()).collect();
        let root = self.root.clone();
        if self.random.u8(..6) == 0 { root } else { self.random.choice(&folders).cloned().unwrap_or(root) }
    }

    pub(super) fn free(&mut self) -> PathBuf {
        loop {
            let (folder, name) = (self.folder(), self.random.u32(..400));
            let odd = if self.random.u8(..9) == 0 { " \n\u{e4}.d" } else { "" };
            let path = folder.join(format!("{}{odd}{name}", ["a", "b", "c-", "d."][self.random.usize(..4)]));
            if path.symlink_metadata().is_err() {
                return path;
            }
        }
    }

    pub(super) fn write(&mut self, path: &Path) {
        let bytes = match self.random.u8(..20) {
            0 => self.random.usize(200_000..2_000_000),
            1..=4 => 0,
            _ => self.random.usize(..20_000),
        };
        let content: Vec<u8> = (0..bytes).map(|_| self.random.u8(..)).collect();
        fs::write(path, content).unwrap();
    }

    fn make_file(&mut self) -> String {
        let path = self.free();
        self.write(&path);
        format!("new file {}", path.display())
    }

    fn make_folder(&mut self) -> String {
        let path = self.free();
        fs::create_dir(&path).unwrap();
        format!("new folder {}", path.display())
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.entries().into_iter().filter(|path| path.symlink_metadata().is_ok_and(|entry| entry.is_file())).collect()
    }

    pub(super) fn make_link(&mut self) -> String {
        let (files, path) = (self.files(), self.free());
        let Some(file) = self.random.choice(&files).cloned() else { return String::new() };
        fs::hard_link(&file, &path).unwrap();
        format!("link {} to {}", path.display(), file.display())
    }

    pub(super) fn make_other(&mut self) -> String {
        let path = self.free();
        if self.random.bool() {
            symlink(format!("../{}", self.random.u32(..)), &path).unwrap();
        } else {
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::RUSR, 0).unwrap();
        }
        format!("new thing {}", path.display())
    }

    fn rewrite(&mut self) -> String {
        let files = self.files();
        let Some(path) = self.random.choice(&files).cloned() else { return String::new() };
        // In place, by rename, or of the same size.
        match self.random.u8(..3) {
            0 => self.write(&path),
            1 => {
                let beside = path.with_extension("dpkg-new");
                self.write(&beside);
                fs::rename(beside, &path).unwrap();
            }
            _ => {
                let content: Vec<u8> = (0..path.metadata().unwrap().size()).map(|_| self.random.u8(..)).collect();
                fs::write(&path, &content).unwrap();
            }
        }
        format!("rewrite {}", path.display())
    }

    fn remove(&mut self, path: &Path) -> String {
        if path != self.root {
            let is_folder = path.symlink_metadata().is_ok_and(|entry| entry.is_dir());
            if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
        format!("remove {}", path.display())
    }

    pub(super) fn rename(&mut self, path: &Path) -> String {
        let to = self.free();
        if path != self.root && !to.starts_with(path) {
            let _ = fs::rename(path, &to);
        }
        format!("rename {} to {}", path.display(), to.display())
    }
}
