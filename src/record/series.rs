//! Whose freeze a record is of. Retention counts within one series, so two sources must never be one, whatever a user calls
//! them: a name that depends on a working directory, on a pipe or on a link names nobody.

use std::path::{Component, Path};

use super::Record;
use crate::plan::SourceSpec;
use crate::state::Id;

/// The freezes that retention counts together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Series {
    /// Those of one name, given with `--name`.
    Named(String),
    /// Those of one source, by [`Record::canonical`].
    Source(String),
    /// One whose source nobody knows any more: its record is of that freeze alone.
    Single(Id),
}

impl Series {
    /// The series of a record, also of one that was written when records had neither name nor canonical source.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let canonical = record.canonical.clone().or_else(|| Some(record.source.clone()).filter(|text| is_clear(text)));
        match (&record.name, canonical) {
            (Some(name), _) => Self::Named(name.clone()),
            (None, Some(source)) => Self::Source(source),
            (None, None) => Self::Single(record.id.clone()),
        }
    }
}

/// Whether a source, as a user spelled it, can have meant but one thing.
fn is_clear(source: &str) -> bool {
    let Some((_, path)) = source.split_once(':') else { return true };
    let path = Path::new(path);
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // `/dev/stdin` is another file for each process.
    path.is_absolute() && is_plain && !path.starts_with("/dev") && !path.starts_with("/proc")
}

/// A source, or a series' name, as a user asks for it.
#[derive(Debug)]
pub struct Asked {
    text: String,
    canonical: Option<String>,
}

impl Asked {
    /// What `text` means here and now.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let canonical = text.parse::<SourceSpec>().ok().and_then(|source| source.canonical());
        Self { text: text.to_owned(), canonical }
    }

    /// Whether a record is of what was asked for. The spelling counts where the record does not know better.
    #[must_use]
    pub fn fits(&self, record: &Record) -> bool {
        let is_machine = !record.source.contains(':');
        let is_spelled = record.source == self.text && (record.canonical.is_none() || is_machine);
        let is_source =
            record.canonical.as_ref().is_some_and(|own| Some(own) == self.canonical.as_ref() || *own == self.text);
        record.name.as_ref() == Some(&self.text) || is_spelled || is_source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_mean_one_thing_is_a_source() {
        for source in ["dev", "dir:/srv/root fs", "tar:/srv/a.tar", "dir:/"] {
            assert!(is_clear(source), "{source}");
        }
        for source in
            ["dir:.", "dir:root", "dir:/srv/../etc", "tar:-", "tar:a.tar", "tar:/dev/stdin", "tar:/proc/self/fd/0"]
        {
            assert!(!is_clear(source), "{source}");
        }
    }
}
