//! The nights of a fleet on disk, and what can be told of all of them.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::{Made, Night, Outcome, VERSION};
use crate::error::{Error, Kind, Result, Side};

/// What the names of unfinished files begin with.
const TEMPORARY: &str = ".smolfreeze-";

/// The nights of one fleet.
#[derive(Debug, Clone)]
pub struct Nights {
    folder: PathBuf,
}

/// All nights that could be read, oldest first, and the files that could not.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The nights.
    pub nights: Vec<Night>,
    /// Paths, and why.
    pub unreadable: Vec<(PathBuf, String)>,
}

impl Nights {
    /// Those of the fleet `name`; nothing is made.
    #[must_use]
    pub fn at(state: &Path, name: &str) -> Self {
        Self { folder: state.join("fleet").join(name) }
    }

    /// The folder of all that is remembered of the fleet, made if it is not there.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn make_folder(&self) -> Result<&Path> {
        let nights = self.folder.join("nights");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&nights);
        made.map_err(|error| failed("making the fleet's folder", &nights, error))?;
        Ok(&self.folder)
    }

    /// The folder of all that is remembered of the fleet, there or not.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes what a run that was killed was writing. Only whoever has the fleet's lock may.
    pub(crate) fn sweep(&self) {
        let entries = fs::read_dir(self.folder.join("nights")).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes())) {
            // One that stays is in nobody's way.
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Where a night is.
    #[must_use]
    pub fn path(&self, night: &str) -> PathBuf {
        self.folder.join("nights").join(format!("{night}.json"))
    }

    /// The night of this name, where there is one.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(&self, night: &str) -> Result<Option<Night>> {
        let path = self.path(night);
        match read(&path) {
            Ok(night) => Ok(Some(night)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("reading the night", &path, error)),
        }
    }

    /// All nights.
    ///
    /// # Errors
    /// When the folder can't be read; files that can't are in the result.
    pub fn history(&self) -> Result<History> {
        let folder = self.folder.join("nights");
        let wrong = |error| failed("reading the fleet's nights", &folder, error);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(History::default()),
            Err(error) => return Err(wrong(error)),
        };
        let mut history = History::default();
        for entry in entries {
            let path = entry.map_err(wrong)?.path();
            let is_night = path.extension().is_some_and(|extension| extension == "json")
                && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()));
            if is_night {
                match read(&path) {
                    Ok(night) => history.nights.push(night),
                    Err(error) => history.unreadable.push((path, error.to_string())),
                }
            }
        }
        history.nights.sort_by(|one, other| (one.began(), &one.night).cmp(&(other.began(), &other.night)));
        Ok(history)
    }

    /// Writes it whole: whoever is killed meanwhile leaves the one before.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, night: &Night) -> Result<()> {
        let path = self.path(&night.night);
        let written = || {
            let folder = path.parent().unwrap_or(&self.folder);
            let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder)?;
            serde_json::to_writer_pretty(&mut file, night)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(folder)?.sync_all()
        };
        written().map_err(|error: io::Error| failed("writing the night", &path, error))
    }
}

impl History {
    /// The newest image of `machine` at `destination`.
    #[must_use]
    pub fn last_made(&self, machine: &str, destination: &str) -> Option<(&Outcome, &Made)> {
        let of_pair = self.nights.iter().flat_map(Night::made);
        let of_pair = of_pair.filter(|(outcome, _)| outcome.is_of(machine, destination));
        of_pair.max_by_key(|(outcome, _)| outcome.ended)
    }

    /// What the last good freeze of `machine` took, in seconds, and the bytes that it read.
    #[must_use]
    pub fn last_cost(&self, machine: &str) -> Option<(f64, &Made)> {
        let of_machine = self.nights.iter().flat_map(Night::made).filter(|(outcome, _)| outcome.machine == machine);
        of_machine.max_by_key(|(outcome, _)| outcome.ended).map(|(outcome, made)| (outcome.seconds, made))
    }
}

fn read(path: &Path) -> io::Result<Night> {
    let night: Night = serde_json::from_slice(&fs::read(path)?)?;
    if night.version > VERSION {
        let reason = format!("it is of form {}, which a newer smolfreeze wrote", night.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(night)
}

fn failed(operation: &str, path: &Path, error: io::Error) -> Error {
    Error::new(Kind::Sink, Side::Plan, operation, format_args!("'{}'", path.display()), &error).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::night::{Standing, Trouble};

    fn outcome(machine: &str, state: Standing, ended: &str) -> Outcome {
        let made = Made::of_a_test(ended);
        Outcome {
            machine: machine.to_owned(),
            policy: "all".to_owned(),
            destination: "main".to_owned(),
            name: format!("registry.example/{machine}:{ended}"),
            state,
            trouble: (state == Standing::Failed).then(|| Trouble::new("sink", "no\nroom")),
            attempts: 1,
            began: None,
            ended: Some(ended.parse().unwrap()),
            seconds: 1.5,
            image: (state == Standing::Done).then_some(made),
            remarks: Vec::new(),
            verified: None,
        }
    }

    #[test]
    fn history_is_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let nights = Nights::at(folder.path(), "fleet");
        assert!(nights.history().unwrap().nights.is_empty(), "nothing is there, and nothing is made");
        nights.make_folder().unwrap();
        let mut first = Night::new("fleet", "2026-11-28", "host");
        first.outcomes = vec![
            outcome("a", Standing::Done, "2026-11-28T02:31:00Z"),
            outcome("b", Standing::Done, "2026-11-28T02:32:00Z"),
        ];
        let mut second = Night::new("fleet", "2026-11-29", "host");
        second.outcomes = vec![
            outcome("a", Standing::Done, "2026-11-29T02:31:00Z"),
            outcome("b", Standing::Failed, "2026-11-29T02:32:00Z"),
        ];
        for night in [&second, &first] {
            nights.write(night).unwrap();
        }
        fs::write(nights.path("2026-11-27"), "{").unwrap();
        fs::write(nights.path("2026-11-30"), r#"{"version": 99}"#).unwrap();
        let history = nights.history().unwrap();
        assert_eq!(
            history.nights.iter().map(|night| &night.night[..]).collect::<Vec<_>>(),
            ["2026-11-28", "2026-11-29"]
        );
        assert_eq!(history.unreadable.len(), 2);
        assert_eq!(history.last_made("b", "main").unwrap().0.name, "registry.example/b:2026-11-28T02:32:00Z");
        assert!(history.last_made("a", "main").unwrap().0.name.ends_with("29T02:31:00Z"));
        assert!(history.last_made("a", "other").is_none());
        assert_eq!(
            nights.read("2026-11-29").unwrap().unwrap().outcome("b", "main").unwrap().trouble.as_ref().unwrap().text,
            "no\\nroom"
        );
    }
}
