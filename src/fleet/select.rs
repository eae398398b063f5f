//! Which machines are frozen by which policy. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::file::{File, Policy};
use crate::error::{Error, Result};
use crate::exclude::Word;
use crate::text;

/// A machine, as smolvm lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// `running`, `stopped`, `created`, …
    #[serde(default)]
    pub state: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What is to be done for one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The machine.
    pub machine: Listed,
    /// The policy's place in the file.
    pub policy: usize,
}

/// All machines, by what becomes of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Those that a policy selects, by name.
    pub selected: Vec<Selected>,
    /// Those that none does, and that the file does not ignore.
    pub unselected: Vec<String>,
}

fn patterns(patterns: &[String]) -> Result<Vec<Word>> {
    patterns.iter().map(|pattern| word(pattern)).collect()
}

fn word(pattern: &str) -> Result<Word> {
    Word::new(pattern).map_err(|reason| Error::usage("reading a pattern", text::quoted(pattern.as_bytes()), reason))
}

fn any(patterns: &[Word], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

/// A policy's conditions.
struct Conditions<'a> {
    machines: Vec<Word>,
    except: Vec<Word>,
    labels: Vec<(&'a str, Word)>,
    states: &'a [String],
}

impl<'a> Conditions<'a> {
    fn of(policy: &'a Policy) -> Result<Self> {
        let labels = policy.labels.iter().map(|(label, pattern)| Ok((label.as_str(), word(pattern)?)));
        Ok(Self {
            machines: patterns(&policy.machines)?,
            except: patterns(&policy.except)?,
            labels: labels.collect::<Result<_>>()?,
            states: &policy.states,
        })
    }

    fn fit(&self, machine: &Listed) -> bool {
        let has_label =
            |(label, pattern): &(&str, Word)| machine.labels.get(*label).is_some_and(|value| pattern.matches(value));
        (self.machines.is_empty() || any(&self.machines, &machine.name))
            && !any(&self.except, &machine.name)
            && self.labels.iter().all(has_label)
            && (self.states.is_empty() || self.states.contains(&machine.state))
    }
}

/// Gives each machine to the first policy that fits it.
///
/// # Errors
/// [`crate::error::Kind::Usage`] with a pattern that is none.
pub fn select(file: &File, machines: Vec<Listed>) -> Result<Selection> {
    let policies = file.policies.iter().map(Conditions::of).collect::<Result<Vec<_>>>()?;
    let ignored = patterns(&file.ignore)?;
    let mut selection = Selection::default();
    for machine in machines {
        match policies.iter().position(|policy| policy.fit(&machine)) {
            Some(policy) => selection.selected.push(Selected { machine, policy }),
            None if any(&ignored, &machine.name) => {}
            None => selection.unselected.push(machine.name),
        }
    }
    selection.selected.sort_by(|one, other| one.machine.name.cmp(&other.machine.name));
    selection.unselected.sort();
    Ok(selection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, state: &str, labels: &[(&str, &str)]) -> Listed {
        let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        Listed { name: name.to_owned(), state: state.to_owned(), labels }
    }

    #[test]
    fn the_first_policy_that_fits_counts() {
        let file = r#"
            ignore = ["scratch-*"]
            [destinations.main]
            to = "registry.example/{machine}:{date}"
            [defaults]
            to = ["main"]
            [[policies]]
            name = "databases"
            machines = ["db-*", "{pg,my}sql"]
            except = ["*-test"]
            [[policies]]
            name = "labelled"
            labels = { tier = "gold*", owner = "*", path = "{a,b}/*" }
            states = ["running", "stopped"]
        "#;
        let file = File::parse(file).unwrap();
        let machines = vec![
            machine("db-2", "stopped", &[("tier", "gold"), ("owner", "")]),
            machine("db-1", "running", &[]),
            machine("db-1-test", "running", &[]),
            machine("mysql", "running", &[]),
            machine("other", "running", &[("tier", "gold-1"), ("owner", ""), ("path", "b/c/d")]),
            machine("nobodys", "running", &[("tier", "gold-1"), ("path", "a/x")]),
            machine("created", "created", &[("tier", "gold-1"), ("owner", "me"), ("path", "a/x")]),
            machine("scratch-1", "running", &[]),
        ];
        let selection = select(&file, machines).unwrap();
        let selected = selection.selected.iter().map(|one| (one.machine.name.as_str(), one.policy));
        assert_eq!(selected.collect::<Vec<_>>(), [("db-1", 0), ("db-2", 0), ("mysql", 0), ("other", 1)]);
        assert_eq!(selection.unselected, ["created", "db-1-test", "nobodys"]);
    }
}
