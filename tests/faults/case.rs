//! One freeze and its faults, drawn by a seed.

use std::fmt;
use std::time::Duration;

use crate::fault::Fault;
use crate::standin::Kind;
use crate::support::proxy::{Fault as Cut, Rule};

/// What a freeze without faults may take on busy cores.
pub const PLAIN: Duration = Duration::from_secs(60);

/// What is left out of a Debian machine, to save time.
pub const EXCLUDED: [&str; 2] = ["usr/lib", "usr/share"];

/// Who reads in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Ours,
    Tools,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Folder,
    Machine(Kind, Reader),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Debian's docker-registry, behind the proxy.
    Registry,
    /// `smolfreeze serve`, behind the proxy.
    Serve,
    Layout,
    Artifact,
}

impl Output {
    pub fn is_registry(self) -> bool {
        matches!(self, Self::Registry | Self::Serve)
    }
}

/// All that a seed decides.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub source: Source,
    pub outputs: Vec<Output>,
    pub faults: Vec<Fault>,
    /// Options of the freeze.
    pub words: Vec<&'static str>,
    /// About the bytes of the source that no compression shrinks.
    pub tree_bytes: usize,
    /// Another image has the name already.
    pub has_older: bool,
    /// A freeze without faults follows, whatever became of the first.
    pub again: bool,
}

impl Case {
    pub fn drawn(seed: u64) -> Self {
        let random = &mut fastrand::Rng::with_seed(seed);
        let source = match random.u8(..8) {
            0..=2 => Source::Folder,
            3..=4 => Source::Machine(Kind::Busybox, Reader::Tools),
            5 => Source::Machine(Kind::Bare, Reader::Tools),
            6 => Source::Machine(Kind::Debian, Reader::Tools),
            _ => Source::Machine(Kind::Debian, Reader::Ours),
        };
        let outputs = match random.u8(..12) {
            0..=4 => vec![Output::Registry],
            5 => vec![Output::Serve],
            6..=7 => vec![Output::Layout],
            8 => vec![Output::Artifact],
            9 => vec![Output::Layout, Output::Registry],
            10 => vec![Output::Serve, Output::Layout],
            _ => vec![Output::Registry, Output::Artifact],
        };
        let wanted = match random.u8(..8) {
            0..=3 => 1,
            4..=6 => 2,
            _ => 3,
        };
        let mut faults: Vec<Fault> = Vec::new();
        while faults.len() < wanted {
            let Some(fault) = Fault::drawn(random, source, &outputs) else { continue };
            // Two of a kind hide each other.
            if faults.iter().all(|other| std::mem::discriminant(other) != std::mem::discriminant(&fault)) {
                faults.push(fault);
            }
        }
        let is_large = source == Source::Folder && random.u8(..4) == 0;
        let tree_bytes = if is_large { 60 << 20 } else { random.usize(3 << 20..16 << 20) };
        let words = words(random, source, is_large);
        let (has_older, again) = (random.u8(..3) == 0, random.u8(..3) == 0);
        Self { seed, source, outputs, faults, words, tree_bytes, has_older, again }
    }

    /// Whatever else happens, the freeze is over by then.
    pub fn deadline(&self) -> Duration {
        PLAIN + self.faults.iter().map(Fault::patience).sum::<Duration>()
    }

    /// Whether the freeze has to succeed.
    pub fn has_to_succeed(&self) -> bool {
        self.faults.iter().all(Fault::is_overcome)
    }

    pub fn has(&self, is: impl Fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(is)
    }

    /// A freeze that was killed with `kill -9` leaves what it had.
    pub fn is_killed(&self) -> bool {
        self.has(|fault| matches!(fault, Fault::KillHost(_)))
    }

    /// The guest may be left with a spool.
    pub fn has_crash(&self) -> bool {
        self.is_killed() || self.has(|fault| matches!(fault, Fault::StopMachine(_) | Fault::KillInGuest(..)))
    }

    /// The registry may have sessions that nobody can know of: the answer that named one was lost, or it was killed.
    pub fn loses_sessions(&self) -> bool {
        let lost = |rule: &Rule| matches!(rule.fault, Cut::CutAnswer | Cut::CutInBody | Cut::Stall | Cut::Answer(..));
        self.has(|fault| match fault {
            Fault::Wire(rule) => lost(rule),
            fault => matches!(fault, Fault::KillRegistry(..) | Fault::FullRegistry(_)),
        })
    }
}

fn words(random: &mut fastrand::Rng, source: Source, is_large: bool) -> Vec<&'static str> {
    let mut words = vec!["--quiet"];
    match random.u8(..3) {
        0 if !is_large => words.extend(["--layer-size", "1MiB"]),
        1 if !is_large => words.extend(["--layer-size", "4MiB"]),
        _ => {}
    }
    if is_large {
        words.extend(["--memory", "96MiB"]);
    }
    match random.u8(..6) {
        0 => words.extend(["--compression", "gzip"]),
        1 => words.extend(["--compression", "none"]),
        _ => {}
    }
    if let Source::Machine(kind, reader) = source {
        words.extend(["--chunk-size", if random.bool() { "1MiB" } else { "4MiB" }]);
        if reader == Reader::Tools {
            words.extend(["--guest-reader", "tar"]);
        }
        if kind == Kind::Debian {
            words.extend(["--exclude", "/usr/lib", "--exclude", "/usr/share"]);
        }
    }
    words
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, source, outputs, tree_bytes, has_older, .. } = self;
        write!(formatter, "seed {seed}: {source:?} of {tree_bytes} bytes to {outputs:?}")?;
        if *has_older {
            write!(formatter, ", which have an older image")?;
        }
        self.faults.iter().try_for_each(|fault| write!(formatter, "; {fault}"))
    }
}
