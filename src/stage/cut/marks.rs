//! overlayfs's own marks, which a container engine's storage is full of.
//!
//! Layers become folders of an overlayfs wherever an image runs. There a mark hides what other layers have, or is itself
//! not to be seen, and no tar can escape it so that all who unpack layers would understand. So marks stay out of layers.

use super::{Cutter, Resolved, rule};
use crate::stage::header::{self, BLOCK_BYTES, Kind};

impl Cutter {
    /// Whether overlayfs would take the entry for a mark. It links its whiteouts to each other.
    pub(super) fn is_whiteout(&mut self, entry: &Resolved) -> bool {
        let is_one = match &entry.link {
            Some(target) => self.whiteouts.contains(&rule::hash(target)),
            None => entry.kind == Kind::Whiteout,
        };
        if is_one {
            self.whiteouts.insert(rule::hash(&entry.path));
        } else if !self.whiteouts.is_empty() {
            self.whiteouts.remove(&rule::hash(&entry.path));
        }
        is_one
    }
}

/// The header blocks of an entry without the records of such attributes.
pub(super) fn without_attributes(blocks: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(blocks.len());
    let mut rest = blocks;
    while let Some((block, behind)) = rest.split_first_chunk::<BLOCK_BYTES>() {
        let Ok(header) = header::parse(block) else { break };
        let size = usize::try_from(header.size).unwrap_or(usize::MAX);
        match header.kind {
            Kind::Pax | Kind::GlobalPax | Kind::LongName | Kind::LongLink => {
                let Some((content, later)) = behind.split_at_checked(size.next_multiple_of(BLOCK_BYTES)) else { break };
                if header.kind == Kind::Pax {
                    write_records(&mut kept, block, &content[..size]);
                } else {
                    kept.extend_from_slice(&rest[..BLOCK_BYTES + content.len()]);
                }
                rest = later;
            }
            _ => break,
        }
    }
    kept.extend_from_slice(rest);
    kept
}

/// A PAX header like `block` with the records that are no marks; none where none is left.
fn write_records(kept: &mut Vec<u8>, block: &[u8; BLOCK_BYTES], mut content: &[u8]) {
    let mut records = Vec::with_capacity(content.len());
    while let Some((key, _, rest)) = header::pax_record(content) {
        if !header::is_overlay_mark(key) {
            records.extend_from_slice(&content[..content.len() - rest.len()]);
        }
        content = rest;
    }
    if records.is_empty() {
        return;
    }
    let mut block = *block;
    block[124..136].copy_from_slice(format!("{:011o}\0", records.len()).as_bytes());
    header::seal(&mut block);
    records.resize(records.len().next_multiple_of(BLOCK_BYTES), 0);
    kept.extend_from_slice(&block);
    kept.append(&mut records);
}
