//! Folders with everything in them that a tar can keep, and what a folder holds, told by other means than the engine's.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// What every format of tar can keep, ustar included, but for times.
pub const MODEST: &str = r"
mkdir -p usr/bin usr/lib/deep/er zz empty closed sticky 'a dir'; chmod 0700 closed; chmod 1777 sticky; chmod 2755 empty
printf hello >usr/bin/plain; : >zero; printf x >usr/bin/setid; chmod 6755 usr/bin/setid; printf y >closed/secret; chmod 0000 closed/secret
ln usr/bin/plain usr/lib/deep/hard; ln usr/bin/plain zz/hard; ln -s plain usr/bin/link; ln -s /nowhere/at/all dangling
mkfifo fifo; chmod 0620 fifo; mknod null c 1 3; mknod loop b 7 200; printf 1 >'new
line'; printf 2 >$'not-utf8-\xff\xfe'; printf 3 >' spaces '; printf 4 >Ünïcode
chown 1000:1001 usr/bin/plain; chown 12345:54321 'a dir'; chown -h 7:8 dangling
for size in 1 511 512 513 131073 1048575 1048577; do head -c $size /dev/urandom >zz/bytes-$size; done
head -c 8000000 /dev/urandom >usr/lib/random; seq 1 1200000 >usr/lib/numbers
for i in {1..40}; do seq $((i * 100000)) $((i * 100000 + 30000)) >usr/lib/deep/er/numbers-$i; done
head -c 300000 /dev/urandom >zz/large-linked; ln zz/large-linked usr/large-linked
truncate -s 8M usr/lib/hole; printf middle | dd of=usr/lib/middle bs=1 seek=4000000 conv=notrunc status=none; truncate -s 6M usr/lib/middle
touch -d @1700000000 usr/bin/plain; touch -d @1500000000 empty
";

/// What needs GNU's or PAX's extensions.
pub const LONG: &str = r"
long=$(printf 'l%.0s' {1..100}); mkdir -p $long/$long/$long; printf long >$long/$long/$long/file; ln $long/$long/$long/file zz/of-long
ln -s $(printf 'x%.0s' {1..300}) long-link; printf 8 >$(printf 'n%.0s' {1..255}); chown -h 2097151:2097152 long-link
";

/// What needs PAX.
pub const AWKWARD: &str = r#"
touch -d @1600000000.123456789 zero; touch -h -d @1600000000.5 long-link; touch -d @1500000000.25 closed
touch -d '1969-12-31 23:59:59.25 UTC' just-before
setfattr -n user.text -v value usr/bin/plain; setfattr -n user.binary -v 0x00ff0a3d00 usr/bin/plain
setfattr -n user.big -v "$(printf 'v%.0s' {1..3000})" zero; setfattr -n user.folder -v here 'a dir'; setfattr -h -n trusted.mark -v link dangling
setfacl -m u:12:rw,g:34:r usr/bin/setid; setfacl -d -m u:12:rwx empty; printf x >capable; setcap cap_net_raw+ep capable; ln capable zz/capable
printf x >far-owned; chown 4000000000:3000000000 far-owned
"#;

/// What of an entry is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// All of it.
    Everything,
    /// Neither extended attributes nor parts of seconds.
    Seconds,
}

/// Everything about each entry in one line, by path.
pub fn inventory(root: &Path, keeps: Keeps) -> BTreeMap<PathBuf, String> {
    inventory_without(root, keeps, |_| false)
}

/// [`inventory`] but for the entries, relative to the root, that are `left` out, and what is below them.
pub fn inventory_without(root: &Path, keeps: Keeps, left: impl Fn(&Path) -> bool) -> BTreeMap<PathBuf, String> {
    let mut paths = Vec::new();
    list(root, &mut paths, &|path| left(path.strip_prefix(root).expect("a path below it")));
    paths.sort();
    let (mut entries, mut groups): (_, HashMap<(u64, u64), PathBuf>) = (BTreeMap::new(), HashMap::new());
    for path in paths {
        let relative = path.strip_prefix(root).expect("a path below it").to_owned();
        let meta = path.symlink_metadata().expect("an entry");
        let group = if meta.is_dir() {
            relative.clone()
        } else {
            groups.entry((meta.dev(), meta.ino())).or_insert_with(|| relative.clone()).clone()
        };
        let (size, content) = if meta.is_file() { (meta.size(), digest(&path)) } else { (0, String::new()) };
        let (nanoseconds, attributes) = match keeps {
            Keeps::Everything => (meta.mtime_nsec(), attributes(&path)),
            Keeps::Seconds => (0, BTreeMap::new()),
        };
        let line = format!(
            "mode {:o} owner {}:{} mtime {}.{nanoseconds:09} size {size} device {} content {content} target {} attributes {attributes:?} same as {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.rdev(),
            shown(&path.read_link().unwrap_or_default()),
            shown(&group),
        );
        entries.insert(relative, line);
    }
    entries
}

/// Both have the same entries, alike in all that is kept.
pub fn assert_same(wanted: &BTreeMap<PathBuf, String>, found: &BTreeMap<PathBuf, String>, what: &str) {
    if let Some(words) = difference(wanted, found) {
        panic!("{what}: {words}");
    }
}

/// The first entries in which they differ.
pub fn difference(wanted: &BTreeMap<PathBuf, String>, found: &BTreeMap<PathBuf, String>) -> Option<String> {
    // In a machine of the stand-in `/sys` is this host's: its time is new whenever the kernel loads a module.
    let is_other = |path: &Path, line: &str, other: Option<&String>| match other {
        Some(other) if path == Path::new("sys") => without_time(other) != without_time(line),
        other => other.is_none_or(|other| other != line),
    };
    let differing = |one: &BTreeMap<PathBuf, String>, other: &BTreeMap<PathBuf, String>| {
        let lines = one.iter().filter(|(path, line)| is_other(path, line, other.get(*path)));
        lines.map(|(path, line)| format!("{} {line}", shown(path))).take(5).collect::<Vec<_>>().join("\n")
    };
    let (missed, extra) = (differing(wanted, found), differing(found, wanted));
    let is_same = missed.is_empty() && extra.is_empty();
    (!is_same).then(|| format!("wanted\n{missed}\nfound\n{extra}"))
}

fn without_time(line: &str) -> (&str, &str) {
    let (before, time) = line.split_once(" mtime ").expect("a time");
    (before, time.split_once(' ').expect("more").1)
}

fn shown(path: &Path) -> impl std::fmt::Display {
    path.as_os_str().as_bytes().escape_ascii()
}

fn list(folder: &Path, paths: &mut Vec<PathBuf>, left: &dyn Fn(&Path) -> bool) {
    paths.push(folder.to_owned());
    for entry in folder.read_dir().expect("a folder") {
        let path = entry.expect("an entry").path();
        if left(&path) {
            continue;
        }
        if path.symlink_metadata().expect("an entry").is_dir() {
            list(&path, paths, left);
        } else {
            paths.push(path);
        }
    }
}

fn digest(path: &Path) -> String {
    let mut file = std::fs::File::open(path).expect("a file");
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).expect("its bytes") {
            0 => return format!("{:02x?}", &hash.finalize()[..8]),
            bytes => hash.update(&buffer[..bytes]),
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut listed = vec![0; 1 << 16];
    let bytes = rustix::fs::llistxattr(path, &mut listed[..]).unwrap_or(0);
    let names = listed[..bytes].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let bytes = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..]);
        value.truncate(bytes.expect("an attribute"));
        value
    };
    names.map(|name| (String::from_utf8_lossy(name).into_owned(), value(name))).collect()
}
