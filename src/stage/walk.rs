//! Walking through a tar of anybody's, in memory that does not depend on what it says: the one way in which what is
//! stored is read back, whether an artifact, a layer of an image, or the tars inside of either.
//!
//! Libraries read long names and PAX records to wherever their headers say they end; here they have a limit. What a
//! header means is decided where the cut decides it, but more is taken than the cut takes: others write layers, too.

use std::io::{self, Read};

use super::facts::Facts;
use super::header::{self, BLOCK_BYTES, Kind, PaxRecords};
use super::renamed;
use crate::text;

/// Most bytes of one extension (PAX records, a long name), as the cut has it.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Most extensions in front of one entry.
const EXTENSIONS_MAX: usize = 8;
/// Where a block of a sparse map says that one more follows.
const MAP_GOES_ON: usize = 504;
/// Bytes that are passed over at a time.
const STEP_BYTES: usize = 64 << 10;

/// One entry of a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name, without `./` in front.
    pub(crate) name: Vec<u8>,
    /// What it links to.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Content bytes.
    pub(crate) size: u64,
    /// All blocks in front of its content, as they came.
    pub(crate) head: Vec<u8>,
    /// Its PAX records, as they came.
    pub(super) records: Vec<u8>,
    /// Its own header, and the blocks of GNU's old sparse map behind that.
    pub(super) own: Vec<u8>,
}

impl Entry {
    /// Where it goes below the root: no slash at either end, empty for the root itself.
    ///
    /// # Errors
    /// Where that would be outside of the root.
    pub(crate) fn path(&self) -> io::Result<Vec<u8>> {
        below_root(&self.name)
    }

    /// The same for what it is a hard link to.
    pub(crate) fn link_path(&self) -> io::Result<Vec<u8>> {
        below_root(&self.link)
    }

    pub(crate) fn is_folder(&self) -> bool {
        self.kind == Kind::Directory || (self.kind == Kind::File && self.size == 0 && self.name.ends_with(b"/"))
    }

    /// Kind, permissions, owner, time and device number; and a checksum of its attributes and a symbolic link's text.
    pub(crate) fn facts(&self) -> (Facts, u64) {
        let pax = header::parse_pax(&self.records).unwrap_or_default();
        let block = self.own.first_chunk().copied().unwrap_or([0; BLOCK_BYTES]);
        let mut extra = pax.extra;
        if self.kind == Kind::Symlink {
            extra.link_text(&self.link);
        }
        (Facts::of(&block).with(&pax.facts), extra.value())
    }

    /// The blocks in front of its content under another name, and with another target if it is a hard link.
    pub(crate) fn renamed(&self, name: &[u8], link: Option<&[u8]>) -> io::Result<Vec<u8>> {
        renamed::head(self, name, link)
    }

    /// Zeros that follow its content.
    pub(crate) fn padding(&self) -> usize {
        let block = BLOCK_BYTES as u64;
        usize::try_from((block - self.size % block) % block).unwrap_or(0)
    }
}

/// As readers of layers have it: what is absolute begins at the root all the same.
fn below_root(name: &[u8]) -> io::Result<Vec<u8>> {
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if part == b".." {
            return Err(invalid(format!("{} leaves the root with '..'", text::quoted(name))));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    Ok(path)
}

/// A tar on its way through a reader.
pub(crate) struct Walk<R> {
    from: R,
    /// Bytes of the current entry's content that were not read.
    content_left: u64,
    /// Bytes that pad it.
    padding: u64,
}

impl<R: Read> Walk<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, content_left: 0, padding: 0 }
    }

    /// The next entry, past what is left of the one before; none at the end mark.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        self.pass_over(self.content_left + self.padding)?;
        (self.content_left, self.padding) = (0, 0);
        let (mut pax, mut long_name, mut long_link) = (PaxRecords::default(), None, None);
        let (mut head, mut records) = (Vec::new(), Vec::new());
        for _ in 0..=EXTENSIONS_MAX {
            let block = self.block(&mut head)?;
            if block == [0; BLOCK_BYTES] {
                return if head.len() == BLOCK_BYTES { Ok(None) } else { Err(invalid("headers without an entry")) };
            }
            let parsed = header::parse(&block).map_err(invalid)?;
            match parsed.kind {
                Kind::Pax => {
                    records = self.extension(parsed.size, &mut head)?;
                    pax = header::parse_pax(&records).map_err(invalid)?;
                }
                Kind::LongName => long_name = Some(until_nul(self.extension(parsed.size, &mut head)?)),
                Kind::LongLink => long_link = Some(until_nul(self.extension(parsed.size, &mut head)?)),
                Kind::GlobalPax => drop(self.extension(parsed.size, &mut head)?),
                kind => {
                    let own_at = head.len() - BLOCK_BYTES;
                    let mut goes_on = parsed.extended;
                    while goes_on {
                        if head.len() as u64 > EXTENSION_BYTES_MAX * EXTENSIONS_MAX as u64 {
                            return Err(invalid("a sparse map past all bounds"));
                        }
                        goes_on = self.block(&mut head)?[MAP_GOES_ON] != 0;
                    }
                    let size = pax.size.unwrap_or(parsed.size);
                    let padded = size.checked_next_multiple_of(BLOCK_BYTES as u64);
                    self.padding = padded.ok_or_else(|| invalid("a size past all bounds"))? - size;
                    self.content_left = size;
                    let name = pax.name().cloned().or(long_name).unwrap_or(parsed.name);
                    let name = name.strip_prefix(b"./").map_or_else(|| name.clone(), <[u8]>::to_vec);
                    let link = pax.link.or(long_link).unwrap_or(parsed.link);
                    let own = head[own_at..].to_vec();
                    return Ok(Some(Entry { name, link, kind, size, head, records, own }));
                }
            }
        }
        Err(invalid("more extensions in front of an entry than anybody needs"))
    }

    /// Sees that nothing but zeros follows the end mark.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let mut step = vec![0; STEP_BYTES];
        loop {
            match self.from.read(&mut step)? {
                0 => return Ok(()),
                count if step[..count].iter().any(|byte| *byte != 0) => {
                    return Err(invalid("there is more after the tar's end mark"));
                }
                _ => {}
            }
        }
    }

    fn block(&mut self, head: &mut Vec<u8>) -> io::Result<[u8; BLOCK_BYTES]> {
        let mut block = [0; BLOCK_BYTES];
        self.from.read_exact(&mut block)?;
        head.extend_from_slice(&block);
        Ok(block)
    }

    fn extension(&mut self, size: u64, head: &mut Vec<u8>) -> io::Result<Vec<u8>> {
        if size > EXTENSION_BYTES_MAX {
            return Err(invalid("an extension of more than 1 MiB"));
        }
        let size = usize::try_from(size).unwrap_or(0);
        let mut content = vec![0; size.next_multiple_of(BLOCK_BYTES)];
        self.from.read_exact(&mut content)?;
        head.extend_from_slice(&content);
        content.truncate(size);
        Ok(content)
    }

    fn pass_over(&mut self, bytes: u64) -> io::Result<()> {
        let passed = io::copy(&mut (&mut self.from).take(bytes), &mut io::sink())?;
        if passed == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// The content of the current entry; a tar that ends in it is an error.
impl<R: Read> Read for Walk<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.content_left).unwrap_or(usize::MAX));
        let count = self.from.read(&mut into[..most])?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content_left -= count as u64;
        Ok(count)
    }
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
    name
}

fn invalid(reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(names: &[&str]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(700);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &[7; 700][..]).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn walk_all(tar: &[u8]) -> io::Result<Vec<(String, u64)>> {
        let (mut walk, mut found) = (Walk::new(tar), Vec::new());
        while let Some(entry) = walk.next()? {
            found.push((String::from_utf8_lossy(&entry.name).into_owned(), entry.size));
        }
        walk.finish()?;
        Ok(found)
    }

    #[test]
    fn names_of_any_length_are_found() {
        let long = "long/".repeat(60) + "name";
        let found = walk_all(&tar_of(&["a", &long])).unwrap();
        assert_eq!(found, [("a".to_owned(), 700), (long, 700)]);
    }

    #[test]
    fn a_cut_tar_and_one_with_more_behind_it_are_errors() {
        let whole = tar_of(&["a", "b"]);
        for end in [600, 1536, 2048, 3072] {
            assert_eq!(walk_all(&whole[..end]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
        assert!(walk_all(&[&whole[..], b"more"].concat()).is_err());
    }

    #[test]
    fn an_extension_has_a_limit() {
        let mut tar = header::tests::block(b"x", b'x', 5 << 30).to_vec();
        tar.resize(4096, b'a');
        assert!(walk_all(&tar).unwrap_err().to_string().contains("1 MiB"));
    }
}
