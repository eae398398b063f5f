//! A layer without what is dead in it. It is walked twice: what takes the place of a file whose own name is dead, while
//! links to it are not, has to be known when the file comes.

use std::collections::HashMap;
use std::io::{self, Read};

use super::layer::{Meaning, meaning};
use super::{Above, Fate, Foreign, Names, WAITING_BYTES_MAX, bounded};
use crate::stage::header::Kind;
use crate::stage::walk::{Entry, Walk};

/// Takes the entries that stay.
pub(crate) trait Output {
    /// An entry at `path`: as it came, or under another name, or with another file that it links to.
    fn put(&mut self, entry: &Entry, path: &[u8], changed: Option<&[u8]>, content: &mut dyn Read) -> io::Result<()>;
}

/// What the first walk found.
#[derive(Debug, Default)]
pub(crate) struct Rewrite {
    /// The name that a dead one's file gets.
    heirs: HashMap<Vec<u8>, Vec<u8>>,
    /// What dead links linked to.
    origins: HashMap<Vec<u8>, Vec<u8>>,
    /// Links of upper layers to files of this one.
    arrived: Vec<Foreign>,
}

/// The first walk: headers only.
pub(crate) fn look(tar: impl Read, above: &mut Above, names: &Names) -> io::Result<Rewrite> {
    let (mut found, mut walk, mut bytes) = (Rewrite::default(), Walk::new(tar), 0);
    while let Some(entry) = walk.next()? {
        let path = entry.path()?;
        if !matches!(meaning(&path), Meaning::Entry) {
            continue;
        }
        if entry.is_folder() {
            let name = above.hash(&path);
            if above.bare.contains(&name) && above.fate(&path, true) == Fate::Alive {
                above.bare.remove(&name);
                above.waiting_bytes += entry.head.len() + path.len();
                bounded(above.waiting_bytes, WAITING_BYTES_MAX, "bytes of folders to be told again")?;
                above.crown.push((path, entry.head));
            }
            continue;
        }
        if entry.kind != Kind::HardLink || names.is_foreign(&path) {
            continue;
        }
        let target = found.origin(entry.link_path()?);
        bytes += path.len() + target.len();
        bounded(bytes, WAITING_BYTES_MAX, "bytes of links to what is deleted")?;
        if above.fate(&path, false) == Fate::Dead {
            found.origins.insert(path, target);
        } else if above.fate(&target, false) == Fate::Dead {
            found.heirs.entry(target).or_insert(path);
        }
    }
    let waiting = std::mem::take(&mut above.waiting);
    for mut link in waiting {
        if !names.has(&link.target) {
            above.waiting.push(link);
            continue;
        }
        if let Some(further) = names.foreign.iter().find(|other| other.path == link.target) {
            link.target.clone_from(&further.target);
            above.waiting.push(link);
            continue;
        }
        link.target = found.origin(link.target);
        if above.fate(&link.target, false) == Fate::Dead {
            found.heirs.entry(link.target.clone()).or_insert_with(|| link.path.clone());
        }
        found.arrived.push(link);
    }
    Ok(found)
}

impl Rewrite {
    /// What a link to `target` links to in the end, where links between are dead.
    fn origin(&self, target: Vec<u8>) -> Vec<u8> {
        self.origins.get(&target).cloned().unwrap_or(target)
    }
}

/// The second walk: all that stays goes to `output`.
pub(crate) fn rewrite(
    tar: impl Read,
    found: &Rewrite,
    above: &Above,
    names: &Names,
    output: &mut impl Output,
) -> io::Result<()> {
    let mut walk = Walk::new(tar);
    while let Some(entry) = walk.next()? {
        let path = entry.path()?;
        if !matches!(meaning(&path), Meaning::Entry) {
            continue;
        }
        if let (false, Some(heir)) = (entry.is_folder(), found.heirs.get(&path)) {
            output.put(&entry, heir, None, &mut walk)?;
            continue;
        }
        if above.fate(&path, entry.is_folder()) == Fate::Dead {
            continue;
        }
        if entry.kind != Kind::HardLink {
            output.put(&entry, &path, None, &mut walk)?;
            continue;
        }
        if names.is_foreign(&path) {
            continue;
        }
        let target = found.origin(entry.link_path()?);
        let target = found.heirs.get(&target).unwrap_or(&target);
        if *target != path {
            output.put(&entry, &path, Some(target), &mut io::empty())?;
        }
    }
    for link in &found.arrived {
        let target = found.heirs.get(&link.target).unwrap_or(&link.target);
        if *target != link.path {
            output.put(&link.entry, &link.path, Some(target), &mut io::empty())?;
        }
    }
    walk.finish()
}
