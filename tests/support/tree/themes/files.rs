//! Regular files and folders: sizes, holes, numbers.

use fastrand::Rng;

use super::Scale;
use crate::tree::folder::{Content, Folder, pick};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Sizes at which the code does something else: a block of tar, a page, the least hole, a file that is divided, what is
/// planned of a buffer, a buffer, a compressor's job, what a layout writes at once, a part.
const BORDERS: [u64; 11] = [
    512,
    4 * KIB,
    64 * KIB,
    128 * KIB,
    256 * KIB,
    MIB - 16 * KIB,
    MIB,
    2 * MIB,
    2 * (MIB - 16 * KIB),
    4 * MIB,
    8 * MIB,
];

/// A little off a border: a byte, a block, a header with and without its records.
const OFF: [i64; 11] = [0, -1, 1, -511, 511, -512, 512, 513, -1024, -1536, 1536];

fn border(random: &mut Rng, most: u64) -> u64 {
    let borders = BORDERS.iter().take_while(|border| **border <= most).count();
    pick(random, &BORDERS[..borders]).saturating_add_signed(pick(random, &OFF))
}

fn content(random: &mut Rng, bytes: u64) -> Content {
    if random.bool() { Content::Noise(bytes) } else { Content::Text(bytes) }
}

/// Data of 4 KiB every 8 KiB to 4 MiB.
pub fn sparse(root: &Folder, scale: Scale, random: &mut Rng) -> String {
    let mut words = Vec::new();
    let mut left = if scale == Scale::Huge { 1500 * MIB } else { 200 * MIB };
    for file in 0..random.u32(1..4) {
        let distance = match random.u8(..4) {
            0 => (8 * KIB) << random.u32(..10),
            1 => pick(random, &[64 * KIB, 68 * KIB, 96 * KIB, 128 * KIB, 512 * KIB, MIB]),
            _ => random.u64(2..1024) * 4 * KIB,
        };
        let data = if random.bool() { 4 * KIB } else { random.u64(1..4 * KIB) };
        let count = (left / distance).min(random.u64(200..6000)).max(2);
        left = left.saturating_sub(count * distance);
        let first = if random.bool() { 0 } else { distance };
        let end = if random.bool() { 0 } else { random.u64(1..2 * MIB) };
        let data: Vec<_> = (0..count).map(|number| (first + number * distance, data)).collect();
        let size = data[data.len() - 1].0 + data[0].1 + end;
        words.push(format!("{count} times {} bytes every {} KiB", data[0].1, distance / KIB));
        root.file(format!("sparse-{file}"), &Content::Sparse { size, data }, random);
        root.file(format!("sparse-{file}.after"), &content(random, 700), random);
        if left < 2 * MIB {
            break;
        }
    }
    format!("sparse files: {}", words.join(", "))
}

/// Holes that begin and end near borders.
pub fn holes(root: &Folder, scale: Scale, random: &mut Rng) -> String {
    let mut words = Vec::new();
    if scale == Scale::Huge {
        let size = (8 << 30) + pick(random, &[0_u64, 1, 512]) - 512;
        words.push(format!("one of {size} bytes that is all hole"));
        root.file("all-hole", &Content::Sparse { size, data: vec![] }, random);
    }
    for number in 0..random.u32(5..40) {
        let (mut at, mut data) = (0, Vec::new());
        for _ in 0..random.u32(..4) {
            at += if random.bool() { border(random, 4 * MIB) } else { 0 };
            let bytes = border(random, 256 * KIB);
            data.push((at, bytes));
            at += bytes;
        }
        let size = at + if random.bool() { border(random, 8 * MIB) } else { 0 };
        root.file(format!("holes-{number:02}"), &Content::Sparse { size, data }, random);
    }
    words.push("files with holes from border to border".into());
    words.join(", ")
}

/// Few bytes in many folders.
pub fn tiny(root: &Folder, scale: Scale, random: &mut Rng) -> String {
    let folders = if scale == Scale::Huge { random.u32(30_000..60_000) } else { random.u32(100..1000) };
    let (fan, files) = (random.u32(2..200), random.u32(1..4));
    let mut upper = root.folder("0");
    for number in 0..folders {
        if number % fan == 0 {
            upper = root.folder(format!("{}", number / fan));
        }
        let folder = upper.folder(format!("folder-{number}"));
        for file in 0..random.u32(1..=files) {
            let most = pick(random, &[2, 600, 5000]);
            let bytes = random.u64(..most);
            folder.file(format!("f{file}"), &content(random, bytes), random);
        }
    }
    format!("{folders} folders, {fan} in each, with up to {files} tiny files")
}

/// Nothing that has a byte.
pub fn empty(root: &Folder, scale: Scale, random: &mut Rng) -> String {
    let most = if scale == Scale::Huge { 30_000 } else { 800 };
    let (folders, files) = (random.u32(..most), random.u32(..most));
    for number in 0..folders {
        root.folder(format!("d{}", number % 60)).folder(format!("{number}"));
    }
    let place = root.folder("files");
    for number in 0..files {
        place.file(format!("{number:05}"), &Content::Noise(0), random);
    }
    format!("{folders} empty folders and {files} empty files")
}

/// Sizes around every border.
pub fn borders(root: &Folder, random: &mut Rng) -> String {
    let (mut left, mut files) = (40 * MIB, 0);
    for number in 0..random.u32(10..80) {
        let most = if random.u8(..4) == 0 { 8 * MIB } else { MIB };
        let bytes = border(random, most);
        left = left.saturating_sub(bytes);
        if left == 0 {
            break;
        }
        files += 1;
        let name = if random.bool() { format!("{number}") } else { format!("{number}-").repeat(30) };
        root.folder(format!("{}", number % 7)).file(name, &content(random, bytes), random);
    }
    format!("{files} files of sizes around borders")
}

/// Very many small files that no compression shrinks, and a pack.
pub fn objects(root: &Folder, random: &mut Rng) -> String {
    let objects = root.path("repo/.git/objects");
    let (files, most) = (random.u32(300..2000), pick(random, &[300, 3000]));
    for _ in 0..files {
        let id = format!("{:08x}", random.u32(..));
        let bytes = random.u64(40..most);
        objects.folder(&id[..2]).file(&id[2..], &Content::Noise(bytes), random);
    }
    let pack = random.u64(..6 * MIB);
    objects.folder("pack").file("pack-1.pack", &Content::Noise(pack), random);
    format!("{files} objects of git up to {most} bytes and a pack of {pack}")
}

/// Files of which a layer holds few.
pub fn layers(root: &Folder, random: &mut Rng) -> String {
    let (files, bytes) = (random.u64(20..150), random.u64(100 * KIB..900 * KIB));
    let files = files.min(60 * MIB / bytes);
    for number in 0..files {
        let bytes = bytes + random.u64(..1000);
        root.folder(format!("{}", number % 13)).file(format!("{number}"), &content(random, bytes), random);
    }
    format!("{files} files of about {bytes} bytes")
}
