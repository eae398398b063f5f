use std::path::Path;

use super::compare::Settled;
use super::listing::Entries as _;
use super::*;

fn folder_stat() -> Stat {
    Stat { kind: b'd', links: 1, ..Stat::default() }
}

fn file_stat(changed: i64) -> Stat {
    Stat { kind: b'f', size_bytes: 1, changed: (changed, 0), inode: 7, links: 1, ..Stat::default() }
}

/// A night of an empty folder, that began at `second`.
fn night(path: &Path, second: i64) -> Night {
    night_with(path, second, 0, true)
}

/// One of a folder with a file of this time.
fn night_with(path: &Path, second: i64, changed: i64, is_stored: bool) -> Night {
    let scratch = path.parent().unwrap();
    let identity = Ok(Identity { text: "a folder".to_owned(), inodes_last: true });
    let settled = Settled { began: (second, 0), is_stored };
    let listed = Listed { who: "it".to_owned(), identity, settled, sample: Wish::default().sample() };
    let mut opening = Opening::new(path, listed, false, scratch).unwrap();
    opening.listing().see(b"", folder_stat(), 512);
    if changed > 0 && opening.listing().see(b"file", file_stat(changed), 1024) {
        opening.listing().answer(Some(1));
    }
    let night = opening.end(scratch).unwrap();
    night.choose(BTreeSet::new(), 1 << 20);
    night
}

#[test]
fn what_another_freeze_wrote_or_removed_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let [first, late] = [night(&path, 100), night(&path, 101)];
    first.remember(Vec::new(), Vec::new(), false).unwrap();
    let written = std::fs::read(&path).unwrap();
    assert!(late.remember(Vec::new(), Vec::new(), false).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), written);
    let late = night(&path, 103);
    std::fs::remove_file(&path).unwrap();
    assert!(late.remember(Vec::new(), Vec::new(), false).is_err() && !path.exists());
    night(&path, 104).remember(Vec::new(), Vec::new(), false).unwrap();
    let next = night(&path, 105);
    assert!(next.why_all.is_none(), "{:?}", next.why_all);
}

/// Times of before could not be told from those that come again.
#[test]
fn a_clock_that_was_set_back_has_everything_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    night(&path, 100).remember(Vec::new(), Vec::new(), false).unwrap();
    for (second, why) in [(99, Some("the clock was set back")), (100, Some("the clock was set back")), (101, None)] {
        assert_eq!(night(&path, second).why_all.as_deref(), why, "{second}");
    }
}

/// Remembers an image of such a night: of the folder and its file, if there was anything to do.
fn complete(night: &Night) {
    let digest = crate::stage::digest::DigestHasher::of(&[0]);
    let descriptor = crate::oci::Descriptor { media_type: String::new(), digest, size: 1 };
    let (number, diff_id, tar_bytes) = (0, crate::stage::digest::DiffIdHasher::default().finish().0, 9);
    let mut fresh = Vec::new();
    if night.has_work(&night.choice(BTreeSet::new(), 1 << 20)) {
        fresh.push(Kept { number, diff_id, descriptor, tar_bytes, entry_bytes: 0, workspace: false });
        for (path, kind, check) in [("", b'd', None), ("file", b'f', Some(1))] {
            let facts = Facts { kind, ..Facts::default() };
            let placed = Placed { path: path.into(), extra: 0, facts, layer: 0, tar_bytes: 1024, check };
            night.note(&placed, Home { layer: 0, tar_bytes: 1024, check }).unwrap();
        }
    }
    night.remember(fresh, Vec::new(), false).unwrap();
}

/// A page that is in memory alone may be changed through a mapping without a new time, until it is stored.
#[test]
fn what_changed_since_all_was_stored_is_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let cleared = |second, changed, is_stored| {
        let night = night_with(&path, second, changed, is_stored);
        complete(&night);
        (night.why_all.is_none(), night.tally.changed, night.tally.cleared)
    };
    assert!(!cleared(100, 50, false).0);
    assert_eq!(cleared(200, 50, true), (true, 0, 1), "nothing was known to be stored");
    assert_eq!(cleared(300, 250, false), (true, 1, 0));
    assert_eq!(cleared(400, 250, true), (true, 0, 1), "what changed since the last time that all was stored");
    assert_eq!(cleared(500, 250, false), (true, 0, 0));
    assert_eq!(cleared(600, 250, true), (true, 0, 0), "all was stored after its change");
}

#[test]
fn what_a_lister_has_read_is_not_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    complete(&night_with(&path, 100, 50, true));
    let all = Wish { reread_percent: 100, squash: false }.sample();
    // What the lister draws, and found; whether that was all, and what became of the night.
    let cases = [
        (None, None, false, (0, None)),
        (Some(all), None, false, (0, None)),
        (Some(all), Some(1), true, (1, None)),
        (Some(all), Some(2), true, (1, Some("file"))),
    ];
    for (sample, found, is_all, expected) in cases {
        let settled = Settled { began: (300, 0), is_stored: true };
        let identity = Ok(Identity { text: "a folder".to_owned(), inodes_last: true });
        let file = tempfile::tempfile().unwrap();
        let head = list::Head { settled, identity: identity.clone() };
        let mut writing = list::Lister::begin(file.try_clone().unwrap(), &head, sample).unwrap();
        assert!(!writing.see(b"", folder_stat(), 512));
        if writing.see(b"file", file_stat(50), 1024) {
            writing.answer(found);
        }
        writing.end().unwrap();
        let list = list::List::open(file).unwrap();
        let listed = Listed { who: "it".to_owned(), identity, settled, sample: all };
        let mut opening = Opening::new(&path, listed, false, folder.path()).unwrap();
        let mut questions = Vec::new();
        let seen = opening.see(&list, &mut questions, folder.path()).unwrap();
        assert_eq!(seen.is_some(), is_all, "{sample:?} {found:?}");
        if !is_all {
            let unread = [0; 9];
            opening.hear(&list, &questions[..], &unread[..]).unwrap();
        }
        let Tally { sampled, alarm, listed, .. } = opening.end(folder.path()).unwrap().tally;
        let alarm = alarm.map(|path| String::from_utf8(path).unwrap());
        assert_eq!((listed, (sampled, alarm.as_deref())), (2, expected), "{sample:?} {found:?}");
    }
}
