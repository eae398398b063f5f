//! Reading a tar for its links alone, headers only, so that a second reading can put linked entries together.

use std::collections::HashSet;
use std::ops::Range;

use super::cut::entry::{Pending, Read, Refusal};
use super::cut::{padded, rule};
use super::header::BLOCK_BYTES;
use crate::error::{Error, Result};

/// Takes tar bytes in chunks of any size and remembers where entries with links are.
#[derive(Default)]
pub struct Scanner {
    pending: Pending,
    /// Content and padding still to pass over.
    content_left: u64,
    ended: bool,
    offset: u64,
    headers_at: u64,
    files: Vec<(u64, Range<u64>)>,
    links: Vec<Range<u64>>,
    targets: HashSet<u64>,
    entries: u64,
    largest_entry_bytes: u64,
}

/// What a tar holds, as far as cutting it has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// Bytes of all entries, the end mark not counted.
    pub entry_bytes: u64,
    /// Entries.
    pub entries: u64,
    /// The largest entry's content.
    pub largest_entry_bytes: u64,
    /// Where hard links and the files they are links to lie, in order, neighbours joined.
    pub linked: Vec<Range<u64>>,
}

impl Scanner {
    /// How many bytes may be passed over unread from here on: an entry's content.
    #[must_use]
    pub fn skippable(&self) -> u64 {
        self.content_left
    }

    /// `bytes` of content were passed over; at most [`Scanner::skippable`].
    pub fn skip(&mut self, bytes: u64) {
        self.content_left -= bytes.min(self.content_left);
        self.offset += bytes;
        self.headers_at = self.offset;
    }

    /// Whether the end mark was seen.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Where a header is broken, as the cut would say it.
    pub fn push(&mut self, mut rest: &[u8]) -> Result<()> {
        while !rest.is_empty() && !self.ended {
            if self.content_left > 0 {
                let now = rest.len().min(usize::try_from(self.content_left).unwrap_or(usize::MAX));
                self.skip(now as u64);
                rest = &rest[now..];
                continue;
            }
            let (now, read) = self.pending.read(rest).map_err(|refusal: Refusal| refusal.error(self.headers_at))?;
            self.offset += now as u64;
            rest = &rest[now..];
            match read {
                Read::More => {}
                Read::ZeroBlock => {
                    self.ended = true;
                    self.offset -= BLOCK_BYTES as u64;
                }
                Read::Entry(entry) => {
                    self.content_left = padded(entry.size);
                    self.entries += 1;
                    self.largest_entry_bytes = self.largest_entry_bytes.max(entry.size);
                    let extent = self.headers_at..self.offset + self.content_left;
                    if let Some(target) = entry.link {
                        self.targets.insert(rule::hash(&target));
                        self.links.push(extent);
                    } else if !entry.is_directory {
                        self.files.push((rule::hash(&entry.path), extent));
                    }
                    self.headers_at = self.offset;
                }
            }
        }
        Ok(())
    }

    /// The tar has ended.
    ///
    /// # Errors
    /// Where it ended before its end mark.
    pub fn finish(self) -> Result<Scanned> {
        if !self.ended {
            let subject = format!("byte {}, after {} entries", self.offset, self.entries);
            return Err(Error::source(
                "reading the tar",
                subject,
                "the stream ends before the archive's end mark; it was cut off",
            ));
        }
        let targets = self.targets;
        let mut linked: Vec<_> =
            self.files.into_iter().filter(|(path, _)| targets.contains(path)).map(|(_, extent)| extent).collect();
        linked.extend(self.links);
        linked.sort_by_key(|extent| extent.start);
        linked.dedup_by(|next, last| {
            let joined = next.start == last.end;
            if joined {
                last.end = next.end;
            }
            joined
        });
        Ok(Scanned {
            entry_bytes: self.offset,
            entries: self.entries,
            largest_entry_bytes: self.largest_entry_bytes,
            linked,
        })
    }
}
