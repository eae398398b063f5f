//! When a file is unchanged. Others got this wrong in public, so each part of the rule has a test of its own.

use super::record::{Fate, Stat};

/// A change within this of the moment at which a listing began may have come after it, in a clock of coarse ticks.
const TICK_SECONDS: i64 = 2;

/// A moment: seconds since 1970, and nanoseconds.
pub type Moment = (i64, u32);

/// What became of an entry that was listed as `before` by a walk that began at `then`, and is listed as `now` by one that
/// began at `began`.
#[must_use]
pub fn compare(before: &Stat, then: Moment, now: &Stat, began: Moment) -> Fate {
    // The device is another one after a restart.
    let same = Stat { device: now.device, ..*before } == *now;
    if !same {
        Fate::Changed
    } else if now.kind != b'f' || now.size_bytes == 0 {
        // All there is to it was compared.
        Fate::Kept
    } else if (now.changed.0.saturating_add(TICK_SECONDS), now.changed.1) > then || now.changed > began {
        Fate::Doubtful
    } else {
        Fate::Kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: Moment = (1_000, 5);
    const NOW: Moment = (2_000, 0);

    fn stat() -> Stat {
        Stat {
            kind: b'f',
            mode: 0o644,
            owner: (1, 2),
            size_bytes: 3,
            modified: (900, 1),
            changed: (900, 1),
            inode: 7,
            device: 0,
            links: 1,
            number: (0, 0),
            extra: 9,
        }
    }

    #[test]
    fn whatever_differs_is_a_change() {
        let before = stat();
        assert_eq!(compare(&before, THEN, &before, NOW), Fate::Kept);
        assert_eq!(compare(&before, THEN, &Stat { device: 5, ..before }, NOW), Fate::Kept, "after a restart");
        for (what, now) in [
            ("kind", Stat { kind: b'l', ..before }),
            ("mode", Stat { mode: 0o600, ..before }),
            ("owner", Stat { owner: (0, 2), ..before }),
            ("size", Stat { size_bytes: 4, ..before }),
            ("mtime", Stat { modified: (900, 2), ..before }),
            ("mtime set back, ctime tells", Stat { changed: (950, 0), ..before }),
            ("inode", Stat { inode: 8, ..before }),
            ("links", Stat { links: 2, ..before }),
            ("attributes or link text", Stat { extra: 8, ..before }),
        ] {
            assert_eq!(compare(&before, THEN, &now, NOW), Fate::Changed, "{what}");
        }
    }

    #[test]
    fn what_may_have_changed_in_the_same_tick_is_doubtful() {
        for (changed, fate) in [
            ((997, 999_999_999), Fate::Kept),
            ((998, 5), Fate::Kept),
            ((998, 6), Fate::Doubtful),
            ((1_001, 0), Fate::Doubtful),
        ] {
            let stat = Stat { changed, ..stat() };
            assert_eq!(compare(&stat, THEN, &stat, NOW), fate, "{changed:?}");
        }
        let folder = Stat { kind: b'd', changed: (2_001, 0), ..stat() };
        assert_eq!(compare(&folder, THEN, &folder, NOW), Fate::Kept, "it has no content");
        let ahead = Stat { changed: (2_000, 1), ..stat() };
        assert_eq!(
            compare(&ahead, (9_000, 0), &ahead, NOW),
            Fate::Doubtful,
            "in the future, by a clock that was set back"
        );
        let future = Stat { changed: (i64::MAX, 0), ..stat() };
        assert_eq!(compare(&future, (i64::MAX, 0), &future, NOW), Fate::Doubtful);
    }
}
