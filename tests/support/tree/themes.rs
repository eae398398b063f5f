//! What a tree is like. Each theme looks for one kind of fault; the borders are those in the code.

use std::path::Path;

use fastrand::Rng;

use super::folder::Folder;

mod files;
pub mod names;
mod special;

/// A kind of tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// Little data at even distances, holes at either end.
    Sparse,
    /// Sparse files whose sizes and holes end at borders; all hole at times.
    Holes,
    /// A file or three in each of very many folders.
    TinyFiles,
    /// Folders, empty files, nothing else.
    Empty,
    /// As many and as large as the filesystem takes.
    Attributes,
    /// Groups of two to hundreds of names across folders, /workspace included.
    Links,
    /// Sizes around every border in the code.
    Borders,
    /// Names of all bytes.
    Names,
    /// Devices, FIFOs, sockets, and overlayfs's own marks.
    Nodes,
    /// Paths longer than the kernel takes.
    Deep,
    /// Like git's objects.
    Objects,
    /// Files of some megabytes: many layers.
    Layers,
    /// Something of everything, laid out as a root filesystem with a /workspace.
    Mixed,
}

/// All of them.
pub const THEMES: [Theme; 13] = [
    Theme::Sparse,
    Theme::Holes,
    Theme::TinyFiles,
    Theme::Empty,
    Theme::Attributes,
    Theme::Links,
    Theme::Borders,
    Theme::Names,
    Theme::Nodes,
    Theme::Deep,
    Theme::Objects,
    Theme::Layers,
    Theme::Mixed,
];

/// How much there may be of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// For seconds.
    Usual,
    /// Tens of thousands of folders, gigabytes of hole.
    Huge,
}

/// Fills `root`, and says in words with what.
pub fn grow(root: &Path, theme: Theme, scale: Scale, random: &mut Rng) -> String {
    let root = Folder::open(root);
    match theme {
        Theme::Sparse => files::sparse(&root, scale, random),
        Theme::Holes => files::holes(&root, scale, random),
        Theme::TinyFiles => files::tiny(&root, scale, random),
        Theme::Empty => files::empty(&root, scale, random),
        Theme::Borders => files::borders(&root, random),
        Theme::Objects => files::objects(&root, random),
        Theme::Layers => files::layers(&root, random),
        Theme::Attributes => special::attributes(&root, random),
        Theme::Links => special::links(&root, random),
        Theme::Nodes => special::nodes(&root, random),
        Theme::Names => names::names(&root, random),
        Theme::Deep => names::deep(&root, random),
        Theme::Mixed => mixed(&root, random),
    }
}

/// A theme as a part of another.
type Part = (&'static str, fn(&Folder, &mut Rng) -> String);

fn mixed(root: &Folder, random: &mut Rng) -> String {
    for folder in ["etc", "usr/bin", "usr/lib", "var/lib", "workspace/project"] {
        root.path(folder);
    }
    root.symlink("bin", b"usr/bin");
    let parts: [Part; 8] = [
        ("usr/lib/names", names::names),
        ("usr/lib/links", special::links),
        ("var/lib/nodes", special::nodes),
        ("workspace/project", special::links),
        ("workspace/borders", files::borders),
        ("etc/attributes", special::attributes),
        ("var/lib/objects", files::objects),
        ("workspace/sparse", |folder, random| files::sparse(folder, Scale::Usual, random)),
    ];
    let mut words = Vec::new();
    for (folder, part) in parts {
        if random.bool() {
            words.push(format!("/{folder}: {}", part(&root.path(folder), random)));
        }
    }
    format!("a root filesystem, {}", words.join("; "))
}
