//! Reading a tar for the order of its entries alone, headers only, so that a second reading can put linked entries
//! together and leave out what a later entry replaces.
//!
//! GNU tar appends what changed (`-r`, `-u`), and the last entry of a name counts. Where one that is replaced is a
//! folder, replaces one, or is above or below others, the order of all entries matters, and they keep it.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::Range;

use super::cut::entry::{Pending, Read, Refusal, Resolved};
use super::cut::{EndMark, padded, path};
use crate::error::{Error, Result};

/// Takes tar bytes in chunks of any size and remembers where entries are: 24 bytes of each that is no folder, 8 more of a
/// link, 8 of a folder and of what is linked to, in tables that are up to half empty. Of names only hashes are kept, of
/// a key that nobody knows: two names that share one would be taken for one.
#[derive(Default)]
pub struct Scanner {
    pending: Pending,
    /// Content and padding still to pass over.
    content_left: u64,
    end: Option<EndMark>,
    offset: u64,
    headers_at: u64,
    hashes: RandomState,
    /// All entries but folders, in order.
    others: Vec<(u64, Range<u64>)>,
    /// Where links begin, in order.
    links: Vec<u64>,
    targets: HashSet<u64>,
    /// Folders, whether they have entries or are only above some.
    folders: HashSet<u64>,
    last_parent: u64,
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
    /// Where entries lie that a later one of the same name replaces, in order, neighbours joined.
    pub replaced: Vec<Range<u64>>,
    /// A name is a folder's in one place and something else's in another, so that entries mean what they do in this order
    /// alone; nothing is said about them then.
    pub order_matters: bool,
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

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Where a header is broken, or something follows the end mark, as the cut would say it.
    pub fn push(&mut self, mut rest: &[u8]) -> Result<()> {
        while !rest.is_empty() {
            if let Some(end) = &mut self.end {
                end.take(rest, self.offset)?;
                self.offset += rest.len() as u64;
                return Ok(());
            }
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
                Read::ZeroBlock => self.end = Some(EndMark::begun()),
                Read::Entry(entry) => self.entry(&entry),
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Resolved) {
        self.content_left = padded(entry.size);
        self.entries += 1;
        self.largest_entry_bytes = self.largest_entry_bytes.max(entry.size);
        let extent = self.headers_at..self.offset + self.content_left;
        self.headers_at = self.offset;
        // One that has no place is the cut's to refuse or to leave out.
        if entry.hostile.is_some() {
            return;
        }
        let hash = self.hashes.hash_one(&entry.path[..]);
        if let Some(parent) = path::parent(&entry.path) {
            let parent_hash = self.hashes.hash_one(parent);
            if parent_hash != self.last_parent {
                self.last_parent = parent_hash;
                self.folders.extend(path::from_root(parent).map(|folder| self.hashes.hash_one(folder)));
            }
        }
        if entry.is_directory {
            self.folders.insert(hash);
            return;
        }
        if let Some(target) = &entry.link {
            self.targets.insert(self.hashes.hash_one(&target[..]));
            self.links.push(extent.start);
        }
        self.others.push((hash, extent));
    }

    /// The tar has ended.
    ///
    /// # Errors
    /// Where it ended before its end mark was whole.
    pub fn finish(mut self) -> Result<Scanned> {
        if !self.end.as_ref().is_some_and(EndMark::is_whole) {
            let subject = format!("byte {}, after {} entries", self.offset, self.entries);
            return Err(Error::source(
                "reading the tar",
                subject,
                "the stream ends before the archive's end mark; it was cut off",
            ));
        }
        let order_matters = self.others.iter().any(|(path, _)| self.folders.contains(path));
        let (mut linked, mut replaced) = (Vec::new(), Vec::new());
        if !order_matters {
            self.others.sort_unstable_by_key(|(path, extent)| (*path, extent.start));
            let mut others = self.others.into_iter().peekable();
            while let Some((path, extent)) = others.next() {
                // What is linked to may be another content of the name than the last: all of them stay, in order.
                if self.targets.contains(&path) {
                    linked.push(extent);
                } else if others.peek().is_some_and(|(next, _)| *next == path) {
                    replaced.push(extent);
                } else if self.links.binary_search(&extent.start).is_ok() {
                    linked.push(extent);
                }
            }
        }
        Ok(Scanned {
            entry_bytes: self.headers_at,
            entries: self.entries,
            largest_entry_bytes: self.largest_entry_bytes,
            linked: joined(linked),
            replaced: joined(replaced),
            order_matters,
        })
    }
}

/// In order, and neighbours as one.
pub(crate) fn joined(mut extents: Vec<Range<u64>>) -> Vec<Range<u64>> {
    extents.sort_unstable_by_key(|extent| extent.start);
    extents.dedup_by(|next, last| {
        let joined = next.start == last.end;
        if joined {
            last.end = next.end;
        }
        joined
    });
    extents
}

#[cfg(test)]
mod tests;
