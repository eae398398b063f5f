//! A checksum of what an entry has besides numbers and content: its extended attributes and a symbolic link's text.

use super::sum::Sum;

/// How the names of attributes begin that overlayfs reads for itself (docs.kernel.org, "overlayfs"): in a mount of root's, or
/// in one of a user's own.
pub(super) const OVERLAY_MARKS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Such a checksum, made of one part after the other; 0 for an entry that has nothing of the kind. The same whether
/// it is made from the entry itself or from its headers in a tar, where the attributes stand in their names' order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extra(u64);

impl Extra {
    /// The next attribute, by name. Those of overlayfs's own are in no layer, and don't count.
    pub fn attribute(&mut self, name: &[u8], value: &[u8]) {
        if !OVERLAY_MARKS.iter().any(|mark| name.starts_with(mark)) {
            self.part(name);
            self.part(value);
        }
    }

    /// The link's text, after the attributes.
    pub fn link_text(&mut self, text: &[u8]) {
        self.part(text);
    }

    /// The checksum.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }

    fn part(&mut self, bytes: &[u8]) {
        let mut sum = Sum::new();
        sum.update(&self.0.to_le_bytes());
        sum.update(&(bytes.len() as u64).to_le_bytes());
        sum.update(bytes);
        self.0 = sum.finish();
    }
}
