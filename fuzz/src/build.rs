//! Tars that are nearly right: a fuzzer that has to guess checksums gets nowhere.

use arbitrary::Arbitrary;

const BLOCK_BYTES: usize = 512;

/// A tar in the making.
#[derive(Debug, Arbitrary)]
pub struct Built {
    entries: Vec<Entry>,
    end: End,
}

#[derive(Debug, Arbitrary)]
struct Entry {
    extensions: Vec<Extension>,
    name: Name,
    link: Name,
    kind: Kind,
    form: Form,
    size: Size,
    /// Bytes of the block that are set to something else, before the checksum is made.
    strays: Vec<(u16, u8)>,
    /// Whether the checksum is wrong.
    damaged: Option<u8>,
}

#[derive(Debug, Arbitrary)]
enum Extension {
    LongName(Name),
    LongLink(Name),
    Pax(Vec<Record>),
    GlobalPax(Vec<Record>),
    /// Any flag, any content.
    Other(Kind, Form, Vec<u8>),
}

#[derive(Debug, Arbitrary)]
enum Record {
    Path(Name),
    LinkPath(Name),
    Size(Number),
    SparseName(Name),
    Comment,
    Mtime,
    Other(String, String),
}

#[derive(Debug, Arbitrary)]
enum Number {
    Small(u16),
    Any(u64),
}

/// A path of few different parts, so that entries meet.
#[derive(Debug, Arbitrary)]
struct Name {
    parts: Vec<Part>,
    ends_in_slash: bool,
}

#[derive(Debug, Arbitrary)]
enum Part {
    A,
    B,
    C,
    Dot,
    Numbered(u8),
    Long,
    Up,
    Empty,
    Whiteout,
    Any(Vec<u8>),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Kind {
    File,
    Directory,
    HardLink,
    Symlink,
    Fifo,
    OldFile,
    OldSparse,
    Contiguous,
    Any(u8),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Form {
    Ustar,
    Gnu,
    V7,
}

#[derive(Debug, Arbitrary)]
enum Size {
    Fitting,
    Content(u16),
    Claimed(Number, u16),
    Base256(u64, u16),
}

#[derive(Debug, Arbitrary)]
enum End {
    Mark,
    Padded,
    Half,
    Missing,
    CutOff(u16),
    Twice,
    Stray(Vec<u8>),
}

impl Built {
    /// The whole tar.
    pub fn bytes(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        self.entries.iter().for_each(|entry| entry.write(&mut tar));
        match &self.end {
            End::Mark => tar.extend([0; 2 * BLOCK_BYTES]),
            End::Padded => tar.resize((tar.len() + 2 * BLOCK_BYTES).next_multiple_of(10_240), 0),
            End::Half => tar.extend([0; BLOCK_BYTES]),
            End::Missing => {}
            End::CutOff(bytes) => tar.truncate(tar.len().saturating_sub(usize::from(*bytes))),
            End::Twice => {
                tar.extend([0; 2 * BLOCK_BYTES]);
                tar.extend_from_within(..);
            }
            End::Stray(bytes) => {
                tar.extend([0; 2 * BLOCK_BYTES]);
                tar.extend(bytes);
            }
        }
        tar
    }
}

impl Entry {
    fn write(&self, tar: &mut Vec<u8>) {
        self.extensions.iter().for_each(|extension| extension.write(tar));
        let has_content = matches!(self.kind, Kind::File | Kind::OldFile | Kind::OldSparse | Kind::Contiguous);
        let (stated, content) = match &self.size {
            Size::Fitting => (octal(0, 11), 0),
            Size::Content(bytes) if !has_content => (octal(0, 11), bytes % 2),
            Size::Content(bytes) => (octal(u64::from(bytes % 2048), 11), bytes % 2048),
            Size::Claimed(number, bytes) => (octal(number.value(), 11), bytes % 2048),
            Size::Base256(size, bytes) => ([&[0x80, 0, 0, 0], &size.to_be_bytes()[..]].concat(), bytes % 2048),
        };
        let mut block = header(&self.name.bytes(), self.kind.flag(), self.form, &stated);
        put(&mut block, 157, 100, &self.link.bytes());
        for (at, byte) in &self.strays {
            block[usize::from(*at) % BLOCK_BYTES] = *byte;
        }
        seal(&mut block);
        if let Some(byte) = self.damaged {
            block[150] = block[150].wrapping_add(byte);
        }
        tar.extend(block);
        fill(tar, usize::from(content));
    }
}

impl Extension {
    fn write(&self, tar: &mut Vec<u8>) {
        let nul_ended = |name: &Name| [name.bytes(), vec![0]].concat();
        let (kind, form, content) = match self {
            Self::LongName(name) => (Kind::Any(b'L'), Form::Gnu, nul_ended(name)),
            Self::LongLink(name) => (Kind::Any(b'K'), Form::Gnu, nul_ended(name)),
            Self::Pax(records) => (Kind::Any(b'x'), Form::Ustar, written(records)),
            Self::GlobalPax(records) => (Kind::Any(b'g'), Form::Ustar, written(records)),
            Self::Other(kind, form, content) => (*kind, *form, content.clone()),
        };
        let mut block = header(b"extension", kind.flag(), form, &octal(content.len() as u64, 11));
        seal(&mut block);
        tar.extend(block);
        tar.extend(content);
        tar.resize(tar.len().next_multiple_of(BLOCK_BYTES), 0);
    }
}

fn written(records: &[Record]) -> Vec<u8> {
    records.iter().flat_map(Record::bytes).collect()
}

impl Record {
    fn bytes(&self) -> Vec<u8> {
        let (key, value) = match self {
            Self::Path(name) => ("path", name.bytes()),
            Self::LinkPath(name) => ("linkpath", name.bytes()),
            Self::Size(number) => ("size", number.value().to_string().into_bytes()),
            Self::SparseName(name) => ("GNU.sparse.name", name.bytes()),
            Self::Comment => ("comment", b"none".to_vec()),
            Self::Mtime => ("mtime", b"1700000000.123456789".to_vec()),
            Self::Other(key, value) => (key.as_str(), value.clone().into_bytes()),
        };
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|length| rest + length.to_string().len() == *length).unwrap_or(rest);
        [format!("{length} {key}=").into_bytes(), value, b"\n".to_vec()].concat()
    }
}

impl Number {
    fn value(&self) -> u64 {
        match self {
            Self::Small(number) => u64::from(number % 2048),
            Self::Any(number) => *number,
        }
    }
}

impl Name {
    fn bytes(&self) -> Vec<u8> {
        let parts: Vec<_> = self.parts.iter().map(Part::bytes).collect();
        let mut name = parts.join(&b'/');
        if self.ends_in_slash {
            name.push(b'/');
        }
        name
    }
}

impl Part {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::A => b"a".to_vec(),
            Self::B => b"b".to_vec(),
            Self::C => b"c".to_vec(),
            Self::Dot => b".".to_vec(),
            Self::Numbered(number) => number.to_string().into_bytes(),
            Self::Long => vec![b'l'; 120],
            Self::Up => b"..".to_vec(),
            Self::Empty => Vec::new(),
            Self::Whiteout => b".wh.a".to_vec(),
            Self::Any(bytes) => bytes.clone(),
        }
    }
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::Directory => b'5',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::Fifo => b'6',
            Self::OldFile => 0,
            Self::OldSparse => b'S',
            Self::Contiguous => b'7',
            Self::Any(flag) => flag,
        }
    }
}

fn header(name: &[u8], flag: u8, form: Form, size: &[u8]) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    put(&mut block, 0, 100, name);
    put(&mut block, 100, 8, b"0000755\0");
    put(&mut block, 108, 8, b"0001000\0");
    put(&mut block, 116, 8, b"0001000\0");
    put(&mut block, 124, 12, size);
    put(&mut block, 136, 12, b"14524433000\0");
    block[156] = flag;
    match form {
        Form::Ustar => put(&mut block, 257, 8, b"ustar\x0000"),
        Form::Gnu => put(&mut block, 257, 8, b"ustar  \0"),
        Form::V7 => {}
    }
    block
}

/// As many of `bytes` as the field holds.
fn put(block: &mut [u8; BLOCK_BYTES], at: usize, field_bytes: usize, bytes: &[u8]) {
    let length = bytes.len().min(field_bytes);
    block[at..at + length].copy_from_slice(&bytes[..length]);
}

fn octal(number: u64, digits: usize) -> Vec<u8> {
    format!("{number:0digits$o}\0").into_bytes()
}

fn seal(block: &mut [u8; BLOCK_BYTES]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Content that differs from place to place, and its padding.
fn fill(tar: &mut Vec<u8>, bytes: usize) {
    let begin = tar.len();
    tar.extend((0..bytes).map(|at| (at + begin / BLOCK_BYTES) as u8 | 1));
    tar.resize(tar.len().next_multiple_of(BLOCK_BYTES), 0);
}
