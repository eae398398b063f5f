//! Mistakes in a fleet's file, each with the place where it stands.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::text;

/// So alike are a key and the one that was meant, from 0 to 1.
const ALIKE_MIN: f64 = 0.7;

/// A mistake. It prints as `line 3, column 5: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, and what was meant.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, text::line(&self.text))
    }
}

impl Mistake {
    pub(super) fn at(file: &str, span: &Range<usize>, text: String) -> Self {
        let before = file.get(..span.start).unwrap_or(file);
        let line_begins = before.rfind('\n').map_or(0, |at| at + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_begins..].chars().count() + 1, text }
    }

    /// Of what toml, or serde, has to say.
    pub(super) fn of(file: &str, error: &toml::de::Error) -> Self {
        let said = error.message().replace('\n', "; ");
        let meant = unknown_key(&said).and_then(|(word, known)| nearest(word, known.into_iter()).map(str::to_owned));
        let meant = meant.map_or_else(String::new, |key| format!("; did you mean '{key}'?"));
        Self::at(file, &error.span().unwrap_or(0..0), said + &meant)
    }
}

/// The key, or the word, that serde does not know, and those that it does.
fn unknown_key(said: &str) -> Option<(&str, Vec<&str>)> {
    let is_unknown = said.starts_with("unknown field `") || said.starts_with("unknown variant `");
    let mut words = said.split('`').skip(1).step_by(2);
    let word = words.next().filter(|_| is_unknown)?;
    Some((word, words.collect()))
}

/// The one of `known` that `word` most likely stands for.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |other: &str| strsim::jaro_winkler(&word.to_lowercase(), other);
    let likely = known.map(|other| (alike(other), other)).filter(|(alike, _)| *alike >= ALIKE_MIN);
    likely.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, other)| other)
}

/// Where everything stands.
pub(super) struct Places<'a>(Spanned<DeTable<'a>>);

impl<'a> Places<'a> {
    pub(super) fn of(file: &'a str) -> Option<Self> {
        DeTable::parse(file).ok().map(Self)
    }

    /// Where the value at `path` stands; as much of the path as is there counts. Numbers are places in arrays.
    pub(super) fn span(&self, path: &[Cow<'_, str>]) -> Range<usize> {
        let (mut span, mut table, mut value) = (0..0, Some(self.0.get_ref()), None::<&DeValue<'a>>);
        for step in path {
            let found = match (table.take(), value.take()) {
                (Some(inside), _) => inside.get_key_value(step.as_ref()).map(|(key, value)| (key.span(), value)),
                (None, Some(DeValue::Array(items))) => {
                    step.parse().ok().and_then(|at: usize| items.get(at)).map(|item| (item.span(), item))
                }
                _ => None,
            };
            let Some((at, inside)) = found else { break };
            // A table's own span is that of its header, or of all of it: its key says more.
            span = if inside.get_ref().is_table() || inside.get_ref().is_array() { at } else { inside.span() };
            match inside.get_ref() {
                DeValue::Table(inside) => table = Some(inside),
                other => value = Some(other),
            }
        }
        span
    }
}
