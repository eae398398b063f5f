//! Progress for people: bars on a terminal, lines elsewhere, JSON for programs. All of it goes to standard error.

pub mod fleet;

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;
use smolfreeze::progress::{NoticeKind, Observer, Silent};
use smolfreeze::text;

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressMode {
    /// Bars on a terminal, lines elsewhere.
    Auto,
    /// A line every few seconds.
    Plain,
    /// A JSON object a line, for programs.
    Json,
    /// Nothing.
    None,
}

/// Time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two JSON lines that say how far it is.
const JSON_INTERVAL: Duration = Duration::from_millis(500);

/// What has to be tidied up on the terminal at the end.
pub struct Shown(Option<Arc<Bars>>);

impl Shown {
    /// Removes the bars.
    pub fn finish(self) {
        if let Some(bars) = self.0 {
            let _ = bars.screen.clear();
        }
    }
}

/// The observer for `mode`.
pub fn observer(mode: ProgressMode, quiet: bool) -> (Arc<dyn Observer>, Shown) {
    match mode {
        ProgressMode::None => (Arc::new(Silent), Shown(None)),
        _ if quiet => (Arc::new(Silent), Shown(None)),
        ProgressMode::Json => (Arc::new(Lines::new(JSON_INTERVAL, true)), Shown(None)),
        ProgressMode::Auto if std::io::stderr().is_terminal() => {
            let bars = Arc::new(Bars::new());
            (Arc::clone(&bars) as _, Shown(Some(bars)))
        }
        ProgressMode::Auto | ProgressMode::Plain => (Arc::new(Lines::new(LINE_INTERVAL, false)), Shown(None)),
    }
}

/// One line for the whole, and one for each layer that is being sent.
struct Bars {
    screen: MultiProgress,
    whole: ProgressBar,
    layers: Mutex<HashMap<usize, ProgressBar>>,
}

impl Bars {
    fn new() -> Self {
        let screen = MultiProgress::new();
        let whole = screen.add(ProgressBar::no_length().with_style(style("{spinner} {bytes} {bytes_per_sec} {msg}")));
        whole.enable_steady_tick(Duration::from_millis(200));
        Self { screen, whole, layers: Mutex::default() }
    }

    fn layer(&self, index: usize) -> Option<ProgressBar> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).get(&index).cloned()
    }

    fn remove(&self, index: usize) {
        if let Some(bar) = self.layers.lock().unwrap_or_else(PoisonError::into_inner).remove(&index) {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}

impl Observer for Bars {
    fn expected(&self, tar_bytes: u64) {
        self.whole.set_length(tar_bytes);
        self.whole.set_style(style("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left {msg}"));
    }

    fn read(&self, bytes: u64) {
        self.whole.inc(bytes);
    }

    fn layer_packed(&self, index: usize, _tar_bytes: u64, blob_bytes: u64) {
        let bar = ProgressBar::new(blob_bytes).with_style(style("  layer {prefix:>3} {bar:30} {bytes}/{total_bytes}"));
        let bar = self.screen.add(bar.with_prefix((index + 1).to_string()));
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).insert(index, bar);
    }

    fn part_sent(&self, index: usize, bytes: u64) {
        if let Some(bar) = self.layer(index) {
            bar.inc(bytes);
        }
    }

    fn layer_sent(&self, index: usize) {
        self.remove(index);
    }

    fn retrying(&self, subject: &str, reason: &str, delay: Duration) {
        let _ = self.screen.println(text::line(&format!("again in {}: {subject}: {reason}", HumanDuration(delay))));
    }
}

/// Lines of text or JSON.
struct Lines {
    json: bool,
    interval: Duration,
    state: Mutex<State>,
}

struct State {
    began: Instant,
    last: Instant,
    expected: Option<u64>,
    read: u64,
    sent: u64,
}

impl Lines {
    fn new(interval: Duration, json: bool) -> Self {
        let now = Instant::now();
        Self { json, interval, state: Mutex::new(State { began: now, last: now, expected: None, read: 0, sent: 0 }) }
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if state.last.elapsed() < self.interval {
            return;
        }
        state.last = Instant::now();
        let (read, sent, expected, seconds) =
            (state.read, state.sent, state.expected, state.began.elapsed().as_secs_f64());
        drop(state);
        if self.json {
            line(
                &json!({ "event": "progress", "read": read, "expected": expected, "sent": sent, "seconds": seconds })
                    .to_string(),
            );
            return;
        }
        let of = expected.map_or_else(String::new, |bytes| format!(" of about {}", HumanBytes(bytes)));
        let sent = if sent > 0 { format!(", sent {}", HumanBytes(sent)) } else { String::new() };
        line(&format!("{seconds:.0} s: read {}{of}{sent}", HumanBytes(read)));
    }
}

fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl Observer for Lines {
    fn expected(&self, tar_bytes: u64) {
        self.update(|state| state.expected = Some(tar_bytes));
    }

    fn read(&self, bytes: u64) {
        self.update(|state| state.read += bytes);
    }

    fn part_sent(&self, _index: usize, bytes: u64) {
        self.update(|state| state.sent += bytes);
    }

    fn layer_known(&self, index: usize, tar_bytes: u64, blob_bytes: u64) {
        if self.json {
            line(&json!({ "event": "known", "layer": index, "tar": tar_bytes, "stored": blob_bytes }).to_string());
        }
    }

    fn layer_packed(&self, index: usize, tar_bytes: u64, blob_bytes: u64) {
        if self.json {
            line(&json!({ "event": "packed", "layer": index, "tar": tar_bytes, "stored": blob_bytes }).to_string());
        }
    }

    fn layer_sent(&self, index: usize) {
        if self.json {
            line(&json!({ "event": "sent", "layer": index }).to_string());
        }
    }

    fn retrying(&self, subject: &str, reason: &str, delay: Duration) {
        let seconds = delay.as_secs_f64();
        if self.json {
            line(&json!({ "event": "retry", "subject": subject, "reason": reason, "delay": seconds }).to_string());
        } else {
            line(&text::line(&format!("again in {seconds:.1} s: {subject}: {reason}")));
        }
    }

    fn noticed(&self, kind: NoticeKind, path: &[u8]) {
        if self.json {
            line(&json!({ "event": "notice", "kind": kind, "path": String::from_utf8_lossy(path) }).to_string());
        }
    }
}
