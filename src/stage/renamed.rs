//! An entry's headers with another name in them. Whatever else they say is kept byte for byte.

use std::io;

use super::header::{self, BLOCK_BYTES, Kind};
use super::walk::Entry;

/// The longest name that a header itself can hold.
const NAME_BYTES_MAX: usize = 100;
/// Where a header has name, link, and the first part of a name that is cut in two.
const NAME: std::ops::Range<usize> = 0..100;
const LINK: std::ops::Range<usize> = 157..257;
const PREFIX: std::ops::Range<usize> = 345..500;

pub(super) fn head(entry: &Entry, name: &[u8], link: Option<&[u8]>) -> io::Result<Vec<u8>> {
    let link = link.unwrap_or(&entry.link);
    let mut front = Vec::new();
    let records = records(entry, name)?;
    let mut own: [u8; BLOCK_BYTES] = entry.own[..BLOCK_BYTES].try_into().map_err(io::Error::other)?;
    if own[257..263] == *b"ustar\0" {
        own[PREFIX].fill(0);
    }
    if matches!(entry.kind, Kind::HardLink | Kind::Symlink) {
        set(&mut own[LINK], link, b'K', &mut front);
    }
    set(&mut own[NAME], name, b'L', &mut front);
    if !records.is_empty() {
        push_extension(b'x', &records, &mut front);
    }
    header::seal(&mut own);
    front.extend(own);
    front.extend(&entry.own[BLOCK_BYTES..]);
    Ok(front)
}

/// The PAX records without those that a header or GNU's extension says now.
fn records(entry: &Entry, name: &[u8]) -> io::Result<Vec<u8>> {
    let (mut kept, mut rest) = (Vec::new(), &entry.records[..]);
    while !rest.is_empty() {
        let record = header::pax_record(rest).ok_or_else(|| io::Error::other("a PAX record that is broken"))?;
        let (key, value, behind) = record;
        match key {
            b"path" | b"linkpath" => {}
            b"GNU.sparse.name" => push_record(key, name, &mut kept),
            _ => push_record(key, value, &mut kept),
        }
        rest = behind;
    }
    Ok(kept)
}

/// `<length> <key>=<value>\n`, the length counting all of it.
fn push_record(key: &[u8], value: &[u8], records: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend([length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat());
}

/// A name that does not fit is told in front of the header too.
fn set(field: &mut [u8], name: &[u8], long: u8, front: &mut Vec<u8>) {
    if name.len() > NAME_BYTES_MAX {
        push_extension(long, &[name, &[0]].concat(), front);
    }
    let fits = name.len().min(NAME_BYTES_MAX);
    field.fill(0);
    field[..fits].copy_from_slice(&name[..fits]);
}

fn push_extension(flag: u8, body: &[u8], front: &mut Vec<u8>) {
    let mut block = [0; BLOCK_BYTES];
    block[..13].copy_from_slice(b"././@LongLink");
    for (at, digits) in [(100, "0000644"), (108, "0000000"), (116, "0000000"), (136, "00000000000")] {
        block[at..at + digits.len()].copy_from_slice(digits.as_bytes());
    }
    block[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
    block[156] = flag;
    block[257..265].copy_from_slice(if flag == b'x' { b"ustar\x0000" } else { b"ustar  \0" });
    header::seal(&mut block);
    front.extend(block);
    front.extend(body);
    front.resize(front.len().next_multiple_of(BLOCK_BYTES), 0);
}
