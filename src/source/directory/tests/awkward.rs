//! A folder with everything in it that a tar can keep, and that something or other gets wrong.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use super::{is_root, shell};

const FOR_ANYBODY: &str = r#"
mkdir -p some/deeper/folder zz empty sticky 'a dir' && chmod 0700 empty && chmod 1777 sticky
printf hello >plain; printf x >setid; chmod 6755 setid; : >zero
for size in 1 511 512 513 131071 131072 131073 1048064 1048575 1048576 1048577 5000000; do
    head -c $size /dev/urandom >bytes-$size
done
truncate -s 64M sparse-hole
truncate -s 40M sparse-middle; printf middle | dd of=sparse-middle bs=1 seek=20000000 conv=notrunc status=none
head -c 300000 /dev/urandom >sparse-end; truncate -s 9999999 sparse-end
printf end | dd of=sparse-start bs=1 seek=7000000 status=none; truncate -s 100k sparse-small
ln plain some/deeper/hard; ln plain zz/hard; ln zz/hard zzz-hard
head -c 400000 /dev/urandom >large-linked; ln large-linked zz/large-linked; ln plain some/hard-too
printf alone >outside-link; ln outside-link ../outside-of-the-tree
ln -s plain link; ln -s /nowhere/at/all dangling; ln -s $(printf 'x%.0s' {1..300}) long-link; ln -P link zz/hard-link-of-link
ln -s $(printf 'y%.0s' {1..100}) link-100; ln -s $(printf 'y%.0s' {1..101}) link-101; ln -s $'new\nline\xff' odd-link
mkfifo fifo; chmod 0620 fifo; ln fifo zz/fifo
printf 1 >$'new\nline'; printf 2 >$'not-utf8-\xff\xfe'; printf 3 >' spaces at both ends '; printf 4 >'back\slash'; printf 5 >$'tab\t\x01'
printf 6 >-dash; printf 7 >Ünïcode; printf 8 >$(printf 'n%.0s' {1..255})
for length in 97 98 99 100; do printf $length >$(printf "%0${length}d" 0); done
long=$(printf 'l%.0s' {1..100}); mkdir -p $long/$long/$long; printf long >$long/$long/$long/file; ln $long/$long/$long/file zz/of-long
mkdir $(printf 'd%.0s' {1..97}) $(printf 'e%.0s' {1..98}); printf a >a.b; mkdir a; printf b >a/b
touch -d '1960-01-01 00:00:00.5 UTC' before-1970; touch -d '1969-12-31 23:59:59.25 UTC' just-before
touch -d '2400-01-01 UTC' after-2242; touch -d @1700000000 whole-second; touch -d @1700000000.120 hundredths
touch -h -d @1600000000.5 link; touch -d @1500000000.25 empty
"#;

const WITH_ATTRIBUTES: &str = r#"
setfattr -n user.text -v value plain; setfattr -n user.binary -v 0x00ff0a3d00 plain; setfattr -n user.none plain
setfattr -n 'user.a=b%c' -v sign plain; setfattr -n user.folder -v here "a dir"; setfattr -n user.big -v "$(printf 'v%.0s' {1..3000})" zero
setfattr -n user.large -v split bytes-5000000
setfacl -m u:12:rw,g:34:r setid; setfacl -d -m u:12:rwx empty; setfacl -m u:99:r bytes-1048577
"#;

const FOR_ROOT: &str = r"
printf secret >closed; chmod 0000 closed; mknod null c 1 3; chmod 0666 null; mknod loop b 7 200; mknod large c 511 1048575; ln null zz/null
printf x >capable; setcap cap_net_raw+ep capable; ln capable zz/capable
setfattr -n trusted.mark -v file plain; setfattr -h -n trusted.mark -v link dangling; setfattr -n trusted.mark -v fifo fifo
setfattr -h -n trusted.mark -v device null
printf x >owned; chown 12345:54321 owned; printf x >far-owned; chown 4000000000:3000000000 far-owned
chown -h 2097151:2097152 long-link; chown 1000:1000 empty
";

/// Makes it, as the folder `root` of the one that is returned; a second link to one of its files is next to it.
pub(super) fn make() -> (TempDir, PathBuf) {
    let around = tempfile::tempdir().unwrap();
    let root = around.path().join("root");
    std::fs::create_dir(&root).unwrap();
    shell(&root, FOR_ANYBODY);
    shell(&root, WITH_ATTRIBUTES);
    if is_root() {
        shell(&root, FOR_ROOT);
    }
    (around, root)
}

/// A chain of folders whose path is longer than the kernel takes in one call, deeper than the walk keeps open, with a
/// file on either side of each folder.
pub(super) fn make_deep(folder: &Path, depth: usize) {
    let mut open = rustix::fs::open(folder, OFlags::DIRECTORY, Mode::empty()).unwrap();
    let name = "d".repeat(60);
    for _ in 0..depth {
        for file in ["before", "past"] {
            rustix::fs::openat(&open, file, OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644)).unwrap();
        }
        rustix::fs::mkdirat(&open, name.as_str(), Mode::from_raw_mode(0o755)).unwrap();
        open = rustix::fs::openat(&open, name.as_str(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
}
