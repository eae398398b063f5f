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
pub mod flat;
mod framed;
pub mod index;
mod join;
pub mod list;
pub mod listing;
mod opening;
pub mod picker;
pub mod picks;
pub mod record;
mod records;
mod report;
mod sealed;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Seek as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::Error;
use crate::progress::Notices;
use crate::stage::cut::Placed;
use crate::stage::facts::Facts;
use compare::Moment;
use flat::Flat;
use index::{Artifact, Head, Kept};
pub use listing::Sample;
use listing::Tally;
use opening::FileId;
pub use opening::{Identity, Listed, Opening};
use picker::{Choice, Picker};
use record::{Body, Fate, Home, Reader, Stat, Writer};
pub use report::NightReport;

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

impl Wish {
    /// What is read again this time.
    #[must_use]
    pub fn sample(self) -> Sample {
        Sample { percent: self.reread_percent, seed: fastrand::u64(..) }
    }
}

/// One source's last image and its listing.
pub struct Night {
    path: PathBuf,
    /// What was at `path`; nothing is since [`Self::forget`].
    found: Option<FileId>,
    forgotten: OnceLock<()>,
    source: (String, String),
    before: Option<Head>,
    began: Moment,
    /// See [`Head::stored`].
    stored: Option<Moment>,
    list: File,
    tally: Tally,
    why_all: Option<String>,
    /// What an earlier freeze found and could not report in the end, or not in this way; and the number of the source's alarm,
    /// be it about this way or not, and since [`Self::keep_alarm`].
    alarm: Option<String>,
    alarm_number: Option<u64>,
    raised: OnceLock<u64>,
    /// Everything is read, be it to compare it.
    is_whole: bool,
    choice: OnceLock<Arc<Choice>>,
    told: Mutex<Told>,
}

/// What became of the entries of fresh layers.
enum Told {
    /// As the cut tells it, and where the next index's records go.
    Journal(Writer<File>, File),
    /// Those records, and the bytes of entries of each fresh layer.
    Joined(File, BTreeMap<u32, u64>),
    /// They could not be put together, and why.
    Lost(String),
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
        let first_fresh = self.first_fresh();
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

    /// Bytes of tar of what is alive in the layers that stay.
    #[must_use]
    pub fn kept_bytes(&self, choice: &Choice) -> u64 {
        let kept = self.tally.live.iter().filter(|(number, _)| choice.keeps(**number));
        kept.map(|(_, (_, bytes))| bytes).sum()
    }

    /// The layers that stay.
    #[must_use]
    pub fn kept(&self, choice: &Choice) -> Vec<Kept> {
        self.layers().iter().filter(|layer| choice.keeps(layer.number)).cloned().collect()
    }

    /// What is left out of the source.
    #[must_use]
    pub fn left_out(&self) -> &Notices {
        &self.tally.left_out
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

    /// What follows the walk that reads.
    ///
    /// # Errors
    /// When nothing was chosen yet, or the listing can't be read.
    pub fn picker(&self) -> io::Result<Picker> {
        let choice = self.choice.get().ok_or_else(|| io::Error::other("nothing was chosen"))?;
        Ok(Picker::new(Box::new(Reader::new(self.list()?)?), Arc::clone(choice)))
    }

    /// Writes what a walk elsewhere has to be told to follow, see [`picks`].
    ///
    /// # Errors
    /// When nothing was chosen yet, the listing can't be read, or `out` not be written.
    pub fn picks(&self, out: impl io::Write) -> io::Result<()> {
        let choice = self.choice.get().ok_or_else(|| io::Error::other("nothing was chosen"))?;
        picks::write(Reader::new(self.list()?)?, choice, out)
    }

    /// The cut has put an entry into a fresh layer, which is counted from 0.
    ///
    /// # Errors
    /// When the journal can't be written.
    pub fn note(&self, placed: &Placed, home: Home) -> io::Result<()> {
        let Facts { kind, mode, owner, modified, number } = placed.facts;
        let stat = Stat { kind, extra: placed.extra, mode, owner, modified, number, ..Stat::default() };
        let home = Some(home);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Told::Journal(journal, _) = &mut *told else { return Ok(()) };
        journal.write(&placed.path, &Body::Live { stat, home, fate: Fate::New })
    }

    /// Puts together what was listed and what the cut told, once: the next index's records, and the bytes of entries of
    /// each fresh layer.
    pub(crate) fn joined(&self) -> io::Result<(File, BTreeMap<u32, u64>)> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Told::Journal(..) = &*told
            && let Told::Journal(journal, records) = std::mem::replace(&mut *told, Told::Lost(String::new()))
        {
            *told = self.join(journal, records).unwrap_or_else(|error| Told::Lost(error.to_string()));
        }
        match &*told {
            Told::Joined(records, entry_bytes) => {
                let mut records = records.try_clone()?;
                records.rewind()?;
                Ok((records, entry_bytes.clone()))
            }
            Told::Lost(why) => Err(io::Error::other(format!("what was read can't be told: {why}"))),
            Told::Journal(..) => Err(io::Error::other("what was read was not told")),
        }
    }

    fn join(&self, journal: Writer<File>, records: File) -> io::Result<Told> {
        let choice = self.choice.get().ok_or_else(|| io::Error::other("nothing was chosen"))?;
        let journal = join::Journal::read(journal.finish()?)?;
        let entry_bytes = journal.entry_bytes.clone();
        let mut writer = Writer::new(records)?;
        join::Join::new(choice, journal, &mut writer).run(Reader::new(self.list()?)?)?;
        Ok(Told::Joined(writer.finish()?, entry_bytes))
    }

    /// What readers that know no marks must not see of each layer. All fresh layers have been cut.
    ///
    /// # Errors
    /// When what was noted can't be read.
    pub fn flat(&self) -> io::Result<Flat> {
        Flat::read(Reader::new(self.joined()?.0)?, self.first_fresh())
    }

    /// What was made of the last image, beside it.
    #[must_use]
    pub fn artifacts(&self) -> &[Artifact] {
        self.before.as_ref().map_or(&[], |head| &head.artifacts)
    }

    /// The number of the first fresh layer.
    #[must_use]
    pub fn first_fresh(&self) -> u32 {
        self.layers().last().map_or(0, |layer| layer.number + 1)
    }

    /// A file whose content was another than that of earlier images though nothing told so.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        alarm(self.alarm.as_deref(), &self.tally)
    }

    /// A failure of a freeze that found one says so, too.
    #[must_use]
    pub fn told(&self, error: Error) -> Error {
        tell(error, self.alarm())
    }

    /// If something was found, that is an alarm for the source in whatever way it is frozen: whatever becomes of this freeze,
    /// each one from here on reads everything and tells of it, until one of its way is complete.
    pub fn keep_alarm(&self) {
        let Some(path) = &self.tally.alarm else { return };
        if let Ok(number) = ways::raise(&self.path, &self.source.0, crate::text::name(path)) {
            let _ = self.raised.set(number);
        } else {
            // Without room for that, everything is read all the same.
            ways::forget(&self.path);
            self.forget();
        }
    }

    /// The next freeze is not to count on the last image.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = self.forgotten.set(());
    }

    /// Writes the index of the image that is complete now. `fresh` are its fresh layers, of which number and entries' bytes
    /// are filled in here, and `artifacts` were made of it. `is_replaced` says that some of what was read was another file
    /// than was listed.
    ///
    /// # Errors
    /// When it can't be written; the one before is still there. So is one that another freeze has written meanwhile, and
    /// none where that one found the index wrong.
    pub fn remember(&self, mut fresh: Vec<Kept>, artifacts: Vec<Artifact>, is_replaced: bool) -> io::Result<()> {
        let choice = self.choice.get().ok_or_else(|| io::Error::other("nothing was chosen"))?;
        let (mut records, entry_bytes) = self.joined()?;
        for (number, layer) in (0..).zip(&mut fresh) {
            layer.number = choice.first_fresh + number;
            layer.entry_bytes = entry_bytes.get(&number).copied().unwrap_or(0);
        }
        let since = self.before.as_ref().filter(|_| !self.is_whole && self.why_all.is_none());
        let nights = since.map_or(0, |head| head.nights + 1);
        let layers = self.kept(choice).into_iter().chain(fresh).collect();
        let doubtful_from = is_replaced.then_some(choice.first_fresh);
        let (source, began, stored) = (self.source.clone(), self.began, self.stored);
        let head = Head { source, began, stored, nights, layers, artifacts, doubtful_from };
        let _lock = ways::lock(&self.path);
        if FileId::at(&self.path) != self.found.filter(|_| self.forgotten.get().is_none()) {
            return Err(io::Error::other("another freeze of the same has written or removed one meanwhile"));
        }
        let alarm = ways::alarm(&self.path, &self.source.0);
        let known = self.raised.get().copied().or(self.alarm_number);
        if alarm.as_ref().is_some_and(|alarm| Some(alarm.number) != known) {
            return Err(io::Error::other("another freeze of the same has found an earlier image wrong meanwhile"));
        }
        index::write(&self.path, &head, &mut records)?;
        if let Some(alarm) = alarm {
            ways::settle(&self.path, alarm);
        }
        ways::make_room(&self.path);
        Ok(())
    }
}

/// What was found before, or else now.
fn alarm(before: Option<&str>, tally: &Tally) -> Option<String> {
    before.map(str::to_owned).or_else(|| tally.alarm.as_ref().map(|path| crate::text::name(path)))
}

fn tell(error: Error, alarm: Option<String>) -> Error {
    alarm.into_iter().fold(error, |error, path| error.hint(format!("besides, {}", report::in_words(&path))))
}

#[cfg(test)]
mod tests;
