//! What went where: each entry's layer, and a checksum of its content.

use super::entry::Resolved;
use crate::stage::facts::Facts;
use crate::stage::sum::Sum;

/// Where an entry went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its path.
    pub path: Vec<u8>,
    /// See [`crate::stage::extra::Extra`]; that of another name of a file is not told with it.
    pub extra: u64,
    /// Kind, permissions, owner and time.
    pub facts: Facts,
    /// Its layer, counted from 0.
    pub layer: u64,
    /// Bytes of its headers, content and padding.
    pub tar_bytes: u64,
    /// The checksum of its content, if it has any.
    pub check: Option<u64>,
}

/// Entries that nobody was told of yet.
#[derive(Default)]
pub(super) struct Journal {
    placed: Vec<Placed>,
    /// Of the content at hand, which is that of the last entry, and its bytes that are to come.
    content: Option<(Sum, u64)>,
}

impl Journal {
    /// An entry was placed.
    pub(super) fn place(&mut self, entry: &Resolved, layer: u64, tar_bytes: u64) {
        let (path, extra) = (entry.path.clone(), entry.extra);
        let kind = if entry.is_directory { b'd' } else { entry.facts.kind };
        let facts = Facts { kind, ..entry.facts };
        self.placed.push(Placed { path, extra, facts, layer, tar_bytes, check: None });
    }

    /// Its content comes, of `size` bytes and what fills up the last block.
    pub(super) fn begin_content(&mut self, size: u64) {
        self.content = Some((Sum::new(), size));
    }

    /// The next bytes of content.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let Some((sum, unread)) = &mut self.content else { return };
        let now = bytes.len().min(usize::try_from(*unread).unwrap_or(usize::MAX));
        sum.update(&bytes[..now]);
        *unread -= now as u64;
    }

    /// The content has ended.
    pub(super) fn end_content(&mut self) {
        if let (Some((sum, _)), Some(placed)) = (self.content.take(), self.placed.last_mut()) {
            placed.check = Some(sum.finish());
        }
    }

    /// Those that are complete.
    pub(super) fn complete(&mut self) -> impl Iterator<Item = Placed> + '_ {
        let complete = self.placed.len() - usize::from(self.content.is_some());
        self.placed.drain(..complete)
    }
}
