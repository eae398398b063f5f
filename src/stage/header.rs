//! Reading tar headers: ustar and PAX (POSIX.1-2017, `pax`), and GNU tar's extensions.
//!
//! Only what the cut has to know is read; the bytes themselves are passed on as they came. What two readers could
//! understand differently is refused, since a layer must mean the same to everyone.

use super::extra::{Extra, OVERLAY_MARKS};
use super::facts::{Facts, PaxFacts};
use super::sparse::{ContentMap, SparseMap, decimal};
use crate::text;

/// A tar block.
pub const BLOCK_BYTES: usize = 512;

/// What a typeflag means for the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file with content, contiguous files (`7`) included.
    File,
    /// A file of GNU's old sparse format: extension blocks may stand between header and content.
    OldSparse,
    /// One more name of a file that came before.
    HardLink,
    /// A directory.
    Directory,
    /// A symlink.
    Symlink,
    /// A character device 0:0, by which overlayfs says that a name of a lower folder is gone.
    Whiteout,
    /// Another device or a FIFO: an entry without content.
    Other,
    /// PAX records for the next entry.
    Pax,
    /// PAX records for all entries that follow.
    GlobalPax,
    /// GNU: the next entry's name is in the content.
    LongName,
    /// GNU: the next entry's link target is in the content.
    LongLink,
}

/// One header block, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name, with ustar's prefix in front.
    pub name: Vec<u8>,
    /// Link target.
    pub link: Vec<u8>,
    /// Content bytes behind the header, without padding.
    pub size: u64,
    /// What the entry is.
    pub kind: Kind,
    /// GNU old sparse: an extension block follows.
    pub extended: bool,
    /// Permissions, owner and time.
    pub facts: Facts,
}

/// Why a block is no header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Malformed {
    /// Checksum or a number field is broken.
    Damaged(&'static str),
    /// A typeflag nobody has to understand.
    UnknownType(u8),
    /// Two fields contradict each other.
    Contradiction(&'static str),
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged(what) => write!(f, "not a tar header ({what})"),
            Self::UnknownType(flag) => write!(f, "unknown type {}", text::quoted(&[*flag])),
            Self::Contradiction(what) => write!(f, "the header contradicts itself ({what})"),
        }
    }
}

/// Decodes one block.
///
/// # Errors
/// [`Malformed`] where the block can't be trusted.
pub fn parse(block: &[u8; BLOCK_BYTES]) -> Result<Header, Malformed> {
    check_sum(block)?;
    let kind = match block[156] {
        b'0' | 0 | b'7' => Kind::File,
        b'S' => Kind::OldSparse,
        b'1' => Kind::HardLink,
        b'5' => Kind::Directory,
        b'2' => Kind::Symlink,
        b'3' if number(&block[329..337]) == Some(0) && number(&block[337..345]) == Some(0) => Kind::Whiteout,
        b'3' | b'4' | b'6' => Kind::Other,
        b'x' => Kind::Pax,
        b'g' => Kind::GlobalPax,
        b'L' => Kind::LongName,
        b'K' => Kind::LongLink,
        flag => return Err(Malformed::UnknownType(flag)),
    };
    let size = number(&block[124..136]).ok_or(Malformed::Damaged("its size is no number"))?;
    let has_none = matches!(kind, Kind::HardLink | Kind::Directory | Kind::Symlink | Kind::Whiteout | Kind::Other);
    if has_none && size != 0 {
        return Err(Malformed::Contradiction("an entry without content has a size"));
    }
    let (posix, gnu) = (&block[257..265] == b"ustar\x0000", &block[257..265] == b"ustar  \0");
    if matches!(kind, Kind::Pax | Kind::GlobalPax | Kind::LongName | Kind::LongLink) && !posix && !gnu {
        return Err(Malformed::Contradiction("an extension of the format in a header of none"));
    }
    let mut name = text(&block[..100]).to_vec();
    if block[345] != 0 && block[257..263] == *b"ustar\0" {
        if !posix {
            return Err(Malformed::Contradiction("a prefix in a version of the format that has none"));
        }
        name = [text(&block[345..500]), b"/", &name].concat();
    }
    Ok(Header {
        name,
        link: text(&block[157..257]).to_vec(),
        size,
        kind,
        extended: kind == Kind::OldSparse && block[482] != 0,
        facts: Facts::of(block),
    })
}

fn check_sum(block: &[u8; BLOCK_BYTES]) -> Result<(), Malformed> {
    let stated = number(&block[148..156]).ok_or(Malformed::Damaged("its checksum is no number"))?;
    let blanked = || block[..148].iter().chain(b"        ").chain(&block[156..]);
    let sum: u64 = blanked().map(|byte| u64::from(*byte)).sum();
    // Historic tars summed signed bytes.
    let signed: i64 = blanked().map(|byte| i64::from(byte.cast_signed())).sum();
    if stated == sum || i64::try_from(stated) == Ok(signed) {
        Ok(())
    } else {
        Err(Malformed::Damaged("its checksum is wrong"))
    }
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Gives a block the checksum that is right for it.
pub fn seal(block: &mut [u8; BLOCK_BYTES]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Octal with blanks and NUL around it, or base-256 (first bit set), not negative.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let first = u64::from(field[0] & 0x7f);
        return field[1..].iter().try_fold(first, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// The PAX records that change where an entry goes or how long it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PaxRecords {
    /// `path`.
    pub path: Option<Vec<u8>>,
    /// `GNU.sparse.name`, which is the real name of a sparse entry; `path` is for readers that know no such entries.
    pub sparse_name: Option<Vec<u8>>,
    /// `linkpath`.
    pub link: Option<Vec<u8>>,
    /// `size`.
    pub size: Option<u64>,
    /// Whether an extended attribute is one of overlayfs's own.
    pub overlay_marks: bool,
    /// A checksum of the extended attributes.
    pub extra: Extra,
    /// Owner and time.
    pub facts: PaxFacts,
    /// What it says of a sparse file.
    pub sparse: PaxSparse,
}

/// The records of a sparse file, which came in three formats.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PaxSparse {
    /// 0.0: `GNU.sparse.offset` and `GNU.sparse.numbytes` in turn. 0.1: `GNU.sparse.map`.
    map: Option<SparseMap>,
    /// An offset whose length is still to come.
    offset: Option<u64>,
    /// `GNU.sparse.size` or, in 1.0, `GNU.sparse.realsize`.
    file_bytes: Option<u64>,
    /// `GNU.sparse.major`, which is 1 where the map is in the content.
    major: Option<u64>,
}

impl PaxSparse {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let number = || decimal(value).ok_or(Malformed::Damaged("a number of a sparse file is none"));
        let contradiction = |why| Err(Malformed::Contradiction(why));
        match key {
            b"size" | b"realsize" => set(&mut self.file_bytes, number()?)?,
            b"major" => set(&mut self.major, number()?)?,
            b"map" if self.map.is_some() => return contradiction("it has two sparse maps"),
            b"map" => self.map.insert(SparseMap::default()).add_list(value).or_else(contradiction)?,
            b"offset" if self.offset.replace(number()?).is_some() => {
                return contradiction("its sparse map has an offset without a length");
            }
            b"numbytes" => {
                let Some(offset) = self.offset.take() else {
                    return contradiction("its sparse map has a length without an offset");
                };
                self.map.get_or_insert_default().add(offset, number()?).or_else(contradiction)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks what is known of the map of an entry with `content_bytes`; gives the one that is still to come in them.
    ///
    /// # Errors
    /// Why nobody could unpack it.
    pub(super) fn resolve(&self, content_bytes: u64) -> Result<Option<ContentMap>, &'static str> {
        let file_bytes = || self.file_bytes.ok_or("its sparse map is of a file of no size");
        match (self.map, self.major) {
            _ if self.offset.is_some() => Err("its sparse map has an offset without a length"),
            (None, None | Some(0)) => Ok(None),
            (Some(map), None | Some(0)) => map.fits(file_bytes()?, content_bytes).map(|()| None),
            (None, Some(1)) if content_bytes > 0 => Ok(Some(ContentMap::new(file_bytes()?, content_bytes))),
            (None, Some(1)) => Err("its content ends within its sparse map"),
            (Some(_), Some(1)) => Err("it has two sparse maps"),
            (_, Some(_)) => Err("its sparse map is of an unknown format"),
        }
    }
}

impl PaxRecords {
    /// The entry's name, if a record gives it.
    #[must_use]
    pub fn name(&self) -> Option<&Vec<u8>> {
        self.sparse_name.as_ref().or(self.path.as_ref())
    }
}

/// Decodes the content of a PAX header.
///
/// # Errors
/// Where a record's length, form or number is broken, a name is empty or holds a NUL, or two records disagree.
pub fn parse_pax(mut content: &[u8]) -> Result<PaxRecords, Malformed> {
    let mut records = PaxRecords::default();
    while !content.is_empty() {
        let (key, value, rest) = pax_record(content).ok_or(Malformed::Damaged("a PAX record is broken"))?;
        content = rest;
        let named = || {
            if value.is_empty() || value.contains(&0) {
                Err(Malformed::Damaged("a PAX name is empty or holds a NUL"))
            } else {
                Ok(value.to_vec())
            }
        };
        match key {
            b"path" => set(&mut records.path, named()?)?,
            b"linkpath" => set(&mut records.link, named()?)?,
            b"GNU.sparse.name" => set(&mut records.sparse_name, named()?)?,
            b"size" => {
                set(&mut records.size, decimal(value).ok_or(Malformed::Damaged("a PAX size is no number"))?)?;
            }
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    records.sparse.record(key, value)?;
                } else {
                    records.facts.record(key, value);
                    records.overlay_marks |= is_overlay_mark(key);
                    if let Some(name) = attribute(key) {
                        records.extra.attribute(&decoded(name).collect::<Vec<u8>>(), value);
                    }
                }
            }
        }
    }
    Ok(records)
}

/// Whether a PAX record is an extended attribute that overlayfs reads for itself.
#[must_use]
pub fn is_overlay_mark(key: &[u8]) -> bool {
    let Some(name) = attribute(key) else { return false };
    OVERLAY_MARKS.iter().any(|mark| decoded(name).take(mark.len()).eq(mark.iter().copied()))
}

/// The name of the extended attribute that a PAX record holds, as it is written there.
fn attribute(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(b"SCHILY.xattr.").or_else(|| key.strip_prefix(b"LIBARCHIVE.xattr."))
}

/// GNU tar and libarchive write some characters of a name as `%` and two hexadecimal digits.
fn decoded(mut name: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let digit = |at: usize| name.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (first, taken) = match (name.first()?, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => (u8::try_from(16 * high + low).unwrap_or(b'%'), 3),
            (first, ..) => (*first, 1),
        };
        name = &name[taken..];
        Some(first)
    })
}

/// POSIX lets the last record of a key win; there are readers that take the first.
fn set<T: PartialEq>(slot: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match slot {
        Some(earlier) if *earlier != value => Err(Malformed::Contradiction("two PAX records of one key disagree")),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

/// Whether PAX records say nothing about entries (`git archive` writes the commit as such a comment).
#[must_use]
pub fn only_comments(mut content: &[u8]) -> bool {
    while let Some((key, _, rest)) = pax_record(content) {
        if key != b"comment" {
            return false;
        }
        content = rest;
    }
    content.is_empty()
}

/// `<length> <key>=<value>\n`, the length counting all of it.
pub(super) fn pax_record(content: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = content.iter().take(20).position(|byte| *byte == b' ')?;
    let digits =
        std::str::from_utf8(&content[..blank]).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let length: usize = digits.parse().ok()?;
    let (record, rest) = content.split_at_checked(length)?;
    let body = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A header block with a right checksum.
    pub(crate) fn block(name: &[u8], flag: u8, size: u64) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(b"0000755\0");
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[156] = flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut block);
        block
    }

    pub(crate) use super::seal;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"00000000017\0"), Some(15));
        assert_eq!(number(b"     17 \0\0\0\0"), Some(15));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), Some(1 << 33));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None, "negative");
        assert_eq!(number(b"12x\0"), None);
    }

    #[test]
    fn a_wrong_checksum_is_no_header() {
        let mut block = block(b"a", b'0', 5);
        assert_eq!(parse(&block).unwrap().size, 5);
        block[0] = b'b';
        assert!(matches!(parse(&block), Err(Malformed::Damaged(_))));
    }

    #[test]
    fn overlay_marks_are_known_however_they_are_written() {
        for key in ["SCHILY.xattr.trusted.overlay.opaque", "LIBARCHIVE.xattr.user.overlay.whiteout"] {
            assert!(is_overlay_mark(key.as_bytes()) && is_overlay_mark(key.replace('v', "%76").as_bytes()), "{key}");
        }
        for key in ["SCHILY.xattr.trusted.overlays", "SCHILY.xattr.user.x", "trusted.overlay.opaque", "SCHILY.xattr.%"]
        {
            assert!(!is_overlay_mark(key.as_bytes()), "{key}");
        }
    }

    #[test]
    fn a_directory_with_content_contradicts_itself() {
        assert!(matches!(parse(&block(b"a/", b'5', 512)), Err(Malformed::Contradiction(_))));
    }

    #[test]
    fn pax_records_are_read_by_their_lengths() {
        let records = parse_pax(b"13 path=a\nb=\n9 size=7\n15 linkpath=xx\n24 SCHILY.xattr.u%3D=\0\n\n").unwrap();
        let mut extra = Extra::default();
        extra.attribute(b"u=", b"\0\n");
        assert_eq!(
            records,
            PaxRecords {
                path: Some(b"a\nb=".to_vec()),
                link: Some(b"xx".to_vec()),
                size: Some(7),
                extra,
                ..PaxRecords::default()
            }
        );
        for broken in [
            &b"5 a=b"[..],
            b"99 a=b\n",
            b"6 ab\n\n",
            b"x a=b\n",
            b"9 size=-\n",
            b"11 path=a\0b\n",
            b"0 ",
            b"8 path=\n",
            b"10 path=a\n10 path=b\n",
        ] {
            assert!(parse_pax(broken).is_err(), "{}", broken.escape_ascii());
        }
    }
}
