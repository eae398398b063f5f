//! What an index can reach: the blobs that an image, or anything else that it names, may need.
//!
//! Of a manifest and of an index every descriptor is followed, whatever it is for: config, layers, manifests, subject. What
//! is neither is read by its letters alone: any blob that it names counts, and is read in turn. So what another program
//! wrote, and this one does not understand, keeps all that it could need. What can't be read is an error, since nobody
//! knows then what may go.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Layout, failed, io_failed};
use crate::error::Result;
use crate::oci::Media;
use crate::stage::digest::DigestHasher;

/// Longer manifests and indexes are refused; registries stop at 4 MiB.
const DOCUMENT_BYTES_MAX: u64 = 32 << 20;

/// Hex digits of a digest: those of SHA-256 to those of SHA-512.
const DIGITS: std::ops::RangeInclusive<usize> = 64..=128;

/// How a blob is read, by the media type that the one who names it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reading {
    /// Descriptors are followed.
    Manifest,
    /// It names no blob.
    Leaf,
    /// By its letters.
    Letters,
}

impl Reading {
    fn of(media_type: Option<&str>) -> Self {
        match media_type.map(|media_type| (Media::of(media_type), media_type)) {
            Some((Some(Media::Manifest | Media::Index), _)) => Self::Manifest,
            Some((Some(_), _)) => Self::Leaf,
            Some((None, layer)) if layer.contains(".tar") => Self::Leaf,
            _ => Self::Letters,
        }
    }
}

/// The names of all blobs of `layout` that an index of these manifests can reach: their files' names, without the algorithm.
///
/// # Errors
/// When something that is reached can't be read.
pub fn reach(layout: &Layout, manifests: &[Value]) -> Result<HashSet<String>> {
    let blobs = layout.folder().join("blobs");
    let listed = fs::read_dir(&blobs).map_err(|error| io_failed("reading the layout", &blobs, error))?;
    let mut walk = Walk { algorithms: Vec::new(), reached: HashSet::new(), open: Vec::new(), seen: HashSet::new() };
    for folder in listed {
        walk.algorithms.push(folder.map_err(|error| io_failed("reading the layout", &blobs, error))?.path());
    }
    for manifest in manifests {
        walk.document(manifest)?;
    }
    while let Some((path, reading)) = walk.open.pop() {
        match reading {
            Reading::Leaf => {}
            Reading::Manifest => walk.document(&read_document(&path)?)?,
            Reading::Letters => {
                let unreadable = |error| io_failed("reading a blob", &path, error);
                let mut blob = BufReader::new(File::open(&path).map_err(unreadable)?);
                if is_document(&mut blob).map_err(unreadable)? {
                    walk.letters(blob).map_err(unreadable)?;
                }
            }
        }
    }
    Ok(walk.reached)
}

struct Walk {
    /// The folders `blobs/ALGORITHM`.
    algorithms: Vec<PathBuf>,
    reached: HashSet<String>,
    open: Vec<(PathBuf, Reading)>,
    seen: HashSet<(PathBuf, Reading)>,
}

impl Walk {
    /// Follows all descriptors; where there are none, all names.
    fn document(&mut self, value: &Value) -> Result<()> {
        if !self.descriptors(value) {
            let text = value.to_string();
            self.letters(text.as_bytes())
                .map_err(|error| failed("reading the layout", Path::new("index.json"), error))?;
        }
        Ok(())
    }

    /// Whether there were any.
    fn descriptors(&mut self, value: &Value) -> bool {
        let mut found = false;
        if let Some(digest) = value["digest"].as_str() {
            let name = digest.split_once(':').map_or(digest, |(_, name)| name);
            self.follow(name, Reading::of(value["mediaType"].as_str()));
            found = true;
        }
        match value {
            Value::Object(fields) => fields.values().fold(found, |found, value| self.descriptors(value) || found),
            Value::Array(values) => values.iter().fold(found, |found, value| self.descriptors(value) || found),
            _ => found,
        }
    }

    /// Follows whatever is named in a text of any length: runs of hex digits that are a blob's name.
    fn letters(&mut self, mut text: impl BufRead) -> std::io::Result<()> {
        let mut name = String::new();
        loop {
            let bytes = text.fill_buf()?;
            let length = bytes.len();
            for byte in bytes {
                match byte {
                    b'0'..=b'9' | b'a'..=b'f' if name.len() <= *DIGITS.end() => name.push(char::from(*byte)),
                    b'0'..=b'9' | b'a'..=b'f' => {}
                    _ => self.end_of(&mut name),
                }
            }
            if length == 0 {
                self.end_of(&mut name);
                return Ok(());
            }
            text.consume(length);
        }
    }

    fn end_of(&mut self, name: &mut String) {
        if DIGITS.contains(&name.len()) {
            self.follow(name, Reading::Letters);
        }
        name.clear();
    }

    /// A name of which there is no blob keeps nothing: of an index that was copied in part, say.
    fn follow(&mut self, name: &str, reading: Reading) {
        if name.is_empty() || name.contains('/') {
            return;
        }
        let path = self.algorithms.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        let Some(path) = path else { return };
        self.reached.insert(name.to_owned());
        if self.seen.insert((path.clone(), reading)) {
            self.open.push((path, reading));
        }
    }
}

/// A manifest or an index, whole and as its digest says.
fn read_document(path: &Path) -> Result<Value> {
    let operation = "reading a manifest";
    let unreadable = |error| io_failed(operation, path, error);
    let mut bytes = Vec::new();
    let mut limited = File::open(path).map_err(unreadable)?.take(DOCUMENT_BYTES_MAX + 1);
    std::io::copy(&mut limited, &mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(failed(operation, path, format_args!("it has more than {DOCUMENT_BYTES_MAX} bytes")));
    }
    let is = DigestHasher::of(&bytes).hex();
    let is_sha256 = path.parent().is_some_and(|folder| folder.ends_with("sha256"));
    if is_sha256 && path.file_name().is_none_or(|name| name != is.as_str()) {
        return Err(failed(operation, path, format_args!("its bytes are sha256:{is}")));
    }
    serde_json::from_slice(&bytes).map_err(|error| failed(operation, path, error))
}

/// Whether a blob begins as JSON does.
fn is_document(blob: &mut impl BufRead) -> std::io::Result<bool> {
    loop {
        let bytes = blob.fill_buf()?;
        let (length, first) = (bytes.len(), bytes.iter().find(|byte| !byte.is_ascii_whitespace()).copied());
        match first {
            Some(first) => return Ok(matches!(first, b'{' | b'[' | b'"')),
            None if length == 0 => return Ok(false),
            None => blob.consume(length),
        }
    }
}
