//! What of a walk goes into fresh layers, told by the listing as the walk goes on; and the marks of what is gone.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::Arc;

use super::record::{Body, Fate, Home, Stat, walk_order};
use super::records::Records;
use crate::stage::cut::is_within;

/// Which layers stay, and so what has to be read.
#[derive(Debug, Default)]
pub struct Choice {
    /// Layers of the last image that are not in the next one.
    pub dropped: BTreeSet<u32>,
    /// None of them is: everything is read.
    pub(super) all: bool,
    /// See [`super::listing::Tally::fresh_links`].
    pub(super) fresh_links: HashSet<(u64, u64)>,
    /// The number of the first fresh layer.
    pub(super) first_fresh: u32,
}

impl Choice {
    /// Whether an entry's bytes go into a fresh layer.
    pub(super) fn is_fresh(&self, stat: &Stat, home: Option<&Home>, fate: Fate) -> bool {
        self.all
            || fate != Fate::Kept
            || home.is_none_or(|home| self.dropped.contains(&home.layer))
            || (stat.links > 1 && self.fresh_links.contains(&(stat.device, stat.inode)))
    }

    /// Whether a layer's part of a path is in the next image.
    pub(super) fn keeps(&self, layer: u32) -> bool {
        !self.all && !self.dropped.contains(&layer)
    }

    /// Whether what is hidden stays so: what hid it may be in a layer that goes.
    pub(super) fn stays_hidden(&self) -> bool {
        self.dropped.is_empty()
    }
}

/// Something between two entries of the walk.
#[derive(Debug, PartialEq, Eq)]
pub enum Gone {
    /// This path is to be deleted from the layers below.
    Deleted(Vec<u8>),
    /// It was listed, and is not there any more.
    Vanished(Vec<u8>),
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// It goes into a fresh layer.
    pub is_wanted: bool,
    /// It is another one than was listed: what is known of that one must not be paired with its bytes, for it may come back
    /// as it was.
    pub is_replaced: bool,
}

/// Follows a walk through the listing.
pub struct Picker {
    list: Box<dyn Records>,
    choice: Arc<Choice>,
    /// The entry that the walk saw last.
    last: Vec<u8>,
    /// The folders that lead to it, itself included, as lengths of their paths.
    folders: Vec<usize>,
    /// What was deleted last, and what was listed and not seen, the highest.
    deleted: Option<Vec<u8>>,
    unseen: Option<Vec<u8>>,
    /// The path that a layer which stays has marked last, and that layer.
    marked: Option<(Vec<u8>, u32)>,
    next: Option<Gone>,
}

impl Picker {
    pub(super) fn new(list: Box<dyn Records>, choice: Arc<Choice>) -> Self {
        Self {
            list,
            choice,
            last: Vec::new(),
            folders: Vec::new(),
            deleted: None,
            unseen: None,
            marked: None,
            next: None,
        }
    }

    /// What comes before `path` in the order of the walk; of the whole rest, where the walk has ended.
    ///
    /// # Errors
    /// When the listing can't be read.
    pub fn before(&mut self, path: Option<&[u8]>) -> io::Result<Option<Gone>> {
        if let Some(gone) = self.next.take() {
            return Ok(Some(gone));
        }
        while self.list.peek().is_some_and(|(other, _)| path.is_none_or(|path| walk_order(other, path).is_lt())) {
            let Some((path, bodies)) = self.group()? else { break };
            let deleted = self.deleted_above(&path, &bodies).map(Gone::Deleted);
            let is_live = bodies.iter().any(|body| matches!(body, Body::Live { .. }));
            let is_told = self.unseen.as_ref().is_some_and(|folder| is_within(&path, folder));
            if is_live && !is_told {
                self.unseen = Some(path.clone());
                self.next = deleted;
                return Ok(Some(Gone::Vanished(path)));
            }
            if deleted.is_some() {
                return Ok(deleted);
            }
        }
        Ok(None)
    }

    /// Whether `path`, to which the walk has come, was listed.
    #[must_use]
    pub fn lists(&self, path: &[u8]) -> bool {
        self.list.peek().is_some_and(|(other, body)| other == path && matches!(body, Body::Live { .. }))
    }

    /// All records of the next path.
    fn group(&mut self) -> io::Result<Option<(Vec<u8>, Vec<Body>)>> {
        let Some(first) = self.list.take()? else { return Ok(None) };
        let mut bodies = vec![first.body];
        while self.list.peek().is_some_and(|(other, _)| other == first.path) {
            bodies.extend(self.list.take()?.map(|record| record.body));
        }
        Ok(Some((first.path, bodies)))
    }

    /// What has to be deleted, so that nothing of layers that stay shows at `path`, where the walk has seen nothing.
    fn deleted_above(&mut self, path: &[u8], bodies: &[Body]) -> Option<Vec<u8>> {
        if self.marked.as_ref().is_some_and(|(folder, _)| !is_within(path, folder)) {
            self.marked = None;
        }
        // Of the folders above it alone: for what came with a mark of this very path.
        let above = self.marked.as_ref().map(|(_, layer)| *layer);
        let marks = bodies.iter().filter_map(|body| match body {
            Body::Dead { layer, mark: true, .. } if self.choice.keeps(*layer) => Some(*layer),
            _ => None,
        });
        let marked = marks.chain(above).max();
        if let Some(layer) = marked.filter(|layer| above.is_none_or(|above| above < *layer)) {
            self.marked = Some((path.to_vec(), layer));
        }
        if self.deleted.as_ref().is_some_and(|folder| is_within(path, folder)) {
            return None;
        }
        let gone = self.highest_gone(path)?;
        let shows = bodies.iter().any(|body| match body {
            // It was alive when it was listed.
            Body::Live { home, .. } => home.is_some_and(|home| self.choice.keeps(home.layer)),
            Body::Dead { layer, hidden, mark, .. } => {
                let stays = *hidden && self.choice.stays_hidden();
                // A mark is nothing to be seen, but the folders above it came with it.
                let (is_something, hides) = if *mark { (gone.len() < path.len(), above) } else { (true, marked) };
                self.choice.keeps(*layer) && is_something && !stays && hides.is_none_or(|hides| hides < *layer)
            }
        });
        if shows {
            self.deleted = Some(gone.clone());
        }
        shows.then_some(gone)
    }

    /// The highest folder above `path`, or `path` itself, that is not there; none where something else has its name, and
    /// hides what is below.
    fn highest_gone(&self, path: &[u8]) -> Option<Vec<u8>> {
        let is_above = |bytes: &&usize| is_within(path, &self.last[..**bytes]);
        let folder = self.folders.iter().rev().find(is_above).copied()?;
        let from = if folder == 0 { 0 } else { folder + 1 };
        let name = path.get(from..)?.split(|byte| *byte == b'/').next().filter(|name| !name.is_empty())?;
        let gone = &path[..from + name.len()];
        (self.last != gone).then(|| gone.to_vec())
    }

    /// What becomes of the entry that the walk is at. One that was not listed is wanted, and one that is another since; `now`
    /// is what it is, but for what [`Stat::extra`] is.
    ///
    /// # Errors
    /// When the listing can't be read.
    pub fn verdict(&mut self, path: &[u8], now: &Stat) -> io::Result<Verdict> {
        let mut verdict = Verdict { is_wanted: true, is_replaced: false };
        if self.list.peek().is_some_and(|(other, _)| other == path) {
            let bodies = self.group()?.map_or_else(Vec::new, |(_, bodies)| bodies);
            if let Some(Body::Live { stat, home, fate }) = bodies.first() {
                let is_another = Stat { extra: stat.extra, ..*now } != *stat;
                verdict.is_wanted = is_another || self.choice.is_fresh(stat, home.as_ref(), *fate);
                // All there is to a folder is in its header, by which the next index knows it.
                verdict.is_replaced = stat.inode != now.inode && stat.kind == now.kind && now.kind != b'd';
            }
        }
        while self.folders.last().is_some_and(|bytes| !is_within(path, &self.last[..*bytes])) {
            self.folders.pop();
        }
        self.last.clear();
        self.last.extend_from_slice(path);
        if now.kind == b'd' {
            self.folders.push(path.len());
        }
        Ok(verdict)
    }
}
