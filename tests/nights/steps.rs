//! Edits of one call each, so that nobody sees half of one, and each state that an entry was in.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use crate::edits::{Dress, Editor};
use crate::tree::compare::differences;
use crate::tree::inventory::{self, Entry, Inventory, Known};

/// What is written within a page, somebody sees as a whole.
const WHOLE_BYTES: usize = 4096;

impl Editor {
    /// One edit. What is to come or to go is made, and left, in `outside`, a folder of the same file system.
    pub fn step(&mut self, outside: &Path) -> String {
        let (path, at) = (self.any(), outside.join("made"));
        let (is_folder, is_file) = (path.is_dir() && !path.is_symlink(), path.is_file() && !path.is_symlink());
        match self.random.u8(..24) {
            0..=3 if !is_folder => {
                self.write(&at);
                fs::rename(&at, &path).unwrap();
                format!("another file {}", path.display())
            }
            0..=5 => {
                self.write(&at);
                self.put(&at)
            }
            6 => {
                fs::create_dir(&at).unwrap();
                self.write(&at.join("one"));
                fs::hard_link(at.join("one"), at.join("two")).unwrap();
                self.put(&at)
            }
            7 => self.make_link(),
            8 => self.make_other(),
            9 | 10 if self.is_free(&path) => {
                let gone = outside.join(format!("gone{}", self.random.u64(..)));
                fs::rename(&path, gone).unwrap();
                format!("remove {}", path.display())
            }
            11 | 12 => self.rename(&path),
            13..=17 => self.swap(&path),
            18 if is_file => {
                let file = fs::File::options().write(true).open(&path).unwrap();
                let bytes = usize::try_from(file.metadata().unwrap().size()).unwrap().min(WHOLE_BYTES);
                file.write_all_at(&self.bytes(bytes), 0).unwrap();
                format!("write {bytes} bytes to {}", path.display())
            }
            19 if is_file => {
                let bytes = self.bytes(WHOLE_BYTES);
                fs::File::options().append(true).open(&path).unwrap().write_all(&bytes).unwrap();
                format!("append to {}", path.display())
            }
            20 => self.dress(&path, Dress::Mode),
            21 => self.dress(&path, Dress::Owner),
            22 => self.dress(&path, Dress::Time),
            _ => self.dress(&path, Dress::Attribute),
        }
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.random.u8(..)).collect()
    }

    /// Whether it may have another name, or none: `workspace` is a folder.
    fn is_free(&self, path: &Path) -> bool {
        path != self.root && path != self.root.join("workspace")
    }

    fn put(&mut self, made: &Path) -> String {
        let path = self.free();
        fs::rename(made, &path).unwrap();
        format!("new {}", path.display())
    }

    /// Two entries get each other's names, whatever they are.
    fn swap(&mut self, path: &Path) -> String {
        let other = self.any();
        let is_apart = !path.starts_with(&other) && !other.starts_with(path);
        if is_apart && self.is_free(path) && self.is_free(&other) {
            renameat_with(CWD, path, CWD, &other, RenameFlags::EXCHANGE).unwrap();
        }
        format!("swap {} and {}", path.display(), other.display())
    }
}

/// Each state that an entry was in, by its path; none where it was not there.
pub struct History {
    root: PathBuf,
    known: Known,
    states: BTreeMap<Vec<u8>, Vec<Option<Entry>>>,
}

impl History {
    /// From now on.
    pub fn begin(root: PathBuf) -> Self {
        let mut history = Self { root, known: Known::new(), states: BTreeMap::new() };
        let now = inventory::of_folder_again(&history.root, &mut history.known);
        history.states = now.into_iter().map(|(path, entry)| (path, vec![Some(alone(entry))])).collect();
        history
    }

    /// After each edit.
    pub fn look(&mut self) {
        let mut now = inventory::of_folder_again(&self.root, &mut self.known);
        for (path, states) in &mut self.states {
            let state = now.remove(path).map(alone);
            if states.last() != Some(&state) {
                states.push(state);
            }
        }
        self.states.extend(now.into_iter().map(|(path, entry)| (path, vec![None, Some(alone(entry))])));
    }

    /// Where an image has what never was so, and no notice of the report tells.
    pub fn untold(&self, image: &Inventory, notices: &Value) -> Vec<String> {
        let mut untold = Vec::new();
        for path in self.states.keys().chain(image.keys().filter(|path| !self.states.contains_key(*path))) {
            let found = image.get(path).cloned().map(alone);
            let states = self.states.get(path).map_or(&[None][..], |states| states);
            if !states.contains(&found) && !is_told(path, notices) {
                let [state, found] = [states.last().cloned().flatten(), found]
                    .map(|entry| entry.into_iter().map(|entry| (path.clone(), entry)).collect());
                let words = differences(&state, &found).iter().map(ToString::to_string).collect::<String>();
                untold.push(format!("{words} ({} states)", states.len()));
            }
        }
        untold
    }
}

/// An entry without its other names, which may be there at another moment.
fn alone(entry: Entry) -> Entry {
    Entry { same_as: Vec::new(), ..entry }
}

/// By its name; of a folder that is gone, what was in it is not told of.
fn is_told(path: &[u8], notices: &Value) -> bool {
    let path = String::from_utf8_lossy(path);
    notices["named"].as_array().unwrap().iter().any(|notice| {
        let named = notice["path"].as_str().unwrap();
        let below = path.strip_prefix(named).filter(|_| notice["kind"] == "vanished");
        named == path || below.is_some_and(|rest| rest.starts_with('/'))
    })
}
