//! Shapes of input that fill buffers thinly, or tables of names: source and packers once waited for each other for ever.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use crate::archive::entry;
use crate::host::{Host, finish, shell};
use crate::memory::{freeze, within_bounds};

/// Little memory shows soonest who holds too much.
const LITTLE: [&str; 2] = ["--memory", "96MiB"];

/// Freezes the folder with little memory and with the usual one, and compares what umoci unpacks.
fn comes_whole(script: &str, words: &[&str]) {
    let host = Host::new();
    let tree = host.tree("tree", script);
    let source = format!("dir:{}", tree.display());
    for more in [&LITTLE[..], &[]] {
        let layout = host.path("layout");
        let to = format!("oci:{}:t", layout.display());
        let words = [&["--to", &to, "--compression", "gzip", "--no-known"], words, more].concat();
        let (snapshot, resident_bytes) = freeze(&host, &source, &words);
        within_bounds(&snapshot, resident_bytes);
        let unpacked = host.path("unpacked");
        shell(&host.path("."), "umoci raw unpack --image layout:t unpacked >/dev/null");
        shell(&host.path("."), "diff -r --no-dereference tree unpacked");
        fs::remove_dir_all(unpacked).expect("what was unpacked");
        fs::remove_dir_all(layout).expect("a layout");
    }
}

/// `count` pieces of 4 KiB, each so many bytes behind the other.
fn sparse(count: u64, distance: u64) -> String {
    format!(
        "python3 -c 'f = open(\"disk\", \"wb\")\nfor i in range({count}): f.seek(i * {distance}); f.write(b\"a\" * 4096)'"
    )
}

#[test]
fn a_sparse_file_of_any_density() {
    for (count, distance) in [(3000, 68 << 10), (2000, 96 << 10), (500, 512 << 10), (150, (1 << 20) + 4096)] {
        comes_whole(&sparse(count, distance), &[]);
    }
}

#[test]
fn small_files_in_folders_of_their_own() {
    let script = "python3 -c 'import os\nfor i in range(8000):\n d = f\"{i % 100}/d{i}\"; os.makedirs(d); open(d + \"/f\", \"w\").write(\"x\" * 100)'";
    comes_whole(script, &[]);
    // As git keeps objects: layers that are larger than what may be held.
    comes_whole(script, &["--layer-size", "64MiB"]);
}

#[test]
fn large_attributes_on_small_files() {
    let script = "python3 -c 'import os\nfor i in range(3000):\n open(str(i), \"w\").write(\"x\")\n os.setxattr(str(i), \"user.large\", os.urandom(3000))'";
    comes_whole(script, &[]);
}

/// A tar of nothing but folders, with names that are as long as they get in practice.
fn folders(path: &Path, count: usize) {
    let mut tar = BufWriter::new(File::create(path).expect("a file"));
    for number in 0..count {
        let name = format!("./some/package/{}/lib/node_modules/{number}/", number / 1000);
        tar.write_all(&entry(&name, b'5', b"")).expect("an entry");
    }
    tar.write_all(&[0; 1024]).expect("an end");
}

#[test]
fn a_tar_of_folders_stays_within_the_memory_or_says_what_is_needed() {
    let host = Host::new();
    let tar = host.path("folders.tar");
    folders(&tar, 300_000);
    let (source, to) = (format!("tar:{}", tar.display()), format!("oci:{}", host.text("layout")));
    let (snapshot, resident_bytes) = freeze(&host, &source, &["--to", &to]);
    within_bounds(&snapshot, resident_bytes);
    folders(&tar, 900_000);
    let words = ["freeze", &*source, "--to", &*to, "--quiet", LITTLE[0], LITTLE[1]];
    let output = finish(host.command(&words).spawn().expect("smolfreeze"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("folders") && said.contains("--memory"), "{said}");
}
