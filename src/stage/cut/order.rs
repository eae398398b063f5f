//! Names that are no folders', and what may not be where they are.
//!
//! A tar can have an entry below a link, and a name twice: unpacked in one go, the entry goes where the link leads, and the
//! last of a name counts. Layers are unpacked apart from each other and stacked: a link of an earlier layer is not there,
//! the way to the entry becomes a folder in its place, and what was behind the link is gone.

use std::collections::HashSet;

use super::ancestors::{HASH_BYTES, Held};
use super::entry::{Refusal, Resolved, quoted};
use super::{Cursor, Cutter, LayerSize, path, rule};
use crate::error::Error;
use crate::stage::header::Kind;

/// The names in one layer that are no folders', as hashes.
#[derive(Default)]
pub(super) struct Others {
    names: HashSet<u64>,
    symlinks: HashSet<u64>,
}

impl Others {
    /// Whether a hard link may point to `path`.
    pub(super) fn contains(&self, path: &[u8]) -> bool {
        self.names.contains(&rule::hash(path))
    }

    /// Those of `ancestors`, which the layer had no entries below before, that have to be there as folders: all but symlinks
    /// of this layer.
    pub(super) fn folders_only<'a>(
        &self,
        mut ancestors: Vec<&'a [u8]>,
        earlier: &HashSet<u64>,
    ) -> Result<Vec<&'a [u8]>, String> {
        if self.names.is_empty() && earlier.is_empty() {
            return Ok(ancestors);
        }
        let mut refused = None;
        ancestors.retain(|ancestor| {
            let hash = rule::hash(ancestor);
            if self.symlinks.contains(&hash) {
                return false;
            }
            if self.names.contains(&hash) {
                refused.get_or_insert_with(|| format!("it lies below {}, which is no folder", quoted(ancestor)));
            } else if earlier.contains(&hash) {
                let reason = || format!("it lies below {}, which is no folder, in an earlier layer", quoted(ancestor));
                refused.get_or_insert_with(reason);
            }
            true
        });
        refused.map_or(Ok(ancestors), Err)
    }

    /// The layer has this entry. `held` are its folders.
    pub(super) fn insert(&mut self, entry: &Resolved, held: &mut Held) -> Result<(), String> {
        let hash = rule::hash(&entry.path);
        if entry.is_directory {
            self.names.remove(&hash);
            self.symlinks.remove(&hash);
            held.insert(&entry.path);
            return Ok(());
        }
        if held.contains(&entry.path) && !self.symlinks.contains(&hash) {
            return Err("it takes the place of a folder, which who unpacks the tar may keep".to_owned());
        }
        held.forget(&entry.path);
        self.names.insert(hash);
        if entry.kind == Kind::Symlink {
            self.symlinks.insert(hash)
        } else {
            self.symlinks.remove(&hash)
        };
        Ok(())
    }

    /// What they take.
    pub(super) fn bytes(&self) -> usize {
        (self.names.capacity() + self.symlinks.capacity()) * HASH_BYTES
    }

    pub(super) fn into_names(self) -> HashSet<u64> {
        self.names
    }
}

impl Cutter {
    pub(super) fn out_of_order(&self, entry: &Resolved, reason: &str, cursor: &Cursor) -> Error {
        let error = self.refuse(&Refusal::of(&entry.name, reason), cursor);
        match self.options.layer_size {
            LayerSize::About(_) if self.layers > 1 => error.hint("leave --layer-size out, so that all is in one layer"),
            _ => error,
        }
    }

    pub(super) fn unreachable_link(&self, entry: &Resolved, target: &[u8], cursor: &Cursor) -> Error {
        let reason = format!(
            "it is a link to {}, which is in an earlier layer or in none; a layer must not link into another",
            quoted(target)
        );
        let own = |path: &[u8]| self.options.own_layers.iter().position(|folder| path::is_within(path, folder));
        let hint = match (own(&entry.path), own(target)) {
            (here, there) if here != there => {
                "/workspace has layers of its own: leave out one of the two with --exclude"
            }
            _ if self.options.own_layers.is_empty() => "leave --layer-size out, or freeze into one layer",
            _ => "unpack the tar and freeze the folder (dir:PATH): there, linked files come last",
        };
        self.refuse(&Refusal::of(&entry.name, &reason), cursor).hint(hint)
    }
}
