//! A listing under way, beside the index of the last image if that is one of the same source.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use super::compare::Settled;
use super::list::{self, Answers, List, Questions, Totals};
use super::listing::{Entries as _, Listing, Terms};
use super::record::{Reader, Writer};
use super::records::Records;
use super::{Night, Sample, Told, alarm, tell, ways};
use crate::error::Error;

/// After so many nights everything is read and compared once.
const NIGHTS_MAX: u32 = 30;

/// What is read of a source, so that another reading can be told from the same one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// In words of its own.
    pub text: String,
    /// See [`super::compare::Rule::inodes_last`].
    pub inodes_last: bool,
}

/// A source that is listed.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Which one it is, among all that have its name.
    pub who: String,
    /// What is read of it and how, down to the form in which entries are written; or why that can't be told.
    pub identity: Result<Identity, String>,
    /// When the listing began, by the source's own clock.
    pub settled: Settled,
    /// What is read of it though it is unchanged.
    pub sample: Sample,
}

/// A listing that is to be made.
pub struct Opening {
    path: PathBuf,
    found: Option<FileId>,
    source: (String, String),
    terms: Terms,
    list: File,
    why_all: Option<String>,
    alarm: Option<String>,
    alarm_number: Option<u64>,
    is_stored: bool,
    listing: Listing,
}

impl Opening {
    /// Opens the index at `path`, if it is one of the same source. Temporary files go to `scratch`.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn new(path: &Path, listed: Listed, squash: bool, scratch: &Path) -> io::Result<Self> {
        let found = FileId::at(path);
        let (read, trouble) = match listed.identity {
            Ok(identity) => (identity, None),
            Err(trouble) => (Identity { text: String::new(), inodes_last: false }, Some(trouble)),
        };
        let (source, Settled { began, is_stored }) = ((listed.who, read.text), listed.settled);
        let raised = ways::alarm(path, &source.0);
        let alarm_number = raised.as_ref().map(|alarm| alarm.number);
        // Whatever else there is against going on from an index.
        let alarm = raised.filter(|alarm| alarm.is_about(path)).map(|alarm| alarm.file);
        let (before, why_all) = match ways::open(path, &source) {
            _ if alarm.is_some() => (None, alarm.as_deref().map(found_before).unwrap_or_default()),
            _ if trouble.is_some() => (None, trouble.unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && ways::is_awaited(path) => {
                (None, "it was not frozen in this way before".to_owned())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (None, "it was not frozen from here before".to_owned())
            }
            Err(error) => (None, format!("the index of the last freeze can't be used: {error}")),
            Ok((head, _)) if head.source.0 != source.0 => (None, "it was made anew since the last freeze".to_owned()),
            Ok((head, _)) if head.source != source => (None, "what is read, or how, has changed".to_owned()),
            Ok((head, _)) if head.began >= began => (None, "the clock was set back".to_owned()),
            Ok(_) if squash => (None, "--squash".to_owned()),
            Ok(found) => (Some(found), String::new()),
        };
        let why_all = Some(why_all).filter(|why| !why.is_empty());
        let list = tempfile::tempfile_in(scratch)?;
        let is_old = before.as_ref().is_some_and(|(head, _)| head.nights >= NIGHTS_MAX);
        let sample = if is_old { Sample { percent: 100, ..listed.sample } } else { listed.sample };
        let terms = Terms { began, inodes_last: read.inodes_last, sample };
        let before = before.map(|(head, reader)| (head, Box::new(reader) as Box<dyn Records>));
        let listing = Listing::new(before, terms, list.try_clone()?)?;
        Ok(Self { path: path.to_owned(), found, source, terms, list, why_all, alarm, alarm_number, is_stored, listing })
    }

    /// Whether an index for `path` may be gone on from.
    #[must_use]
    pub fn is_awaited(path: &Path) -> bool {
        ways::is_awaited(path)
    }

    /// A list that was made elsewhere. Writes to `questions` which files' content is still to be read there; where there are
    /// none, that was all, and this is what it adds up to. Temporary files go to `scratch`.
    ///
    /// # Errors
    /// When the list or the index can't be read, or something can't be written.
    pub fn see(&mut self, list: &List, questions: impl io::Write, scratch: &Path) -> io::Result<Option<Totals>> {
        let mut questions = Questions::new(questions)?;
        let totals = list::compare(list, &mut self.listing, |path, listing| {
            listing.answer_later();
            questions.add(path)
        })?;
        if questions.end()? == 0 {
            return Ok(Some(totals));
        }
        let ((head, reader), list) = (ways::open(&self.path, &self.source)?, tempfile::tempfile_in(scratch)?);
        let again = Listing::new(Some((head, Box::new(reader))), self.terms, list.try_clone()?)?;
        self.listing = again.after(&self.listing);
        self.list = list;
        Ok(None)
    }

    /// The list once more, with the `answers` to the `questions` about it.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn hear(&mut self, list: &List, questions: impl Read, answers: impl Read) -> io::Result<Totals> {
        let mut answers = Answers { questions: Reader::new(questions)?, answers };
        list::compare(list, &mut self.listing, |path, listing| {
            listing.answer(answers.to(path)?);
            Ok(())
        })
    }

    /// A failure that cuts the comparison short, with what was found by then; see [`Night::alarm`].
    #[must_use]
    pub fn told(&self, error: Error) -> Error {
        tell(error, alarm(self.alarm.as_deref(), self.listing.tally()))
    }

    /// Whether [`Self::told`] has anything to add.
    #[must_use]
    pub fn is_alarmed(&self) -> bool {
        alarm(self.alarm.as_deref(), self.listing.tally()).is_some()
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
        let (before, mut tally) = self.listing.end()?;
        if !tally.fresh_links.is_empty() {
            self.list.rewind()?;
            tally.part_links(Reader::new(&self.list)?)?;
        }
        let journal = Writer::new(tempfile::tempfile_in(scratch)?)?;
        let told = Mutex::new(Told::Journal(journal, tempfile::tempfile_in(scratch)?));
        Ok(Night {
            path: self.path,
            found: self.found,
            source: self.source,
            stored: if self.is_stored { Some(self.terms.began) } else { before.as_ref().and_then(|head| head.stored) },
            before,
            began: self.terms.began,
            list: self.list,
            forgotten: OnceLock::new(),
            raised: OnceLock::new(),
            why_all: self.why_all.or_else(|| tally.alarm.as_deref().map(found_now)),
            alarm: self.alarm,
            alarm_number: self.alarm_number,
            is_whole: self.terms.sample.percent >= 100,
            tally,
            choice: OnceLock::new(),
            told,
        })
    }
}

fn found_now(path: &[u8]) -> String {
    format!("{} has other bytes than it had, and nothing tells so", crate::text::quoted(path))
}

fn found_before(name: &str) -> String {
    format!("'{name}' had other bytes than it had, and nothing told so, found by a freeze that did not end")
}

/// Which file an index is: each is a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    inode: u64,
    changed: (i64, i64),
}

impl FileId {
    pub(super) fn at(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self { inode: file.ino(), changed: (file.ctime(), file.ctime_nsec()) })
    }
}
