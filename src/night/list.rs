//! A listing that is made in a guest, where the source is: written there, read here, where it is untrusted.
//!
//! ```text
//! "smolfreeze list 2\n"    the format
//! length of the head       4 bytes, little-endian
//! head                     JSON, see [`Head`]
//! records                  one frame of zstd, see [`super::record`]; of a home, the bytes of tar alone
//! what is left out         JSON, see [`Notices`]
//! length of that           4 bytes, little-endian
//! ```
//! Some files' content is asked for by path, in the order of the list, and each is answered with nine bytes: whether it
//! could be read, and its checksum.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write};

use serde::{Deserialize, Serialize};

use super::compare::Settled;
use super::framed::{self, damaged};
use super::listing::Entries;
use super::record::{Body, Fate, Home, Reader, Stat, Writer, walk_order};
use super::{Identity, Sample, listing};
use crate::progress::{NoticeKind, Notices};

/// What a list begins with.
pub const MAGIC: &[u8] = b"smolfreeze list 2\n";

/// More than this no disk holds, so that no sum of such numbers is too large for its own.
const TAR_BYTES_MAX: u64 = 1 << 50;

/// What is left out is told without names where those would be longer.
const LEFT_OUT_BYTES_MAX: usize = 4 << 20;

/// What a list says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// When the listing began.
    pub settled: Settled,
    /// What was listed, or why nobody can tell whether a file there has changed.
    pub identity: Result<Identity, String>,
}

/// Writes a list.
pub struct Lister {
    out: Writer<BufWriter<File>>,
    sample: Option<Sample>,
    has_read: bool,
    asked: Option<(Vec<u8>, Stat, Home)>,
    left_out: Notices,
    trouble: io::Result<()>,
}

impl Lister {
    /// Into `out`. Where there is something to compare with, attributes are told of, and what is in the files of `sample`.
    ///
    /// # Errors
    /// When that can't be written.
    pub fn begin(out: File, head: &Head, sample: Option<Sample>) -> io::Result<Self> {
        let mut out = BufWriter::new(out);
        framed::write(&mut out, MAGIC, head)?;
        let (out, left_out) = (Writer::new(out)?, Notices::default());
        Ok(Self { out, sample, has_read: false, asked: None, left_out, trouble: Ok(()) })
    }

    fn put(&mut self, path: &[u8], stat: Stat, home: Home) {
        if self.trouble.is_ok() {
            self.trouble = self.out.write(path, &Body::Live { stat, home: Some(home), fate: Fate::Kept });
        }
    }

    /// The walk has ended.
    ///
    /// # Errors
    /// When something could not be written.
    pub fn end(self) -> io::Result<()> {
        self.trouble?;
        let mut out = self.out.finish()?;
        let mut told = serde_json::to_vec(&self.left_out)?;
        if told.len() > LEFT_OUT_BYTES_MAX {
            told = serde_json::to_vec(&self.left_out.first_names(0))?;
        }
        out.write_all(&told)?;
        out.write_all(&u32::try_from(told.len()).map_err(|_| damaged())?.to_le_bytes())?;
        out.flush()
    }
}

impl Entries for Lister {
    fn asks_for_extra(&mut self, _: &[u8], stat: &Stat) -> bool {
        self.sample.is_some() || stat.links > 1
    }

    fn see(&mut self, path: &[u8], stat: Stat, tar_bytes: u64) -> bool {
        let home = Home { tar_bytes, ..Home::default() };
        let has_content = stat.kind == b'f' && stat.size_bytes > 0;
        if has_content && self.sample.is_some_and(|sample| sample.has(path, &stat, !self.has_read)) {
            self.asked = Some((path.to_vec(), stat, home));
            return true;
        }
        self.put(path, stat, home);
        false
    }

    fn answer(&mut self, found: Option<u64>) {
        let Some((path, stat, home)) = self.asked.take() else { return };
        self.has_read |= found.is_some();
        self.put(&path, stat, Home { check: found, ..home });
    }

    fn left_out(&mut self, kind: NoticeKind, path: &[u8]) {
        self.left_out.add(kind, path);
    }
}

/// What a list adds up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries.
    pub entries: u64,
    /// Bytes of tar, about.
    pub tar_bytes: u64,
    /// Of the largest file.
    pub largest_bytes: u64,
}

/// A list in a file.
pub struct List {
    file: File,
    /// What it says of itself.
    pub head: Head,
    left_out: Notices,
}

impl List {
    /// Of a whole list; only its head is looked at.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(mut file: File) -> io::Result<Self> {
        file.rewind()?;
        let head = framed::read(&mut file, MAGIC)?;
        let (end, mut length) = (file.seek(SeekFrom::End(-4))?, [0; 4]);
        file.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        let start = end.checked_sub(length.into()).filter(|_| length as usize <= LEFT_OUT_BYTES_MAX);
        file.seek(SeekFrom::Start(start.ok_or_else(damaged)?))?;
        let mut told = vec![0; length as usize];
        file.read_exact(&mut told)?;
        let left_out = serde_json::from_slice(&told).map_err(|_| damaged())?;
        Ok(Self { file, head, left_out })
    }

    /// What is there and in no image, as far as the guest is the one to know.
    pub fn left_out(&self) -> impl Iterator<Item = (NoticeKind, &[u8])> {
        let named = self.left_out.named().iter();
        let told = named.filter(|notice| matches!(notice.kind, NoticeKind::Socket | NoticeKind::Overlay));
        told.map(|notice| (notice.kind, notice.path.as_bytes()))
    }

    /// Its records.
    ///
    /// # Errors
    /// When there are none.
    pub fn records(&self) -> io::Result<Reader<BufReader<File>>> {
        let mut file = BufReader::new(self.file.try_clone()?);
        file.rewind()?;
        framed::read::<Head>(&mut file, MAGIC)?;
        Reader::new(file)
    }

    /// Gives each entry to `take`, in their order.
    ///
    /// # Errors
    /// For an entry that can't be, or the first of `take`.
    pub fn each(&self, mut take: impl FnMut(&[u8], Stat, Home) -> io::Result<()>) -> io::Result<Totals> {
        let mut records = self.records()?;
        let (mut totals, mut last) = (Totals::default(), None::<Vec<u8>>);
        while let Some(record) = records.take()? {
            let Body::Live { stat, home: Some(home), .. } = record.body else { return Err(damaged()) };
            let follows = last.as_ref().is_none_or(|last| walk_order(last, &record.path).is_lt());
            totals.entries += 1;
            totals.tar_bytes = totals.tar_bytes.saturating_add(home.tar_bytes);
            if !follows || !is_path(&record.path) || !b"fdlpcb".contains(&stat.kind) || totals.tar_bytes > TAR_BYTES_MAX
            {
                return Err(damaged());
            }
            let content_bytes = if stat.kind == b'f' { stat.size_bytes } else { 0 };
            totals.largest_bytes = totals.largest_bytes.max(content_bytes);
            take(&record.path, stat, home)?;
            last = Some(record.path);
        }
        Ok(totals)
    }
}

/// Whether a walk can give it.
fn is_path(path: &[u8]) -> bool {
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    path.is_empty() || path.split(|byte| *byte == b'/').all(is_name)
}

/// Paths of files whose content is asked for.
pub struct Questions<W: Write> {
    out: Writer<W>,
    /// How many.
    pub count: u64,
}

impl<W: Write> Questions<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        Ok(Self { out: Writer::new(out)?, count: 0 })
    }

    pub(super) fn add(&mut self, path: &[u8]) -> io::Result<()> {
        self.count += 1;
        self.out.write(path, &Body::Dead { layer: 0, hidden: false, mark: false, folder: false })
    }

    pub(super) fn end(self) -> io::Result<u64> {
        self.out.finish()?.flush()?;
        Ok(self.count)
    }
}

/// Answers what `questions` asks of `list`, by `check`, which is given a path and what was listed there.
///
/// # Errors
/// When something can't be read or written, or the first of `check`.
pub fn answer(
    list: &List,
    questions: impl Read + Send,
    mut out: impl Write,
    mut check: impl FnMut(&[u8], &Stat) -> io::Result<Option<u64>>,
) -> io::Result<()> {
    let (mut questions, mut records) = (Reader::new(questions)?, list.records()?);
    while let Some(question) = questions.take()? {
        while records.peek().is_some_and(|(path, _)| walk_order(path, &question.path).is_lt()) {
            records.take()?;
        }
        let sum = match records.peek() {
            Some((path, Body::Live { stat, .. })) if path == question.path => check(path, stat)?,
            _ => None,
        };
        let mut bytes = [0; 9];
        bytes[0] = sum.is_some().into();
        bytes[1..].copy_from_slice(&sum.unwrap_or(0).to_le_bytes());
        out.write_all(&bytes)?;
    }
    out.flush()
}

/// The answers to questions, by path.
pub(super) struct Answers<Q: Read, A: Read> {
    pub(super) questions: Reader<Q>,
    pub(super) answers: A,
}

impl<Q: Read, A: Read> Answers<Q, A> {
    /// The one to `path`, which comes behind those that were asked for before.
    pub(super) fn to(&mut self, path: &[u8]) -> io::Result<Option<u64>> {
        while self.questions.peek().is_some_and(|(asked, _)| walk_order(asked, path).is_le()) {
            let is_it = self.questions.take()?.is_some_and(|question| question.path == path);
            let mut bytes = [0; 9];
            self.answers.read_exact(&mut bytes)?;
            let [is_there, sum @ ..] = bytes;
            if is_it {
                return Ok((is_there == 1).then(|| u64::from_le_bytes(sum)));
            }
        }
        Ok(None)
    }
}

/// Compares all of a list; what has to be read there and was not while it was listed is asked for, or answered.
pub(super) fn compare(
    list: &List,
    listing: &mut listing::Listing,
    mut answer: impl FnMut(&[u8], &mut listing::Listing) -> io::Result<()>,
) -> io::Result<Totals> {
    list.each(|path, stat, home| {
        match (listing.see(path, stat, home.tar_bytes), home.check) {
            (false, _) => {}
            (true, None) => answer(path, listing)?,
            (true, read) => listing.answer(read),
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            settled: Settled { began: (7, 8), is_stored: true },
            identity: Ok(Identity { text: "it".to_owned(), inodes_last: false }),
        }
    }

    fn list(paths: &[&str], stat: Stat, tar_bytes: u64) -> List {
        let file = tempfile::tempfile().unwrap();
        let mut lister = Lister::begin(file.try_clone().unwrap(), &head(), None).unwrap();
        for path in paths {
            assert!(!lister.see(path.as_bytes(), stat, tar_bytes));
        }
        lister.end().unwrap();
        List::open(file).unwrap()
    }

    const FILE: Stat = Stat {
        kind: b'f',
        mode: 0o644,
        owner: (0, 0),
        size_bytes: 5,
        modified: (1, 2),
        changed: (3, 4),
        inode: 9,
        device: 0,
        links: 1,
        number: (0, 0),
        extra: 0,
    };

    #[test]
    fn only_what_a_walk_gives_is_a_list() {
        let all = ["", "a", "a/b", "a.b"];
        let good = list(&all, FILE, 1024);
        let mut paths = Vec::new();
        let totals = good.each(|path, stat, _| {
            assert_eq!(stat, FILE);
            paths.push(String::from_utf8_lossy(path).into_owned());
            Ok(())
        });
        assert_eq!((good.head.clone(), paths), (head(), all.map(str::to_owned).to_vec()));
        assert_eq!(totals.unwrap(), Totals { entries: 4, tar_bytes: 4096, largest_bytes: 5 });
        let refused = |list: &List| assert!(list.each(|_, _, _| Ok(())).is_err());
        for bad in [&["a", ""][..], &["a", "a"], &["b", "a"], &["/a"], &["a//b"], &["a/../b"], &["."], &["a\0b"]] {
            refused(&list(bad, FILE, 1024));
        }
        refused(&list(&["a"], Stat { kind: b's', ..FILE }, 1024));
        refused(&list(&["a", "b"], FILE, 1 << 50));
        refused(&list(&["a", "b"], FILE, u64::MAX));
    }

    #[test]
    fn a_list_that_is_cut_or_damaged_is_an_error_or_another() {
        let mut file = list(&["", "a", "a/b"], FILE, 1024).file;
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.rewind().unwrap();
        file.read_exact(&mut bytes).unwrap();
        let opened = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            List::open(file).and_then(|list| list.each(|_, _, _| Ok(())))
        };
        assert!(opened(&bytes).is_ok());
        for at in 0..bytes.len() {
            assert!(opened(&bytes[..at]).is_err(), "cut at {at}");
            let mut other = bytes.clone();
            other[at] ^= 0x55;
            let _ = opened(&other);
        }
    }

    #[test]
    fn each_answer_belongs_to_its_question() {
        let list = list(&["a", "b", "c", "d"], FILE, 1024);
        let mut questions = Questions::new(Vec::new()).unwrap();
        for path in ["a", "c", "d", "e"] {
            questions.add(path.as_bytes()).unwrap();
        }
        let questions = questions.out.finish().unwrap();
        let mut answers = Vec::new();
        let sum = |path: &[u8], _: &Stat| Ok((path != b"c").then(|| u64::from(path[0])));
        answer(&list, &questions[..], &mut answers, sum).unwrap();
        let mut answers = Answers { questions: Reader::new(&questions[..]).unwrap(), answers: &answers[..] };
        // Those that are not asked for any more, or never were, disturb nothing.
        let found = ["b", "c", "d", "e"].map(|path| answers.to(path.as_bytes()).unwrap());
        assert_eq!(found, [None, None, Some(100), None]);
    }
}
