//! Sparse maps: where in a file the content of a sparse entry goes (GNU tar manual, "Storing Sparse Files").
//!
//! Whoever unpacks a map that overlaps, runs backwards or leads out of its file fails, or writes something else than
//! another would; so it is refused while it can still be said which entry it is.

use super::header::{BLOCK_BYTES, number};

/// Why a map can't be followed.
pub(super) type Broken = &'static str;

const NO_NUMBER: Broken = "its sparse map holds something that is no number";

/// What the parts of a map came to so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SparseMap {
    end: u64,
    data_bytes: u64,
    /// GNU's old format: an unused place came, so that no part may.
    ended: bool,
}

impl SparseMap {
    /// The next part: `bytes` of the content, which go to `offset` of the file.
    pub(super) fn add(&mut self, offset: u64, bytes: u64) -> Result<(), Broken> {
        if offset < self.end {
            return Err("its sparse map overlaps or runs backwards");
        }
        let sums = (offset.checked_add(bytes), self.data_bytes.checked_add(bytes));
        let (Some(end), Some(data_bytes)) = sums else { return Err("its sparse map is out of all bounds") };
        (self.end, self.data_bytes) = (end, data_bytes);
        Ok(())
    }

    /// The parts in a header of GNU's old format, or in one of its extension blocks: octal, offset and length in turn.
    pub(super) fn add_old(&mut self, places: &[u8]) -> Result<(), Broken> {
        for place in places.chunks_exact(24) {
            let is_used = place[12] != 0;
            if self.ended && is_used {
                return Err("its sparse map goes on behind its end");
            }
            self.ended |= !is_used;
            if is_used {
                let (offset, bytes) = (number(&place[..12]), number(&place[12..]));
                self.add(offset.ok_or(NO_NUMBER)?, bytes.ok_or(NO_NUMBER)?)?;
            }
        }
        Ok(())
    }

    /// `GNU.sparse.map`: numbers and commas, offset and length in turn.
    pub(super) fn add_list(&mut self, list: &[u8]) -> Result<(), Broken> {
        let mut numbers = list.split(|byte| *byte == b',').map(|digits| decimal(digits).ok_or(NO_NUMBER));
        while let Some(offset) = numbers.next() {
            let bytes = numbers.next().unwrap_or(Err("its sparse map has an offset without a length"))?;
            self.add(offset?, bytes)?;
        }
        Ok(())
    }

    /// Whether the whole map fits a file of `file_bytes` and an entry with `content_bytes` of data.
    pub(super) fn fits(&self, file_bytes: u64, content_bytes: u64) -> Result<(), Broken> {
        if self.end > file_bytes {
            return Err("its sparse map ends past the end of its file");
        }
        if self.data_bytes > content_bytes {
            return Err("its sparse map wants more data than the entry has");
        }
        Ok(())
    }
}

/// The map of PAX's sparse format 1.0, in the first blocks of the content: how many parts, then offset and length of each,
/// in decimal, a newline after each number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContentMap {
    map: SparseMap,
    file_bytes: u64,
    content_bytes: u64,
    taken_bytes: u64,
    /// Digits of a number that goes on.
    number: Option<u64>,
    /// Numbers still to come, once their count did.
    numbers_left: Option<u64>,
    offset: Option<u64>,
}

impl ContentMap {
    /// For a file of `file_bytes`, in an entry of `content_bytes`.
    pub(super) fn new(file_bytes: u64, content_bytes: u64) -> Self {
        let (map, taken_bytes) = (SparseMap::default(), 0);
        Self { map, file_bytes, content_bytes, taken_bytes, number: None, numbers_left: None, offset: None }
    }

    /// Takes the next bytes of the content: whether the map is complete with them.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<bool, Broken> {
        for byte in bytes {
            if self.taken_bytes == self.content_bytes {
                break;
            }
            self.taken_bytes += 1;
            match byte {
                b'0'..=b'9' => {
                    let tens = self.number.unwrap_or(0).checked_mul(10);
                    let sum = tens.and_then(|tens| tens.checked_add(u64::from(byte - b'0')));
                    self.number = Some(sum.ok_or("its sparse map is out of all bounds")?);
                }
                b'\n' => {
                    let number = self.number.take().ok_or(NO_NUMBER)?;
                    if self.complete(number)? {
                        return Ok(true);
                    }
                }
                _ => return Err(NO_NUMBER),
            }
        }
        if self.taken_bytes == self.content_bytes {
            return Err("its content ends within its sparse map");
        }
        Ok(false)
    }

    fn complete(&mut self, number: u64) -> Result<bool, Broken> {
        let left = match self.numbers_left {
            None => number.checked_mul(2).ok_or("its sparse map is out of all bounds")?,
            Some(left) => {
                match self.offset.take() {
                    None => self.offset = Some(number),
                    Some(offset) => self.map.add(offset, number)?,
                }
                left - 1
            }
        };
        self.numbers_left = Some(left);
        if left > 0 {
            return Ok(false);
        }
        let map_bytes = self.taken_bytes.next_multiple_of(BLOCK_BYTES as u64);
        let data_bytes = self.content_bytes.checked_sub(map_bytes).ok_or("its content ends within its sparse map")?;
        self.map.fits(self.file_bytes, data_bytes)?;
        Ok(true)
    }
}

/// A number as PAX has it.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_in_order_and_within_their_file() {
        let map = |list: &[u8], file, content| {
            let mut map = SparseMap::default();
            map.add_list(list).and_then(|()| map.fits(file, content))
        };
        assert!(map(b"0,5,10,5,20,0", 20, 10).is_ok());
        for (list, file, content) in [
            (&b"0,5,4,5"[..], 100, 100),
            (b"10,5,0,5", 100, 100),
            (b"0,5,10,5", 14, 10),
            (b"0,5,10,5", 15, 9),
            (b"18446744073709551615,1", u64::MAX, 100),
            (b"0,5,7", 100, 100),
            (b"0,x", 100, 100),
            (b"0,", 100, 100),
            (b"", 100, 100),
        ] {
            assert!(map(list, file, content).is_err(), "{}", list.escape_ascii());
        }
    }

    #[test]
    fn a_map_in_the_content_is_read_in_any_pieces() {
        let take = |text: &[u8], file, content, step| {
            let mut map = ContentMap::new(file, content);
            for bytes in text.chunks(step) {
                if map.take(bytes)? {
                    return Ok(true);
                }
            }
            Ok::<_, Broken>(false)
        };
        for step in [1, 2, 7, 100] {
            assert_eq!(take(b"2\n0\n512\n4096\n100\n\0\0", 5000, 512 + 612, step), Ok(true));
            assert_eq!(take(b"0\n", 5000, 512, step), Ok(true));
            assert_eq!(take(b"2\n0\n512\n4096\n", 5000, 1124, step), Ok(false), "it goes on");
            for (text, file, content) in [
                (&b"2\n0\n512\n100\n100\n"[..], 5000, 1124),
                (b"2\n0\n512\n4096\n1000\n", 5000, 2024),
                (b"2\n0\n512\n4096\n100\n", 5000, 1000),
                (b"1\n0\n", 5000, 4),
                (b"1\n0\n1\n", 5000, 100),
                (b"99999999999999999999\n", 5000, 1000),
                (b"18446744073709551615\n", 5000, 1000),
                (b"\n", 5000, 1000),
                (b"-1\n", 5000, 1000),
            ] {
                assert!(take(text, file, content, step).is_err(), "{}", text.escape_ascii());
            }
        }
    }
}
