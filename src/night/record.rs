//! Entries one after the other in a file: the listing of a source, the journal of a cut, an index.
//!
//! Each record is a path, of which only what differs from the one before is written, and what is known of it, in numbers of
//! as few bytes as they need (LEB128), all in one frame of zstd. A file on the disk is untrusted like any input: a number,
//! a length or a letter that can't be is an error.

use std::cmp::Ordering;
use std::io::{self, BufReader, BufWriter, Read, Write};

/// The bytes of a path, at most: the kernel's limit is for what is given to one call, a tree may be deeper.
const PATH_BYTES_MAX: u64 = 1 << 20;

/// What the kernel says of an entry, as far as it tells one that changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stat {
    /// `f`, `d`, `l`, `p`, `c` or `b`, as `find -type` calls them; 0 for nothing that is known.
    pub kind: u8,
    /// Permissions, set-id bits and sticky bit.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Bytes; of a folder 0.
    pub size_bytes: u64,
    /// When the content changed: seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// When anything changed.
    pub changed: (i64, u32),
    /// Its inode; of a folder 0.
    pub inode: u64,
    /// The device that the inode is on, where it has several links; another number after a restart, so it tells nothing.
    pub device: u64,
    /// Hard links; of a folder 1.
    pub links: u32,
    /// Of a device its number.
    pub number: (u32, u32),
    /// A checksum of its attributes and of a symbolic link's text.
    pub extra: u64,
}

/// Where an entry's bytes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Home {
    /// The layer's number, see [`super::index::Kept`].
    pub layer: u32,
    /// Bytes of tar: headers, content and padding.
    pub tar_bytes: u64,
    /// The checksum of the content, if it has any.
    pub check: Option<u64>,
}

/// What became of an entry since the index was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    #[default]
    Kept,
    /// It is not in the index.
    New,
    /// Something tells that it is another one.
    Changed,
    /// Nothing does, and nothing tells that it is the same.
    Doubtful,
}

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// It is there.
    Live {
        /// As it was listed.
        stat: Stat,
        /// Its bytes, if an image has some.
        home: Option<Home>,
        /// Whether those are its bytes still.
        fate: Fate,
    },
    /// A layer has it, or a mark of its deletion, and it is not there, or its bytes are elsewhere.
    Dead {
        /// The layer's number.
        layer: u32,
        /// A later layer hides it.
        hidden: bool,
        /// It is a mark of a deletion, which hides what lower layers have at the path and below it.
        mark: bool,
        /// It is a folder.
        folder: bool,
    },
}

/// A path, and what is known of it. Of one path the live record comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Relative to the root; empty for the root itself.
    pub path: Vec<u8>,
    /// What is known.
    pub body: Body,
}

/// The order of a walk: a folder, then what is in it, names bytewise. A slash sorts before everything else.
#[must_use]
pub fn walk_order(one: &[u8], other: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    one.iter().map(rank).cmp(other.iter().map(rank))
}

/// Writes records.
pub struct Writer<W: Write> {
    out: zstd::Encoder<'static, BufWriter<W>>,
    last: Vec<u8>,
    bytes: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Into `out`, which gets one frame.
    ///
    /// # Errors
    /// When zstd has no memory.
    pub fn new(out: W) -> io::Result<Self> {
        Ok(Self { out: zstd::Encoder::new(BufWriter::new(out), 1)?, last: Vec::new(), bytes: Vec::new() })
    }

    /// The next record.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&mut self, path: &[u8], body: &Body) -> io::Result<()> {
        let shared = path.iter().zip(&self.last).take_while(|(one, other)| one == other).count();
        self.bytes.clear();
        number(&mut self.bytes, shared as u64);
        number(&mut self.bytes, (path.len() - shared) as u64);
        self.bytes.extend_from_slice(&path[shared..]);
        put(&mut self.bytes, body);
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
        self.out.write_all(&self.bytes)
    }

    /// The end of the frame; gives back what was written to.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn finish(self) -> io::Result<W> {
        self.out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// Frames need no larger window than our own do: what one takes to be read is nobody else's choice.
const WINDOW_LOG_MAX: u32 = 21;

const LIVE: u8 = 1;
const HAS_HOME: u8 = 2;
const HAS_CHECK: u8 = 4;
/// Of what is not alive.
const HIDDEN: u8 = 8;
const MARK: u8 = 4;
const FOLDER: u8 = 2;
/// What stands above the flags: the fate.
const FATE_SHIFT: u32 = 4;

fn put(out: &mut Vec<u8>, body: &Body) {
    match body {
        Body::Dead { layer, hidden, mark, folder } => {
            let flag = |is: &bool, flag| if *is { flag } else { 0 };
            out.push(flag(hidden, HIDDEN) | flag(mark, MARK) | flag(folder, FOLDER));
            number(out, u64::from(*layer));
        }
        Body::Live { stat, home, fate } => {
            let flags = LIVE
                | if home.is_some() { HAS_HOME } else { 0 }
                | if home.is_some_and(|home| home.check.is_some()) { HAS_CHECK } else { 0 };
            out.push(flags | (*fate as u8) << FATE_SHIFT);
            out.push(stat.kind);
            let (changed, modified) = (stat.changed, stat.modified);
            for value in [u64::from(stat.mode), u64::from(stat.owner.0), u64::from(stat.owner.1), stat.size_bytes] {
                number(out, value);
            }
            number(out, zigzag(changed.0));
            number(out, u64::from(changed.1));
            // Nearly always the same, or the same nanoseconds.
            number(out, zigzag(changed.0.wrapping_sub(modified.0)));
            number(out, u64::from(changed.1 ^ modified.1));
            number(out, stat.inode);
            number(out, u64::from(stat.links));
            if stat.links > 1 {
                number(out, stat.device);
            }
            if matches!(stat.kind, b'c' | b'b') {
                number(out, u64::from(stat.number.0));
                number(out, u64::from(stat.number.1));
            }
            number(out, stat.extra);
            if let Some(home) = home {
                number(out, u64::from(home.layer));
                number(out, home.tar_bytes);
                if let Some(check) = home.check {
                    out.extend_from_slice(&check.to_le_bytes());
                }
            }
        }
    }
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Reads records, one ahead.
pub struct Reader<R: Read> {
    input: BufReader<zstd::Decoder<'static, BufReader<R>>>,
    path: Vec<u8>,
    next: Option<Body>,
}

impl<R: Read> Reader<R> {
    /// Of a frame that `input` begins with.
    ///
    /// # Errors
    /// When it is none, or begins with no record.
    pub fn new(input: R) -> io::Result<Self> {
        let mut decoder = zstd::Decoder::new(input)?.single_frame();
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        let input = BufReader::new(decoder);
        let mut reader = Self { input, path: Vec::new(), next: None };
        reader.read()?;
        Ok(reader)
    }

    /// The record at hand; none after the last.
    #[must_use]
    pub fn peek(&self) -> Option<(&[u8], &Body)> {
        self.next.as_ref().map(|body| (&self.path[..], body))
    }

    /// Takes the record at hand.
    ///
    /// # Errors
    /// When what follows it is no record.
    pub fn take(&mut self) -> io::Result<Option<Record>> {
        let Some(body) = self.next else { return Ok(None) };
        let record = Record { path: self.path.clone(), body };
        self.read()?;
        Ok(Some(record))
    }

    fn read(&mut self) -> io::Result<()> {
        self.next = None;
        let mut first = [0];
        if self.input.read(&mut first)? == 0 {
            return Ok(());
        }
        let shared = self.rest_of_number(first[0])?;
        let added = self.number()?;
        if shared > self.path.len() as u64 || shared.saturating_add(added) > PATH_BYTES_MAX {
            return Err(broken());
        }
        // Both are below a bound that fits.
        let (shared, added) = (usize::try_from(shared).unwrap_or(0), usize::try_from(added).unwrap_or(0));
        self.path.resize(shared + added, 0);
        self.input.read_exact(&mut self.path[shared..])?;
        self.next = Some(self.body()?);
        Ok(())
    }

    fn body(&mut self) -> io::Result<Body> {
        let flags = self.byte()?;
        if flags & LIVE == 0 {
            let has = |flag| flags & flag != 0;
            return Ok(Body::Dead { layer: self.small()?, hidden: has(HIDDEN), mark: has(MARK), folder: has(FOLDER) });
        }
        let fate = match flags >> FATE_SHIFT {
            0 => Fate::Kept,
            1 => Fate::New,
            2 => Fate::Changed,
            3 => Fate::Doubtful,
            _ => return Err(broken()),
        };
        let stat = self.stat()?;
        let home = if flags & HAS_HOME == 0 { None } else { Some(self.home(flags & HAS_CHECK != 0)?) };
        Ok(Body::Live { stat, home, fate })
    }

    fn stat(&mut self) -> io::Result<Stat> {
        let kind = self.byte()?;
        let mode = self.small()?;
        let owner = (self.small()?, self.small()?);
        let size_bytes = self.number()?;
        let changed = (unzigzag(self.number()?), self.small()?);
        let modified = (changed.0.wrapping_sub(unzigzag(self.number()?)), changed.1 ^ self.small()?);
        let inode = self.number()?;
        let links = self.small()?;
        let device = if links > 1 { self.number()? } else { 0 };
        let is_device = matches!(kind, b'c' | b'b');
        let number = if is_device { (self.small()?, self.small()?) } else { (0, 0) };
        let extra = self.number()?;
        Ok(Stat { kind, mode, owner, size_bytes, modified, changed, inode, device, links, number, extra })
    }

    fn home(&mut self, has_check: bool) -> io::Result<Home> {
        let (layer, tar_bytes) = (self.small()?, self.number()?);
        let mut check = [0; 8];
        if has_check {
            self.input.read_exact(&mut check)?;
        }
        Ok(Home { layer, tar_bytes, check: has_check.then_some(u64::from_le_bytes(check)) })
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        let first = self.byte()?;
        self.rest_of_number(first)
    }

    fn rest_of_number(&mut self, first: u8) -> io::Result<u64> {
        let mut value = u64::from(first & 0x7f);
        let (mut last, mut shift) = (first, 7);
        while last & 0x80 != 0 {
            if shift > 63 {
                return Err(broken());
            }
            last = self.byte()?;
            value |= u64::from(last & 0x7f) << shift;
            shift += 7;
        }
        Ok(value)
    }

    fn small(&mut self) -> io::Result<u32> {
        u32::try_from(self.number()?).map_err(|_| broken())
    }
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(seed: u64) -> Stat {
        let mut random = fastrand::Rng::with_seed(seed);
        let kind = *random.choice(b"fdlpcb").unwrap();
        let links = random.u32(1..3);
        Stat {
            kind,
            mode: random.u32(..0o10000),
            owner: (random.u32(..), random.u32(..)),
            size_bytes: random.u64(..),
            modified: (random.i64(..) >> random.u32(..60), random.u32(..1_000_000_000)),
            changed: (random.i64(..) >> random.u32(..60), random.u32(..1_000_000_000)),
            inode: random.u64(..),
            device: if links > 1 { random.u64(..) } else { 0 },
            links,
            number: if matches!(kind, b'c' | b'b') { (random.u32(..), random.u32(..)) } else { (0, 0) },
            extra: random.u64(..),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut records = Vec::new();
        for seed in 0..2_000 {
            let path: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(1..)).collect();
            let home = Home { layer: random.u32(..), tar_bytes: random.u64(..), check: random.bool().then_some(seed) };
            let fate = [Fate::Kept, Fate::New, Fate::Changed, Fate::Doubtful][random.usize(..4)];
            let body = match random.u8(..3) {
                0 => Body::Dead {
                    layer: random.u32(..),
                    hidden: random.bool(),
                    mark: random.bool(),
                    folder: random.bool(),
                },
                _ => Body::Live { stat: stat(seed), home: random.bool().then_some(home), fate },
            };
            records.push(Record { path, body });
        }
        let mut writer = Writer::new(Vec::new()).unwrap();
        for record in &records {
            writer.write(&record.path, &record.body).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(&bytes[..]).unwrap();
        for record in &records {
            assert_eq!(reader.peek(), Some((&record.path[..], &record.body)));
            assert_eq!(reader.take().unwrap().as_ref(), Some(record));
        }
        assert_eq!(reader.take().unwrap(), None);
    }

    #[test]
    fn damage_is_an_error_or_another_record() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        let body = Body::Live { stat: stat(1), home: Some(Home::default()), fate: Fate::Kept };
        for path in ["", "a", "a/b", "a/c"] {
            writer.write(path.as_bytes(), &body).unwrap();
        }
        let plain = zstd::decode_all(&writer.finish().unwrap()[..]).unwrap();
        for at in 0..plain.len() {
            for cut in [false, true] {
                let mut bytes = plain.clone();
                bytes[at] ^= 0xff;
                if cut {
                    bytes.truncate(at);
                }
                let framed = zstd::encode_all(&bytes[..], 1).unwrap();
                let Ok(mut reader) = Reader::new(&framed[..]) else { continue };
                while let Ok(Some(_)) = reader.take() {}
            }
        }
    }

    #[test]
    fn a_walk_goes_into_a_folder_before_it_goes_on() {
        let mut paths = ["a.b", "a/b", "", "a", "a/b/c", "a-", "b", "a/b!"];
        paths.sort_by(|one, other| walk_order(one.as_bytes(), other.as_bytes()));
        assert_eq!(paths, ["", "a", "a/b", "a/b/c", "a/b!", "a-", "a.b", "b"]);
    }
}
