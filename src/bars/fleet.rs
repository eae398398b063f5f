//! Progress of a fleet's run: a bar for each machine that is frozen, and one for all of them.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar};
use serde_json::json;
use smolfreeze::fleet::night::{Outcome, Standing};
use smolfreeze::fleet::run::{Unwatched, Watcher};
use smolfreeze::progress::{Observer, Silent};
use smolfreeze::text;

use super::{ProgressMode, line, style};

/// What watches a run, and what it leaves on the terminal.
pub struct Watch {
    pub watcher: Arc<dyn Watcher>,
    screen: Option<MultiProgress>,
}

impl Watch {
    /// For `mode`.
    pub fn new(mode: ProgressMode, quiet: bool) -> Self {
        let plain = |json| Self { watcher: Arc::new(Lines { json, began: Instant::now() }), screen: None };
        match mode {
            ProgressMode::None => Self { watcher: Arc::new(Unwatched), screen: None },
            _ if quiet => Self { watcher: Arc::new(Unwatched), screen: None },
            ProgressMode::Json => plain(true),
            ProgressMode::Auto if std::io::stderr().is_terminal() => {
                let screen = MultiProgress::new();
                Self { watcher: Arc::new(Bars::new(screen.clone())), screen: Some(screen) }
            }
            ProgressMode::Auto | ProgressMode::Plain => plain(false),
        }
    }

    /// Removes the bars.
    pub fn finish(self) {
        if let Some(screen) = self.screen {
            let _ = screen.clear();
        }
    }
}

struct Bars {
    screen: MultiProgress,
    whole: ProgressBar,
    machines: Mutex<HashMap<String, ProgressBar>>,
}

/// One machine's.
struct Machine(ProgressBar);

impl Bars {
    fn new(screen: MultiProgress) -> Self {
        let whole = screen.add(ProgressBar::no_length().with_style(style("{wide_bar} {pos}/{len} machines {elapsed}")));
        whole.enable_steady_tick(Duration::from_millis(200));
        Self { screen, whole, machines: Mutex::default() }
    }
}

impl Watcher for Bars {
    fn began(&self, machines: usize) {
        self.whole.set_length(machines as u64);
    }

    fn machine_began(&self, machine: &str, attempt: u32) -> Arc<dyn Observer> {
        let again = if attempt > 1 { format!(" (try {attempt})") } else { String::new() };
        let bar = ProgressBar::no_length().with_style(style("  {prefix} {spinner} {bytes} {bytes_per_sec} {msg}"));
        let bar = self.screen.insert_before(&self.whole, bar.with_prefix(format!("{machine}{again}")));
        bar.enable_steady_tick(Duration::from_millis(200));
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).insert(machine.to_owned(), bar.clone());
        Arc::new(Machine(bar))
    }

    fn machine_ended(&self, machine: &str, outcomes: &[Outcome], again_in: Option<Duration>) {
        if let Some(bar) = self.machines.lock().unwrap_or_else(PoisonError::into_inner).remove(machine) {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
        for told in told(outcomes, again_in) {
            let _ = self.screen.println(told);
        }
        self.whole.inc(u64::from(again_in.is_none()));
    }

    fn said(&self, said: &str) {
        let _ = self.screen.println(text::line(said));
    }
}

impl Observer for Machine {
    fn expected(&self, tar_bytes: u64) {
        self.0.set_length(tar_bytes);
        self.0.set_style(style("  {prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left {msg}"));
    }

    fn read(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn retrying(&self, subject: &str, reason: &str, delay: Duration) {
        self.0.set_message(text::line(&format!("again in {}: {subject}: {reason}", HumanDuration(delay))).into_owned());
    }
}

/// Lines of text or JSON.
struct Lines {
    json: bool,
    began: Instant,
}

impl Watcher for Lines {
    fn began(&self, machines: usize) {
        if self.json {
            line(&json!({ "event": "began", "machines": machines }).to_string());
        }
    }

    fn machine_began(&self, machine: &str, attempt: u32) -> Arc<dyn Observer> {
        if self.json {
            line(&json!({ "event": "machine", "machine": machine, "attempt": attempt }).to_string());
        } else {
            line(&format!("{:.0} s: {machine} begins", self.began.elapsed().as_secs_f64()));
        }
        Arc::new(Silent)
    }

    fn machine_ended(&self, _machine: &str, outcomes: &[Outcome], again_in: Option<Duration>) {
        if self.json {
            let again = again_in.map(|pause| pause.as_secs_f64());
            line(&json!({ "event": "ended", "outcomes": outcomes, "again_in": again }).to_string());
            return;
        }
        let seconds = self.began.elapsed().as_secs_f64();
        told(outcomes, again_in).for_each(|told| line(&format!("{seconds:.0} s: {told}")));
    }

    fn said(&self, said: &str) {
        if self.json {
            line(&json!({ "event": "said", "text": said }).to_string());
        } else {
            line(&text::line(said));
        }
    }
}

/// How a machine stands, a line for each destination.
fn told(outcomes: &[Outcome], again_in: Option<Duration>) -> impl Iterator<Item = String> {
    outcomes.iter().map(move |outcome| {
        let Outcome { machine, destination, .. } = outcome;
        let why = outcome.trouble.as_ref().map_or("", |trouble| trouble.text.as_str());
        let said = match (outcome.state, again_in) {
            (Standing::Done, _) => format!("done in {:.1} s", outcome.seconds),
            (Standing::Failed, Some(pause)) => format!("again in {}: {why}", HumanDuration(pause)),
            (Standing::Failed, None) => format!("FAILED: {why}"),
            (Standing::Skipped, _) => format!("skipped: {why}"),
            (Standing::Pending, _) => "not done".to_owned(),
        };
        text::line(&format!("{machine} to {destination}: {said}")).into_owned()
    })
}
