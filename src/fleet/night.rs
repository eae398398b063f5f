//! A night: what became of every machine at every destination, in one file that is written whole after each outcome.
//!
//! ```text
//! STATE/fleet/NAME/lock                 held by the run that is under way
//! STATE/fleet/NAME/nights/NIGHT.json    one night
//! ```
//!
//! History is these files, read. Each is written under a temporary name, synced and renamed: whoever is killed leaves the one
//! before.

mod history;
mod snapshots;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::oci::Digest;
use crate::state::Id;
use crate::text;

pub use history::{History, Nights};
pub use snapshots::{Failure, Snapshot, newest_good, snapshots};

/// The form of the file. One that is newer is not read.
pub const VERSION: u32 = 1;
/// Bytes of a night's name.
const NAME_BYTES_MAX: usize = 64;

/// A night.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Night {
    /// [`VERSION`].
    pub version: u32,
    /// The fleet's name.
    pub fleet: String,
    /// The night's name; by default the date on which it began.
    pub night: String,
    /// This host.
    pub host: String,
    /// The runs it took, in order: one that is interrupted is gone on with by the next.
    pub runs: Vec<Run>,
    /// The last word on each machine and destination: there is one of each pair.
    pub outcomes: Vec<Outcome>,
    /// What was done in this night and then done again (`--force`), while its image may still be there under a name of its own.
    #[serde(default)]
    pub earlier: Vec<Outcome>,
    /// Machines that a run started, and that may still be running: the next run stops them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub started: Vec<String>,
    /// Machines that no policy selected, and that the file does not ignore.
    #[serde(default)]
    pub unselected: Vec<String>,
    /// What was done when the freezes were over.
    #[serde(default)]
    pub after: After,
}

/// One run of a night.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// When it began.
    pub began: Timestamp,
    /// When it ended; one that was killed never did.
    #[serde(default)]
    pub ended: Option<Timestamp>,
    /// Its exit code.
    #[serde(default)]
    pub exit: Option<u8>,
    /// Its process.
    pub pid: u32,
    /// What concerns no machine: commands on the host that failed, say.
    #[serde(default)]
    pub troubles: Vec<Trouble>,
}

/// What became of a machine at a destination.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// The machine.
    pub machine: String,
    /// The policy that it fell to.
    pub policy: String,
    /// The destination's name in the file.
    pub destination: String,
    /// The image's name there, with its placeholders filled in: a reference, `oci:DIR:TAG` or a path.
    pub name: String,
    /// How it stands.
    pub state: Standing,
    /// Why it failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// How often it was tried in this night.
    #[serde(default)]
    pub attempts: u32,
    /// When the last try began.
    #[serde(default)]
    pub began: Option<Timestamp>,
    /// When the image had its name, or the try failed.
    #[serde(default)]
    pub ended: Option<Timestamp>,
    /// What the last try took, with opening the machine, and without waiting for its turn.
    #[serde(default)]
    pub seconds: f64,
    /// What there is of an image that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Made>,
    /// What was left undone, in the machine say: the image is there all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// How the image was found when it was read back. Set by `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
}

/// How a machine stands at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Not yet tried, or in the middle of it.
    Pending,
    /// The image is there.
    Done,
    /// It is not.
    Failed,
    /// The machine was left alone, as its policy says.
    Skipped,
}

/// Why something failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// [`Kind::name`](crate::error::Kind::name), `stopped` (a machine that does not run), `deadline`, or `hook`.
    pub kind: String,
    /// In one line.
    pub text: String,
}

/// An image that was made, as the freeze told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Made {
    /// Its manifest's digest.
    pub digest: Digest,
    /// The freeze's record, if it has one.
    #[serde(default)]
    pub record: Option<Id>,
    /// Entries in the image.
    pub entries: u64,
    /// Bytes of tar of all that is in the image, about.
    pub tar_bytes: u64,
    /// Bytes of tar that were read for it.
    pub read_bytes: u64,
    /// Bytes that this destination was sent.
    pub sent_bytes: u64,
    /// Bytes that crossed the machine's link.
    pub link_bytes: u64,
    /// Bytes of all layers as they are stored, or of the artifact.
    pub stored_bytes: u64,
    /// The stage that decided how long it took.
    pub slowest_stage: String,
    /// Operations that were tried again within the freeze.
    pub retries: u64,
    /// Most bytes of layers that were held in memory.
    pub held_bytes_peak: u64,
    /// A file of earlier images was not what it should have been: what there is to say of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// Why everything was read, where nobody can tell what has changed since the last freeze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_full: Option<String>,
}

/// An image that was read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When.
    pub at: Timestamp,
    /// What was wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// What was done when the freezes were over.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct After {
    /// Snapshots of this and of earlier nights that were removed.
    #[serde(default)]
    pub removed: Vec<Removed>,
    /// Those that are just being removed: what is left of a run that was killed meanwhile, the next one looks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removing: Vec<Removed>,
    /// Snapshots of earlier nights that were read back.
    #[serde(default)]
    pub verified: Vec<Reverified>,
    /// Machines that were made of snapshots.
    #[serde(default)]
    pub drills: Vec<Drilled>,
    /// What could not be done.
    #[serde(default)]
    pub troubles: Vec<Trouble>,
    /// What a person should know, and need not do anything about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// A snapshot that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The machine.
    pub machine: String,
    /// The destination's name in the file.
    pub destination: String,
    /// Its name there.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
    /// When.
    pub at: Timestamp,
}

/// A snapshot of an earlier night that was read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverified {
    /// The machine.
    pub machine: String,
    /// The destination's name in the file.
    pub destination: String,
    /// Its name there.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
    /// How it was found.
    #[serde(flatten)]
    pub verified: Verified,
}

/// A machine that was made of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drilled {
    /// The machine.
    pub machine: String,
    /// The destination's name in the file.
    pub destination: String,
    /// The snapshot's name there.
    pub name: String,
    /// When.
    pub at: Timestamp,
    /// What it took.
    pub seconds: f64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
}

impl Night {
    /// One in which nothing has been done.
    #[must_use]
    pub fn new(fleet: &str, night: &str, host: &str) -> Self {
        Self {
            version: VERSION,
            fleet: fleet.to_owned(),
            night: night.to_owned(),
            host: host.to_owned(),
            runs: Vec::new(),
            outcomes: Vec::new(),
            earlier: Vec::new(),
            started: Vec::new(),
            unselected: Vec::new(),
            after: After::default(),
        }
    }

    /// When its first run began.
    #[must_use]
    pub fn began(&self) -> Option<Timestamp> {
        self.runs.first().map(|run| run.began)
    }

    /// When its last run ended.
    #[must_use]
    pub fn ended(&self) -> Option<Timestamp> {
        self.runs.last().and_then(|run| run.ended)
    }

    /// How `machine` stands at `destination`.
    #[must_use]
    pub fn outcome(&self, machine: &str, destination: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.is_of(machine, destination))
    }

    /// All images that were made in this night.
    pub fn made(&self) -> impl Iterator<Item = (&Outcome, &Made)> {
        let all = self.outcomes.iter().chain(&self.earlier).filter(|outcome| outcome.state == Standing::Done);
        all.filter_map(|outcome| Some((outcome, outcome.image.as_ref()?)))
    }
}

impl Outcome {
    /// Whether it is of this pair.
    #[must_use]
    pub fn is_of(&self, machine: &str, destination: &str) -> bool {
        self.machine == machine && self.destination == destination
    }

    /// What was wrong with the image when it was read back.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.verified.as_ref()?.fault.as_deref()
    }

    /// That all of the machine was read for the image, and why, in words.
    #[must_use]
    pub fn in_full(&self) -> Option<String> {
        let why = self.image.as_ref()?.in_full.as_ref()?;
        Some(format!("all of it was read: {why}"))
    }

    /// The image, if it is there and was not found wrong.
    #[must_use]
    pub fn good(&self) -> Option<&Made> {
        self.image.as_ref().filter(|_| self.state == Standing::Done && self.fault().is_none())
    }
}

impl Trouble {
    /// One that is no [`Error`] of the library's.
    #[must_use]
    pub fn new(kind: &str, text: impl fmt::Display) -> Self {
        Self { kind: kind.to_owned(), text: text::line(&text.to_string()).into_owned() }
    }
}

impl From<&Error> for Trouble {
    fn from(error: &Error) -> Self {
        Self::new(error.kind().name(), error)
    }
}

/// Whether a night can be called so: it is a file's name, and part of images' names.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) when it can't.
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && name.len() <= NAME_BYTES_MAX && name.bytes().all(allowed) {
        return Ok(());
    }
    let reason = "a night's name begins with a letter or a digit, and has at most 64 letters, digits, '-', '_' and '.'";
    Err(Error::usage("naming the night", text::quoted(name.as_bytes()), reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::digest::DigestHasher;

    impl Made {
        /// One whose digest is that of `text`, and no two figures the same.
        pub(crate) fn of_a_test(text: &str) -> Self {
            Self {
                digest: DigestHasher::of(text.as_bytes()),
                record: None,
                entries: 1,
                tar_bytes: 2,
                read_bytes: 3,
                sent_bytes: 4,
                link_bytes: 5,
                stored_bytes: 6,
                slowest_stage: "sending".to_owned(),
                retries: 0,
                held_bytes_peak: 7,
                alarm: None,
                in_full: None,
            }
        }
    }

    #[test]
    fn a_night_is_a_files_name() {
        for good in ["2026-11-29", "x", "before_upgrade.2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "../x", "-x", "a/b", "a b", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
