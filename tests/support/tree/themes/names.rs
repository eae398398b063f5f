//! Names of any bytes, and paths of any length.

use fastrand::Rng;

use crate::tree::folder::{Content, Folder, noise, pick};

/// Names that mean something to somebody on the way: a shell, tar, find, an image's reader, a terminal.
const MEANINGFUL: [&[u8]; 52] = [
    b"-rf",
    b"--help",
    b"--",
    b"-",
    b" ",
    b"  two  ",
    b"\n",
    b"a\nb",
    b"\nfrozen      oci:x",
    b"end\n",
    b"\t",
    b"\r",
    b"\r\n",
    b"\x1b[31mred\x1b[0m",
    b"\x1b]0;title\x07",
    b"\x7f",
    b"\x01",
    b"*",
    b"?",
    b"[a-z]",
    b"{a,b}",
    b"\\",
    b"\\n",
    b"a\\",
    b"\\\\x",
    b"%",
    b"%s%n",
    b"=",
    b"a=b",
    b"'",
    b"\"",
    b"`id`",
    b"$HOME",
    b"$(id)",
    b"~",
    b"#",
    b"!",
    b"&",
    b";",
    b"|",
    b"<>",
    b"...",
    b"..a",
    b"a..",
    b".wh",
    b"wh.",
    b"@LongLink",
    b"PaxHeaders",
    b"GNUSparseFile.0",
    b"\xff\xfe",
    b"\xc3\x28",
    b"\xe2\x82",
];

/// Bytes that no name has: a slash, a zero; nor one that an image's reader takes for the mark of a deletion.
fn name(random: &mut Rng) -> Vec<u8> {
    loop {
        let name = match random.u8(..8) {
            0..=3 => pick(random, &MEANINGFUL).to_vec(),
            4 => {
                let length = pick(random, &[99, 100, 101, 154, 155, 156, 254, 255]);
                vec![pick(random, b"xn\xff"); length]
            }
            5 => "é".repeat(random.usize(1..128)).into_bytes(),
            _ => {
                let bytes = random.u64(1..256);
                noise(random, bytes)
            }
        };
        let name: Vec<u8> = name.into_iter().map(|byte| if byte == b'/' || byte == 0 { b'_' } else { byte }).collect();
        if name != b"." && name != b".." && !name.starts_with(b".wh.") {
            return name;
        }
    }
}

/// Every kind of entry under every kind of name.
pub fn names(root: &Folder, random: &mut Rng) -> String {
    let mut used = std::collections::HashSet::new();
    let mut folders = vec![root.folder("names")];
    let entries = random.usize(50..400);
    for number in 0..entries {
        let at = random.usize(..folders.len());
        let name = name(random);
        if !used.insert((at, name.clone())) {
            continue;
        }
        match random.u8(..8) {
            0 if folders.len() < 30 => folders.push(folders[at].folder(&name)),
            1 => {
                let most = pick(random, &[90, 101, 1000, 4096]);
                let bytes = random.u64(1..most);
                let text: Vec<u8> = noise(random, bytes).into_iter().map(|byte| byte.max(1)).collect();
                folders[at].symlink(&name, &text);
            }
            2 => {
                folders[at].file(&name, &Content::Text(40), random);
                folders[at].link(&name, &folders[0], format!("link-{number}"));
            }
            _ => {
                let bytes = random.u64(..2000);
                folders[at].file(&name, &Content::Text(bytes), random);
            }
        }
    }
    format!("{entries} names of all bytes")
}

/// Folders in each other, past the longest path that a call takes.
pub fn deep(root: &Folder, random: &mut Rng) -> String {
    let (levels, bytes) = match random.u8(..3) {
        0 => (random.usize(100..700), random.usize(1..5)),
        1 => (random.usize(17..40), 255),
        _ => (random.usize(20..120), random.usize(30..120)),
    };
    let mut folder = root.folder("deep");
    for level in 0..levels {
        let letter = b'a' + u8::try_from(level % 26).expect("a letter");
        if random.u8(..8) == 0 {
            folder.file("file", &Content::Text(50), random);
            folder.symlink("link", b"file");
            folder.link("file", root, format!("level-{level}"));
        }
        folder = folder.folder(vec![letter; bytes]);
    }
    folder.file("last", &Content::Noise(200_000), random);
    folder.file("small", &Content::Noise(20), random);
    format!("{levels} folders in each other, with names of {bytes} bytes")
}

/// A name that would delete something, so that the whole freeze is refused.
pub fn mark_of_deletion(root: &Folder, random: &mut Rng) -> Vec<u8> {
    let name: &[u8] = pick(random, &[&b".wh.gone"[..], b".wh..wh..opq", b".wh.\xff", b".wh.a b"]);
    root.path("some/where").file(name, &Content::Text(10), random);
    name.to_vec()
}
