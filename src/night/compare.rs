//! When a file is unchanged. Others got this wrong in public, so each part of the rule has a test of its own.

use super::record::{Fate, Stat};

/// A change within this of the moment at which a listing began may have come after it, in a clock of coarse ticks.
const TICK_SECONDS: i64 = 2;

/// A moment: seconds since 1970, and nanoseconds.
pub type Moment = (i64, u32);

/// When a listing began, and whether all that had been written by then was stored before anything was read: then no page of
/// a file is in memory alone, where a store through a mapping would change it without a new time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settled {
    /// By the clock that stamps the source's files.
    pub began: Moment,
    /// See [`Settled`].
    pub is_stored: bool,
}

/// What two listings of a source are compared by.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// When the earlier one began; or, where it could not wait until all was stored, the last one before it that could.
    pub then: Moment,
    /// When this one began.
    pub began: Moment,
    /// Whether a file keeps its inode's number as long as it is there. overlayfs may number files anew with each mount.
    pub inodes_last: bool,
}

impl Rule {
    /// What became of an entry that was listed as `before`, and is listed as `now`.
    #[must_use]
    pub fn fate(&self, before: &Stat, now: &Stat) -> Fate {
        // The device is another one after a restart.
        let known = Stat { device: now.device, inode: now.inode, ..*before };
        let (same_inode, has_content) = (before.inode == now.inode, now.kind == b'f' && now.size_bytes > 0);
        let is_late =
            (now.changed.0.saturating_add(TICK_SECONDS), now.changed.1) > self.then || now.changed > self.began;
        if known != *now || (self.inodes_last && !same_inode) {
            Fate::Changed
        } else if has_content && (is_late || !same_inode) {
            Fate::Doubtful
        } else {
            Fate::Kept
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { then: (1_000, 5), began: (2_000, 0), inodes_last: true };

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
        assert_eq!(RULE.fate(&before, &before), Fate::Kept);
        assert_eq!(RULE.fate(&before, &Stat { device: 5, ..before }), Fate::Kept, "after a restart");
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
            assert_eq!(RULE.fate(&before, &now), Fate::Changed, "{what}");
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
            assert_eq!(RULE.fate(&stat, &stat), fate, "{changed:?}");
        }
        let folder = Stat { kind: b'd', changed: (2_001, 0), ..stat() };
        assert_eq!(RULE.fate(&folder, &folder), Fate::Kept, "it has no content");
        let ahead = Stat { changed: (2_000, 1), ..stat() };
        let fate = Rule { then: (9_000, 0), ..RULE }.fate(&ahead, &ahead);
        assert_eq!(fate, Fate::Doubtful, "in the future, by a clock that was set back");
        let future = Stat { changed: (i64::MAX, 0), ..stat() };
        assert_eq!(Rule { then: (i64::MAX, 0), ..RULE }.fate(&future, &future), Fate::Doubtful);
    }
    /// After a restart, say: nothing but its content tells that it is the same file.
    #[test]
    fn where_inodes_do_not_last_another_one_is_a_doubt() {
        let rule = Rule { inodes_last: false, ..RULE };
        let before = stat();
        let now = Stat { inode: 8, ..before };
        assert_eq!(rule.fate(&before, &now), Fate::Doubtful);
        assert_eq!(rule.fate(&before, &Stat { modified: (1, 1), ..now }), Fate::Changed);
        let link = Stat { kind: b'l', ..before };
        assert_eq!(rule.fate(&link, &Stat { inode: 8, ..link }), Fate::Kept);
    }
}
