//! Layers on their way to the sinks: several at a time, the others in a queue.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{self, JoinSet};

use super::run::{Delivered, panicked};
use crate::error::{Error, Kind, Result, Side};
use crate::pipeline::budget::{Budget, PART_BYTES};
use crate::pipeline::gather::{FileRange, Layer, LiveLayer};
use crate::pipeline::memory::{Memory, Reserved};
use crate::pipeline::pack::{Outgoing, Packed};
use crate::pipeline::scratch::{Scratch, ScratchFile};
use crate::progress::{Activity, Meters, Observer, Row, Track};
use crate::sink::{Put, Sink};
use crate::stop::Stop;

/// How long uploads may take to leave once stopped; a sink's own patience with a request under way is a little shorter.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(700);
/// A layer that takes longer to send is put aside.
const SLOW_UPLOAD: Duration = Duration::from_millis(500);
/// Layers that wait for their turn; what they hold of memory is counted against its bound.
const WAITING_LAYERS: usize = 128;

/// All layers of a run, from the packers to every sink.
pub(super) struct Uploads {
    way: Way,
    /// Complete layers, or live ones, for which there was no upload yet.
    waiting: VecDeque<Waiting>,
    /// Layers that a sink keeps while they are made, and such that are put aside.
    keeping: JoinSet<Result<Waiting>>,
    /// What reading back layers that were put aside will take, as long as there are any.
    reserved: Weak<Reserved>,
    tasks: JoinSet<Result<(Track, (usize, Delivered))>>,
    /// When each upload of a complete layer that is under way began.
    begun: HashMap<task::Id, Instant>,
    /// The bytes of the last upload that were enough to tell its speed, and how long they took.
    last: Option<(u64, Duration)>,
    /// Rows without an upload, the last one used last; all others are with an upload.
    idle: Vec<Track>,
    delivered: Vec<(usize, Delivered)>,
}

/// Where layers go, and who is told.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) sinks: Arc<Vec<Sink>>,
    /// The sink that keeps layers which are made live: they are complete when the others get them.
    pub(super) keeper: Option<usize>,
    /// Where buffers to read kept layers come from.
    pub(super) memory: Memory,
    pub(super) budget: Budget,
    /// Where layers wait that can't be sent yet.
    pub(super) scratch: Arc<Scratch>,
    pub(super) stop: Stop,
    pub(super) meters: Arc<Meters>,
    pub(super) observer: Arc<dyn Observer>,
}

/// What waits for an upload.
enum Waiting {
    /// Complete; a sink may have kept it, and has it already.
    Whole(Arc<Layer>, Option<usize>),
    Live(Vec<LiveLayer>, oneshot::Receiver<Packed>),
}

impl Uploads {
    pub(super) fn new(way: Way) -> Self {
        Self {
            way,
            waiting: VecDeque::new(),
            keeping: JoinSet::new(),
            reserved: Weak::new(),
            tasks: JoinSet::new(),
            begun: HashMap::new(),
            last: None,
            idle: Vec::new(),
            delivered: Vec::new(),
        }
    }

    /// Sends what comes, as many layers at a time as the budget says, until nothing comes any more.
    pub(super) async fn run(&mut self, outgoing: &mut mpsc::Receiver<Outgoing>) -> Result<()> {
        let mut open = true;
        loop {
            while self.tasks.len() < self.way.budget.uploads
                && let Some(next) = self.next()
            {
                self.send(next);
            }
            if !open && self.tasks.is_empty() && self.keeping.is_empty() {
                return Ok(());
            }
            tokio::select! {
                Some(done) = self.tasks.join_next_with_id() => {
                    let (id, done) = done.map_err(|_| panicked("an upload"))?;
                    let begun = self.begun.remove(&id);
                    let (row, (index, delivered)) = done?;
                    self.idle.push(row);
                    self.learn(begun, &delivered);
                    self.delivered.push((index, delivered));
                },
                Some(kept) = self.keeping.join_next() => {
                    self.waiting.push_back(kept.map_err(|_| panicked("keeping a layer"))??);
                },
                next = outgoing.recv(), if open && self.waiting.len() < WAITING_LAYERS => match next {
                    None => open = false,
                    Some(outgoing) => self.take(outgoing),
                },
            }
        }
    }

    fn take(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Known(packed) => {
                let puts = vec![Put::Present; self.way.sinks.len()];
                self.delivered.push((packed.index, deliver(packed, true, puts)));
            }
            // While it is sent, its memory is for those that are made.
            Outgoing::Whole(layer) if self.way.budget.puts_aside && self.is_slow(&layer) => self.put_aside(layer),
            Outgoing::Whole(layer) => self.waiting.push_back(Waiting::Whole(layer, None)),
            Outgoing::Live(layers, end) => self.waiting.push_back(Waiting::Live(layers, end)),
            // At once, whatever the uploads do: its packer waits for it, and no upload is needed yet.
            Outgoing::ToKeep(layer) => {
                self.keeping.spawn(keep(layer, self.way.clone()));
            }
        }
    }

    /// A live layer, because its packer waits for it; else the largest, so that the last ones are small.
    fn next(&mut self) -> Option<Waiting> {
        let urgency = |waiting: &Waiting| match waiting {
            Waiting::Whole(layer, _) => layer.descriptor.size,
            Waiting::Live(..) => u64::MAX,
        };
        // Of equals, the one that came first.
        let at = (0..self.waiting.len()).rev().max_by_key(|at| urgency(&self.waiting[*at]))?;
        self.waiting.remove(at)
    }

    fn learn(&mut self, begun: Option<Instant>, delivered: &Delivered) {
        let puts = delivered.puts.iter().enumerate().filter(|(at, _)| self.way.keeper != Some(*at));
        let sent = puts.map(|(_, put)| put.bytes_sent()).max().unwrap_or(0);
        // Fewer say nothing of a network's speed.
        if let Some(begun) = begun.filter(|_| sent >= PART_BYTES) {
            self.last = Some((sent, begun.elapsed()));
        }
    }

    /// Whether `layer` is likely to stay for long.
    fn is_slow(&self, layer: &Layer) -> bool {
        let takes_long = |(bytes, took): (u64, Duration)| {
            took.as_nanos() * u128::from(layer.descriptor.size) > SLOW_UPLOAD.as_nanos() * u128::from(bytes)
        };
        self.last.is_some_and(takes_long) || self.begun.values().any(|begun| begun.elapsed() > SLOW_UPLOAD)
    }

    /// Into the sink that keeps layers, or into scratch space, if that has room. Else it waits in memory.
    fn put_aside(&mut self, layer: Arc<Layer>) {
        let budget = &self.way.budget;
        let reserve = || self.way.memory.reserve(budget.reread_bytes_max).map(Arc::new);
        let Some(reserved) = self.reserved.upgrade().or_else(reserve) else {
            return self.waiting.push_back(Waiting::Whole(layer, None));
        };
        self.reserved = Arc::downgrade(&reserved);
        let way = self.way.clone();
        self.keeping.spawn(async move {
            if let Some(keeper) = way.keeper.and_then(|at| way.sinks.get(at)).filter(|_| !layer.workspace) {
                let kept = keeper.keep_whole(&layer, way.memory, reserved).await?;
                way.observer.layer_put_aside(kept.index);
                return Ok(Waiting::Whole(Arc::new(kept), way.keeper));
            }
            let Way { budget, memory, scratch, stop, observer, .. } = way;
            let (room, held) = (budget.aside_bytes_max, Arc::clone(&layer));
            let spilled = tokio::task::spawn_blocking(move || {
                spill(&held, &scratch, room, &stop, |file| file.finish_with(memory, reserved))
            });
            let spilled = spilled.await.map_err(|_| panicked("putting a layer aside"))?;
            if spilled.is_some() {
                observer.layer_put_aside(layer.index);
            }
            Ok(Waiting::Whole(spilled.unwrap_or(layer), None))
        });
    }

    fn send(&mut self, waiting: Waiting) {
        let (way, row) = (self.way.clone(), self.row());
        let is_live = matches!(waiting, Waiting::Live(..));
        let upload = self.tasks.spawn(async move {
            let sending = row.enter(Activity::Sends);
            let delivered = match waiting {
                Waiting::Whole(layer, kept_by) => send_whole(&layer, kept_by, way).await?,
                Waiting::Live(layers, end) => send_live(layers, end, way).await?,
            };
            drop(sending);
            Ok((row, delivered))
        });
        // A live layer takes as long as it takes to make.
        if !is_live {
            self.begun.insert(upload.id(), Instant::now());
        }
    }

    /// A row for one more upload.
    fn row(&mut self) -> Track {
        let next = Row::Upload(self.tasks.len());
        let track = || Track::new(next, Arc::clone(&self.way.meters), Arc::clone(&self.way.observer));
        self.idle.pop().unwrap_or_else(track)
    }

    /// Lets requests under way end, and ends what does not. When an upload fails, who gives it its bytes sees an end, and may
    /// have stopped everything for that by now: so what uploads say counts here, too.
    pub(super) async fn leave(&mut self) {
        let stop = self.way.stop.clone();
        let ended = async {
            while let Some(done) = self.tasks.join_next().await {
                if let Ok(Err(error)) = done {
                    stop.stop(error);
                }
            }
            while let Some(done) = self.keeping.join_next().await {
                if let Ok(Err(error)) = done {
                    stop.stop(error);
                }
            }
        };
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, ended).await;
        tokio::join!(self.tasks.shutdown(), self.keeping.shutdown());
    }

    /// All layers by index; an index without a layer is a bug, never a shorter image.
    pub(super) fn in_order(mut self) -> Result<Vec<Delivered>> {
        self.delivered.sort_by_key(|(index, _)| *index);
        let complete = self.delivered.iter().enumerate().all(|(place, (index, _))| place == *index);
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

async fn keep(layer: LiveLayer, way: Way) -> Result<Waiting> {
    let keeper = way.keeper.and_then(|at| way.sinks.get(at)).ok_or_else(|| panicked("keeping a layer"))?;
    keeper.keep(layer, way.memory).await.map(|layer| Waiting::Whole(Arc::new(layer), way.keeper))
}

/// The layer with all of it in files; none where scratch space has no `room`, a disk fails, or the freeze is stopped: memory
/// has the layer still.
fn spill(
    layer: &Layer,
    scratch: &Arc<Scratch>,
    room: u64,
    stop: &Stop,
    finish: impl FnOnce(ScratchFile) -> FileRange,
) -> Option<Arc<Layer>> {
    let chunks = layer.body.in_memory();
    let head_bytes: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    if head_bytes == 0 || scratch.used_bytes() + head_bytes > room {
        return None;
    }
    let mut file = ScratchFile::create(scratch, head_bytes)?;
    for chunk in chunks {
        if stop.is_stopped() || !file.append(chunk) {
            return None;
        }
    }
    let body = layer.body.moved_to(finish(file));
    let Layer { index, diff_id, tar_bytes, workspace, .. } = *layer;
    Some(Arc::new(Layer { index, diff_id, tar_bytes, descriptor: layer.descriptor.clone(), workspace, body }))
}

/// Sends a layer to every sink but the one that has it already: to all at once, but to repositories of one registry one after
/// the other, as long as the second one may have it from the first.
async fn send_whole(layer: &Arc<Layer>, kept_by: Option<usize>, way: Way) -> Result<(usize, Delivered)> {
    let size = layer.descriptor.size;
    let registries = way.sinks.iter().filter_map(Sink::mounting);
    let turns: HashMap<&str, Mutex<()>> = registries.map(|registry| (registry, Mutex::default())).collect();
    let turns = &turns;
    let puts = way.sinks.iter().enumerate().map(|(at, sink)| async move {
        if kept_by == Some(at) {
            return Ok(Put::Sent { bytes_sent: size });
        }
        let _turn = match sink.mounting().and_then(|registry| turns.get(registry)) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        sink.put(layer).await
    });
    let puts = try_join_all(puts).await?;
    let Layer { index, diff_id, tar_bytes, workspace, .. } = **layer;
    let packed = Packed { index, diff_id, tar_bytes, descriptor: layer.descriptor.clone(), workspace };
    Ok((index, sent(packed, puts, &way)))
}

async fn send_live(layers: Vec<LiveLayer>, end: oneshot::Receiver<Packed>, way: Way) -> Result<(usize, Delivered)> {
    let blobs = try_join_all(way.sinks.iter().zip(layers).map(|(sink, layer)| sink.put_live(layer))).await?;
    let packed = end.await.map_err(|_| Error::hung_up("a packer"))?;
    let puts = blobs.iter().map(|blob| Put::Sent { bytes_sent: blob.size }).collect();
    Ok((packed.index, sent(packed, puts, &way)))
}

fn sent(packed: Packed, puts: Vec<Put>, way: &Way) -> Delivered {
    way.meters.send.took(packed.descriptor.size);
    way.meters.send.gave(puts.iter().map(|put| put.bytes_sent()).sum());
    way.observer.layer_sent(packed.index);
    deliver(packed, false, puts)
}

fn deliver(packed: Packed, known: bool, puts: Vec<Put>) -> Delivered {
    let Packed { diff_id, tar_bytes, descriptor, workspace, .. } = packed;
    Delivered { diff_id, tar_bytes, descriptor, workspace, known, puts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Compression;
    use crate::pipeline::budget::Wish;
    use crate::progress::Silent;
    use crate::source::Survey;
    use crate::stage::compress::Method;
    use crate::stage::cut::LayerSize;

    #[tokio::test]
    async fn an_upload_that_failed_is_the_cause_though_its_hang_up_was_heard_first() {
        let method = Method::new(Compression::Zstd, None).unwrap();
        let (memory_bytes, scratch_bytes) = (128 << 20, None);
        let wish = Wish { memory_bytes, scratch_bytes, uploads: 1, registries: 1, layouts: 0, cores: 2, method };
        let stop = Stop::new();
        let mut uploads = Uploads::new(Way {
            sinks: Arc::default(),
            keeper: None,
            memory: Memory::with_tables(1 << 20, 0, stop.clone()),
            budget: Budget::plan(&wish, &Survey::default(), LayerSize::About(1 << 20)).unwrap(),
            scratch: Scratch::new(std::path::Path::new("."), 0),
            stop: stop.clone(),
            meters: Arc::default(),
            observer: Arc::new(Silent),
        });
        uploads.tasks.spawn(async { Err(Error::sink("sending a part", "a registry", "405")) });
        stop.stop(Error::hung_up("a sink"));
        uploads.leave().await;
        assert_eq!(stop.take_cause().map(|cause| cause.kind()), Some(Kind::Sink));
    }
}
