//! The listing: each entry of a walk, beside what the index says of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::compare::{Moment, Rule};
use super::index::Head;
use super::record::{Body, Fate, Home, Reader, Record, Stat, Writer, walk_order};
use super::records::Records;
use crate::progress::{NoticeKind, Notices};

/// What a listing counted.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Entries that are there.
    pub listed: u64,
    /// Of these: not in the index, other than there, and such as nobody can tell.
    pub new: u64,
    /// See [`Self::new`].
    pub changed: u64,
    /// See [`Self::new`].
    pub doubtful: u64,
    /// Entries of the index that are not there.
    pub gone: u64,
    /// Bytes of tar, about, of those that are new, changed or doubtful.
    pub fresh_bytes: u64,
    /// Those that are unchanged, and their bytes of tar, by their layer.
    pub live: BTreeMap<u32, (u64, u64)>,
    /// Files that were in doubt, were read and are the same.
    pub cleared: u64,
    /// Files that were read though they are unchanged, and compared.
    pub sampled: u64,
    /// One of them that was another.
    pub alarm: Option<Vec<u8>>,
    /// What no image has.
    pub left_out: Notices,
    /// Inodes with several links of which a name is not unchanged: then none is.
    pub fresh_links: HashSet<(u64, u64)>,
    /// Names of these that are unchanged.
    pub linked: u64,
}

impl Tally {
    /// Unchanged names that are read with another one don't count as such. All that was listed is in `list`.
    pub(super) fn part_links(&mut self, mut list: Reader<impl Read>) -> io::Result<()> {
        while let Some(record) = list.take()? {
            let Body::Live { stat, home: Some(home), fate: Fate::Kept } = record.body else { continue };
            if stat.links > 1 && self.fresh_links.contains(&(stat.device, stat.inode)) {
                let (entries, live_bytes) = self.live.entry(home.layer).or_default();
                (*entries, *live_bytes) = (entries.saturating_sub(1), live_bytes.saturating_sub(home.tar_bytes));
                self.fresh_bytes += home.tar_bytes;
                self.linked += 1;
            }
        }
        Ok(())
    }
}

/// A listing under way.
pub struct Listing {
    before: Option<(Head, Box<dyn Records>)>,
    terms: Terms,
    out: Writer<File>,
    tally: Tally,
    asked: Option<Seen>,
    /// Files with several names that were in doubt and are the same: device and inode, and the inode that they had.
    cleared_links: HashMap<(u64, u64), u64>,
    /// Why there is no listing in the end.
    trouble: Option<io::Error>,
}

/// How a listing compares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// When the walk began.
    pub(super) began: Moment,
    /// See [`Rule::inodes_last`].
    pub(super) inodes_last: bool,
    /// What is read though it is unchanged.
    pub(super) sample: Sample,
}

impl Terms {
    fn rule(&self, before: &Head) -> Rule {
        // Where nothing is known to have been stored, everything is in doubt.
        let then = before.stored.unwrap_or((i64::MIN, 0));
        Rule { then, began: self.began, inodes_last: self.inodes_last }
    }
}

/// Who hears of the entries of a walk, in its order.
pub trait Entries {
    /// Whether the attributes and the link's text of the entry that the walk has come to are needed ([`Stat::extra`]): where
    /// `stat` tells already that it is read, they come with its bytes. Of a file with several names only one is read.
    fn asks_for_extra(&mut self, path: &[u8], stat: &Stat) -> bool;

    /// The walk has come to an entry, which takes about `tar_bytes`. Where its content is to be read, [`Self::answer`] has to
    /// follow. Whatever goes wrong is told at the end.
    fn see(&mut self, path: &[u8], stat: Stat, tar_bytes: u64) -> bool;

    /// What the checksum of the content is that was asked for; none if it can't be read, or changed meanwhile.
    fn answer(&mut self, found: Option<u64>);

    /// The walk has come to something that is left out.
    fn left_out(&mut self, _kind: NoticeKind, _path: &[u8]) {}
}

/// Files whose content is read and compared though nothing tells that it has changed. Each is drawn by its path alone, so
/// that whoever lists a source elsewhere draws the same ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// How many of a hundred.
    pub percent: u8,
    /// Decides which.
    pub seed: u64,
}

/// The first file up to this size is read, whichever are drawn.
const FIRST_BYTES_MAX: u64 = 16 << 20;

impl Sample {
    /// Whether the file at `path` is drawn, or `is_first` of all that could be.
    pub(super) fn has(self, path: &[u8], stat: &Stat, is_first: bool) -> bool {
        let is_drawn = || XxHash3_64::oneshot_with_seed(self.seed, path) % 100 < self.percent.into();
        is_first && stat.size_bytes <= FIRST_BYTES_MAX || is_drawn()
    }
}

/// An entry, and what the index has at its path.
#[derive(Default)]
struct Seen {
    path: Vec<u8>,
    stat: Stat,
    home: Option<Home>,
    fate: Fate,
    /// The inode that it had.
    inode_before: u64,
    dead: Vec<Body>,
    tar_bytes: u64,
}

impl Listing {
    /// Into `out`, beside the index `before`.
    pub(super) fn new(before: Option<(Head, Box<dyn Records>)>, terms: Terms, out: File) -> io::Result<Self> {
        let (out, tally, cleared_links) = (Writer::new(out)?, Tally::default(), HashMap::new());
        Ok(Self { before, terms, out, tally, asked: None, cleared_links, trouble: None })
    }

    /// One that begins again: what `earlier` found stays found.
    pub(super) fn after(mut self, earlier: &Self) -> Self {
        self.tally.alarm.clone_from(&earlier.tally.alarm);
        self
    }

    fn fail(&mut self, error: io::Error) -> bool {
        self.trouble = Some(error);
        false
    }

    fn try_see(&mut self, path: &[u8], stat: Stat, tar_bytes: u64) -> io::Result<bool> {
        self.pass(Some(path))?;
        let mut seen = Seen { path: path.to_vec(), stat, tar_bytes, fate: Fate::New, ..Seen::default() };
        if let Some((head, index)) = &mut self.before {
            let rule = self.terms.rule(head);
            while index.peek().is_some_and(|(other, _)| other == path) {
                match index.take()?.map(|record| record.body) {
                    Some(Body::Live { stat: before, home, .. }) => {
                        (seen.home, seen.fate, seen.inode_before) = (home, rule.fate(&before, &stat), before.inode);
                        let is_doubtful = |home: Home| head.doubtful_from.is_some_and(|from| from <= home.layer);
                        if seen.fate == Fate::Kept && stat.kind == b'f' && home.is_some_and(is_doubtful) {
                            seen.fate = Fate::Doubtful;
                        }
                        // What it was is another thing, and its layer has nothing of what it is.
                        let was_folder = before.kind == b'd';
                        if was_folder != (stat.kind == b'd') {
                            seen.dead.extend(seen.home.take().map(|home| dead(home.layer, was_folder)));
                        }
                    }
                    Some(body @ Body::Dead { .. }) => seen.dead.push(body),
                    None => break,
                }
            }
        }
        let has_check = seen.home.is_some_and(|home| home.check.is_some());
        let cleared = self.cleared_links.get(&(stat.device, stat.inode));
        if seen.fate == Fate::Doubtful && !has_check && cleared == Some(&seen.inode_before) {
            // Another name of a file that is the same: of those, the first alone has content.
            self.tally.cleared += 1;
            seen.fate = Fate::Kept;
        }
        let is_asked = has_check
            && match seen.fate {
                Fate::Kept => self.terms.sample.has(path, &stat, self.tally.sampled == 0),
                Fate::Doubtful => true,
                Fate::New | Fate::Changed => false,
            };
        if is_asked {
            self.asked = Some(seen);
        } else {
            self.write(&seen)?;
        }
        Ok(is_asked)
    }

    /// The answer comes later: until then it is as if the content were the same.
    pub(super) fn answer_later(&mut self) {
        let expected = self.asked.as_ref().and_then(|seen| seen.home?.check);
        Entries::answer(self, expected);
    }

    fn try_answer(&mut self, mut seen: Seen, found: Option<u64>) -> io::Result<()> {
        let is_same = found.is_some() && found == seen.home.and_then(|home| home.check);
        if seen.fate == Fate::Doubtful {
            self.tally.cleared += u64::from(is_same);
            seen.fate = if is_same { Fate::Kept } else { Fate::Changed };
            if is_same && seen.stat.links > 1 {
                self.cleared_links.insert((seen.stat.device, seen.stat.inode), seen.inode_before);
            }
        } else if found.is_some() {
            self.tally.sampled += 1;
            if !is_same {
                self.tally.alarm = Some(seen.path.clone());
            }
        }
        self.write(&seen)
    }

    fn write(&mut self, seen: &Seen) -> io::Result<()> {
        let Seen { path, stat, home, fate, dead, tar_bytes, .. } = seen;
        self.count(stat, home.map(|home| (home.layer, home.tar_bytes)), *fate, *tar_bytes);
        self.out.write(path, &Body::Live { stat: *stat, home: *home, fate: *fate })?;
        dead.iter().try_for_each(|body| self.out.write(path, body))
    }

    fn count(&mut self, stat: &Stat, home: Option<(u32, u64)>, fate: Fate, tar_bytes: u64) {
        let tally = &mut self.tally;
        tally.listed += 1;
        match fate {
            Fate::Kept => {
                if let Some((layer, bytes)) = home {
                    let (entries, live_bytes) = tally.live.entry(layer).or_default();
                    (*entries, *live_bytes) = (*entries + 1, *live_bytes + bytes);
                }
                return;
            }
            Fate::New => tally.new += 1,
            Fate::Changed => tally.changed += 1,
            Fate::Doubtful => tally.doubtful += 1,
        }
        tally.fresh_bytes = tally.fresh_bytes.saturating_add(tar_bytes);
        // Where nothing is kept, nothing is asked of them.
        if stat.links > 1 && self.before.is_some() {
            tally.fresh_links.insert((stat.device, stat.inode));
        }
    }

    /// The index's entries that come before `path`, or all, are not there.
    fn pass(&mut self, path: Option<&[u8]>) -> io::Result<()> {
        let Some((_, index)) = &mut self.before else { return Ok(()) };
        while index.peek().is_some_and(|(other, _)| path.is_none_or(|path| walk_order(other, path).is_lt())) {
            let Some(Record { path, body }) = index.take()? else { break };
            let body = match body {
                Body::Live { stat, home, .. } => {
                    self.tally.gone += 1;
                    let Some(home) = home else { continue };
                    dead(home.layer, stat.kind == b'd')
                }
                dead @ Body::Dead { .. } => dead,
            };
            self.out.write(&path, &body)?;
        }
        Ok(())
    }

    /// What was counted so far.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The walk has ended.
    pub(super) fn end(mut self) -> io::Result<(Option<Head>, Tally)> {
        if let Some(trouble) = self.trouble {
            return Err(trouble);
        }
        self.pass(None)?;
        self.out.finish()?;
        Ok((self.before.map(|(head, _)| head), self.tally))
    }
}

/// What a layer has of an entry that is not there any more.
fn dead(layer: u32, folder: bool) -> Body {
    Body::Dead { layer, hidden: false, mark: false, folder }
}

impl Entries for Listing {
    fn left_out(&mut self, kind: NoticeKind, path: &[u8]) {
        self.tally.left_out.add(kind, path);
    }

    fn asks_for_extra(&mut self, path: &[u8], stat: &Stat) -> bool {
        if self.trouble.is_none()
            && let Err(error) = self.pass(Some(path))
        {
            self.fail(error);
        }
        let before = self.before.as_ref().filter(|_| self.trouble.is_none());
        let is_same = before.is_some_and(|(head, index)| match index.peek() {
            Some((other, Body::Live { stat: before, .. })) if other == path => {
                let now = Stat { extra: before.extra, ..*stat };
                self.terms.rule(head).fate(before, &now) != Fate::Changed
            }
            _ => false,
        });
        is_same || stat.links > 1
    }

    fn see(&mut self, path: &[u8], stat: Stat, tar_bytes: u64) -> bool {
        self.trouble.is_none() && self.try_see(path, stat, tar_bytes).unwrap_or_else(|error| self.fail(error))
    }

    fn answer(&mut self, found: Option<u64>) {
        let Some(seen) = self.asked.take() else { return };
        if let Err(error) = self.try_answer(seen, found) {
            self.fail(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_read_with_another_one_is_none_that_is_kept() {
        let link = |inode| Stat { kind: b'f', links: 2, inode, device: 7, ..Stat::default() };
        let home = Home { layer: 3, tar_bytes: 1_024, check: None };
        let mut writer = Writer::new(Vec::new()).unwrap();
        let records = [("a", 1, Fate::Kept), ("b", 1, Fate::Doubtful), ("c", 2, Fate::Kept), ("d", 2, Fate::Kept)];
        for (path, inode, fate) in records {
            let body = Body::Live { stat: link(inode), home: Some(home), fate };
            writer.write(path.as_bytes(), &body).unwrap();
        }
        let list = writer.finish().unwrap();
        let mut tally = Tally { fresh_links: HashSet::from([(7, 1)]), fresh_bytes: 1_024, ..Tally::default() };
        tally.live.insert(3, (3, 3 * 1_024));
        tally.part_links(Reader::new(&list[..]).unwrap()).unwrap();
        assert_eq!((tally.linked, tally.fresh_bytes, tally.live[&3]), (1, 2_048, (2, 2_048)));
    }
}
