//! A tree as a tar of one of the formats, and what GNU tar makes of that: what a format can't hold is nobody's to keep.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::shape::{Packing, Reader, Shape, Writer};
use crate::tree::inventory::{self, Inventory};
use crate::tree::layers;
use crate::work::Work;

/// How GNU tar unpacks, as root, all that it knows of.
pub const UNPACK: &str = "tar --numeric-owner --warning=no-timestamp --xattrs --xattrs-include='*' \
                          --delay-directory-restore -xpf -";

/// Writes the tree as a tar; the file's path.
pub fn write(shape: &Shape, writer: Writer, packing: Packing, work: &Work) -> PathBuf {
    let sparse = if shape.sparse_tar { "--sparse" } else { "" };
    let version = ["0.0", "0.1", "1.0"][usize::try_from(shape.seed % 3).unwrap()];
    let gnu = "tar --numeric-owner -C tree -cf t.tar";
    let write = match writer {
        Writer::Gnu => format!("{gnu} --format=gnu {sparse} ."),
        Writer::OldGnu => format!("{gnu} --format=oldgnu {sparse} ."),
        Writer::Pax if shape.sparse_tar => {
            format!("{gnu} --format=pax --xattrs --xattrs-include='*' --sparse --sparse-version={version} .")
        }
        Writer::Pax => format!("{gnu} --format=pax --xattrs --xattrs-include='*' ."),
        Writer::Ustar => format!("{gnu} --format=ustar ."),
        Writer::V7 => format!("{gnu} --format=v7 ."),
        Writer::Bsdtar => "bsdtar --numeric-owner -C tree --format pax -cf t.tar .".to_owned(),
        Writer::Busybox => "busybox tar -C tree -cf t.tar .".to_owned(),
    };
    // What a format can't hold, its writer complains of and leaves out.
    work.try_shell(&write);
    assert!(work.path("t.tar").metadata().is_ok_and(|tar| tar.len() > 1024), "no tar was written: {write}");
    match packing {
        Packing::Plain => work.path("t.tar"),
        Packing::Gzip => packed(work, "gzip -1 <t.tar >t.tar.gz", "t.tar.gz"),
        Packing::Zstd => packed(work, "zstd -q1 <t.tar >t.tar.zst", "t.tar.zst"),
    }
}

fn packed(work: &Work, script: &str, name: &str) -> PathBuf {
    work.shell(script);
    work.path(name)
}

/// What a guest's tar keeps of a tree: busybox's little, GNU's all but links of what is no file.
pub fn kept_by(reader: Reader, tree: &Path, work: &Work) -> Inventory {
    let writer = match reader {
        Reader::Own => return inventory::of_folder(tree),
        Reader::Gnu => "tar --numeric-owner --format=pax --xattrs --xattrs-include='*'",
        Reader::Busybox => "busybox tar",
    };
    work.try_shell(&format!("{writer} -C {} -cf kept.tar .", tree.display()));
    unpacked(work, "kept.tar")
}

/// What the tar holds, by GNU tar; where no tool can unpack it, by reading it.
pub fn held(shape: &Shape, work: &Work) -> Inventory {
    let tar = work.path("t.tar");
    if !shape.is_unpackable() {
        return read(&tar);
    }
    unpacked(work, "t.tar")
}

fn unpacked(work: &Work, tar: &str) -> Inventory {
    let folder = work.folder("oracle");
    work.shell(&format!("{UNPACK} -C oracle <{tar}"));
    let held = inventory::of_folder(&folder);
    std::fs::remove_dir_all(folder).unwrap();
    held
}

fn read(tar: &Path) -> Inventory {
    let mut found = Inventory::new();
    layers::lay(std::io::BufReader::new(File::open(tar).unwrap()), &mut found);
    layers::sorted(&found)
}
