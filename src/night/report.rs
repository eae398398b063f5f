//! What a night did, in words.

use super::Night;
use super::picker::Choice;

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
    /// Those that are unchanged and were read again, because another name of the same file is not.
    #[serde(default)]
    pub linked: u64,
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
    /// Layers of the last image that were copied into artifacts, and their bytes.
    #[serde(default)]
    pub layers_copied: u64,
    /// See [`Self::layers_copied`].
    #[serde(default)]
    pub copied_bytes: u64,
    /// Those of which only what is alive went into artifacts, for smolvm knows no marks of deletions.
    #[serde(default)]
    pub layers_flattened: u64,
    /// Why everything was read, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_all: Option<String>,
    /// A file whose content changed though nothing tells so: it was kept in earlier images and was not right there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// Not all that had been written was stored in time: the next freeze compares what has changed since that was last so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsettled: bool,
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
        let kept = tally.listed - tally.new - tally.changed - tally.doubtful - tally.linked - rewritten;
        let kept_layers = night.kept(choice);
        let layers_kept = kept_layers.len() as u64;
        let kept_bytes = night.kept_bytes(choice);
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
            linked: tally.linked,
            sampled: tally.sampled,
            deleted: tally.gone,
            layers_kept,
            layers_dropped: night.layers().len() as u64 - layers_kept,
            unsettled: night.stored != Some(night.began),
            why_all: night.why_all.clone(),
            alarm: night.alarm(),
            trouble: None,
            ..Self::default()
        }
    }

    /// What is to be said of an alarm.
    #[must_use]
    pub fn alarm_in_words(&self) -> Option<String> {
        self.alarm.as_deref().map(in_words)
    }

    /// So many layers, and bytes of them, were copied into artifacts, and of so many only what is alive.
    pub(crate) fn filled(&mut self, (layers, bytes): (u64, u64), flattened: u64) {
        (self.layers_copied, self.copied_bytes, self.layers_flattened) = (layers, bytes, flattened);
    }
}

pub(super) fn in_words(path: &str) -> String {
    format!("'{path}' had other bytes than the images since it was read have, and nothing told so")
}

impl std::fmt::Display for NightReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(why) = &self.why_all {
            return write!(f, "{} entries, all of them read: {why}", self.listed);
        }
        write!(f, "{} entries, {} kept, {} new, {} changed", self.listed, self.kept, self.new, self.changed)?;
        let counts = [
            (self.doubtful, "in doubt"),
            (self.linked, "with another name"),
            (self.rewritten, "rewritten"),
            (self.deleted, "deleted"),
        ];
        for (count, what) in counts {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        let (kept, all) = (self.layers_kept, self.layers_kept + self.layers_dropped);
        write!(f, "; {kept} of {all} layers kept, {} files compared", self.sampled + self.cleared)?;
        if self.unsettled {
            write!(f, "; what was written lately was not stored in time, and is compared at the next freeze")?;
        }
        if self.layers_copied + self.layers_flattened > 0 {
            let bytes = humansize::format_size(self.copied_bytes, humansize::BINARY);
            write!(f, "; {} copied into the artifact ({bytes})", self.layers_copied)?;
            if self.layers_flattened > 0 {
                write!(f, ", {} without what is gone", self.layers_flattened)?;
            }
        }
        Ok(())
    }
}
