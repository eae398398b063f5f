//! What is mounted where, as the kernel tells it.

/// One line of mountinfo, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of the filesystem.
    pub device: String,
    /// The folder of that filesystem which is mounted; `/` is all of it.
    pub root: Vec<u8>,
    /// Where.
    pub point: Vec<u8>,
    /// The filesystem's type.
    pub kind: String,
}

impl Mount {
    /// Reads a line of `/proc/self/mountinfo` (proc(5)); none for what is no such line.
    #[must_use]
    pub fn read(line: &[u8]) -> Option<Self> {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let dash = words.iter().position(|word| *word == b"-")?;
        let (device, root, point, kind) = (words.get(2)?, words.get(3)?, words.get(4)?, words.get(dash + 1)?);
        let (root, point) = (unescape(root), unescape(point));
        (dash >= 6 && root.starts_with(b"/") && point.starts_with(b"/")).then(|| Self {
            device: String::from_utf8_lossy(device).into_owned(),
            root,
            point,
            kind: String::from_utf8_lossy(kind).into_owned(),
        })
    }
}

/// Space, tab, line break and backslash are written as `\ooo`.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => bytes.push(*byte),
        }
    }
    bytes
}
