//! An image beside this host's index of it: what is seen of its layers must be what was frozen, entry by entry.

use std::io;

use super::seen::{Covers, Found};
use crate::night::record::{Body, Reader, Stat};
use crate::stage::sum::Sum;
use crate::stage::walk::Entry;
use crate::text;

/// Differences that are told one by one.
const TOLD_MAX: usize = 100;

/// What was compared.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Entries of the index.
    pub(super) entries: u64,
    /// Those that are not as they were frozen, and others that can be seen.
    pub(super) faults: Vec<String>,
}

/// Compares all records of an index with what is seen.
pub(super) fn compare(mut index: Reader<impl io::Read>, seen: &mut Covers<'_>) -> io::Result<Compared> {
    let (mut compared, mut more, mut alive) = (Compared::default(), 0, Vec::new());
    while let Some(record) = index.take()? {
        let found = seen.at(&record.path);
        let fault = match record.body {
            Body::Live { stat, home, .. } => {
                compared.entries += 1;
                alive.clone_from(&record.path);
                match found {
                    None => Some("it is missing"),
                    Some(found) => difference(&stat, home.and_then(|home| home.check), &found),
                }
            }
            Body::Dead { .. } if alive == record.path => None,
            Body::Dead { .. } => found.map(|_| "it is there, and was gone when it was frozen"),
        };
        match fault {
            Some(_) if compared.faults.len() >= TOLD_MAX => more += 1,
            Some(fault) => compared.faults.push(format!("{}: {fault}", text::quoted(&record.path))),
            None => {}
        }
    }
    if more > 0 {
        compared.faults.push(format!("and {more} more entries"));
    }
    Ok(compared)
}

fn difference(stat: &Stat, check: Option<u64>, found: &Found) -> Option<&'static str> {
    if check.is_some_and(|check| found.check != Some(check)) {
        return Some("its content is not what was frozen");
    }
    // Of one that changed while it was read, the index says nothing else.
    if stat.inode == 0 {
        return None;
    }
    // A further name tells no kind.
    let is_link = stat.links > 1 && found.meta == meta(&Stat { kind: 0, number: (0, 0), ..*stat });
    if found.meta != meta(stat) && !is_link {
        return Some("its kind, permissions, owner or time are not what was frozen");
    }
    // Of a file with several names, one carries them.
    if stat.links == 1 && found.extra != short(stat.extra) {
        return Some("its attributes or the link's text are not what was frozen");
    }
    None
}

impl Found {
    /// What a tar says of an entry.
    pub(super) fn of(entry: &Entry) -> Self {
        let (facts, extra) = entry.facts();
        let kind = if entry.is_folder() { b'd' } else { facts.kind };
        let number = if matches!(kind, b'c' | b'b') { facts.number } else { (0, 0) };
        let (mode, owner, modified) = (facts.mode, facts.owner, facts.modified);
        let stat = Stat { kind, mode, owner, modified, number, ..Stat::default() };
        Self { meta: meta(&stat), extra: short(extra), check: None }
    }
}

fn meta(stat: &Stat) -> u32 {
    let mut sum = Sum::new();
    sum.update(&[stat.kind]);
    for number in [stat.mode, stat.owner.0, stat.owner.1, stat.modified.1, stat.number.0, stat.number.1] {
        sum.update(&number.to_le_bytes());
    }
    sum.update(&stat.modified.0.to_le_bytes());
    short(sum.finish())
}

fn short(sum: u64) -> u32 {
    u32::try_from((sum ^ (sum >> 32)) & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::night::record::{Fate, Home, Writer};
    use crate::stage::walk::Walk;
    use crate::stored::layer::Listen as _;
    use crate::stored::seen::{Hearing, Seen};

    /// Names with their contents; one that ends in a slash is a folder.
    fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_ustar();
            let kind = if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular };
            header.set_entry_type(kind);
            header.set_mode(0o640);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn stack(layers: &[Vec<u8>]) -> Seen {
        let seen = Arc::new(Mutex::new(Seen::default()));
        for (index, tar) in layers.iter().enumerate() {
            let mut hearing = Hearing::new(&seen, index, true);
            let mut walk = Walk::new(&tar[..]);
            while let Some(entry) = walk.next().unwrap() {
                hearing.entry(&entry).unwrap();
                let mut content = Vec::new();
                io::copy(&mut walk, &mut content).unwrap();
                hearing.content(&content);
            }
            hearing.end();
        }
        Arc::into_inner(seen).unwrap().into_inner().unwrap()
    }

    fn live(kind: u8, content: &str) -> Body {
        let mut sum = Sum::new();
        sum.update(content.as_bytes());
        let check = (!content.is_empty()).then(|| sum.finish());
        let stat = Stat { kind, mode: 0o640, links: 1, inode: 1, ..Stat::default() };
        Body::Live { stat, home: Some(Home { check, ..Home::default() }), fate: Fate::Kept }
    }

    const GONE: Body = Body::Dead { layer: 0, hidden: true, mark: false, folder: false };

    fn told(layers: &[Vec<u8>], index: &[(&str, Body)]) -> (u64, Vec<String>) {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for (path, body) in index {
            writer.write(path.as_bytes(), body).unwrap();
        }
        let (seen, index) = (stack(layers), writer.finish().unwrap());
        let mut covers = seen.covers();
        let entries = covers.entries().unwrap();
        (entries, compare(Reader::new(&index[..]).unwrap(), &mut covers).unwrap().faults)
    }

    #[test]
    fn what_lies_on_top_counts() {
        let lower = layer(&[
            ("a/", ""),
            ("a/x", "old"),
            ("a/gone", "g"),
            ("b/", ""),
            ("b/c/", ""),
            ("b/c/d", "d"),
            ("k/", ""),
            ("k/l", "l"),
            ("o/", ""),
            ("o/p", "p"),
        ]);
        let upper = layer(&[
            ("a/", ""),
            ("a/x", "new"),
            ("a/.wh.gone", ""),
            (".wh.b", ""),
            ("k", "file"),
            ("o/", ""),
            ("o/.wh..wh..opq", ""),
            ("o/q", "q"),
        ]);
        let top = layer(&[("b/", ""), ("b/back", "back")]);
        let index = [
            ("a", live(b'd', "")),
            ("a/gone", GONE),
            ("a/x", live(b'f', "new")),
            ("b", live(b'd', "")),
            ("b/back", live(b'f', "back")),
            ("b/c", GONE),
            ("b/c/d", GONE),
            ("k", live(b'f', "file")),
            ("k/l", GONE),
            ("o", live(b'd', "")),
            ("o/p", GONE),
            ("o/q", live(b'f', "q")),
        ];
        assert_eq!(told(&[lower.clone(), upper, top.clone()], &index), (7, Vec::new()));
        // Without the marks, what they deleted is told, and what they hid.
        let upper = layer(&[("a/x", "new"), ("k", "file"), ("o/q", "q")]);
        let (entries, faults) = told(&[lower, upper, top], &index);
        let there = |path: &str| format!("'{path}': it is there, and was gone when it was frozen");
        assert_eq!((entries, faults), (11, ["a/gone", "b/c", "b/c/d", "o/p"].map(there).to_vec()));
    }

    #[test]
    fn each_difference_is_named() {
        let stack = [layer(&[("a", "other"), ("b", "same"), ("c", "same")])];
        let (mut other, mut missing) = (live(b'f', "same"), live(b'l', ""));
        for body in [&mut other, &mut missing] {
            if let Body::Live { stat, .. } = body {
                stat.mode = 0o600;
            }
        }
        let index = [("a", live(b'f', "this")), ("b", other), ("c", live(b'f', "same")), ("d", missing)];
        let expected = [
            "'a': its content is not what was frozen",
            "'b': its kind, permissions, owner or time are not what was frozen",
            "'d': it is missing",
        ];
        assert_eq!(told(&stack, &index), (3, expected.map(str::to_owned).to_vec()));
    }
}
