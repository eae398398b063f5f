//! Nights: a freeze that reads and sends what has changed since the last one of the same source.
//!
//! ```text
//! walk ▸ listing ◂ index of the last image      what is unchanged, by the rule in `compare`
//!           ▼
//!        choice                                  which layers stay (`choose`)
//!           ▼
//! walk ▸ picker ▸ fresh layers, and marks of what is gone ▸ journal
//!           ▼
//!        join ▸ index of this image
//! ```
//!
//! The next image is the layers that stay, and the fresh ones on top. An index remembers all that those layers hold: what is
//! alive, where its bytes are; what is dead in them, and whether a later layer hides it. So whatever is dropped, it is known
//! what would come to light.

mod choose;
pub mod compare;
pub mod index;
mod join;
pub mod listing;
pub mod picker;
pub mod record;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::stage::cut::Placed;
use compare::Moment;
use index::{Draft, Head, Kept};
use listing::{Listing, Tally};
use picker::{Choice, Picker};
use record::{Body, Fate, Home, Reader, Stat, Writer};

/// After so many nights everything is read and compared once.
const NIGHTS_MAX: u32 = 30;

/// What a user says of reading again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The part of what is unchanged that is read all the same and compared, in percent.
    pub reread_percent: u8,
    /// Keep no layer.
    pub squash: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Self { reread_percent: 1, squash: false }
    }
}

/// One source's last image and its listing.
pub struct Night {
    path: PathBuf,
    /// What was at `path`.
    found: Option<FileId>,
    source: String,
    before: Option<Head>,
    began: Moment,
    list: File,
    tally: Tally,
    why_all: Option<String>,
    /// Everything is read, be it to compare it.
    is_whole: bool,
    choice: OnceLock<Arc<Choice>>,
    journal: Mutex<Option<Writer<File>>>,
}

/// A listing that is to be made.
pub struct Opening {
    path: PathBuf,
    found: Option<FileId>,
    source: String,
    began: Moment,
    list: File,
    why_all: Option<String>,
    is_whole: bool,
    listing: Listing,
}

impl Opening {
    /// Opens the index at `path`, if it is one of `source`: that is what was read and how, down to the form in which entries
    /// are written; or why that can't be told. `began` is by the source's own clock. Temporary files go to `scratch`.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn new(
        path: &Path,
        source: Result<String, String>,
        began: Moment,
        wish: Wish,
        scratch: &Path,
    ) -> io::Result<Self> {
        let found = FileId::at(path);
        let (source, trouble) = source.map_or_else(|trouble| (String::new(), Some(trouble)), |source| (source, None));
        let (before, why_all) = match index::open(path) {
            _ if trouble.is_some() => (None, trouble.unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (None, "it was not frozen from here before".to_owned())
            }
            Err(error) => (None, format!("the index of the last freeze can't be used: {error}")),
            Ok((head, _)) if head.source != source => (None, "what is read, or how, has changed".to_owned()),
            Ok((head, _)) if head.began >= began => (None, "the clock was set back".to_owned()),
            Ok(_) if wish.squash => (None, "--squash".to_owned()),
            Ok(found) => (Some(found), String::new()),
        };
        let why_all = Some(why_all).filter(|why| !why.is_empty());
        let list = tempfile::tempfile_in(scratch)?;
        let is_old = before.as_ref().is_some_and(|(head, _)| head.nights >= NIGHTS_MAX);
        let reread_percent = if is_old { 100 } else { wish.reread_percent };
        let before = before.map(|(head, reader)| (head, Box::new(reader) as Box<dyn listing::ReadRecords>));
        let listing = Listing::new(before, began, list.try_clone()?, reread_percent)?;
        Ok(Self {
            path: path.to_owned(),
            found,
            source,
            began,
            list,
            why_all,
            is_whole: reread_percent >= 100,
            listing,
        })
    }

    /// What the walk is told to.
    pub fn listing(&mut self) -> &mut Listing {
        &mut self.listing
    }

    /// The walk has ended. Temporary files go to `scratch`.
    ///
    /// # Errors
    /// When there is no room for them, or the index can't be read.
    pub fn end(mut self, scratch: &Path) -> io::Result<Night> {
        let (before, _, tally) = self.listing.end()?;
        if tally.alarm.is_some() {
            // Whatever becomes of this freeze, the next one is not to count on it.
            std::fs::remove_file(&self.path)?;
            self.found = None;
        }
        let journal = Writer::new(tempfile::tempfile_in(scratch)?)?;
        Ok(Night {
            path: self.path,
            found: self.found,
            source: self.source,
            before,
            began: self.began,
            list: self.list,
            why_all: self.why_all.or_else(|| alarm(&tally)),
            is_whole: self.is_whole,
            tally,
            choice: OnceLock::new(),
            journal: Mutex::new(Some(journal)),
        })
    }
}

/// Which file an index is: each is a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    inode: u64,
    changed: (i64, i64),
}

impl FileId {
    fn at(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self { inode: file.ino(), changed: (file.ctime(), file.ctime_nsec()) })
    }
}

fn alarm(tally: &Tally) -> Option<String> {
    let path = tally.alarm.as_ref()?;
    Some(format!("{} has other bytes than it had, and nothing tells so", crate::text::quoted(path)))
}

impl Night {
    /// The layers of the last image, the lowest first.
    #[must_use]
    pub fn layers(&self) -> &[Kept] {
        self.before.as_ref().map_or(&[], |head| &head.layers)
    }

    /// Which layers would stay. Those in `missing` don't, since an output has lost them. `layer_bytes` is what fresh layers
    /// have, about.
    #[must_use]
    pub fn choice(&self, missing: BTreeSet<u32>, layer_bytes: u64) -> Choice {
        let live = |layer: &Kept| self.tally.live.get(&layer.number).map_or(0, |(_, bytes)| *bytes);
        let candidates = self.layers().iter().map(|layer| choose::Candidate::new(layer, live(layer))).collect();
        let dropped = choose::dropped(candidates, missing, self.tally.fresh_bytes, layer_bytes);
        let all = self.why_all.is_some() || dropped.len() == self.layers().len();
        let first_fresh = self.layers().last().map_or(0, |layer| layer.number + 1);
        Choice { dropped, all, fresh_links: self.tally.fresh_links.clone(), first_fresh }
    }

    /// Decides, once, which layers stay; see [`Self::choice`].
    pub fn choose(&self, missing: BTreeSet<u32>, layer_bytes: u64) -> Arc<Choice> {
        Arc::clone(self.choice.get_or_init(|| Arc::new(self.choice(missing, layer_bytes))))
    }

    /// Bytes of tar, about, that are to be read.
    #[must_use]
    pub fn fresh_bytes(&self, choice: &Choice) -> u64 {
        let gone = self.tally.live.iter().filter(|(number, _)| !choice.keeps(**number));
        self.tally.fresh_bytes + gone.map(|(_, (_, bytes))| bytes).sum::<u64>()
    }

    /// The layers that stay.
    #[must_use]
    pub fn kept(&self, choice: &Choice) -> Vec<Kept> {
        self.layers().iter().filter(|layer| choice.keeps(layer.number)).cloned().collect()
    }

    /// Whether anything has to be read or deleted.
    #[must_use]
    pub fn has_work(&self, choice: &Choice) -> bool {
        let Tally { new, changed, doubtful, gone, .. } = self.tally;
        choice.all || !choice.dropped.is_empty() || new + changed + doubtful + gone > 0
    }

    fn list(&self) -> io::Result<File> {
        let mut list = self.list.try_clone()?;
        list.rewind()?;
        Ok(list)
    }

    /// What follows the walk that reads; none where that takes everything.
    ///
    /// # Errors
    /// When nothing was chosen yet, or the listing can't be read.
    pub fn picker(&self) -> io::Result<Option<Picker>> {
        let choice = self.choice.get().ok_or_else(|| io::Error::other("nothing was chosen"))?;
        if choice.all { Ok(None) } else { Picker::new(self.list()?, Arc::clone(choice)).map(Some) }
    }

    /// The cut has put an entry into a fresh layer, which is counted from 0.
    ///
    /// # Errors
    /// When the journal can't be written.
    pub fn note(&self, placed: &Placed, home: Home) -> io::Result<()> {
        let kind = if placed.is_folder { b'd' } else { b'f' };
        let (stat, home) = (Stat { kind, extra: placed.extra, ..Stat::default() }, Some(home));
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(journal) = journal.as_mut() else { return Ok(()) };
        journal.write(&placed.path, &Body::Live { stat, home, fate: Fate::New })
    }

    /// Writes the index of the image that is complete now. `fresh` are its fresh layers, of which number and entries' bytes
    /// are filled in here.
    ///
    /// # Errors
    /// When it can't be written; the one before is still there. So is one that another freeze has written meanwhile, and
    /// none where that one found the index wrong.
    pub fn remember(&self, mut fresh: Vec<Kept>) -> io::Result<()> {
        if FileId::at(&self.path) != self.found {
            return Err(io::Error::other("another freeze of the same has written or removed one meanwhile"));
        }
        let choice = self.choice.get().ok_or_else(|| io::Error::other("nothing was chosen"))?;
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).take();
        let journal = join::Journal::read(journal.ok_or_else(|| io::Error::other("the journal is gone"))?.finish()?)?;
        for (number, layer) in (0..).zip(&mut fresh) {
            layer.number = choice.first_fresh + number;
            layer.entry_bytes = journal.entry_bytes.get(&number).copied().unwrap_or(0);
        }
        let since = self.before.as_ref().filter(|_| !self.is_whole && self.why_all.is_none());
        let nights = since.map_or(0, |head| head.nights + 1);
        let layers = self.kept(choice).into_iter().chain(fresh).collect();
        let head = Head { source: self.source.clone(), began: self.began, nights, layers };
        let mut draft = Draft::begin(&self.path, &head)?;
        join::Join::new(choice, journal, draft.writer()).run(Reader::new(self.list()?)?)?;
        draft.publish(&self.path)
    }
}

/// What a night did, for people and as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NightReport {
    /// Entries that are there.
    pub listed: u64,
    /// Those that were neither read nor written again.
    pub kept: u64,
    /// Those that were not there at the last freeze.
    pub new: u64,
    /// Those that something tells have changed.
    pub changed: u64,
    /// Those that nobody can tell of: they changed in the moment of the last listing, or will in the future.
    pub doubtful: u64,
    /// Those of which that was so until they were read: they are the same.
    #[serde(default)]
    pub cleared: u64,
    /// Those that are unchanged and were read again, because their layer was written anew.
    pub rewritten: u64,
    /// Those that are unchanged and were read and compared.
    pub sampled: u64,
    /// Those that are gone.
    pub deleted: u64,
    /// Layers of the last image that are in this one.
    pub layers_kept: u64,
    /// Layers of the last image that are not.
    pub layers_dropped: u64,
    /// Bytes of tar, about, of what is there.
    #[serde(default)]
    pub live_bytes: u64,
    /// Bytes of tar, about, in the kept layers of what is not there any more, or has other bytes.
    #[serde(default)]
    pub dead_bytes: u64,
    /// Why everything was read, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_all: Option<String>,
    /// A file whose content changed though nothing tells so: it was kept in earlier images and was not right there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// Why the next freeze does not go on from this one: its index could not be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl NightReport {
    /// Of a night with this choice.
    #[must_use]
    pub fn new(night: &Night, choice: &Choice) -> Self {
        let tally = &night.tally;
        let rewritten = if choice.all {
            tally.live.values().map(|(entries, _)| entries).sum()
        } else {
            choice.dropped.iter().filter_map(|number| tally.live.get(number)).map(|(entries, _)| entries).sum()
        };
        let kept = tally.listed - tally.new - tally.changed - tally.doubtful - rewritten;
        let kept_layers = night.kept(choice);
        let layers_kept = kept_layers.len() as u64;
        let of_layer = |layer: &Kept| tally.live.get(&layer.number).map_or(0, |(_, bytes)| *bytes);
        let kept_bytes: u64 = kept_layers.iter().map(of_layer).sum();
        let all_bytes: u64 = kept_layers.iter().map(|layer| layer.entry_bytes).sum();
        Self {
            live_bytes: night.fresh_bytes(choice) + kept_bytes,
            dead_bytes: all_bytes.saturating_sub(kept_bytes),
            listed: tally.listed,
            kept,
            new: tally.new,
            changed: tally.changed,
            doubtful: tally.doubtful,
            cleared: tally.cleared,
            rewritten,
            sampled: tally.sampled,
            deleted: tally.gone,
            layers_kept,
            layers_dropped: night.layers().len() as u64 - layers_kept,
            why_all: night.why_all.clone(),
            alarm: tally.alarm.as_ref().map(|path| crate::text::name(path)),
            trouble: None,
        }
    }
}

impl std::fmt::Display for NightReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(why) = &self.why_all {
            return write!(f, "{} entries, all of them read: {why}", self.listed);
        }
        write!(f, "{} entries, {} kept, {} new, {} changed", self.listed, self.kept, self.new, self.changed)?;
        for (count, what) in [(self.doubtful, "in doubt"), (self.rewritten, "rewritten"), (self.deleted, "deleted")] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        let (kept, all) = (self.layers_kept, self.layers_kept + self.layers_dropped);
        write!(f, "; {kept} of {all} layers kept, {} files compared", self.sampled + self.cleared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A night of an empty folder, that began at `second`.
    fn night(path: &Path, second: i64) -> Night {
        let scratch = path.parent().unwrap();
        let source = Ok("a folder".to_owned());
        let mut opening = Opening::new(path, source, (second, 0), Wish::default(), scratch).unwrap();
        opening.listing().see(b"", Stat { kind: b'd', links: 1, ..Stat::default() }, 512);
        let night = opening.end(scratch).unwrap();
        night.choose(BTreeSet::new(), 1 << 20);
        night
    }

    #[test]
    fn what_another_freeze_wrote_or_removed_stays_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let [first, late] = [night(&path, 100), night(&path, 101)];
        first.remember(Vec::new()).unwrap();
        let written = std::fs::read(&path).unwrap();
        assert!(late.remember(Vec::new()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), written);
        let late = night(&path, 103);
        std::fs::remove_file(&path).unwrap();
        assert!(late.remember(Vec::new()).is_err() && !path.exists());
        night(&path, 104).remember(Vec::new()).unwrap();
        let next = night(&path, 105);
        assert!(next.why_all.is_none(), "{:?}", next.why_all);
    }
}
