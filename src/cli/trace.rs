//! `--profile`: a trace in the Trace Event Format, which Perfetto and chrome://tracing open.
//!
//! A freeze must not wait for its profile: spans go through a bounded edge to a thread that writes them, and one that
//! finds the edge full is dropped and counted. What changes all the time is only counted here, and looked at by that
//! thread a few times a second.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::report::{clear, open_for_later};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};
use smolfreeze::error::{Error, Result};
use smolfreeze::progress::{Activity, NoticeKind, Observer, Row};

/// Spans that wait to be written, of about 64 bytes each.
const EDGE_SPANS: usize = 4096;
/// Time between two looks at the counters, at the beginning.
const COUNTERS_INTERVAL: Duration = Duration::from_millis(100);
/// The interval gets longer with the trace's age, to this part of it, so that a freeze of hours still gives a small trace.
const COUNTERS_AN_AGE: u32 = 1000;
/// Rows of packers and of uploads begin at these numbers.
const FIRST_PACKER: usize = 10;
const FIRST_UPLOAD: usize = 10_000;

/// A trace that is being written. It tells another observer all that it is told.
pub struct Trace {
    path: PathBuf,
    recorder: Arc<Recorder>,
    writer: JoinHandle<io::Result<()>>,
}

struct Recorder {
    next: Arc<dyn Observer>,
    edge: Sender<Event>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    held_bytes: AtomicU64,
    read_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    layers_waiting: AtomicI64,
    dropped: AtomicU64,
}

enum Event {
    Span { row: Row, activity: Activity, began: Instant, took: Duration },
    End,
}

impl Trace {
    /// Opens the file, or makes it, before there is anything to trace.
    pub fn open(path: &Path) -> Result<File> {
        open_for_later(path).map_err(|error| failed(path, error))
    }

    /// Begins a trace in the `file` at `path`, in place of what is there.
    pub fn begin(path: &Path, file: File, next: Arc<dyn Observer>) -> Result<Self> {
        clear(&file).map_err(|error| failed(path, error))?;
        let (edge, events) = bounded(EDGE_SPANS);
        let counts = Arc::new(Counts::default());
        let writer = Writer {
            file: BufWriter::new(file),
            began: Instant::now(),
            counts: Arc::clone(&counts),
            last: Seen::default(),
            named: BTreeSet::new(),
        };
        let thread = std::thread::Builder::new().name("profile".to_owned());
        let writer = thread.spawn(move || writer.run(&events)).map_err(|error| failed(path, error))?;
        Ok(Self { path: path.to_owned(), recorder: Arc::new(Recorder { next, edge, counts }), writer })
    }

    /// What the freeze has to tell.
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::clone(&self.recorder) as _
    }

    /// Ends the trace; what is told afterwards is not in it.
    pub fn finish(self) -> Result<()> {
        // A writer that failed is gone; its error is what counts.
        let _ = self.recorder.edge.send(Event::End);
        let written = self.writer.join().unwrap_or_else(|_| Err(io::Error::other("its thread panicked")));
        written.map_err(|error| failed(&self.path, error))
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::sink("writing the profile", format_args!("'{}'", path.display()), &error).because(error)
}

impl Observer for Recorder {
    fn expected(&self, tar_bytes: u64) {
        self.next.expected(tar_bytes);
    }

    fn read(&self, bytes: u64) {
        self.counts.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.next.read(bytes);
    }

    fn layer_began(&self, index: usize) {
        self.next.layer_began(index);
    }

    fn layer_packed(&self, index: usize, tar_bytes: u64, blob_bytes: u64) {
        self.counts.layers_waiting.fetch_add(1, Ordering::Relaxed);
        self.next.layer_packed(index, tar_bytes, blob_bytes);
    }

    fn layer_known(&self, index: usize, tar_bytes: u64, blob_bytes: u64) {
        self.next.layer_known(index, tar_bytes, blob_bytes);
    }

    fn part_sent(&self, index: usize, bytes: u64) {
        self.counts.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.next.part_sent(index, bytes);
    }

    fn layer_sent(&self, index: usize) {
        self.counts.layers_waiting.fetch_sub(1, Ordering::Relaxed);
        self.next.layer_sent(index);
    }

    fn retrying(&self, subject: &str, reason: &str, delay: Duration) {
        self.next.retrying(subject, reason, delay);
    }

    fn span(&self, row: Row, activity: Activity, began: Instant, took: Duration) {
        if self.edge.try_send(Event::Span { row, activity, began, took }).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.next.span(row, activity, began, took);
    }

    fn held(&self, bytes: u64) {
        self.counts.held_bytes.store(bytes, Ordering::Relaxed);
        self.next.held(bytes);
    }

    fn noticed(&self, kind: NoticeKind, path: &[u8]) {
        self.next.noticed(kind, path);
    }
}

/// The thread that writes.
struct Writer {
    file: BufWriter<File>,
    began: Instant,
    counts: Arc<Counts>,
    last: Seen,
    named: BTreeSet<Row>,
}

/// The counters at the last look.
#[derive(Default)]
struct Seen {
    at: Duration,
    read_bytes: u64,
    sent_bytes: u64,
}

impl Writer {
    fn run(mut self, events: &Receiver<Event>) -> io::Result<()> {
        let process =
            json!({ "name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": { "name": "smolfreeze" } });
        write!(self.file, "[\n{process}")?;
        loop {
            let interval = COUNTERS_INTERVAL.max(self.began.elapsed() / COUNTERS_AN_AGE);
            match events.recv_deadline(self.began + self.last.at + interval) {
                Ok(Event::Span { row, activity, began, took }) => self.span(row, activity, began, took)?,
                Err(RecvTimeoutError::Timeout) => self.counters()?,
                Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.began.elapsed() >= self.last.at + interval {
                self.counters()?;
            }
        }
        self.counters()?;
        let dropped = self.counts.dropped.load(Ordering::Relaxed);
        let name = format!("end of the profile: {dropped} spans dropped");
        let at = micros(self.began.elapsed());
        let args = json!({ "dropped": dropped });
        self.event(&json!({ "name": name, "ph": "i", "s": "g", "ts": at, "pid": 1, "tid": 0, "args": args }))?;
        self.file.write_all(b"\n]\n")?;
        self.file.flush()
    }

    fn event(&mut self, event: &Value) -> io::Result<()> {
        write!(self.file, ",\n{event}")
    }

    fn span(&mut self, row: Row, activity: Activity, began: Instant, took: Duration) -> io::Result<()> {
        let (number, name) = number_and_name(row);
        if self.named.insert(row) {
            for (key, args) in
                [("thread_name", json!({ "name": name })), ("thread_sort_index", json!({ "sort_index": number }))]
            {
                self.event(&json!({ "name": key, "ph": "M", "pid": 1, "tid": number, "args": args }))?;
            }
        }
        let began = began.saturating_duration_since(self.began);
        // Both ends are rounded, not the length: else spans that touch would overlap.
        let (from, to) = (micros(began), micros(began + took));
        let category = if activity.is_busy() { "busy" } else { "waits" };
        self.event(&json!({
            "name": activity.words(), "cat": category, "ph": "X", "ts": from, "dur": to - from, "pid": 1, "tid": number,
        }))
    }

    fn counters(&mut self) -> io::Result<()> {
        let (at, counts) = (self.began.elapsed(), Arc::clone(&self.counts));
        let seen = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (read_bytes, sent_bytes) = (seen(&counts.read_bytes), seen(&counts.sent_bytes));
        let passed = u128::max(1, at.saturating_sub(self.last.at).as_micros());
        let rate = |bytes: u64| u64::try_from(u128::from(bytes) * 1_000_000 / passed).unwrap_or(u64::MAX);
        for (name, key, value) in [
            ("held in memory", "bytes", seen(&counts.held_bytes)),
            (
                "layers waiting or being sent",
                "layers",
                counts.layers_waiting.load(Ordering::Relaxed).max(0).unsigned_abs(),
            ),
            ("read", "bytes/s", rate(read_bytes - self.last.read_bytes)),
            ("sent", "bytes/s", rate(sent_bytes - self.last.sent_bytes)),
        ] {
            let args = json!({ key: value });
            self.event(&json!({ "name": name, "ph": "C", "ts": micros(at), "pid": 1, "tid": 0, "args": args }))?;
        }
        self.last = Seen { at, read_bytes, sent_bytes };
        Ok(())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn number_and_name(row: Row) -> (usize, String) {
    match row {
        Row::Source => (1, "source".to_owned()),
        Row::Cut => (2, "cut".to_owned()),
        Row::Packer(number) => (FIRST_PACKER + number, format!("packer {}", number + 1)),
        Row::Upload(number) => (FIRST_UPLOAD + number, format!("upload {}", number + 1)),
    }
}
