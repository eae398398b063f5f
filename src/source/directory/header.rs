//! Tar headers in the PAX format: the fixed header, and before it a record for whatever does not fit into that.
//!
//! Pure: entry in, bytes out. Owners are numbers only. A record is written only where it is needed, so that a reader
//! that knows none still gets the common case right.

use std::io::Write as _;

use super::meta::{Kind, Meta, Time};
use super::xattrs::Xattrs;

/// Tar counts in blocks of this size.
pub(super) const BLOCK_BYTES: usize = 512;

const NAME_BYTES: usize = 100;
const LINK_AT: usize = 157;
const TYPE_AT: usize = 156;
const CHECKSUM_AT: usize = 148;

/// What one header says.
pub(super) struct Header<'a> {
    /// Relative to the root, without `./`; empty for the root.
    pub(super) path: &'a [u8],
    pub(super) meta: &'a Meta,
    pub(super) target: Target<'a>,
    pub(super) xattrs: &'a Xattrs,
}

/// Where an entry points.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Nowhere,
    /// A symbolic link's text, as it is.
    Symlink(&'a [u8]),
    /// Another name of the same file, earlier in the stream; relative to the root, without `./`.
    SameAs(&'a [u8]),
}

/// Writes headers; kept for its scratch memory.
#[derive(Default)]
pub(super) struct Writer {
    name: Vec<u8>,
    link: Vec<u8>,
    value: Vec<u8>,
    records: Vec<u8>,
}

impl Writer {
    /// Appends the header of one entry to `out`, in whole blocks.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, header: &Header<'_>) {
        let meta = header.meta;
        self.records.clear();
        tar_name(&mut self.name, header.path, meta.kind == Kind::Directory);
        self.link.clear();
        match header.target {
            Target::Nowhere => {}
            Target::Symlink(text) => self.link.extend_from_slice(text),
            Target::SameAs(path) => tar_name(&mut self.link, path, false),
        }
        let mut block = [0; BLOCK_BYTES];
        block[100..108].copy_from_slice(b"0000000\0");
        octal(&mut block[100..107], u64::from(meta.mode));
        put_text(&mut block[..NAME_BYTES], &self.name, b"path", &mut self.records);
        put_text(&mut block[LINK_AT..LINK_AT + NAME_BYTES], &self.link, b"linkpath", &mut self.records);
        let size_bytes = match header.target {
            Target::Nowhere if meta.kind == Kind::Regular => meta.size_bytes,
            _ => 0,
        };
        self.number(&mut block[108..115], u64::from(meta.owner), b"uid");
        self.number(&mut block[116..123], u64::from(meta.group), b"gid");
        self.number(&mut block[124..135], size_bytes, b"size");
        self.time(&mut block[136..147], meta.modified);
        block[TYPE_AT] = letter(header);
        block[257..265].copy_from_slice(b"ustar\x0000");
        let device = if matches!(meta.kind, Kind::CharDevice | Kind::BlockDevice) { meta.device } else { (0, 0) };
        octal(&mut block[329..336], u64::from(device.0));
        octal(&mut block[337..344], u64::from(device.1));
        for (name, value) in header.xattrs.iter() {
            self.xattr(name, value);
        }
        self.write_records(out, header.path);
        finish(&mut block);
        out.extend_from_slice(&block);
    }

    fn number(&mut self, field: &mut [u8], value: u64, key: &[u8]) {
        if !octal(field, value) {
            self.value.clear();
            write_to(&mut self.value, format_args!("{value}"));
            record(&mut self.records, &[key], &self.value);
        }
    }

    fn time(&mut self, field: &mut [u8], time: Time) {
        let whole = u64::try_from(time.seconds).is_ok_and(|seconds| octal(field, seconds));
        if whole && time.nanos == 0 {
            return;
        }
        if !whole {
            octal(field, 0);
        }
        // The record is a decimal number, so that -1.5 is 2 s before the epoch and half a second on.
        let before = time.seconds < 0;
        let carried = before && time.nanos > 0;
        let seconds = if carried { time.seconds + 1 } else { time.seconds }.unsigned_abs();
        let nanos = if carried { 1_000_000_000 - time.nanos } else { time.nanos };
        self.value.clear();
        let sign = if before { "-" } else { "" };
        write_to(&mut self.value, format_args!("{sign}{seconds}"));
        if nanos > 0 {
            write_to(&mut self.value, format_args!(".{nanos:09}"));
            let digits = self.value.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
            self.value.truncate(digits);
        }
        record(&mut self.records, &[b"mtime"], &self.value);
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) {
        self.value.clear();
        for &byte in name {
            // As GNU tar does: the sign that ends a key can't be part of it.
            match byte {
                b'%' => self.value.extend_from_slice(b"%25"),
                b'=' => self.value.extend_from_slice(b"%3D"),
                other => self.value.push(other),
            }
        }
        record(&mut self.records, &[b"SCHILY.xattr.", &self.value], value);
    }

    fn write_records(&mut self, out: &mut Vec<u8>, path: &[u8]) {
        if self.records.is_empty() {
            return;
        }
        let mut block = [0; BLOCK_BYTES];
        let last_name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let mut name = &mut block[..NAME_BYTES];
        // A name for those who take the records for a file; it is cut off where it ends.
        let _ = name.write_all(b"./PaxHeaders/");
        let _ = name.write_all(last_name);
        octal(&mut block[100..107], 0o644);
        for field in [108..115, 116..123, 136..147, 329..336, 337..344] {
            octal(&mut block[field], 0);
        }
        octal(&mut block[124..135], self.records.len() as u64);
        block[TYPE_AT] = b'x';
        block[257..265].copy_from_slice(b"ustar\x0000");
        finish(&mut block);
        out.extend_from_slice(&block);
        out.extend_from_slice(&self.records);
        out.resize(out.len() + padding(self.records.len() as u64), 0);
    }
}

/// Zeros between the end of a content of `size_bytes` and the next block.
pub(super) fn padding(size_bytes: u64) -> usize {
    let over = usize::try_from(size_bytes % BLOCK_BYTES as u64).unwrap_or(0);
    (BLOCK_BYTES - over) % BLOCK_BYTES
}

fn letter(header: &Header<'_>) -> u8 {
    match (&header.target, header.meta.kind) {
        (Target::SameAs(_), _) => b'1',
        (_, Kind::Regular | Kind::Socket) => b'0',
        (_, Kind::Symlink) => b'2',
        (_, Kind::CharDevice) => b'3',
        (_, Kind::BlockDevice) => b'4',
        (_, Kind::Directory) => b'5',
        (_, Kind::Fifo) => b'6',
    }
}

fn tar_name(out: &mut Vec<u8>, path: &[u8], is_directory: bool) {
    out.clear();
    out.extend_from_slice(b"./");
    out.extend_from_slice(path);
    if is_directory && !path.is_empty() {
        out.push(b'/');
    }
}

fn put_text(field: &mut [u8], text: &[u8], key: &[u8], records: &mut Vec<u8>) {
    let fits = text.len().min(field.len());
    field[..fits].copy_from_slice(&text[..fits]);
    if fits < text.len() {
        record(records, &[key], text);
    }
}

/// Writes `value` into the whole field; all zeros, and `false`, if it does not fit.
fn octal(field: &mut [u8], value: u64) -> bool {
    let mut rest = value;
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
    if rest != 0 {
        field.fill(b'0');
    }
    rest == 0
}

/// Appends `length key=value\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[&[u8]], value: &[u8]) {
    let rest = 3 + key.iter().map(|part| part.len()).sum::<usize>() + value.len();
    let mut length = rest + 1;
    while rest + digits(length) != length {
        length = rest + digits(length);
    }
    write_to(records, format_args!("{length} "));
    for part in key {
        records.extend_from_slice(part);
    }
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

fn finish(block: &mut [u8; BLOCK_BYTES]) {
    block[CHECKSUM_AT..CHECKSUM_AT + 8].fill(b' ');
    let sum = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[CHECKSUM_AT..CHECKSUM_AT + 6], sum);
    block[CHECKSUM_AT + 6] = 0;
}

fn write_to(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes everything.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for value_bytes in 0..2_000 {
            let mut records = Vec::new();
            record(&mut records, &[b"path"], &vec![b'x'; value_bytes]);
            let text = String::from_utf8(records.clone()).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, records.len());
        }
    }

    #[test]
    fn times_are_decimal_numbers() {
        let cases = [
            (0, 0, None),
            (0o77_777_777_777, 0, None),
            (5, 500_000_000, Some("5.5")),
            (5, 7, Some("5.000000007")),
            (-2, 500_000_000, Some("-1.5")),
            (-1, 500_000_000, Some("-0.5")),
            (-86_400, 0, Some("-86400")),
            (0o100_000_000_000, 0, Some("8589934592")),
        ];
        for (seconds, nanos, expected) in cases {
            let mut writer = Writer::default();
            writer.time(&mut [0; 11], Time { seconds, nanos });
            let expected = expected.map_or(Vec::new(), |text| {
                let mut records = Vec::new();
                record(&mut records, &[b"mtime"], text.as_bytes());
                records
            });
            assert_eq!(String::from_utf8_lossy(&writer.records), String::from_utf8_lossy(&expected));
        }
    }

    #[test]
    fn what_does_not_fit_a_field_gets_a_record() {
        let mut writer = Writer::default();
        let mut field = [0; 11];
        writer.number(&mut field, (8 << 30) - 1, b"size");
        assert_eq!((field, writer.records.len()), (*b"77777777777", 0));
        writer.number(&mut field, 8 << 30, b"size");
        assert_eq!((field, &writer.records[..]), (*b"00000000000", &b"19 size=8589934592\n"[..]));
    }

    #[test]
    fn padding_reaches_the_next_block() {
        assert_eq!([0, 1, 511, 512, 513, 1 << 33].map(padding), [0, 511, 1, 0, 511, 0]);
    }
}
