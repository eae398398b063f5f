//! What is remembered of a source: an index for each way in which it is frozen, so that ways may take turns, and an alarm,
//! which is about all of them.
//!
//! ```text
//! SOURCE-WAY      an index
//! SOURCE-alarm    an alarm
//! ```
//! All this is by the path of one way's index. An alarm is one file, so it is there for all ways or for none, whatever ends
//! the freeze that raises it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::index::{self, Head};
use super::record::Reader;
use super::{framed, sealed};

/// Ways of one source that are remembered: those that it was frozen in last.
const WAYS_MAX: usize = 4;
const ALARM: &str = "alarm";
const MAGIC: &[u8] = b"smolfreeze alarm 1\n";

/// A file that had other bytes than the layers' that were remembered, where nothing told so: nothing may be counted on until
/// all was read, and somebody told, in each way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Alarm {
    /// Which source it was, among all that have its name; any, where that was lost.
    who: Option<String>,
    /// No other alarm has it.
    pub(super) number: u64,
    /// The file, for people.
    pub(super) file: String,
    /// The ways that have not been complete since.
    ways: BTreeSet<String>,
}

impl Alarm {
    /// Whether a freeze has to tell of it whose index is at `path`. One without an index is the first in its way: it is not
    /// wrong, but may be the first that can tell.
    pub(super) fn is_about(&self, path: &Path) -> bool {
        self.ways.contains(&name(path)) || !path.exists()
    }
}

/// The source's alarm, if one was raised, and not told in all ways yet.
pub(super) fn alarm(path: &Path, who: &str) -> Option<Alarm> {
    let read = || -> io::Result<Alarm> { framed::read(sealed::open(&alarm_path(path))?, MAGIC) };
    let alarm = match read() {
        Ok(alarm) => alarm,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => {
            let file = "a file whose name is lost".to_owned();
            Alarm { who: None, number: 0, file, ways: all(path).iter().map(|path| name(path)).collect() }
        }
    };
    alarm.who.as_deref().is_none_or(|of| of == who).then_some(alarm)
}

/// Whatever becomes of the freeze that raises it, each one from here on reads everything and tells of it, until one of its
/// way is complete. Its number.
///
/// # Errors
/// When it can't be written.
pub(super) fn raise(path: &Path, who: &str, file: String) -> io::Result<u64> {
    let _lock = lock(path);
    let ways = all(path).iter().map(|path| name(path)).chain([name(path)]).collect();
    let alarm = Alarm { who: Some(who.to_owned()), number: fastrand::u64(1..), file, ways };
    write(path, &alarm)?;
    Ok(alarm.number)
}

/// A freeze that knew of the alarm is complete: it is done with in this way. Only while locked.
pub(super) fn settle(path: &Path, mut alarm: Alarm) {
    let done = name(path);
    alarm.ways.retain(|way| *way != done && path.with_file_name(way).exists());
    // If it stays, it is told once more.
    let _ = if alarm.ways.is_empty() { std::fs::remove_file(alarm_path(path)) } else { write(path, &alarm) };
}

fn write(path: &Path, alarm: &Alarm) -> io::Result<()> {
    sealed::write(&alarm_path(path), |out| framed::write(out, MAGIC, alarm))
}

/// Nothing is to be counted on, in whatever way.
pub(super) fn forget(path: &Path) {
    for path in all(path) {
        let _ = std::fs::remove_file(path);
    }
}

/// Whether there is an index to go on from.
pub(super) fn is_awaited(path: &Path) -> bool {
    !all(path).is_empty()
}

/// The index at `path`; where there is none, the last one of another way with the same entries: what its outputs have and
/// others lack is read again, and no more.
///
/// # Errors
/// When there is none, or it can't be used.
pub(super) fn open(path: &Path, source: &(String, String)) -> io::Result<(Head, Reader<impl Read + Send + use<>>)> {
    let own = index::open(path);
    if own.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        let others = newest_first(all(path)).into_iter().filter_map(|path| index::open(&path).ok());
        if let Some(other) = others.into_iter().find(|(head, _)| head.source == *source) {
            return Ok(other);
        }
    }
    own
}

/// Removes all but the last of the source's indexes, and those that were called by the source alone, as they once were.
pub(super) fn make_room(path: &Path) {
    let is_other = |other: &PathBuf| other != path;
    let others = newest_first(all(path).into_iter().filter(is_other).collect());
    let (ours, old): (Vec<_>, Vec<_>) = others.into_iter().partition(|path| name(path).contains('-'));
    for path in ours.into_iter().skip(WAYS_MAX - 1).chain(old) {
        let _ = std::fs::remove_file(path);
    }
}

/// Until it is dropped, nobody else writes or removes an index of ours. Without locks there, all goes well but for a moment.
pub(super) fn lock(path: &Path) -> Option<File> {
    let folder = path.parent()?;
    std::fs::create_dir_all(folder).ok()?;
    let folder = File::open(folder).ok()?;
    flock(&folder, FlockOperation::LockExclusive).ok()?;
    Some(folder)
}

/// The indexes of the source.
fn all(path: &Path) -> Vec<PathBuf> {
    let source = |name: &str| name.split('-').next().map(str::to_owned);
    let (source_here, alarm) = (source(&name(path)), alarm_path(path));
    let entries = path.parent().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|other| *other != alarm && source(&name(other)) == source_here).collect()
}

fn newest_first(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let written = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified());
    let mut paths: Vec<_> =
        paths.into_iter().map(|path| (written(&path).unwrap_or(SystemTime::UNIX_EPOCH), path)).collect();
    paths.sort_by(|one, other| other.cmp(one));
    paths.into_iter().map(|(_, path)| path).collect()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn alarm_path(path: &Path) -> PathBuf {
    let name = name(path);
    path.with_file_name(format!("{}-{ALARM}", name.split('-').next().unwrap_or(&name)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn of_many_ways_the_last_ones_stay_and_no_other_sources() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (number, name) in (0..).zip(["a-0", "a-1", "b-0", "a-2", "a-3", "a-4", "a", "a-alarm", "b-alarm"]) {
            let file = File::create(path(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(number)).unwrap();
        }
        // One that was written last is not the newest where the clock was set back.
        make_room(&path("a-0"));
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| name(&entry.unwrap().path())).collect();
        names.sort();
        assert_eq!(names, ["a-0", "a-2", "a-3", "a-4", "a-alarm", "b-0", "b-alarm"]);
    }

    #[test]
    fn an_alarm_is_about_each_way_until_that_is_done_with() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other, new] = ["a-1", "a-2", "a-3"].map(|name| folder.path().join(name));
        for path in [&one, &other] {
            std::fs::write(path, "an index").unwrap();
        }
        let number = raise(&one, "it", "file".to_owned()).unwrap();
        assert_eq!(alarm(&one, "another one of that name"), None);
        let found = alarm(&other, "it").unwrap();
        assert_eq!((found.number, found.file.as_str()), (number, "file"));
        assert!([&one, &other, &new].iter().all(|path| found.is_about(path)), "a new way may be the first to tell");
        std::fs::write(&new, "an index").unwrap();
        settle(&new, found);
        let left = alarm(&one, "it").unwrap();
        assert!(left.is_about(&one) && left.is_about(&other) && !left.is_about(&new));
        settle(&one, left);
        let left = alarm(&other, "it").unwrap();
        assert!(!left.is_about(&one) && left.is_about(&other));
        // A way that is not remembered any more has nothing that could be wrong.
        std::fs::remove_file(&other).unwrap();
        settle(&one, left);
        assert_eq!(alarm(&one, "it"), None);
    }

    #[test]
    fn an_alarm_that_is_damaged_is_one_about_all() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["a-1", "a-2"].map(|name| folder.path().join(name));
        for path in [&one, &other] {
            std::fs::write(path, "an index").unwrap();
        }
        std::fs::write(alarm_path(&one), "half of it").unwrap();
        let found = alarm(&one, "whoever").unwrap();
        assert!(found.is_about(&one) && found.is_about(&other));
        settle(&one, found);
        let left = alarm(&one, "whoever").unwrap();
        assert!(!left.is_about(&one) && left.is_about(&other));
        settle(&other, left);
        assert_eq!(alarm(&one, "whoever"), None);
    }
}
