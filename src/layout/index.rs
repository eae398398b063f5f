//! The index of a layout, as its writers leave it: read whole or not at all, and found in it what a tag names.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use serde_json::{Map, Value, json};

use super::{failed, io_failed};
use crate::error::Result;
use crate::oci::index::{Entry, entries, pick, shortened};
use crate::oci::json::DOCUMENT_BYTES_MAX;
use crate::oci::{Descriptor, Digest, INDEX_MEDIA_TYPE, Platform};

/// What is being done when the index can't be read.
const READING: &str = "reading the index";

/// The index of the layout at `folder`, and an empty one where there is none yet.
pub(super) fn read(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join("index.json");
    let refuse = |reason: &dyn std::fmt::Display| failed(READING, &path, reason);
    let text = match read_file(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let empty = [("schemaVersion", json!(2)), ("mediaType", json!(INDEX_MEDIA_TYPE)), ("manifests", json!([]))];
            return Ok(empty.map(|(key, value)| (key.to_owned(), value)).into_iter().collect());
        }
        Err(error) => return Err(io_failed(READING, &path, error)),
    };
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(refuse(&format_args!("it has more than {DOCUMENT_BYTES_MAX} bytes")));
    }
    let index: Map<_, _> = crate::oci::json::read(&text).map_err(|error| refuse(&error))?;
    match index.get("manifests") {
        // `umoci init` writes an empty list so.
        Some(Value::Array(_) | Value::Null) => Ok(index),
        _ => Err(refuse(&"it lists no manifests")),
    }
}

/// What it lists.
pub(super) fn manifests(index: &Map<String, Value>) -> Vec<Value> {
    index.get("manifests").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::io::copy(&mut open_file(path)?.take(DOCUMENT_BYTES_MAX + 1), &mut text)?;
    Ok(text)
}

/// Opens a file that is one: a pipe would be waited for.
///
/// # Errors
/// When it is none, or can't be read.
pub fn open_file(path: &Path) -> std::io::Result<File> {
    let file = File::from(open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is no file")) }
}

/// A blob of the layout at `folder`, to be read: whether its bytes are those of its name, nobody has looked.
///
/// # Errors
/// When it is not there.
pub fn open_blob(folder: &Path, digest: Digest) -> Result<File> {
    let path = folder.join("blobs/sha256").join(digest.hex());
    open_file(&path).map_err(|error| io_failed("reading a blob", &path, error))
}

/// Which image of a layout is meant.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The name in the index; `latest`, or an only image, where there is none.
    pub tag: Option<&'a str>,
    /// The manifest's digest, which says it alone: then the tag is for people.
    pub digest: Option<Digest>,
}

/// Finds an image in the layout at `folder`. Where several entries have its name, it is that of the platform; where none
/// tells for which it is, the last.
///
/// # Errors
/// When there is no such image, or what names it can't be read.
pub fn find(folder: &Path, wanted: Wanted<'_>, platform: &Platform) -> Result<Descriptor> {
    let path = folder.join("index.json");
    let operation = "reading the layout";
    if !path.exists() {
        let reason = if folder.is_dir() { "it has no index.json" } else { "there is no such folder" };
        return Err(failed(operation, folder, reason));
    }
    let listed = entries(&manifests(&read(folder)?));
    let found = match wanted.digest {
        Some(digest) => by_digest(folder, &listed, digest),
        None => by_name(&listed, wanted.tag, platform),
    };
    found.map_err(|reason| failed(operation, &path, reason))
}

/// An entry, or what an index among them lists in turn: any manifest that is there.
fn by_digest(folder: &Path, listed: &[Entry], digest: Digest) -> std::result::Result<Descriptor, String> {
    let mut descriptors = listed.iter().filter_map(|entry| entry.manifest.as_ref().ok());
    let found = descriptors.find(|manifest| manifest.digest == digest).cloned();
    let blob = || {
        let size = open_blob(folder, digest).ok()?.metadata().ok()?.len();
        Some(Descriptor { media_type: String::new(), digest, size })
    };
    found.or_else(blob).ok_or_else(|| format!("it has no image '{digest}', {}", what_is_there(listed)))
}

fn by_name(listed: &[Entry], tag: Option<&str>, platform: &Platform) -> std::result::Result<Descriptor, String> {
    let name = tag.unwrap_or("latest");
    let named: Vec<_> = listed.iter().filter(|entry| entry.name.as_deref() == Some(name)).collect();
    if named.len() > 1 && named.iter().any(|entry| entry.platform.is_some()) {
        return pick(&named, platform).cloned().map_err(|why| format!("its '{name}' {why}"));
    }
    let found = named.last().copied().or(match listed {
        [only] if tag.is_none() => Some(only),
        _ => None,
    });
    match found {
        Some(entry) => entry.manifest.clone().map_err(|why| format!("its image '{name}' can't be read: {why}")),
        None => Err(format!("it has no image '{name}', {}", what_is_there(listed))),
    }
}

/// The images of an index as they can be asked for.
fn what_is_there(listed: &[Entry]) -> String {
    let name = |entry: &Entry| match (&entry.name, &entry.manifest) {
        (Some(name), _) => name.clone(),
        (None, Ok(manifest)) => format!("@{}", manifest.digest),
        (None, Err(why)) => format!("one that can't be read ({why})"),
    };
    let names: Vec<_> = listed.iter().map(name).collect();
    if names.is_empty() { "and no other".to_owned() } else { format!("only: {}", shortened(&names)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_stands_for() {
        let entry = |fill: char, name: Option<&str>, platform: Option<&str>| {
            let mut entry = json!({ "digest": format!("sha256:{}", fill.to_string().repeat(64)), "size": 1 });
            if let Some(name) = name {
                entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
            }
            if let Some(architecture) = platform {
                entry["platform"] = json!({ "os": "linux", "architecture": architecture });
            }
            entry
        };
        let found = |listed: &[Value], tag: Option<&str>| {
            let platform = "linux/arm64".parse().unwrap();
            by_name(&entries(listed), tag, &platform).map(|found| found.digest.hex()[..1].to_owned())
        };
        let listed = [
            entry('a', Some("team/app:v1"), None),
            entry('b', Some("both"), Some("amd64")),
            entry('c', Some("both"), Some("arm64")),
            entry('d', Some("twice"), None),
            entry('e', Some("twice"), None),
            json!({ "digest": "sha512:12", "size": 1, "annotations": { "org.opencontainers.image.ref.name": "long" } }),
            json!(1),
        ];
        for (tag, wanted) in [("team/app:v1", "a"), ("both", "c"), ("twice", "e")] {
            assert_eq!(found(&listed, Some(tag)).unwrap(), wanted, "{tag}");
        }
        assert_eq!(found(&[entry('a', None, None)], None).unwrap(), "a");
        for (listed, tag, words) in [
            (&listed[..], Some("long"), "its digest is 'sha512:12', and only sha256"),
            (&listed[..], None, "no image 'latest', only: team/app:v1, both"),
            (&listed[..], Some("x"), "one that can't be read (it has no digest)"),
            (&listed[..2], Some("x"), "no image 'x'"),
            (&listed[..1], Some("latest"), "no image 'latest'"),
            (&[], None, "and no other"),
        ] {
            let error = found(listed, tag).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
