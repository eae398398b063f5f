//! The next index: the listing, and the journal of what the cut put into which fresh layer.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Seek as _, Write};

use super::picker::Choice;
use super::record::{Body, Fate, Home, Reader, Record, Stat, Writer, walk_order};
use crate::stage::cut::{WHITEOUT, is_within};

/// What a journal says of the fresh layers, besides its entries in their order.
pub(super) struct Journal {
    /// Its first records, which are in the order of a walk.
    ordered: Reader<File>,
    ordered_left: u64,
    /// The others, in that order: entries with several links come last.
    late: VecDeque<Record>,
    /// What was deleted, and the fresh layer that says so.
    pub(super) deleted: VecDeque<(Vec<u8>, u32)>,
    /// Bytes of the entries of each fresh layer.
    pub(super) entry_bytes: BTreeMap<u32, u64>,
}

impl Journal {
    pub(super) fn read(mut file: File) -> io::Result<Self> {
        file.rewind()?;
        let mut reader = Reader::new(file.try_clone()?)?;
        let (mut ordered_left, mut is_ordered, mut last) = (0, true, Vec::new());
        let (mut late, mut deleted, mut entry_bytes) = (Vec::new(), VecDeque::new(), BTreeMap::<u32, u64>::new());
        while let Some(record) = reader.take()? {
            let Body::Live { home: Some(home), .. } = record.body else { continue };
            if let Some(path) = deleted_by(&record.path) {
                deleted.push_back((path, home.layer));
                ordered_left += u64::from(is_ordered);
                continue;
            }
            *entry_bytes.entry(home.layer).or_default() += home.tar_bytes;
            is_ordered =
                is_ordered && (ordered_left == 0 || last.is_empty() || walk_order(&last, &record.path).is_lt());
            if is_ordered {
                ordered_left += 1;
                last = record.path;
            } else {
                late.push(record);
            }
        }
        // The last of a name counts, so it is the first that is met.
        late.reverse();
        late.sort_by(|one, other| walk_order(&one.path, &other.path));
        late.dedup_by(|second, first| second.path == first.path);
        file.rewind()?;
        let ordered = Reader::new(file)?;
        Ok(Self { ordered, ordered_left, late: late.into(), deleted, entry_bytes })
    }

    /// The path of the next entry.
    fn peek(&mut self) -> io::Result<Option<Vec<u8>>> {
        while self.ordered_left > 0 && self.ordered.peek().is_some_and(|(path, _)| deleted_by(path).is_some()) {
            self.ordered.take()?;
            self.ordered_left -= 1;
        }
        let early = self.ordered.peek().filter(|_| self.ordered_left > 0).map(|(path, _)| path);
        let late = self.late.front().map(|record| &record.path[..]);
        Ok(match (early, late) {
            (Some(early), Some(late)) if walk_order(late, early).is_lt() => Some(late.to_vec()),
            (Some(path), _) | (None, Some(path)) => Some(path.to_vec()),
            (None, None) => None,
        })
    }

    /// What is known of the entry at `path`, and where it went, if it is the next.
    fn take(&mut self, path: &[u8]) -> io::Result<Option<(Stat, Home)>> {
        let mut placed = None;
        while self.peek()?.is_some_and(|next| next == path) {
            let is_early = self.ordered_left > 0 && self.ordered.peek().is_some_and(|(early, _)| early == path);
            let record = if is_early {
                self.ordered_left -= 1;
                self.ordered.take()?
            } else {
                self.late.pop_front()
            };
            if let Some(Body::Live { stat, home: Some(home), .. }) = record.map(|record| record.body) {
                placed = Some((stat, home));
            }
        }
        Ok(placed)
    }
}

/// The path that an entry of this name deletes.
fn deleted_by(path: &[u8]) -> Option<Vec<u8>> {
    let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let name = path[at..].strip_prefix(WHITEOUT)?;
    Some([&path[..at], name].concat())
}

/// Whether an entry that was listed is what was placed, by what a tar says of it.
fn is_placed_as(listed: &Stat, placed: &Stat) -> bool {
    let number = if matches!(listed.kind, b'c' | b'b') { placed.number } else { (0, 0) };
    // One more name of a file that had one when it was listed is another since.
    (listed.kind == placed.kind || (placed.kind == 0 && listed.links > 1))
        && (listed.mode, listed.owner, listed.modified) == (placed.mode, placed.owner, placed.modified)
        && listed.number == number
}

/// Something in a layer that is not alive.
struct Dead {
    layer: u32,
    hidden: bool,
    mark: bool,
    folder: bool,
}

/// Writes the next index.
pub(super) struct Join<'a, W: Write> {
    pub(super) choice: &'a Choice,
    pub(super) journal: Journal,
    pub(super) out: &'a mut Writer<W>,
    /// What hides all below it: what was deleted last, and the last entry that is no folder.
    deleted: Option<Vec<u8>>,
    covers: Option<Vec<u8>>,
}

impl<'a, W: Write> Join<'a, W> {
    pub(super) fn new(choice: &'a Choice, journal: Journal, out: &'a mut Writer<W>) -> Self {
        Self { choice, journal, out, deleted: None, covers: None }
    }

    pub(super) fn run(mut self, mut list: Reader<impl io::Read>) -> io::Result<()> {
        loop {
            let listed = list.peek().map(|(path, _)| path.to_vec());
            let journaled = self.journal.peek()?;
            let deleted = self.journal.deleted.front().map(|(path, _)| path.clone());
            let next = [listed, journaled, deleted].into_iter().flatten().min_by(|one, other| walk_order(one, other));
            let Some(path) = next else { return Ok(()) };
            let mut records = Vec::new();
            while list.peek().is_some_and(|(other, _)| other == path) {
                records.extend(list.take()?.map(|record| record.body));
            }
            self.path(&path, &records)?;
        }
    }

    /// All that is known of one path.
    fn path(&mut self, path: &[u8], records: &[Body]) -> io::Result<()> {
        let fresh = self.fresh(path)?;
        let listed = records.iter().find_map(|body| match body {
            Body::Live { stat, home, fate } => Some((*stat, *home, *fate)),
            Body::Dead { .. } => None,
        });
        let is_marked = self.journal.deleted.front().is_some_and(|(deleted, _)| deleted == path);
        let mut dead = Vec::new();
        if is_marked {
            let layer = |layer| layer + self.choice.first_fresh;
            let mark = |(_, fresh)| Dead { layer: layer(fresh), hidden: true, mark: true, folder: false };
            dead.extend(self.journal.deleted.pop_front().map(mark));
            self.deleted = Some(path.to_vec());
        }
        let below = |folder: &Option<Vec<u8>>| folder.as_ref().is_some_and(|folder| is_within(path, folder));
        let is_covered = below(&self.deleted) || below(&self.covers);
        let live = match (listed, fresh) {
            (listed, Some((placed, home))) => {
                let before = listed.and_then(|(stat, before, _)| Some((before?.layer, stat.kind == b'd')));
                dead.extend(before.map(|(layer, folder)| Dead { layer, hidden: false, mark: false, folder }));
                // What came after the listing, or is another since, is read again: the index tells what is in the image.
                let is_same = |stat: &Stat| is_placed_as(stat, &placed);
                let unknown = Stat { kind: placed.kind, ..Stat::default() };
                let mut stat = listed.map(|(stat, ..)| stat).filter(is_same).unwrap_or(unknown);
                if stat.links == 1 {
                    // What came with its bytes: where those were to be read anyway, it was not asked for twice. If it is
                    // another since the listing, so is the time of the last change.
                    stat.extra = placed.extra;
                }
                self.covers = (placed.kind != b'd').then(|| path.to_vec());
                Some((stat, home))
            }
            (Some((stat, Some(home), fate)), None) if self.choice.keeps(home.layer) => {
                if is_covered {
                    // Listed, and gone when all was read.
                    dead.push(Dead { layer: home.layer, hidden: true, mark: false, folder: stat.kind == b'd' });
                    None
                } else {
                    // One that was to be read and could not be is in the image as it was before.
                    let is_same = !self.choice.is_fresh(&stat, Some(&home), fate);
                    self.covers = (stat.kind != b'd').then(|| path.to_vec());
                    let unknown = Stat { kind: stat.kind, ..Stat::default() };
                    Some((if is_same { stat } else { unknown }, home))
                }
            }
            (Some(_) | None, None) => None,
        };
        if let Some((stat, home)) = live {
            self.out.write(path, &Body::Live { stat, home: Some(home), fate: Fate::Kept })?;
        }
        for body in records {
            if let Body::Dead { layer, hidden, mark, folder } = body {
                let stays = *hidden && live.is_none() && self.choice.stays_hidden();
                dead.push(Dead { layer: *layer, hidden: stays, mark: *mark, folder: *folder });
            }
        }
        // Of a mark and an entry of one layer the mark is what counts: no layer has both.
        dead.sort_unstable_by_key(|dead| (dead.layer, !dead.mark));
        dead.dedup_by_key(|dead| dead.layer);
        for Dead { layer, hidden, mark, folder } in dead {
            if layer >= self.choice.first_fresh || self.choice.keeps(layer) {
                let hidden = hidden || (live.is_none() && is_covered);
                self.out.write(path, &Body::Dead { layer, hidden, mark, folder })?;
            }
        }
        Ok(())
    }

    fn fresh(&mut self, path: &[u8]) -> io::Result<Option<(Stat, Home)>> {
        let placed = self.journal.take(path)?;
        Ok(placed.map(|(stat, home)| (stat, Home { layer: home.layer + self.choice.first_fresh, ..home })))
    }
}
