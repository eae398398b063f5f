//! Walking through a tar of anybody's, in memory that does not depend on what it says.
//!
//! Libraries read long names and PAX records to wherever their headers say they end; here they have a limit. What a
//! header means is decided where the cut decides it.

use std::io::{self, Read};

use crate::stage::header::{self, BLOCK_BYTES, Kind, PaxRecords};

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
pub(super) struct Entry {
    /// Its name, without `./` in front.
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    /// Content bytes.
    pub(super) size: u64,
}

/// A tar on its way through a reader.
pub(super) struct Walk<R> {
    from: R,
    /// Bytes of the current entry's content that were not read.
    content_left: u64,
    /// Bytes that pad it.
    padding: u64,
}

impl<R: Read> Walk<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, content_left: 0, padding: 0 }
    }

    /// The next entry, past what is left of the one before; none at the end mark.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        self.pass_over(self.content_left + self.padding)?;
        (self.content_left, self.padding) = (0, 0);
        let (mut pax, mut long_name) = (PaxRecords::default(), None);
        for _ in 0..=EXTENSIONS_MAX {
            let mut block = [0; BLOCK_BYTES];
            self.from.read_exact(&mut block)?;
            if block == [0; BLOCK_BYTES] {
                return Ok(None);
            }
            let head = header::parse(&block).map_err(invalid)?;
            match head.kind {
                Kind::Pax => pax = header::parse_pax(&self.extension(head.size)?).map_err(invalid)?,
                Kind::LongName => long_name = Some(until_nul(self.extension(head.size)?)),
                Kind::LongLink | Kind::GlobalPax => drop(self.extension(head.size)?),
                kind => {
                    let mut goes_on = head.extended;
                    while goes_on {
                        self.from.read_exact(&mut block)?;
                        goes_on = block[MAP_GOES_ON] != 0;
                    }
                    let size = pax.size.unwrap_or(head.size);
                    let padded = size.checked_next_multiple_of(BLOCK_BYTES as u64);
                    self.padding = padded.ok_or_else(|| invalid("a size past all bounds"))? - size;
                    self.content_left = size;
                    let name = pax.name().cloned().or(long_name).unwrap_or(head.name);
                    let name = name.strip_prefix(b"./").map_or_else(|| name.clone(), <[u8]>::to_vec);
                    return Ok(Some(Entry { name, kind, size }));
                }
            }
        }
        Err(invalid("more extensions in front of an entry than anybody needs"))
    }

    /// Sees that nothing but zeros follows the end mark.
    pub(super) fn finish(mut self) -> io::Result<()> {
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

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > EXTENSION_BYTES_MAX {
            return Err(invalid("an extension of more than 1 MiB"));
        }
        let mut content = vec![0; usize::try_from(size).unwrap_or(0).next_multiple_of(BLOCK_BYTES)];
        self.from.read_exact(&mut content)?;
        content.truncate(usize::try_from(size).unwrap_or(0));
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
