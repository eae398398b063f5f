//! The checksum by which contents are compared with what was read of them before.

use std::hash::Hasher as _;

use twox_hash::XxHash3_64;

/// XXH3, 64 bits: it guards against chance alone, is faster than any disk, and its code is small. Our reader has it, too, and
/// crosses a machine's link at every freeze: with the tables of a CRC of 64 bits it was half a megabyte larger.
pub struct Sum(XxHash3_64);

impl Sum {
    /// Of nothing yet.
    #[expect(clippy::new_without_default, reason = "where one begins is to be seen")]
    #[must_use]
    pub fn new() -> Self {
        Self(XxHash3_64::new())
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// Of all of them.
    #[must_use]
    pub fn finish(self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Indexes of earlier freezes have it: another one would be an alarm for each file.
    #[test]
    fn it_is_the_one_that_indexes_have() {
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        for (bytes, expected) in [(&b""[..], 0x2d06_8005_38d3_94c2), (b"abc", 0x78af_5f94_892f_3950)] {
            let mut sum = Sum::new();
            bytes.chunks(2).for_each(|bytes| sum.update(bytes));
            assert_eq!(sum.finish(), expected);
        }
        let [mut whole, mut pieces] = [Sum::new(), Sum::new()];
        whole.update(&bytes);
        bytes.chunks(777).for_each(|bytes| pieces.update(bytes));
        assert_eq!(whole.finish(), pieces.finish());
    }
}
