//! Reading a tar with the `tar` crate.

use std::io::{self, Read};

/// One entry as the tar crate sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    /// Its real name where it is sparse, which the tar crate does not know.
    pub sparse_name: Option<Vec<u8>>,
    pub kind: tar::EntryType,
    pub size: u64,
    /// A character device 0:0: overlayfs's own mark.
    pub is_whiteout: bool,
    pub link: Option<Vec<u8>>,
    /// The content's beginning.
    pub content: Vec<u8>,
}

/// Most bytes of content that are compared: a sparse entry can claim any length.
const CONTENT_BYTES_MAX: u64 = 1 << 16;

/// All entries.
pub fn read(bytes: &[u8]) -> io::Result<Vec<Entry>> {
    let mut archive = tar::Archive::new(bytes);
    let mut entries = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        // It is about others, and stands before whoever is next.
        if entry.header().entry_type().is_pax_global_extensions() {
            continue;
        }
        let mut sparse_name = None;
        for record in entry.pax_extensions()?.into_iter().flatten() {
            // The tar crate takes a newline in a value for the record's end, and falls back on the header.
            let record = record?;
            if record.key_bytes() == b"GNU.sparse.name" {
                sparse_name = Some(record.value_bytes().to_vec());
            }
        }
        let mut content = Vec::new();
        entry.by_ref().take(CONTENT_BYTES_MAX).read_to_end(&mut content)?;
        entries.push(Entry {
            path: without_nuls(&entry.path_bytes()),
            sparse_name,
            kind: entry.header().entry_type(),
            size: entry.size(),
            is_whiteout: is_whiteout(entry.header()),
            link: entry.link_name_bytes().map(|link| without_nuls(&link)),
            content,
        });
    }
    Ok(entries)
}

fn is_whiteout(header: &tar::Header) -> bool {
    let numbers = [329..337, 337..345].map(|field| &header.as_bytes()[field]);
    // Zero in any way to write a number.
    header.entry_type().is_character_special()
        && numbers.iter().all(|number| {
            let octal = number.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
            octal.iter().all(|digit| *digit == b'0') || (number[0] == 0x80 && number[1..] == [0; 7])
        })
}

impl Entry {
    /// Whether it is a directory; the pre-POSIX way to say so counts.
    pub fn is_directory(&self) -> bool {
        let is_file = self.kind.is_file() || self.kind.is_contiguous();
        self.kind.is_dir() || (is_file && self.size == 0 && self.name().ends_with(b"/"))
    }

    /// Where it goes, its parts without `.` and doubled slashes.
    pub fn parts(&self) -> Vec<&[u8]> {
        parts(self.name())
    }

    fn name(&self) -> &[u8] {
        self.sparse_name.as_ref().unwrap_or(&self.path)
    }
}

/// A path's parts.
pub fn parts(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect()
}

/// The tar crate takes one NUL from a name's end.
fn without_nuls(name: &[u8]) -> Vec<u8> {
    let length = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    name[..length].to_vec()
}
