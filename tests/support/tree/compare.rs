//! Where two inventories differ, in words.

use std::collections::BTreeMap;

use super::inventory::{Entry, Inventory};

/// One entry that is not as it should be.
#[derive(Debug)]
pub struct Difference {
    pub path: Vec<u8>,
    pub what: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "./{}: {}", self.path.escape_ascii(), self.what)
    }
}

/// All differences, in the order of paths.
pub fn differences(wanted: &Inventory, found: &Inventory) -> Vec<Difference> {
    let mut differing = Vec::new();
    for (path, entry) in wanted {
        let what = match found.get(path) {
            None => format!("it is missing ({})", entry.kind),
            Some(other) if other == entry => continue,
            Some(other) => fields(entry, other),
        };
        differing.push(Difference { path: path.clone(), what });
    }
    let extra = found.keys().filter(|path| !wanted.contains_key(*path));
    differing.extend(extra.map(|path| Difference { path: path.clone(), what: "it is there and should not be".into() }));
    differing
}

/// Only what is at `folder` and below it, with paths and links told from there.
pub fn below(inventory: &Inventory, folder: &[u8]) -> Inventory {
    let relative = |path: &[u8]| match path.strip_prefix(folder) {
        Some(rest) if rest.is_empty() || folder.is_empty() => Some(rest.to_vec()),
        Some([b'/', rest @ ..]) => Some(rest.to_vec()),
        _ => None,
    };
    let mut renamed: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let inside = inventory.iter().filter_map(|(path, entry)| {
        let here = relative(path)?;
        let same_as = renamed.entry(entry.same_as.clone()).or_insert_with(|| here.clone()).clone();
        Some((here, Entry { same_as, ..entry.clone() }))
    });
    inside.collect()
}

/// As it is where no link leaves `folder`: a file with names on both sides is one on each.
pub fn parted(inventory: &Inventory, folder: &[u8]) -> Inventory {
    let is_inside = |path: &[u8]| path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'));
    let mut firsts: BTreeMap<(Vec<u8>, bool), Vec<u8>> = BTreeMap::new();
    let entries = inventory.iter().map(|(path, entry)| {
        let first = firsts.entry((entry.same_as.clone(), is_inside(path)));
        let same_as = first.or_insert_with(|| path.clone()).clone();
        (path.clone(), Entry { same_as, ..entry.clone() })
    });
    entries.collect()
}

fn fields(wanted: &Entry, found: &Entry) -> String {
    let mut words = Vec::new();
    let mut differ = |name: &str, wanted: String, found: String| {
        if wanted != found {
            words.push(format!("{name} is {found}, should be {wanted}"));
        }
    };
    differ("kind", wanted.kind.to_string(), found.kind.to_string());
    differ("mode", format!("{:o}", wanted.mode), format!("{:o}", found.mode));
    differ("owner", format!("{:?}", wanted.owner), format!("{:?}", found.owner));
    differ("mtime", format!("{:?}", wanted.modified), format!("{:?}", found.modified));
    differ("size", wanted.size.to_string(), found.size.to_string());
    differ("content", format!("{:?}", wanted.content), format!("{:?}", found.content));
    differ("text", wanted.text.escape_ascii().to_string(), found.text.escape_ascii().to_string());
    differ("device", format!("{:?}", wanted.device), format!("{:?}", found.device));
    differ("first link", wanted.same_as.escape_ascii().to_string(), found.same_as.escape_ascii().to_string());
    let keys =
        wanted.attributes.keys().chain(found.attributes.keys().filter(|key| !wanted.attributes.contains_key(*key)));
    for key in keys {
        let value = |entry: &Entry| match entry.attributes.get(key) {
            Some(value) if value.len() <= 32 => value.escape_ascii().to_string(),
            Some(value) => format!("{} bytes {}…", value.len(), value[..24].escape_ascii()),
            None => "none".to_owned(),
        };
        if wanted.attributes.get(key) != found.attributes.get(key) {
            differ(&format!("attribute {}", key.escape_ascii()), value(wanted), value(found));
        }
    }
    words.join(", ")
}
