//! What a folder holds, said in full, by other means than the code under test.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Everything about each entry in one line, by path.
pub(super) fn take(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut entries = BTreeMap::new();
    let mut paths = Vec::new();
    list(root, &mut paths);
    paths.sort();
    let mut groups: HashMap<u64, PathBuf> = HashMap::new();
    for path in paths {
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let meta = path.symlink_metadata().unwrap();
        let group =
            if meta.is_dir() { relative.clone() } else { groups.entry(meta.ino()).or_insert(relative.clone()).clone() };
        let (size, content) = if meta.is_file() { (meta.size(), digest(&path)) } else { (0, String::new()) };
        let target = path.read_link().unwrap_or_default();
        let line = format!(
            "mode {:o} owner {}:{} mtime {}.{:09} size {size} device {} content {content} target {target:?} attributes {:?} same as {group:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev(),
            attributes(&path),
        );
        entries.insert(relative, line);
    }
    entries
}

fn list(folder: &Path, paths: &mut Vec<PathBuf>) {
    paths.push(folder.to_owned());
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            list(&path, paths);
        } else {
            paths.push(path);
        }
    }
}

fn digest(path: &Path) -> String {
    let mut file = std::fs::File::open(path).unwrap();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return format!("{:02x?}", &hash.finalize()[..8]),
            bytes => hash.update(&buffer[..bytes]),
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 1 << 16];
    let listed = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let names = list[..listed].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let bytes = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..]).unwrap();
            value.truncate(bytes);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect()
}
