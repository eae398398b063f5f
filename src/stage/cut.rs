//! Cutting one tar into layers, at entry borders that the content chooses.
//!
//! An entry's headers are read and its bytes passed on as slices of what came in. Where a layer ends is decided by a
//! hash of the next entry's path, weighted with its size, between a least and a most size: a tree that changed in one
//! place is cut the same way everywhere else, with no state kept. Every layer is a complete tar: the directories above
//! its entries come first, two zero blocks end it, and no hard link in it points out of it.
//!
//! The input is untrusted: a name that would leave the root or delete something in another layer, a header that two
//! readers could read differently, and a stream that ends early are errors, never a short image.

use std::collections::HashSet;

use bytes::Bytes;

use super::header::BLOCK_BYTES;
use crate::error::{Error, Result};
use crate::exclude::Exclude;

mod ancestors;
mod end;
pub(super) mod entry;
mod journal;
mod marks;
mod order;
pub(super) mod path;
pub(super) mod rule;

use ancestors::{Directories, HASH_BYTES, Held};
use end::END_MARK;
pub(super) use end::EndMark;
use entry::{Pending, Read, Resolved};
use journal::Journal;
pub use journal::Placed;
use order::Others;
pub use path::{WHITEOUT, is_within};
pub use rule::{LAYERS_MAX, LayerSize};

use super::sparse::ContentMap;

/// The folder that smolvm mounts its own over, as a path for [`CutOptions::own_layers`].
pub const WORKSPACE: &[u8] = b"workspace";

/// What a cut is made with.
#[derive(Debug, Clone, Default)]
pub struct CutOptions {
    /// Where layers may end.
    pub layer_size: LayerSize,
    /// Entries to leave out.
    pub exclude: Exclude,
    /// A stream of more bytes than this, with those that count besides, is refused; none by default.
    pub tar_bytes_max: Option<u64>,
    /// Bytes of what is in the image already, and counts.
    pub tar_bytes_kept: u64,
    /// From this byte of the tar on, everything is one layer, which begins there.
    pub whole_from: Option<u64>,
    /// Folders that get layers of their own, as paths without a slash at either end. No link may cross their border.
    pub own_layers: Vec<Vec<u8>>,
    /// Nobody knows whether an entry lies below something else than a folder: names are remembered past their layer, in up
    /// to 18 bytes each. Of a folder that was walked, or a tar that was scanned, it is known.
    pub unordered: bool,
    /// The layers go on top of others: marks of deletions are wanted, and so many layers are there already.
    pub on_top_of: Option<u64>,
    /// What went where is to be told, see [`Cutter::journal`].
    pub journal: bool,
}

/// What comes out of a cut, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CutPiece {
    /// A layer begins.
    Begin {
        /// Every entry of the layer lies below `/workspace`, which got layers of its own.
        workspace: bool,
    },
    /// The next bytes of the layer: a part of the chunk that was taken.
    Bytes(Bytes),
    /// The next bytes of the layer, which are in no chunk: directories that come again, an entry's headers that came in
    /// several chunks, the end mark.
    Own(Bytes),
    /// The layer is complete.
    End,
}

/// What a whole tar held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutSummary {
    /// Entries that went into layers.
    pub entries: u64,
    /// Those of them below `/workspace`.
    pub workspace_entries: u64,
    /// Different directories among them.
    pub directories: u64,
    /// Bytes of the tar.
    pub tar_bytes: u64,
}

/// Where pieces go.
type Emit<'a> = &'a mut dyn FnMut(CutPiece) -> Result<()>;

/// Takes tar bytes in chunks of any size and hands on layers.
pub struct Cutter {
    options: CutOptions,
    state: State,
    /// The entry whose headers are being read.
    pending: Pending,
    /// Header bytes of that entry that came in earlier chunks.
    earlier: Vec<u8>,
    layer: Option<OpenLayer>,
    /// Layers that began.
    layers: u64,
    directories: Directories,
    /// Hashes of the names that were no folders' in the layers that ended, if somebody has to know.
    earlier_others: HashSet<u64>,
    /// Hashes of the whiteouts that were left out: links to them are, too.
    whiteouts: HashSet<u64>,
    unmarked: Vec<Vec<u8>>,
    journal: Journal,
    /// Bytes before the current chunk.
    offset: u64,
    entries: u64,
    workspace_entries: u64,
}

/// What the next bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Headers,
    /// Content and padding of an entry.
    Content {
        left: u64,
        keep: bool,
        name: Vec<u8>,
        /// A sparse map that it begins with, until that is complete.
        map: Option<Box<ContentMap>>,
    },
    End(EndMark),
}

/// The layer that is being written.
#[derive(Default)]
struct OpenLayer {
    /// Bytes of its entries, repeated ancestors not counted.
    entry_bytes: u64,
    held: Held,
    others: Others,
    /// Which of the folders with own layers it is for.
    own: Option<usize>,
}

/// Positions in the chunk at hand: `..run` was handed on, `run..headers` is decided and waits, `headers..at` are headers
/// of an entry that is not.
#[derive(Default)]
struct Cursor {
    run: usize,
    headers: usize,
    at: usize,
}

impl Cutter {
    /// A cutter at the start of a tar.
    #[must_use]
    pub fn new(options: CutOptions) -> Self {
        Self {
            layers: options.on_top_of.unwrap_or(0),
            options,
            state: State::Headers,
            pending: Pending::default(),
            earlier: Vec::new(),
            layer: None,
            directories: Directories::default(),
            earlier_others: HashSet::new(),
            whiteouts: HashSet::new(),
            unmarked: Vec::new(),
            journal: Journal::default(),
            offset: 0,
            entries: 0,
            workspace_entries: 0,
        }
    }

    /// Takes the next bytes of the tar.
    ///
    /// # Errors
    /// [`crate::error::Kind::Source`] with the entry's name where the tar can't become layers; what `emit` returns.
    pub fn push(&mut self, chunk: &Bytes, emit: Emit) -> Result<()> {
        let mut cursor = Cursor::default();
        while cursor.at < chunk.len() {
            let rest = &chunk[cursor.at..];
            match &mut self.state {
                State::Content { left, keep, name, map } => {
                    let now = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if let Some(sparse) = map {
                        let taken = sparse.take(&rest[..now]);
                        let refused = |reason| entry::Refusal::of(name, reason).error(self.offset);
                        if taken.map_err(refused)? {
                            *map = None;
                        }
                    }
                    self.journal.take(&rest[..now]);
                    *left -= now as u64;
                    cursor.at += now;
                    cursor.headers = cursor.at;
                    if !*keep {
                        cursor.run = cursor.at;
                    }
                    if *left == 0 {
                        self.state = State::Headers;
                        self.journal.end_content();
                    }
                }
                State::Headers => {
                    let (now, read) = self.pending.read(rest).map_err(|refusal| self.refuse(&refusal, &cursor))?;
                    cursor.at += now;
                    match read {
                        Read::More => {}
                        Read::Entry(mut entry) => {
                            if let Some(path) = self.options.on_top_of.and_then(|_| path::of_whiteout(&entry.name)) {
                                (entry.path, entry.hostile) = (path, None);
                            }
                            self.entry(chunk, &mut cursor, &entry, emit)?;
                        }
                        Read::ZeroBlock => {
                            hand_on(chunk, cursor.run..cursor.headers, emit)?;
                            self.earlier.clear();
                            (cursor.run, cursor.headers) = (cursor.at, cursor.at);
                            self.state = State::End(EndMark::begun());
                        }
                    }
                }
                State::End(end) => {
                    end.take(rest, self.offset + cursor.at as u64)?;
                    cursor.at = chunk.len();
                    (cursor.run, cursor.headers) = (cursor.at, cursor.at);
                }
            }
        }
        hand_on(chunk, cursor.run..cursor.headers, emit)?;
        if cursor.headers < chunk.len() {
            self.earlier.extend_from_slice(&chunk[cursor.headers..]);
        }
        self.count(chunk.len() as u64)
    }

    /// Bytes of the tables that grow with the tar: every directory, and the names of the layer that is open.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        let layer = self.layer.as_ref().map_or(0, |layer| layer.held.bytes() + layer.others.bytes());
        let names = (self.earlier_others.capacity() + self.whiteouts.capacity()) * HASH_BYTES;
        self.directories.bytes() + layer + names + self.earlier.capacity()
    }

    /// Entries since the last call of which overlayfs's own marks are in no layer: left out where they are one, or without
    /// the attributes that are.
    pub fn unmarked(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.unmarked)
    }

    /// Where entries went that are complete, since the last call; none unless it is asked for.
    pub fn journal(&mut self) -> impl Iterator<Item = Placed> + '_ {
        self.journal.complete()
    }

    /// The tar has ended; so does the last layer.
    ///
    /// # Errors
    /// Where it ended before its end mark.
    pub fn finish(mut self, emit: Emit) -> Result<CutSummary> {
        let cut_off = |subject: String, reason: String| {
            Err(Error::source("reading the tar", subject, format!("{reason}; it was cut off")))
        };
        match &self.state {
            State::End(end) if end.is_whole() => {}
            State::Content { left, name, .. } => {
                return cut_off(entry::quoted(name), format!("the stream ends {left} bytes before the entry does"));
            }
            _ => {
                return cut_off(
                    format!("byte {}", self.offset),
                    "the stream ends before the archive's end mark".to_owned(),
                );
            }
        }
        self.open_layer(None, emit)?;
        self.end_layer(emit)?;
        Ok(CutSummary {
            entries: self.entries,
            workspace_entries: self.workspace_entries,
            directories: self.directories.len() as u64,
            tar_bytes: self.offset,
        })
    }

    /// An entry's headers are complete: decide what becomes of it.
    fn entry(&mut self, chunk: &Bytes, cursor: &mut Cursor, entry: &Resolved, emit: Emit) -> Result<()> {
        let refuse = |reason: &str| self.refuse(&entry::Refusal::of(&entry.name, reason), cursor);
        let excluded = self.options.exclude.matches_within(&entry.path)
            || self.options.exclude.matches_within(entry::lenient(&entry.name));
        if let Some(reason) = entry.hostile.filter(|_| !excluded) {
            return Err(refuse(reason));
        }
        let unmarked = !excluded && self.is_whiteout(entry);
        if unmarked || (entry.overlay_marks && !excluded) {
            self.unmarked.push(entry.path.clone());
        }
        let skip = excluded || unmarked;
        if skip {
            hand_on(chunk, cursor.run..cursor.headers, emit)?;
            self.earlier.clear();
            (cursor.run, cursor.headers) = (cursor.at, cursor.at);
        } else {
            if entry.overlay_marks {
                hand_on(chunk, cursor.run..cursor.headers, emit)?;
                self.earlier.extend_from_slice(&chunk[cursor.headers..cursor.at]);
                self.earlier = marks::without_attributes(&self.earlier);
                (cursor.run, cursor.headers) = (cursor.at, cursor.at);
            }
            if entry.is_directory {
                self.directories.insert(&entry.path, &[&self.earlier, &chunk[cursor.headers..cursor.at]]);
            }
            self.place(chunk, cursor, entry, emit)?;
            self.entries += 1;
            self.workspace_entries +=
                u64::from(path::is_within(&entry.path, WORKSPACE) && entry.path.len() > WORKSPACE.len());
        }
        let content = padded(entry.size);
        if content > 0 {
            let map = entry.map.clone().filter(|_| !skip);
            if self.options.journal && !skip {
                self.journal.begin_content(entry.size);
            }
            self.state = State::Content { left: content, keep: !skip, name: entry.name.clone(), map };
        }
        Ok(())
    }

    /// Puts the entry into the layer it belongs to, behind the ancestors it needs.
    fn place(&mut self, chunk: &Bytes, cursor: &mut Cursor, entry: &Resolved, emit: Emit) -> Result<()> {
        let own = self.options.own_layers.iter().position(|folder| path::is_within(&entry.path, folder));
        let entry_bytes = entry.header_bytes + padded(entry.size);
        let begins_at = self.offset + cursor.at as u64 - entry.header_bytes;
        let ends = self.layer.as_ref().is_some_and(|layer| match self.options.whole_from {
            _ if own != layer.own => true,
            Some(whole_from) if begins_at >= whole_from => begins_at == whole_from,
            _ => {
                let size = self.options.layer_size;
                entry.link.is_none() && size.ends_before(&entry.path, entry_bytes, self.layers, layer.entry_bytes)
            }
        });
        if ends && self.layers == LAYERS_MAX {
            let reason = "it wants one more layer than runtimes take; the tar goes in and out of /workspace too often";
            return Err(self.refuse(&entry::Refusal::of(&entry.name, reason), cursor));
        }
        let mut interrupted = false;
        if ends || self.layer.is_none() {
            hand_on(chunk, cursor.run..cursor.headers, emit)?;
            interrupted = true;
            if ends {
                self.end_layer(emit)?;
            }
            self.open_layer(own, emit)?;
        }
        let Some(layer) = self.layer.as_mut() else { return Ok(()) };
        if let Some(target) = &entry.link
            && !layer.others.contains(target)
        {
            return Err(self.unreachable_link(entry, target, cursor));
        }
        let missing = layer.held.missing(&entry.path);
        let missing = layer.others.folders_only(missing, &self.earlier_others);
        let missing = missing.and_then(|missing| layer.others.insert(entry, &mut layer.held).map(|()| missing));
        let missing = match missing {
            Ok(missing) => missing,
            Err(reason) => return Err(self.out_of_order(entry, &reason, cursor)),
        };
        if entry.is_directory && self.options.unordered {
            self.earlier_others.remove(&rule::hash(&entry.path));
        }
        for path in missing {
            let Some(blocks) = self.directories.header_blocks(path) else { continue };
            if !interrupted {
                hand_on(chunk, cursor.run..cursor.headers, emit)?;
                interrupted = true;
            }
            emit(CutPiece::Own(blocks.into()))?;
        }
        layer.entry_bytes += entry_bytes;
        if self.options.journal {
            let layer = self.layers - 1 - self.options.on_top_of.unwrap_or(0);
            self.journal.place(entry, layer, entry_bytes);
        }
        if interrupted || !self.earlier.is_empty() {
            if !self.earlier.is_empty() {
                emit(CutPiece::Own(std::mem::take(&mut self.earlier).into()))?;
            }
            cursor.run = cursor.headers;
        }
        cursor.headers = cursor.at;
        Ok(())
    }

    fn open_layer(&mut self, own: Option<usize>, emit: Emit) -> Result<()> {
        if self.layer.is_none() {
            self.layer = Some(OpenLayer { own, ..OpenLayer::default() });
            self.layers += 1;
            let workspace = own.is_some_and(|own| self.options.own_layers[own] == WORKSPACE);
            emit(CutPiece::Begin { workspace })?;
        }
        Ok(())
    }

    fn end_layer(&mut self, emit: Emit) -> Result<()> {
        let layer = self.layer.take();
        if self.options.unordered {
            self.earlier_others.extend(layer.into_iter().flat_map(|layer| layer.others.into_names()));
        }
        emit(CutPiece::Own(Bytes::from_static(&END_MARK)))?;
        emit(CutPiece::End)
    }

    fn count(&mut self, bytes: u64) -> Result<()> {
        self.offset += bytes;
        check_size(self.options.tar_bytes_max, self.options.tar_bytes_kept, self.offset)
    }

    /// Names the byte where the entry's headers begin, in whatever chunk they came.
    fn refuse(&self, refusal: &entry::Refusal, cursor: &Cursor) -> Error {
        refusal.error(self.offset + cursor.headers as u64 - self.earlier.len() as u64)
    }
}

/// Refuses an image of more than `most` bytes of tar, with those that are kept in it.
pub(crate) fn check_size(most: Option<u64>, kept: u64, tar_bytes: u64) -> Result<()> {
    let Some(most) = most.filter(|most| kept.saturating_add(tar_bytes) > *most) else { return Ok(()) };
    let with = if kept > 0 { format!(", with {kept} that the last image has already,") } else { String::new() };
    let reason = format!("the tar{with} has more than {most} bytes");
    let error = Error::source("reading the tar", format_args!("byte {}", most.saturating_sub(kept)), reason);
    Err(error.hint("raise --max-size if that is right"))
}

fn hand_on(chunk: &Bytes, range: std::ops::Range<usize>, emit: Emit) -> Result<()> {
    if range.is_empty() { Ok(()) } else { emit(CutPiece::Bytes(chunk.slice(range))) }
}

pub(super) fn padded(size: u64) -> u64 {
    size.saturating_add(BLOCK_BYTES as u64 - 1) & !(BLOCK_BYTES as u64 - 1)
}

#[cfg(test)]
mod tests;
