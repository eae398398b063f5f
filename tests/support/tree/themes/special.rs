//! Attributes, link groups, devices.

use fastrand::Rng;
use rustix::fs::FileType;

use crate::tree::folder::{Content, Folder, noise, pick};

/// Files, folders, links and devices with attributes of all kinds, up to what the filesystem takes.
pub fn attributes(root: &Folder, random: &mut Rng) -> String {
    let entries = random.u32(20..120);
    let mut bytes_set = 0;
    for number in 0..entries {
        let name = format!("with-{number}");
        let what = random.u8(..6);
        let is_folder = what == 0;
        let is_plain = match what {
            0 => {
                root.folder(&name);
                true
            }
            1 => {
                root.symlink(&name, b"somewhere");
                false
            }
            2 => {
                root.node(&name, FileType::Fifo, (0, 0));
                false
            }
            _ => {
                let bytes = pick(random, &[0, 10, 5000, 131_073, 1_100_000]);
                root.file(&name, &Content::Noise(bytes), random);
                true
            }
        };
        bytes_set += usual_attributes(root, &name, is_plain, random);
        if random.u8(..5) == 0 {
            bytes_set += fill_up(root, &name, if is_plain { "user" } else { "trusted" }, random);
        }
        if !is_folder && random.u8(..10) == 0 {
            root.link(&name, &root.folder("links"), &name);
        }
    }
    format!("{entries} entries with {bytes_set} bytes of attributes")
}

fn usual_attributes(root: &Folder, name: &str, is_plain: bool, random: &mut Rng) -> usize {
    let mut bytes_set = 0;
    let mut set =
        |key: &[u8], value: &[u8]| bytes_set += if root.attribute(name, key, value) { value.len() } else { 0 };
    if is_plain {
        set(b"user.text", b"value");
        set(b"user.empty", b"");
        set(b"user.a=b%c\nd", b"signs\0\n=");
    }
    if random.bool() {
        set(b"trusted.mark", &noise(random, 40));
    }
    match random.u8(..4) {
        0 => set(b"security.capability", &capability(random)),
        1 => set(b"system.posix_acl_access", &acl(random)),
        2 => set(b"system.posix_acl_default", &acl(random)),
        _ => set(b"security.other", b"of another module"),
    }
    bytes_set
}

/// Values until the filesystem has no more room for this entry, or an image's readers had no more for its records.
fn fill_up(root: &Folder, name: &str, space: &str, random: &mut Rng) -> usize {
    let (mut total, mut last) = (0, Vec::new());
    for number in 0..40 {
        let longest = pick(random, &[10, 3000, 65_536]);
        let value = noise(random, random.clone().u64(1..=longest));
        let key = format!("{space}.{number}-{}", "k".repeat(random.usize(..200)));
        // Go's reader of tars, and so every container engine, takes a mebibyte of records.
        if total + value.len() > 900_000 {
            break;
        }
        if !root.attribute(name, key.as_bytes(), &value) {
            // A little room is left: where blocks are small, whether all fits depends on their order.
            root.remove_attribute(name, &last);
            break;
        }
        total += value.len();
        last = key.into_bytes();
    }
    total
}

fn capability(random: &mut Rng) -> Vec<u8> {
    let words = [0x0200_0001, 1 << random.u32(..31), 0, 0, 0];
    words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect()
}

/// For the owner, up to some users and groups, the mask and everybody else.
fn acl(random: &mut Rng) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let mut entry = |tag: u16, permissions: u16, id: u32| {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    };
    let (users, groups) = (random.u32(1..20), random.u32(..4));
    entry(1, 7, u32::MAX);
    (0..users).for_each(|user| entry(2, random.u16(..8), 1000 + user * 70_000));
    entry(4, 5, u32::MAX);
    (0..groups).for_each(|group| entry(8, random.u16(..8), 2000 + group));
    entry(16, 7, u32::MAX);
    entry(32, 1, u32::MAX);
    bytes
}

/// Files, symlinks, FIFOs and devices of several names.
pub fn links(root: &Folder, random: &mut Rng) -> String {
    let folders: Vec<_> = ["a", "b/c", "b/d", "workspace", "workspace/x", "zz"].map(|path| root.path(path)).into();
    let groups = random.u32(1..60);
    let mut names = 0;
    for group in 0..groups {
        let first = &folders[random.usize(..folders.len())];
        let name = format!("first-{group}");
        match random.u8(..10) {
            0 => first.symlink(&name, b"../a/first-0"),
            1 => first.node(&name, FileType::Fifo, (0, 0)),
            2 => first.node(&name, FileType::CharacterDevice, (1, 3)),
            3 => first.file(&name, &Content::Noise(0), random),
            4 => first.file(&name, &Content::Noise(3_000_001), random),
            5 => {
                let data = (0..20).map(|at| (at * 200_000, 4096)).collect();
                first.file(&name, &Content::Sparse { size: 5_000_000, data }, random);
            }
            _ => {
                let bytes = random.u64(1..200_000);
                first.file(&name, &Content::Text(bytes), random);
            }
        }
        let others = if random.u8(..20) == 0 { random.u32(100..400) } else { random.u32(1..6) };
        for other in 0..others {
            let folder = &folders[random.usize(..folders.len())];
            first.link(&name, folder, format!("other-{group}-{other}"));
        }
        names += others + 1;
    }
    format!("{groups} groups of links with {names} names")
}

/// What overlayfs writes onto the files of its upper folders.
const MARKS: [(&[u8], &[u8]); 6] = [
    (b"trusted.overlay.opaque", b"y"),
    (b"trusted.overlay.redirect", b"/elsewhere"),
    (b"trusted.overlay.origin", b"\0\xfb\x1d\0\x01some handle"),
    (b"trusted.overlay.metacopy", b""),
    (b"trusted.overlay.impure", b"y"),
    (b"user.overlay.opaque", b"y"),
];

/// Devices of all numbers, FIFOs, sockets, and what a container engine's storage has.
pub fn nodes(root: &Folder, random: &mut Rng) -> String {
    let place = root.path("var/lib/engine");
    let entries = random.u32(5..60);
    let with_marks = random.bool();
    for number in 0..entries {
        let name = format!("{number}");
        let device = pick(random, &[(0, 1), (1, 3), (7, 200), (4095, 1_048_575), (255, 255), (259, 65_536)]);
        match random.u8(..8) {
            0 => place.node(&name, FileType::CharacterDevice, device),
            1 => place.node(&name, FileType::BlockDevice, device),
            2 => place.node(&name, FileType::Fifo, (0, 0)),
            3 => place.socket(&name),
            4 if with_marks => {
                place.node(&name, FileType::CharacterDevice, (0, 0));
                place.node(format!("{number}.pair"), FileType::CharacterDevice, (0, 0));
            }
            5 | 6 if with_marks => {
                let folder = place.folder(&name);
                let bytes = random.u64(..600_000);
                folder.file("hidden or not", &Content::Noise(bytes), random);
                let (key, value) = pick(random, &MARKS);
                place.attribute(&name, key, value);
            }
            _ => place.file(&name, &Content::Text(100), random),
        }
    }
    format!("{entries} devices, FIFOs and sockets{}", if with_marks { ", with overlayfs's marks" } else { "" })
}
