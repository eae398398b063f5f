//! What this host packed before: a local store from diff_id and method to the blob that came of it, and to the repositories
//! that have it.
//!
//! It is filled by this host's own packing alone, never from what a registry says, so nobody can slip a blob in. Each
//! line carries a checksum of itself; a line that is damaged, or of another version, is as if it were not there. Losing
//! the store costs time and nothing else.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::oci::{Compression, Descriptor, DiffId, Digest};
use crate::stage::compress::Method;
use crate::stage::digest::DigestHasher;

/// The store is rewritten without outdated lines once it has more than this many bytes (about 20,000 layers).
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The store of one host, read once and appended to.
#[derive(Debug)]
pub struct KnownStore {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    path: Option<PathBuf>,
    found: HashMap<(DiffId, Method), Descriptor>,
    /// How layers that were too long to be held began.
    prefixes: HashSet<(DiffId, Method)>,
    /// `REGISTRY/REPOSITORY` of those that have a blob, the one that got it last first.
    places: HashMap<Digest, VecDeque<String>>,
}

enum Line {
    Layer((DiffId, Method), Descriptor),
    Prefix(DiffId, Method),
    Place(Digest, String),
}

impl KnownStore {
    /// The store at `path`. One that is missing or unreadable is empty, and one that can't be written forgets.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let (mut found, mut prefixes, mut places) =
            (HashMap::new(), HashSet::new(), HashMap::<Digest, VecDeque<String>>::new());
        let lines = File::open(path).map(BufReader::new).into_iter().flat_map(|file| file.split(b'\n'));
        for line in lines.map_while(Result::ok) {
            match std::str::from_utf8(&line).ok().and_then(parse_line) {
                Some(Line::Layer(key, descriptor)) => drop(found.insert(key, descriptor)),
                Some(Line::Prefix(prefix, method)) => drop(prefixes.insert((prefix, method))),
                Some(Line::Place(digest, place)) => places.entry(digest).or_default().push_front(place),
                None => {}
            }
        }
        let store = Self { state: Mutex::new(State { path: Some(path.to_owned()), found, prefixes, places }) };
        store.compact(path);
        store
    }

    /// A store that remembers nothing beyond this process.
    #[must_use]
    pub fn in_memory() -> Self {
        let (found, prefixes, places) = (HashMap::new(), HashSet::new(), HashMap::new());
        Self { state: Mutex::new(State { path: None, found, prefixes, places }) }
    }

    /// The blob that packing `diff_id` with `method` gave before.
    #[must_use]
    pub fn find(&self, diff_id: DiffId, method: Method) -> Option<Descriptor> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).found.get(&(diff_id, method)).cloned()
    }

    /// Remembers what packing `diff_id` with `method` gave. A store that can't be written to is no error.
    pub fn remember(&self, diff_id: DiffId, method: Method, descriptor: &Descriptor) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.found.insert((diff_id, method), descriptor.clone()).as_ref() == Some(descriptor) {
            return;
        }
        state.append(&layer_line(diff_id, method, descriptor));
    }

    /// Whether a layer that began with the bytes of `prefix` was packed with `method` before.
    #[must_use]
    pub fn expects(&self, prefix: DiffId, method: Method) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).prefixes.contains(&(prefix, method))
    }

    /// Remembers how a layer began that was too long to be held. Only a hint: nothing is ever taken to be known by it.
    pub fn expect(&self, prefix: DiffId, method: Method) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.prefixes.insert((prefix, method)) {
            state.append(&prefix_line(prefix, method));
        }
    }

    /// Another repository of `registry` than `repository` that was given this blob. Only a hint: it may be gone.
    #[must_use]
    pub fn repository_with(&self, digest: Digest, registry: &str, repository: &str) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let there = |place: &String| Some(place.strip_prefix(registry)?.strip_prefix('/')?.to_owned());
        state.places.get(&digest)?.iter().filter_map(there).find(|other| other != repository)
    }

    /// Remembers that a repository has this blob.
    pub fn is_in(&self, digest: Digest, registry: &str, repository: &str) {
        let place = format!("{registry}/{repository}");
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let places = state.places.entry(digest).or_default();
        if !places.contains(&place) {
            let line = place_line(digest, &place);
            places.push_front(place);
            state.append(&line);
        }
    }

    fn compact(&self, path: &Path) {
        if fs::metadata(path).map_or(0, |metadata| metadata.len()) <= FILE_BYTES_MAX {
            return;
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // What is dropped here costs one more packing; the newest half of the lines can't be told from the oldest.
        let layers = state.found.iter().map(|((diff_id, method), blob)| layer_line(*diff_id, *method, blob));
        let prefixes = state.prefixes.iter().map(|(prefix, method)| prefix_line(*prefix, *method));
        let places = state
            .places
            .iter()
            .flat_map(|(digest, places)| places.iter().rev().map(|place| place_line(*digest, place)));
        // What matters least comes last.
        let kept: String = prefixes.chain(layers).chain(places).collect();
        let kept = &kept[..kept.len().min(usize::try_from(FILE_BYTES_MAX / 2).unwrap_or(usize::MAX))];
        let Some(folder) = path.parent() else { return };
        if let Ok(mut file) = tempfile::NamedTempFile::new_in(folder)
            && file.write_all(kept.as_bytes()).is_ok()
        {
            let _ = file.persist(path);
        }
    }
}

impl State {
    fn append(&self, line: &str) {
        let Some(path) = &self.path else { return };
        if let Some(folder) = path.parent() {
            let _ = fs::create_dir_all(folder);
        }
        // One write of less than a page in append mode: freezes that run side by side don't mix their lines.
        if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

/// `layer <diff_id> <compression> <level> <digest> <size> <checksum>`: the checksum is over all that stands before it.
fn layer_line(diff_id: DiffId, method: Method, blob: &Descriptor) -> String {
    sealed(&format!("layer {diff_id} {} {} {} {}", method.compression, method.level, blob.digest, blob.size))
}

/// `prefix <diff_id> <compression> <level> <checksum>`.
fn prefix_line(prefix: DiffId, method: Method) -> String {
    sealed(&format!("prefix {prefix} {} {}", method.compression, method.level))
}

/// `place <digest> <registry>/<repository> <checksum>`.
fn place_line(digest: Digest, place: &str) -> String {
    sealed(&format!("place {digest} {place}"))
}

fn sealed(text: &str) -> String {
    format!("{text} {}\n", check(text))
}

fn check(text: &str) -> String {
    DigestHasher::of(text.as_bytes()).hex()[..16].to_owned()
}

fn parse_line(line: &str) -> Option<Line> {
    let (text, checksum) = line.rsplit_once(' ')?;
    if check(text) != checksum {
        return None;
    }
    let mut words = text.split(' ');
    let word = words.next()?;
    if word == "place" {
        return Some(Line::Place(words.next()?.parse().ok()?, words.next()?.to_owned()));
    }
    let diff_id = words.next()?.parse().ok()?;
    let compression = match words.next()? {
        "zstd" => Compression::Zstd,
        "gzip" => Compression::Gzip,
        "none" => Compression::None,
        _ => return None,
    };
    let method = Method { compression, level: words.next()?.parse().ok()? };
    if word == "prefix" {
        return Some(Line::Prefix(diff_id, method));
    }
    let digest = words.next()?.parse().ok()?;
    let size = words.next()?.parse().ok()?;
    let descriptor = Descriptor { media_type: compression.media_type().to_owned(), digest, size };
    (word == "layer").then_some(Line::Layer((diff_id, method), descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::digest::DiffIdHasher;

    fn sample(seed: u8) -> (DiffId, Method, Descriptor) {
        let mut hasher = DiffIdHasher::default();
        hasher.update(&[seed]);
        let media_type = Compression::Zstd.media_type().to_owned();
        let descriptor = Descriptor { media_type, digest: DigestHasher::of(&[seed, 1]), size: 7 };
        (hasher.finish().0, Method { compression: Compression::Zstd, level: 1 }, descriptor)
    }

    #[test]
    fn what_was_packed_is_found_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache/known");
        let (diff_id, method, descriptor) = sample(1);
        KnownStore::open(&path).remember(diff_id, method, &descriptor);
        let store = KnownStore::open(&path);
        assert_eq!(store.find(diff_id, method), Some(descriptor));
        assert_eq!(store.find(diff_id, Method { level: 3, ..method }), None, "another level is another blob");
    }

    #[test]
    fn where_a_blob_is_is_remembered_for_other_repositories_of_the_registry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known");
        let digest = sample(1).2.digest;
        for repository in ["team/a", "team/b", "team/a"] {
            KnownStore::open(&path).is_in(digest, "r.example:5000", repository);
        }
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
        let store = KnownStore::open(&path);
        let with = |registry, repository| store.repository_with(digest, registry, repository);
        assert_eq!(with("r.example:5000", "team/c").as_deref(), Some("team/b"), "the last one");
        assert_eq!(with("r.example:5000", "team/b").as_deref(), Some("team/a"));
        assert_eq!(with("r.example", "team/c"), None, "another registry");
        assert_eq!(store.repository_with(sample(2).2.digest, "r.example:5000", "team/c"), None);
    }

    #[test]
    fn a_damaged_line_is_as_if_it_were_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known");
        let samples: Vec<_> = (0..3).map(sample).collect();
        let store = KnownStore::open(&path);
        for (diff_id, method, blob) in &samples {
            store.remember(*diff_id, *method, blob);
        }
        let mut text = fs::read(&path).unwrap();
        let second = text.iter().position(|byte| *byte == b'\n').unwrap() + 100;
        text[second] ^= 1;
        text.extend_from_slice(b"\xff\xfenonsense\n1 half");
        fs::write(&path, &text).unwrap();
        let store = KnownStore::open(&path);
        let found: Vec<_> =
            samples.iter().map(|(diff_id, method, _)| store.find(*diff_id, *method).is_some()).collect();
        assert_eq!(found, [true, false, true]);
    }
}
