//! Figures of many freezes, and the words for one that was not as it should be.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::case::Case;
use crate::fault::Fault;
use crate::run::Ended;

/// One case, run and looked at.
pub struct Judged {
    case: Case,
    pub command: String,
    pub ended: Option<Ended>,
    /// A freeze without faults followed.
    pub again: bool,
    pub wrong: Vec<String>,
    /// With all that was looked at.
    pub took: Duration,
    /// What was kept.
    pub folder: Option<PathBuf>,
}

impl Judged {
    pub fn new(case: &Case) -> Self {
        let (command, wrong) = (String::new(), Vec::new());
        Self { case: case.clone(), command, ended: None, again: false, wrong, took: Duration::ZERO, folder: None }
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, command, ended, wrong, folder, .. } = self;
        writeln!(formatter, "NOT AS IT SHOULD BE, {case}\n  smolfreeze freeze {command}")?;
        if let Some(Ended { code, signal, stderr, took, struck, .. }) = ended {
            writeln!(
                formatter,
                "  exit code {code:?}, signal {signal:?}, after {took:.1?}; stderr: {}",
                stderr.trim_end()
            )?;
            let struck: Vec<_> = struck.iter().map(Fault::kind).collect();
            writeln!(formatter, "  struck: {}", struck.join(", "))?;
        }
        wrong.iter().try_for_each(|words| writeln!(formatter, "  * {words}"))?;
        if let Some(folder) = folder {
            writeln!(formatter, "  kept: {}", folder.display())?;
        }
        write!(formatter, "  again: tests/faults/run 1 {}", case.seed)
    }
}

/// The figures.
#[derive(Default)]
pub struct Tally {
    cases: usize,
    good: usize,
    killed: usize,
    again: usize,
    /// Failures, by exit code.
    failed: BTreeMap<i32, usize>,
    /// Faults that struck.
    faults: BTreeMap<String, usize>,
    wrong: Vec<u64>,
    slowest: f64,
}

impl Tally {
    /// Counts it, and says at once what is wrong with it.
    pub fn add(&mut self, judged: Judged) {
        self.cases += 1;
        self.again += usize::from(judged.again);
        if !judged.wrong.is_empty() {
            println!("{judged}");
            self.wrong.push(judged.case.seed);
        }
        let Some(ended) = judged.ended else { return };
        println!("{:.0?} of {:.0?}, {:?}: {}", ended.took, judged.took, ended.code, judged.case);
        match ended.code {
            Some(0) => self.good += 1,
            Some(code) => *self.failed.entry(code).or_default() += 1,
            None => self.killed += 1,
        }
        for fault in &ended.struck {
            *self.faults.entry(fault.kind()).or_default() += 1;
        }
        self.slowest = self.slowest.max(ended.took.as_secs_f64());
    }

    pub fn is_clean(&self) -> bool {
        self.wrong.is_empty()
    }

    pub fn wrong(&self) -> usize {
        self.wrong.len()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cases, good, killed, again, failed, faults, wrong, slowest } = self;
        writeln!(
            formatter,
            "{cases} freezes with faults: {good} good, {killed} killed; failed, by exit code: {failed:?}"
        )?;
        writeln!(formatter, "{again} freezes without faults after them; the slowest with faults took {slowest:.0} s")?;
        faults.iter().try_for_each(|(fault, times)| writeln!(formatter, "{times:5} {fault}"))?;
        write!(formatter, "not as they should be: {} {wrong:?}", wrong.len())
    }
}
