//! Tars that no folder would give: appended to, put one behind the other, with entries below links, with marks of overlayfs.
//! What comes out is what GNU tar unpacks, however layers are unpacked: one over the other, or stacked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use smolfreeze::progress::NoticeKind;
use smolfreeze::report::Snapshot;

use crate::host::{Host, Tmpfs, shell};
use crate::trees::{Keeps, assert_same, inventory};

/// Layers as an engine has them: each unpacked by itself, and all of them an overlayfs.
struct Stacked {
    merged: PathBuf,
    _disk: Tmpfs,
}

impl Stacked {
    fn new(host: &Host, layout: &Path, snapshot: &Snapshot) -> Self {
        let disk = host.path("stack");
        fs::create_dir_all(&disk).expect("a folder");
        let stacked = Self { merged: disk.join("merged"), _disk: Tmpfs::mount(&disk, "64m") };
        let blob = |at: usize| layout.join("blobs/sha256").join(snapshot.layers[at].descriptor.digest.hex());
        let mut lower = String::new();
        for at in 0..snapshot.layers.len() {
            let unpack = "tar -xp --numeric-owner --xattrs --xattrs-include='*'";
            shell(&disk, &format!("mkdir {at}; gzip -dc {} | {unpack} -C {at}", blob(at).display()));
            lower = format!("{at}:{lower}");
        }
        let lower = lower.trim_end_matches(':');
        shell(&disk, "mkdir merged");
        match snapshot.layers.len() {
            1 => shell(&disk, "mount --bind 0 merged"),
            _ => shell(&disk, &format!("mount -t overlay none -o lowerdir={lower} merged")),
        }
        stacked
    }
}

impl Drop for Stacked {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.merged).status();
    }
}

/// All that is in a folder, but for folders' times: where something was put into one behind its own entry, that is now.
fn told(root: &Path) -> BTreeMap<PathBuf, String> {
    let untimed = |line: String| match line.split_once(" mtime ") {
        Some((before, time)) if line.starts_with("mode 4") => {
            format!("{before}{}", time.split_once(' ').map_or("", |(_, behind)| behind))
        }
        _ => line,
    };
    inventory(root, Keeps::Seconds).into_iter().map(|(path, line)| (path, untimed(line))).collect()
}

/// Freezes a tar and compares what becomes of it with `wanted`, a folder.
fn comes_out_as(host: &Host, wanted: &Path, words: &[&str], input: Option<&Path>, what: &str) -> Snapshot {
    let layout = host.path("layout");
    let _ = fs::remove_dir_all(&layout);
    let to = format!("oci:{}:it", layout.display());
    let snapshot = host.freeze_from(&[words, &["--to", &to, "--compression", "gzip"]].concat(), input);
    let wanted = told(wanted);
    let stacked = Stacked::new(host, &layout, &snapshot);
    assert_same(&wanted, &told(&stacked.merged), &format!("{what}, stacked"));
    drop(stacked);
    shell(&host.path("."), "rm -rf bundle; umoci unpack --image layout:it bundle");
    assert_same(&wanted, &told(&host.path("bundle/rootfs")), &format!("{what}, by umoci"));
    host.verify(&to);
    snapshot
}

/// A tar made by `script` in a folder of its own, and what GNU tar unpacks from it.
fn made(host: &Host, script: &str) -> (PathBuf, PathBuf) {
    let folder = host.path("making");
    let _ = fs::remove_dir_all(&folder);
    host.tree("making", &format!("mkdir s want; chmod 755 s; {script}\ntar -xpf t.tar --numeric-owner -C want"));
    (folder.join("t.tar"), folder.join("want"))
}

const APPENDED: &[(&str, &str)] = &[
    ("over a link", "echo old >s/a; ln s/a s/b; tar -C s -cf t.tar .; rm s/b; echo new >s/b; tar -C s -rf t.tar ./b"),
    (
        "over what was linked to",
        "echo old >s/a; ln s/a s/b; tar -C s -cf t.tar .; rm s/a; echo new >s/a; tar -C s -rf t.tar ./a",
    ),
    ("a link over a file", "echo a >s/a; echo b >s/b; tar -C s -cf t.tar .; ln -f s/a s/b; tar -C s -rf t.tar ./a ./b"),
    (
        "a file that changed",
        "seq 9999 >s/a; tar -C s -cf t.tar .; seq 99 >s/a; tar -C s -rf t.tar a; seq 5 >s/a; tar -C s -rf t.tar ./a",
    ),
    ("a link by another", "ln -s x s/l; tar -C s -cf t.tar .; ln -sfn y s/l; tar -C s -rf t.tar ./l"),
    ("a file by a link", "echo f >s/l; tar -C s -cf t.tar .; ln -sf y s/l; tar -C s -rf t.tar ./l"),
    ("a link by a file", "ln -s y s/l; tar -C s -cf t.tar .; rm s/l; echo f >s/l; tar -C s -rf t.tar ./l"),
    (
        "a file by a folder",
        "echo f >s/d; tar -C s -cf t.tar .; rm s/d; mkdir s/d; echo g >s/d/f; tar -C s -rf t.tar ./d",
    ),
    (
        "a link by a folder",
        "mkdir s/d; ln -s d s/l; tar -C s -cf t.tar .; rm s/l; mkdir s/l; echo g >s/l/f; tar -C s -rf t.tar ./l",
    ),
    (
        "a folder's mode",
        "mkdir s/d; echo f >s/d/f; tar -C s -cf t.tar .; chmod 700 s/d; tar -C s --no-recursion -rf t.tar ./d",
    ),
    (
        "what is newer",
        "echo 1 >s/a; ln s/a s/b; echo 2 >s/c; tar -C s -cf t.tar .; echo 3 >s/c; touch -d '+1 min' s/c; tar -C s -uf t.tar .",
    ),
];

#[test]
fn the_last_entry_of_a_name_counts() {
    let host = Host::new();
    for (what, script) in APPENDED {
        let padding = "for i in {1..8}; do head -c 300000 /dev/urandom >s/z$i; done; ";
        let (tar, want) = made(&host, &format!("{padding}{script}"));
        let source = format!("tar:{}", tar.display());
        comes_out_as(&host, &want, &[&source], None, what);
        let piped = comes_out_as(&host, &want, &["tar:-"], Some(&tar), &format!("{what}, from a pipe"));
        assert_eq!(piped.layers.len(), 1);
        let cut = comes_out_as(&host, &want, &[&source, "--layer-size", "512KiB"], None, &format!("{what}, in layers"));
        assert!(cut.layers.len() > 2, "{what}: {} layers", cut.layers.len());
    }
}

#[test]
fn a_file_in_the_place_of_a_folder_is_refused() {
    let host = Host::new();
    let script = "mkdir s/d; echo f >s/d/f; tar -C s -cf t.tar .; rm -r s/d; echo g >s/d; tar -C s -rf t.tar ./d; tar -xf t.tar -C want && exit 1; mkdir w2";
    let folder = host.tree("making", &format!("mkdir s want; {script}"));
    let tar = folder.join("t.tar");
    let to = format!("oci:{}", host.text("layout"));
    host.refuses(3, "'./d'", &[&format!("tar:{}", tar.display()), "--to", &to]);
    host.refuses_from(3, "'./d'", &["tar:-", "--to", &to], Some(&fs::read(tar).expect("a tar")));
}

#[test]
fn an_entry_below_a_link_is_where_the_link_leads() {
    let host = Host::new();
    let script = r"
        mkdir -p s/usr/bin t/bin; echo sh >s/usr/bin/sh; ln -s usr/bin s/bin; echo x >t/bin/x; ln t/bin/x t/bin/y
        for i in {1..8}; do head -c 300000 /dev/urandom >s/z$i; done
        tar -C s --sort=name -cf t.tar .; tar -C t -rf t.tar ./bin/x ./bin/y";
    let (tar, want) = made(&host, script);
    assert!(want.join("usr/bin/x").exists() && want.join("bin/sh").exists(), "GNU tar follows the link");
    let source = format!("tar:{}", tar.display());
    comes_out_as(&host, &want, &[&source], None, "a file");
    comes_out_as(&host, &want, &["tar:-"], Some(&tar), "a pipe");
    // A layer stands by itself: it can't be told where the link leads.
    let to = format!("oci:{}", host.text("refused"));
    let size = ["--layer-size", "512KiB", "--to", &to];
    let line = host.refuses(3, "'./bin/x'", &[&[&*source][..], &size].concat());
    assert!(line.contains("'bin'") && line.contains("--layer-size"), "{line}");
    host.refuses_from(3, "'./bin/x'", &[&["tar:-"][..], &size].concat(), Some(&fs::read(&tar).expect("a tar")));
    // Below a file there is nothing.
    let folder = host.tree(
        "file",
        "mkdir s t; echo f >s/d; mkdir t/d; echo g >t/d/f; tar -C s -cf t.tar .; tar -C t -rf t.tar ./d/f",
    );
    host.refuses(3, "'./d/f'", &[&format!("tar:{}/t.tar", folder.display()), "--to", &to]);
}

#[test]
fn several_archives_in_one_file_are_refused_with_links_or_without() {
    let host = Host::new();
    let script = "mkdir a b; echo one >a/one; echo two >b/two; tar -C b -cf b.tar .; for l in 0 1; do
        [ $l = 0 ] || ln a/one a/uno; tar -C a -cf a.tar .; cat a.tar b.tar >ab$l.tar; (gzip -c a.tar; gzip -c b.tar) >ab$l.gz
        tar -C a -b1 -cf short.tar .; head -c -512 short.tar >half$l.tar; done; tar -A -f a.tar b.tar";
    let folder = host.tree("several", script);
    let to = format!("oci:{}", host.text("layout"));
    for (name, words) in [
        ("ab0.tar", "end mark"),
        ("ab1.tar", "end mark"),
        ("ab0.gz", "end mark"),
        ("ab1.gz", "end mark"),
        ("half0.tar", "cut off"),
        ("half1.tar", "cut off"),
    ] {
        let file = folder.join(name);
        host.refuses(3, words, &[&format!("tar:{}", file.display()), "--to", &to]);
        host.refuses_from(3, words, &["tar:-", "--to", &to], Some(&fs::read(file).expect("a tar")));
    }
    // GNU tar knows how to put one behind the other.
    shell(&folder, "mkdir want; tar -xpf a.tar -C want");
    let source = format!("tar:{}", folder.join("a.tar").display());
    comes_out_as(&host, &folder.join("want"), &[&source], None, "tar -A");
}

#[test]
fn marks_of_overlayfs_hide_nothing_and_are_told() {
    let host = Host::new();
    let script = r"
        mkdir -p lib/engine/diff/data; cd lib/engine/diff
        for i in {1..4}; do head -c 700000 /dev/urandom >data/f$i; done; setfattr -n user.kept -v x data/f1
        setfattr -n trusted.overlay.opaque -v y data; setfattr -n user.overlay.origin -v z data/f1; setfattr -n trusted.overlay.metacopy data/f2
        mknod gone c 0 0; ln gone data/gone; mknod null c 1 3; touch -d @1700000000 . data";
    let tree = host.tree("tree", script);
    let wanted = host.path("wanted");
    shell(
        &host.path("."),
        "cp -a tree wanted; cd wanted/lib/engine/diff; rm gone data/gone; touch -d @1700000000 . data
         for f in data data/f1 data/f2; do for m in trusted.overlay.opaque user.overlay.origin trusted.overlay.metacopy; do setfattr -x $m $f || true; done; done
         cd \"$OLDPWD\"; tar -C tree --xattrs --xattrs-include='*' --format=pax -cf t.tar .",
    );
    assert_eq!(inventory(&wanted, Keeps::Everything).len() + 2, inventory(&tree, Keeps::Everything).len());
    let (dir, tar) = (format!("dir:{}", tree.display()), host.path("t.tar"));
    for (source, input) in [(&*dir, None), (&format!("tar:{}", tar.display()), None), ("tar:-", Some(&*tar))] {
        for size in ["0", "1MiB"] {
            let what = format!("{source} {size}");
            let snapshot = comes_out_as(&host, &wanted, &[source, "--layer-size", size], input, &what);
            assert_eq!(snapshot.notices.count(NoticeKind::Overlay), 5, "{what}: {:?}", snapshot.notices);
            let named: Vec<_> = snapshot.notices.named().iter().map(|notice| &*notice.path).collect();
            assert!(
                named.contains(&"lib/engine/diff/data/gone") && named.contains(&"lib/engine/diff/data"),
                "{named:?}"
            );
            let kept = host.path("bundle/rootfs/lib/engine/diff/data/f1");
            shell(&host.path("."), &format!("getfattr -n user.kept {}", kept.display()));
        }
    }
}

#[test]
fn there_are_never_more_layers_than_runtimes_take() {
    let host = Host::new();
    let tree =
        host.tree("tree", "mkdir d; for i in {1..400}; do head -c 40000 /dev/urandom >d/$i; done; tar -cf ../t.tar d");
    let to = format!("oci:{}", host.text("layout"));
    let walked = host.freeze(&[&format!("dir:{}", tree.display()), "--to", &to, "--layer-size", "64KiB"]);
    assert!((100..=120).contains(&walked.layers.len()), "{} layers", walked.layers.len());
    fs::remove_dir_all(host.path("layout")).expect("a layout");
    let tar = host.path("t.tar");
    let snapshot =
        comes_out_as(&host, &tree, &["tar:-", "--layer-size", "64KiB"], Some(&tar), "a pipe of unknown length");
    assert!((100..=120).contains(&snapshot.layers.len()), "{} layers", snapshot.layers.len());
}

#[test]
fn sparse_files_of_every_format_pass_and_broken_ones_are_named() {
    let host = Host::new();
    let make = "truncate -s 20M s/sparse; for at in 0 3 7 11 19; do printf data$at | dd of=s/sparse bs=1M seek=$at conv=notrunc status=none; done";
    for format in ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"] {
        let (tar, want) = made(&host, &format!("{make}; tar -C s --sparse --format={format} -cf t.tar ."));
        let layout = host.path("layout");
        let _ = fs::remove_dir_all(&layout);
        let words = [
            &*format!("tar:{}", tar.display()),
            "--compression",
            "gzip",
            "--to",
            &format!("oci:{}:it", layout.display()),
        ];
        let snapshot = host.freeze(&words);
        let stacked = Stacked::new(&host, &layout, &snapshot);
        assert_same(&told(&want), &told(&stacked.merged), format);
        drop(stacked);
        // The file's length is one that its parts don't fit into.
        let change = r"
import sys
name, old, new = sys.argv[1:]
tar = bytearray(open(name, 'rb').read())
at = tar.find(old.encode())
assert at >= 0
tar[at:at + len(old)] = new.encode()
for block in range(0, len(tar), 512):
    if block <= at < block + 512 and tar[block + 257:block + 262] == b'ustar':
        tar[block + 148:block + 156] = b' ' * 8
        tar[block + 148:block + 156] = b'%06o\0 ' % sum(tar[block:block + 512])
open(name, 'wb').write(tar)
";
        let (old, new) =
            if format == "gnu" { ("00120000000\0", "00110000000\0") } else { ("size=20971520", "size=10971520") };
        let output = Command::new("python3")
            .args(["-c", change])
            .arg(&tar)
            .args([old.trim_end_matches('\0'), new.trim_end_matches('\0')])
            .status();
        assert!(output.expect("python3").success(), "{format}");
        let line = host.refuses(
            3,
            "sparse'",
            &[&format!("tar:{}", tar.display()), "--to", &format!("oci:{}", host.text("refused"))],
        );
        assert!(line.contains("past the end"), "{format}: {line}");
    }
}
