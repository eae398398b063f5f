//! Names of images with placeholders: filled in, and recognised again.

use std::fmt;
use std::str::FromStr;

/// What may stand in braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// The machine's name.
    Machine,
    /// The policy's.
    Policy,
    /// This host's.
    Host,
    /// The night's.
    Night,
    /// The date on which the run began: `2026-11-29`.
    Date,
    /// The time of day at which it began: `023000`.
    Time,
}

/// What placeholders stand for.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The machine's name.
    pub machine: &'a str,
    /// The policy's.
    pub policy: &'a str,
    /// This host's.
    pub host: &'a str,
    /// The night's.
    pub night: &'a str,
    /// When the run began, on this host's clock.
    pub began: jiff::civil::DateTime,
}

/// A name with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Placeholder(Placeholder),
}

/// All placeholders, by their names.
const NAMES: [(&str, Placeholder); 6] = [
    ("machine", Placeholder::Machine),
    ("policy", Placeholder::Policy),
    ("host", Placeholder::Host),
    ("night", Placeholder::Night),
    ("date", Placeholder::Date),
    ("time", Placeholder::Time),
];

impl Template {
    /// Whether it has this placeholder.
    #[must_use]
    pub fn has(&self, placeholder: Placeholder) -> bool {
        self.0.contains(&Part::Placeholder(placeholder))
    }

    /// Whether two nights have different names in it.
    #[must_use]
    pub fn tells_nights_apart(&self) -> bool {
        [Placeholder::Night, Placeholder::Date, Placeholder::Time].iter().any(|placeholder| self.has(*placeholder))
    }

    /// With its placeholders filled in.
    #[must_use]
    pub fn expand(&self, values: &Values) -> String {
        let word = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Placeholder(placeholder) => match placeholder {
                Placeholder::Machine => values.machine.to_owned(),
                Placeholder::Policy => values.policy.to_owned(),
                Placeholder::Host => values.host.to_owned(),
                Placeholder::Night => values.night.to_owned(),
                Placeholder::Date => values.began.strftime("%Y-%m-%d").to_string(),
                Placeholder::Time => values.began.strftime("%H%M%S").to_string(),
            },
        };
        self.0.iter().map(word).collect()
    }

    /// Whether it may have become `name` for `machine`, in some night.
    #[must_use]
    pub fn fits(&self, name: &str, machine: &str) -> bool {
        fits(&self.0, name, machine)
    }
}

fn fits(parts: &[Part], name: &str, machine: &str) -> bool {
    let Some((first, rest)) = parts.split_first() else { return name.is_empty() };
    let after = |text: &str| name.strip_prefix(text).is_some_and(|name| fits(rest, name, machine));
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let shaped = |shape: &str| {
        let is_so = |(byte, wanted): (u8, u8)| if wanted == b'0' { byte.is_ascii_digit() } else { byte == wanted };
        let begins = name.len() >= shape.len() && name.bytes().zip(shape.bytes()).all(is_so);
        begins && fits(rest, &name[shape.len()..], machine)
    };
    match first {
        Part::Text(text) => after(text),
        Part::Placeholder(Placeholder::Machine) => after(machine),
        Part::Placeholder(Placeholder::Date) => shaped("0000-00-00"),
        Part::Placeholder(Placeholder::Time) => shaped("000000"),
        Part::Placeholder(Placeholder::Policy | Placeholder::Host | Placeholder::Night) => {
            let length = name.bytes().take_while(|byte| is_word(*byte)).count();
            (1..=length).any(|at| fits(rest, &name[at..], machine))
        }
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            if !rest[..at].is_empty() {
                parts.push(Part::Text(rest[..at].to_owned()));
            }
            let behind = &rest[at + 1..];
            let word = behind.split_once('}').filter(|_| rest[at..].starts_with('{'));
            let (word, after) = word.ok_or("a '{' has no '}' behind it, or a '}' no '{' before it")?;
            let known = NAMES.iter().find(|(name, _)| *name == word).map(|(_, placeholder)| *placeholder);
            parts.push(Part::Placeholder(known.ok_or_else(|| unknown(word))?));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }
}

fn unknown(word: &str) -> String {
    let names: Vec<_> = NAMES.iter().map(|(name, _)| format!("{{{name}}}")).collect();
    format!("there is no placeholder '{{{word}}}'; there are {}", names.join(", "))
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Placeholder(placeholder) => {
                let name = NAMES.iter().find(|(_, known)| known == placeholder).map_or("", |(name, _)| name);
                write!(f, "{{{name}}}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(night: &str) -> Values<'_> {
        let began = "2026-11-29T02:30:05".parse().unwrap();
        Values { machine: "db-1", policy: "all", host: "h", night, began }
    }

    #[test]
    fn what_was_filled_in_is_recognised() {
        for (text, name) in [
            ("registry.example/{machine}:{date}", "registry.example/db-1:2026-11-29"),
            ("oci:/srv/{host}/{policy}:{machine}-{night}-{time}", "oci:/srv/h/all:db-1-n.1-023005"),
            ("/srv/{machine}.smolmachine", "/srv/db-1.smolmachine"),
        ] {
            let template: Template = text.parse().unwrap();
            assert_eq!(template.to_string(), text);
            assert_eq!(template.expand(&values("n.1")), name);
            assert!(template.fits(name, "db-1"), "{text}");
            assert!(!template.fits(name, "web"), "{text}: of another machine");
            assert!(!template.fits(&format!("{name}x/"), "db-1"), "{text}");
        }
    }

    #[test]
    fn another_machines_snapshot_is_not_ours() {
        let template: Template = "registry.example/all:{machine}-{date}".parse().unwrap();
        assert!(template.fits("registry.example/all:db-2026-11-29", "db"));
        assert!(!template.fits("registry.example/all:db-1-2026-11-29", "db"));
        assert!(!template.fits("registry.example/all:db-latest", "db"));
        assert!(!template.fits("registry.example/all:db-2026-11-2ä", "db"));
    }

    #[test]
    fn what_is_no_placeholder_is_refused() {
        for (bad, said) in [("{machin}", "{machine}"), ("{machine", "no '}'"), ("a}b", "no '{'"), ("}{date}", "no '{'")]
        {
            let error = bad.parse::<Template>().unwrap_err();
            assert!(error.contains(said), "{bad}: {error}");
        }
    }
}
