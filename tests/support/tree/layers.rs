//! What layers hold, laid over each other without unpacking them: for paths that no tool can unpack, and for files that
//! would fill a disk. Only what is in a stream of our own and in GNU tar's PAX format is known here.

use std::collections::BTreeMap;
use std::io::Read;

use super::inventory::{Entry, Fingerprint, Fingerprinting, Inventory};

const BLOCK_BYTES: usize = 512;

/// Adds the entries of one tar to those of the layers below it.
pub fn lay(mut tar: impl Read, found: &mut Inventory) {
    let mut records = BTreeMap::new();
    loop {
        let mut block = [0; BLOCK_BYTES];
        tar.read_exact(&mut block).expect("a header");
        if block == [0; BLOCK_BYTES] {
            return;
        }
        if block[156] == b'x' {
            records = read_records(&mut tar, octal(&block[124..136]));
            continue;
        }
        let header = Header { block, records: std::mem::take(&mut records) };
        let path = relative(&header.text(b"path", 0..100)).to_vec();
        let text = header.text(b"linkpath", 157..257);
        if header.block[156] == b'1' {
            let target = relative(&text);
            let same = found.get(target).unwrap_or_else(|| panic!("a link to {}", target.escape_ascii()));
            found.insert(path, same.clone());
            continue;
        }
        let entry = header.entry(&path, text, &mut tar);
        found.insert(path, entry);
    }
}

/// With links told from the first name in order, as [`super::inventory`] has them.
pub fn sorted(found: &Inventory) -> Inventory {
    let mut firsts: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let entries = found.iter().map(|(path, entry)| {
        let same_as = firsts.entry(entry.same_as.clone()).or_insert_with(|| path.clone()).clone();
        (path.clone(), Entry { same_as, ..entry.clone() })
    });
    entries.collect()
}

/// A header, and what the one before it says better.
struct Header {
    block: [u8; BLOCK_BYTES],
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Header {
    fn text(&self, key: &[u8], field: std::ops::Range<usize>) -> Vec<u8> {
        let field = &self.block[field];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        self.records.get(key).map_or_else(|| field[..end].to_vec(), Clone::clone)
    }

    fn number(&self, key: &[u8], field: std::ops::Range<usize>) -> u64 {
        match self.records.get(key) {
            Some(value) => utf8(value).parse().expect("a number"),
            None => octal(&self.block[field]),
        }
    }

    fn entry(&self, path: &[u8], text: Vec<u8>, tar: &mut impl Read) -> Entry {
        let kind = match self.block[156] {
            b'2' => 'l',
            b'3' => 'c',
            b'4' => 'b',
            b'5' => 'd',
            b'6' => 'p',
            _ => '-',
        };
        let id = |key: &[u8], field| u32::try_from(self.number(key, field)).expect("32 bits");
        let modified = match self.records.get(&b"mtime"[..]) {
            Some(value) => time(utf8(value)),
            None => (octal(&self.block[136..148]).cast_signed(), 0),
        };
        let attributes = self.records.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(b"SCHILY.xattr.")?;
            Some((unescaped(name), value.clone()))
        });
        let size = if kind == '-' { self.number(b"size", 124..136) } else { 0 };
        let is_device = matches!(kind, 'c' | 'b');
        Entry {
            kind,
            mode: if kind == 'l' { 0o777 } else { id(b"", 100..108) & 0o7777 },
            owner: (id(b"uid", 108..116), id(b"gid", 116..124)),
            modified,
            size,
            content: if kind == '-' { fingerprint(tar, size) } else { Fingerprint::default() },
            text: if kind == 'l' { text } else { Vec::new() },
            device: if is_device { (id(b"", 329..337), id(b"", 337..345)) } else { (0, 0) },
            attributes: attributes.collect(),
            same_as: path.to_vec(),
        }
    }
}

/// `length key=value\n`, where the length counts the whole record.
fn read_records(tar: &mut impl Read, bytes: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut text = vec![0; usize::try_from(bytes.next_multiple_of(BLOCK_BYTES as u64)).expect("a length")];
    tar.read_exact(&mut text).expect("records");
    let (mut records, mut rest) = (BTreeMap::new(), &text[..usize::try_from(bytes).expect("a length")]);
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').expect("a length");
        let length: usize = utf8(&rest[..space]).parse().expect("a length");
        let record = &rest[space + 1..length - 1];
        let sign = record.iter().position(|byte| *byte == b'=').expect("a key");
        records.insert(record[..sign].to_vec(), record[sign + 1..].to_vec());
        rest = &rest[length..];
    }
    records
}

fn octal(field: &[u8]) -> u64 {
    let digits = field.iter().skip_while(|byte| **byte == b' ').take_while(|byte| (b'0'..=b'7').contains(*byte));
    digits.fold(0, |number, digit| number * 8 + u64::from(digit - b'0'))
}

fn utf8(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("a number")
}

/// A decimal number of seconds as whole ones and nanoseconds on from there.
fn time(text: &str) -> (i64, u32) {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let nanoseconds: u32 = format!("{part:0<9}")[..9].parse().expect("a part of a second");
    let seconds: i64 = whole.parse().expect("seconds");
    if text.starts_with('-') && nanoseconds > 0 {
        (seconds - 1, 1_000_000_000 - nanoseconds)
    } else {
        (seconds, nanoseconds)
    }
}

/// As GNU tar writes the two signs that a key can't have.
fn unescaped(name: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::new(), name);
    while let [first, behind @ ..] = rest {
        let (sign, behind) = match rest {
            [b'%', b'3', b'D', behind @ ..] => (b'=', behind),
            [b'%', b'2', b'5', behind @ ..] => (b'%', behind),
            _ => (*first, behind),
        };
        plain.push(sign);
        rest = behind;
    }
    plain
}

fn relative(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path == b"." { b"" } else { path }
}

/// Of the next `size` bytes; what fills up the last block is read as well.
fn fingerprint(tar: &mut impl Read, size: u64) -> Fingerprint {
    let (mut hash, mut buffer, mut left) = (Fingerprinting::default(), vec![0; 1 << 18], size);
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
        tar.read_exact(&mut buffer[..now]).expect("content");
        hash.push(&buffer[..now]);
        left -= now as u64;
    }
    let over = usize::try_from(size.next_multiple_of(BLOCK_BYTES as u64) - size).expect("less than a block");
    tar.read_exact(&mut buffer[..over]).expect("a whole block");
    hash.finish()
}
