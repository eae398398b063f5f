//! The plumbing: the only file that starts threads and tasks, and the one that finds the cause when something breaks.
//!
//! source thread ▸ edge ▸ cut thread ▸ one edge a layer ▸ packing threads ▸ edge ▸ upload tasks
//!
//! Everything that waits, waits for a neighbour or for memory. When one part fails, it throws the [`Stop`] with its
//! error and leaves; its neighbours find their edges closed and leave too, and their hang-ups never hide the cause.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use futures_util::future::{join_all, try_join_all};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::feed::Feed;
pub(crate) use super::feed::Journal;
use super::uploads::{Uploads, Way};
use super::watch;
use crate::error::{Error, Kind, Result, Side};
use crate::oci::{Descriptor, DiffId};
use crate::pipeline::budget::Budget;
use crate::pipeline::known::KnownStore;
use crate::pipeline::memory::Memory;
use crate::pipeline::pack::{KnownLayers, Packer};
use crate::pipeline::scratch::Scratch;
use crate::progress::{Meters, Notices, Observer, Row, Track};
use crate::sink::{Put, Sink};
use crate::source::Outlet;
use crate::stage::compress::Method;
use crate::stage::cut::{CutOptions, CutSummary, Cutter};
use crate::stop::Stop;

/// Layers that wait for a packer; their bytes are counted against the memory bound, which is what stops the source.
const LAYERS_AHEAD: usize = 16;
/// Layers between packers and uploads; their bytes are counted against the memory bound.
const OUTGOING_LAYERS: usize = 16;
/// How long everything may stand still, unless an outside party is waited for.
pub(crate) const PATIENCE: Duration = watch::PATIENCE;

/// Streams a source into an outlet, on a thread of its own.
pub(crate) type StreamFn = Box<dyn FnOnce(Outlet) -> Result<Notices> + Send>;

/// Everything a run needs.
pub(crate) struct Line {
    pub(crate) stream: StreamFn,
    /// How long threads may take to leave once stopped. One that still waits for a pipe or a disk then is left behind.
    pub(crate) leave_timeout: Duration,
    /// How long everything may stand still.
    pub(crate) patience: Duration,
    /// The machine, where a guest writes the tar: what is wrong with that is said of it.
    pub(crate) guest: Option<String>,
    pub(crate) cut: CutOptions,
    pub(crate) journal: Option<Journal>,
    pub(crate) method: Method,
    pub(crate) budget: Budget,
    pub(crate) scratch: Arc<Scratch>,
    pub(crate) known: Arc<KnownStore>,
    pub(crate) sinks: Arc<Vec<Sink>>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) stop: Stop,
}

impl Line {
    fn way(&self, memory: &Memory) -> Way {
        Way {
            sinks: Arc::clone(&self.sinks),
            keeper: self.sinks.iter().position(|sink| sink.keeps(self.method.compression)),
            memory: memory.clone(),
            budget: self.budget,
            scratch: Arc::clone(&self.scratch),
            stop: self.stop.clone(),
            meters: Arc::clone(&self.meters),
            observer: Arc::clone(&self.observer),
        }
    }
}

/// A layer that every sink has.
#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    pub(crate) diff_id: DiffId,
    pub(crate) tar_bytes: u64,
    pub(crate) descriptor: Descriptor,
    /// Every entry lies below `/workspace`.
    pub(crate) workspace: bool,
    /// Neither compressed nor sent.
    pub(crate) known: bool,
    /// What each sink did with it, in the order of the sinks.
    pub(crate) puts: Vec<Put>,
}

/// What a run gave.
pub(crate) struct Flowed {
    pub(crate) layers: Vec<Delivered>,
    pub(crate) notices: Notices,
    pub(crate) summary: CutSummary,
    pub(crate) held_bytes_peak: u64,
}

/// Runs the whole line: returns when every sink has every layer.
///
/// # Errors
/// The first cause of whatever went wrong. Nothing of the line is left running then, unless it can't be woken.
pub(crate) async fn run(line: Line) -> Result<Flowed> {
    let stop = line.stop.clone();
    let memory = Memory::with_tables(line.budget.held_bytes_max, line.budget.table_bytes_max, stop.clone());
    let way = line.way(&memory);
    let keeper = way.keeper;
    let mut crew = Crew { stop: stop.clone(), leaving: Vec::new() };
    let (outgoing_end, mut outgoing) = mpsc::channel(OUTGOING_LAYERS);
    let (pieces_end, pieces) = bounded(line.budget.edge_buffers());
    let (feeds_end, feeds) = bounded(LAYERS_AHEAD);

    let outlet = Outlet::new(pieces_end, memory.clone(), Arc::clone(&line.meters), Arc::clone(&line.observer))
        .with_ahead_max(line.budget.source_buffers());
    let stream = line.stream;
    let meters = Arc::clone(&line.meters);
    let notices = crew.spawn("source", move || meters.source.on_thread(|| stream(outlet)));
    let track = |row| Track::new(row, Arc::clone(&line.meters), Arc::clone(&line.observer));
    let (meters, observer) = (Arc::clone(&line.meters), Arc::clone(&line.observer));
    let (packers, journal) = (feeds_end, line.journal);
    let feed = Feed { memory: memory.clone(), packers, track: track(Row::Cut), meters, observer, journal };
    let (cutter, guest) = (Cutter::new(line.cut), line.guest);
    let summary = crew.spawn("cut", move || of_guest(guest, feed.meters.cut.on_thread(|| feed.run(cutter, &pieces))));
    let known = Arc::new(KnownAtSinks {
        store: line.known,
        method: line.method,
        sinks: Arc::clone(&line.sinks),
        runtime: Handle::current(),
    });
    let packer = |number| Packer {
        method: line.method,
        budget: line.budget,
        sinks: line.sinks.len(),
        sinks_keep: keeper.is_some(),
        memory: memory.clone(),
        scratch: Arc::clone(&line.scratch),
        known: Arc::<KnownAtSinks>::clone(&known),
        outgoing: outgoing_end.clone(),
        meters: Arc::clone(&line.meters),
        observer: Arc::clone(&line.observer),
        track: track(Row::Packer(number)),
        hashing: Cell::default(),
        idle: Cell::default(),
    };
    let packers: Vec<_> = (0..line.budget.workers)
        .map(|number| {
            let (packer, feeds) = (packer(number), feeds.clone());
            crew.spawn("pack", move || packer.work(&feeds))
        })
        .collect();
    drop((outgoing_end, feeds));

    let mut uploads = Uploads::new(way);
    let sent = tokio::select! {
        sent = uploads.run(&mut outgoing) => sent,
        () = stop.stopped() => Err(Error::hung_up("the freeze")),
        stalled = watch::watch(&line.meters, &memory, line.patience) => Err(stalled),
    };
    if let Err(error) = sent {
        stop.stop(error);
    }
    drop(outgoing);
    if stop.is_stopped() {
        tokio::join!(uploads.leave(), crew.leave(line.leave_timeout));
        return Err(stop.take_cause().unwrap_or_else(|| Error::hung_up("the freeze")));
    }
    let ended = async { tokio::try_join!(notices, summary, try_join_all(packers)) }.await;
    if let Some(cause) = stop.take_cause() {
        return Err(cause);
    }
    let (mut notices, (summary, of_the_cut), _) = ended.map_err(|_| panicked("a thread"))?;
    notices.extend(of_the_cut);
    Ok(Flowed { layers: uploads.in_order()?, notices, summary, held_bytes_peak: memory.held_bytes_peak() })
}

/// What is wrong with a tar that a guest wrote is said of the machine.
fn of_guest<T>(guest: Option<String>, cut: Result<T>) -> Result<T> {
    cut.map_err(|error| match guest {
        Some(machine) if error.kind() == Kind::Source => Error::source("reading the guest's tar", machine, error),
        _ => error,
    })
}

/// The threads of a run.
struct Crew {
    stop: Stop,
    leaving: Vec<oneshot::Receiver<()>>,
}

impl Crew {
    /// Starts `work`; its result arrives on the edge that is returned. An error, or a panic, stops everything.
    fn spawn<T: Send + 'static>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (result_end, result) = oneshot::channel();
        let (left_end, left) = oneshot::channel();
        self.leaving.push(left);
        let stop = self.stop.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let guard = PanicGuard { stop: &stop, name };
            match work() {
                Ok(value) => {
                    let _ = result_end.send(value);
                }
                Err(error) => stop.stop(error),
            }
            std::mem::forget(guard);
            let _ = left_end.send(());
        });
        if let Err(error) = thread {
            self.stop.stop(Error::new(Kind::Internal, Side::Stage, "starting a thread", name, &error).because(error));
        }
        result
    }

    async fn leave(self, timeout: Duration) {
        let _ = tokio::time::timeout(timeout, join_all(self.leaving)).await;
    }
}

/// Stops the freeze when its thread panics: unwinding is the only way to drop it.
struct PanicGuard<'a> {
    stop: &'a Stop,
    name: &'static str,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        self.stop.stop(panicked(self.name));
    }
}

pub(super) fn panicked(name: &str) -> Error {
    Error::new(Kind::Internal, Side::Stage, "running a thread", name, "it panicked; this is a bug in smolfreeze")
}

/// The local store, asked together with the sinks.
struct KnownAtSinks {
    store: Arc<KnownStore>,
    method: Method,
    sinks: Arc<Vec<Sink>>,
    runtime: Handle,
}

impl KnownLayers for KnownAtSinks {
    fn find(&self, diff_id: DiffId) -> Option<Descriptor> {
        if self.sinks.iter().any(Sink::is_always_new) {
            return None;
        }
        let blob = self.store.find(diff_id, self.method)?;
        // A sink that does not answer does not have the layer: sending it will tell why.
        let answers = self.runtime.block_on(join_all(self.sinks.iter().map(|sink| sink.has(&blob))));
        answers.into_iter().all(|has| matches!(has, Ok(true))).then_some(blob)
    }

    fn expects(&self, prefix: DiffId) -> bool {
        !self.sinks.iter().any(Sink::is_always_new) && self.store.expects(prefix, self.method)
    }

    fn learn(&self, diff_id: DiffId, prefix: Option<DiffId>, descriptor: &Descriptor) {
        self.store.remember(diff_id, self.method, descriptor);
        if let Some(prefix) = prefix {
            self.store.expect(prefix, self.method);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Compression;
    use crate::pipeline::budget::Wish;
    use crate::progress::Silent;
    use crate::sink::layout::LayoutSink;
    use crate::source::Survey;
    use crate::stage::cut::LayerSize;

    /// Of a source that keeps all the memory there is and wants more.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_stand_still_ends_and_says_who_waits_for_whom() {
        let folder = tempfile::tempdir().unwrap();
        let (meters, observer): (_, Arc<dyn Observer>) = (Arc::new(Meters::default()), Arc::new(Silent));
        let method = Method::new(Compression::Zstd, None).unwrap();
        let wish = Wish {
            memory_bytes: 128 << 20,
            scratch_bytes: None,
            uploads: 1,
            registries: 0,
            layouts: 1,
            cores: 2,
            method,
        };
        let stream: StreamFn = Box::new(|outlet| {
            let mut kept = Vec::new();
            loop {
                kept.push(outlet.buffer()?);
            }
        });
        let layout = LayoutSink::open(&folder.path().join("layout"), "t", Arc::clone(&observer)).unwrap();
        let line = Line {
            stream,
            leave_timeout: Duration::from_secs(5),
            guest: None,
            patience: Duration::from_millis(500),
            cut: CutOptions::default(),
            journal: None,
            method,
            budget: Budget::plan(&wish, &Survey::default(), LayerSize::About(1 << 20)).unwrap(),
            scratch: Scratch::new(folder.path(), 0),
            known: Arc::new(KnownStore::in_memory()),
            sinks: Arc::new(vec![Sink::Layout(layout)]),
            meters,
            observer,
            stop: Stop::new(),
        };
        let error = run(line).await.map(|_| ()).unwrap_err();
        let words = error.to_string();
        assert_eq!(error.kind(), Kind::Internal, "{words}");
        for waits in
            ["500ms", "the source waits for memory", "the cut waits for the source", "packer 1 waits for the cut"]
        {
            assert!(words.contains(waits), "{words}");
        }
    }
}
