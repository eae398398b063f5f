//! The plumbing: the only file that starts threads and tasks, and the one that finds the cause when something breaks.
//!
//! source thread ▸ edge ▸ cut thread ▸ one edge a layer ▸ packing threads ▸ edge ▸ upload tasks
//!
//! Everything that waits, waits for a neighbour or for memory. When one part fails, it throws the [`Stop`] with its
//! error and leaves; its neighbours find their edges closed and leave too, and their hang-ups never hide the cause.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use futures_util::future::{join_all, try_join_all};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::budget::Budget;
use crate::error::{Error, Kind, Result, Side};
use crate::gather::{Layer, LiveLayer};
use crate::known::KnownStore;
use crate::memory::Memory;
use crate::oci::{Descriptor, DiffId};
use crate::pack::{KnownLayers, LayerFeed, LayerPiece, Outgoing, Packed, Packer};
use crate::progress::{Activity, Meters, Notices, Observer, Row, Track};
use crate::scratch::Scratch;
use crate::sink::{Put, Sink};
use crate::source::{Outlet, Piece};
use crate::stage::compact::Compact;
use crate::stage::compress::Method;
use crate::stage::cut::{CutOptions, CutPiece, CutSummary, Cutter};
use crate::stop::Stop;

/// Pieces between source and cut: of up to 1 MiB each, counted against the memory bound.
const EDGE_PIECES: usize = 64;
/// Pieces of one layer between cut and packer; their bytes are counted against the memory bound.
const LAYER_PIECES: usize = 1024;
/// Layers that wait for a packer; their bytes are counted against the memory bound, which is what stops the source.
const LAYERS_AHEAD: usize = 16;
/// How long uploads may take to leave once stopped; a sink's own patience with a request under way is a little shorter.
const UPLOADS_LEAVE_TIMEOUT: Duration = Duration::from_millis(700);
/// Complete layers that wait for an upload; their bytes are counted against the memory bound.
const OUTGOING_LAYERS: usize = 128;
/// Streams a source into an outlet, on a thread of its own.
pub(crate) type StreamFn = Box<dyn FnOnce(Outlet) -> Result<Notices> + Send>;

/// Everything a run needs.
pub(crate) struct Line {
    pub(crate) stream: StreamFn,
    /// How long threads may take to leave once stopped. One that still waits for a pipe or a disk then is left behind.
    pub(crate) leave_timeout: Duration,
    pub(crate) cut: CutOptions,
    pub(crate) method: Method,
    pub(crate) budget: Budget,
    pub(crate) scratch: Arc<Scratch>,
    pub(crate) known: Arc<KnownStore>,
    pub(crate) sinks: Arc<Vec<Sink>>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) stop: Stop,
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
    let memory = Memory::new(line.budget.held_bytes_max, stop.clone());
    let mut crew = Crew { stop: stop.clone(), leaving: Vec::new() };
    let (outgoing_end, mut outgoing) = mpsc::channel(OUTGOING_LAYERS);
    let (pieces_end, pieces) = bounded(EDGE_PIECES);
    let (feeds_end, feeds) = bounded(LAYERS_AHEAD);

    let outlet = Outlet::new(pieces_end, memory.clone(), Arc::clone(&line.meters), Arc::clone(&line.observer));
    let (stream, options) = (line.stream, line.cut);
    let meters = Arc::clone(&line.meters);
    let notices = crew.spawn("source", move || meters.source.on_thread(|| stream(outlet)));
    let track = |row| Track::new(row, Arc::clone(&line.meters), Arc::clone(&line.observer));
    let (meters, observer) = (Arc::clone(&line.meters), Arc::clone(&line.observer));
    // Without exclusions, what comes in goes on, and nothing is ever copied.
    let compact = (!options.exclude.patterns().is_empty()).then(|| Compact::new(memory.clone()));
    let cut = CutThread { track: track(Row::Cut), meters, observer };
    let summary =
        crew.spawn("cut", move || cut.meters.cut.on_thread(|| cut.run((options, compact), &pieces, &feeds_end)));
    let known = Arc::new(KnownAtSinks {
        store: line.known,
        method: line.method,
        sinks: Arc::clone(&line.sinks),
        runtime: Handle::current(),
    });
    let packer = |number| Packer {
        method: line.method,
        hold_bytes_max: line.budget.hold_bytes_max,
        gather_bytes_max: line.budget.gather_bytes_max,
        stream_threads: line.budget.stream_threads,
        sinks: line.sinks.len(),
        memory: memory.clone(),
        scratch: Arc::clone(&line.scratch),
        known: Arc::<KnownAtSinks>::clone(&known),
        outgoing: outgoing_end.clone(),
        meters: Arc::clone(&line.meters),
        observer: Arc::clone(&line.observer),
        track: track(Row::Packer(number)),
        hashing: Cell::default(),
    };
    let packers: Vec<_> = (0..line.budget.workers)
        .map(|number| {
            let (packer, feeds) = (packer(number), feeds.clone());
            crew.spawn("pack", move || packer.work(&feeds))
        })
        .collect();
    drop((outgoing_end, feeds));

    let mut uploads = Uploads::new(line.sinks, line.budget.uploads, (line.meters, line.observer));
    let sent = tokio::select! {
        sent = uploads.run(&mut outgoing) => sent,
        () = stop.stopped() => Err(Error::hung_up("the freeze")),
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
    let (notices, summary, _) = ended.map_err(|_| panicked("a thread"))?;
    Ok(Flowed { layers: uploads.in_order()?, notices, summary, held_bytes_peak: memory.held_bytes_peak() })
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

fn panicked(name: &str) -> Error {
    Error::new(Kind::Internal, Side::Stage, "running a thread", name, "it panicked; this is a bug in smolfreeze")
}

/// The thread between source and packers.
struct CutThread {
    track: Track,
    meters: Arc<Meters>,
    observer: Arc<dyn Observer>,
}

/// What is cut with, and what copies together what an exclusion left.
type HowToCut = (CutOptions, Option<Compact>);

impl CutThread {
    fn run(&self, how: HowToCut, pieces: &Receiver<Piece>, feeds: &Sender<LayerFeed>) -> Result<CutSummary> {
        let (mut cutter, mut compact) = (Cutter::new(how.0), how.1);
        let (mut index, mut layer): (usize, Option<Sender<LayerPiece>>) = (0, None);
        let mut emit = |piece| {
            match piece {
                CutPiece::Begin { workspace } => {
                    let (layer_end, pieces) = bounded(LAYER_PIECES);
                    self.observer.layer_began(index);
                    let feed = LayerFeed { index, workspace, pieces };
                    let sent = self.track.during(Activity::WaitsForPackers, || feeds.send(feed));
                    sent.map_err(|_| Error::hung_up("the packers"))?;
                    (index, layer) = (index + 1, Some(layer_end));
                }
                CutPiece::Bytes(bytes) => {
                    self.meters.cut.gave(bytes.len() as u64);
                    self.pass(layer.as_ref(), LayerPiece::Bytes(bytes))?;
                }
                CutPiece::End => self.pass(layer.take().as_ref(), LayerPiece::End)?,
            }
            Ok(())
        };
        loop {
            match self.track.during(Activity::WaitsForSource, || pieces.recv()) {
                Ok(Piece::Bytes(bytes)) => {
                    self.meters.cut.took(bytes.len() as u64);
                    match &mut compact {
                        Some(compact) => compact.take_cut(&bytes, cutter.pieces(&bytes)?, &mut emit)?,
                        None => cutter.push(&bytes, &mut emit)?,
                    }
                }
                Ok(Piece::End) => {
                    if let Some(compact) = &mut compact {
                        compact.flush(&mut |bytes| emit(CutPiece::Bytes(bytes)))?;
                    }
                    return cutter.finish(&mut emit);
                }
                Err(_) => return Err(Error::hung_up("the source")),
            }
        }
    }

    fn pass(&self, layer: Option<&Sender<LayerPiece>>, piece: LayerPiece) -> Result<()> {
        let sent = layer.map(|layer| self.track.during(Activity::WaitsForPackers, || layer.send(piece)));
        if matches!(sent, Some(Ok(()))) { Ok(()) } else { Err(Error::hung_up("a packer")) }
    }
}

/// Layers on their way to all sinks.
struct Uploads {
    sinks: Arc<Vec<Sink>>,
    most_at_once: usize,
    tasks: JoinSet<Result<(Track, Uploaded)>>,
    /// Rows without an upload, the last one used last; all others are with an upload.
    idle: Vec<Track>,
    delivered: Vec<(usize, Delivered)>,
    /// Live layers whose names came before their last byte was confirmed, or after.
    live: Vec<Packed>,
    live_puts: Vec<(usize, Vec<Put>)>,
    watched_by: Watchers,
}

/// What an upload tells.
type Watchers = (Arc<Meters>, Arc<dyn Observer>);

enum Uploaded {
    Whole(usize, Delivered),
    Live(usize, Vec<Put>),
}

impl Uploads {
    fn new(sinks: Arc<Vec<Sink>>, most_at_once: usize, watched_by: Watchers) -> Self {
        Self {
            sinks,
            most_at_once,
            tasks: JoinSet::new(),
            idle: Vec::new(),
            delivered: Vec::new(),
            live: Vec::new(),
            live_puts: Vec::new(),
            watched_by,
        }
    }

    /// Sends what comes, `most_at_once` layers at a time, until nothing comes any more.
    async fn run(&mut self, outgoing: &mut mpsc::Receiver<Outgoing>) -> Result<()> {
        let mut open = true;
        while open || !self.tasks.is_empty() {
            tokio::select! {
                Some(done) = self.tasks.join_next() => {
                    let (row, uploaded) = done.map_err(|_| panicked("an upload"))??;
                    self.idle.push(row);
                    match uploaded {
                        Uploaded::Whole(index, delivered) => self.delivered.push((index, delivered)),
                        Uploaded::Live(index, puts) => self.live_puts.push((index, puts)),
                    }
                },
                next = outgoing.recv(), if open && self.tasks.len() < self.most_at_once => match next {
                    None => open = false,
                    Some(Outgoing::Known(packed)) => self.known(packed),
                    Some(Outgoing::LiveEnded(packed)) => self.live.push(packed),
                    Some(Outgoing::Whole(layer)) => {
                        let (sinks, watched_by) = (Arc::clone(&self.sinks), self.watched_by.clone());
                        let row = self.row();
                        self.tasks.spawn(async move {
                            let uploaded = during_upload(&row, send_whole(layer, sinks, watched_by)).await?;
                            Ok((row, uploaded))
                        });
                    }
                    Some(Outgoing::Live(layers)) => {
                        let (sinks, watched_by) = (Arc::clone(&self.sinks), self.watched_by.clone());
                        let row = self.row();
                        self.tasks.spawn(async move {
                            let uploaded = during_upload(&row, send_live(layers, sinks, watched_by)).await?;
                            Ok((row, uploaded))
                        });
                    }
                },
            }
        }
        Ok(())
    }

    /// A row for one more upload.
    fn row(&mut self) -> Track {
        let (meters, observer) = &self.watched_by;
        let next = Row::Upload(self.tasks.len());
        self.idle.pop().unwrap_or_else(|| Track::new(next, Arc::clone(meters), Arc::clone(observer)))
    }

    /// Lets requests under way end, and ends what does not.
    async fn leave(&mut self) {
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(UPLOADS_LEAVE_TIMEOUT, ended).await;
        self.tasks.shutdown().await;
    }

    fn known(&mut self, packed: Packed) {
        let puts = vec![Put::Present; self.sinks.len()];
        self.delivered.push((packed.index, deliver(packed, true, puts)));
    }

    /// All layers by index; an index without a layer is a bug, never a shorter image.
    fn in_order(mut self) -> Result<Vec<Delivered>> {
        for packed in self.live.drain(..) {
            if let Some(at) = self.live_puts.iter().position(|(index, _)| *index == packed.index) {
                let (index, puts) = self.live_puts.swap_remove(at);
                self.delivered.push((index, deliver(packed, false, puts)));
            }
        }
        self.delivered.sort_by_key(|(index, _)| *index);
        let complete =
            self.delivered.iter().enumerate().all(|(place, (index, _))| place == *index) && self.live_puts.is_empty();
        if !complete || self.delivered.is_empty() {
            return Err(Error::new(
                Kind::Internal,
                Side::Stage,
                "collecting layers",
                "the image",
                "a layer is missing; this is a bug in smolfreeze",
            ));
        }
        Ok(self.delivered.into_iter().map(|(_, delivered)| delivered).collect())
    }
}

async fn during_upload(row: &Track, upload: impl Future<Output = Result<Uploaded>>) -> Result<Uploaded> {
    let _sending = row.enter(Activity::Sends);
    upload.await
}

async fn send_whole(layer: Arc<Layer>, sinks: Arc<Vec<Sink>>, (meters, observer): Watchers) -> Result<Uploaded> {
    let puts = try_join_all(sinks.iter().map(|sink| sink.put(&layer))).await?;
    meters.send.took(layer.descriptor.size);
    meters.send.gave(puts.iter().map(|put| put.bytes_sent()).sum());
    observer.layer_sent(layer.index);
    let Layer { index, diff_id, tar_bytes, workspace, .. } = *layer;
    let packed = Packed { index, diff_id, tar_bytes, descriptor: layer.descriptor.clone(), workspace };
    Ok(Uploaded::Whole(index, deliver(packed, false, puts)))
}

async fn send_live(layers: Vec<LiveLayer>, sinks: Arc<Vec<Sink>>, (meters, observer): Watchers) -> Result<Uploaded> {
    let index = layers.first().map_or(0, |layer| layer.index);
    let sent = try_join_all(sinks.iter().zip(layers).map(|(sink, layer)| sink.put_live(layer))).await?;
    let puts: Vec<_> = sent.iter().map(|blob| Put::Sent { bytes_sent: blob.size }).collect();
    meters.send.took(sent.first().map_or(0, |blob| blob.size));
    meters.send.gave(puts.iter().map(|put| put.bytes_sent()).sum());
    observer.layer_sent(index);
    Ok(Uploaded::Live(index, puts))
}

fn deliver(packed: Packed, known: bool, puts: Vec<Put>) -> Delivered {
    let Packed { diff_id, tar_bytes, descriptor, workspace, .. } = packed;
    Delivered { diff_id, tar_bytes, descriptor, workspace, known, puts }
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
