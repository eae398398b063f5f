//! Packing: one worker takes one layer at a time, whole.
//!
//! uncompressed bytes ▸ SHA-256 (diff_id) ▸ known? ▸ compress ▸ SHA-256 (digest) ▸ gather. A worker is a plain function
//! on a thread of its own; layers are independent, so all cores are busy without any stage being parallel inside.
//! A layer that is longer than a worker may hold is compressed as it streams, by its worker, or with threads of the
//! compressor's own (`Budget::stream_threads`).

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::oci::{Descriptor, DiffId};
use crate::pipeline::budget::Budget;
use crate::pipeline::gather::{Body, Layer, LiveEnd, LiveLayer, LivePiece};
use crate::pipeline::memory::{BUFFER_BYTES, Memory, Slice};
use crate::pipeline::scratch::{Scratch, ScratchFile};
use crate::progress::processor::thread_time;
use crate::progress::{Activity, Meters, Observer, Track};
use crate::stage::compress::{Encoder, Idle, Method};
use crate::stage::digest::{DiffIdHasher, DigestHasher};

/// Blocks that a live layer's edge holds for each sink, of up to 1 MiB each.
const LIVE_EDGE_BLOCKS: usize = 4;

/// Asking for the processor time is a system call, which is nothing beside the hash of so many bytes.
const TIMED_BYTES_MIN: usize = 32 << 10;

/// What travels from the cut to a worker, for one layer.
#[derive(Debug)]
pub(crate) enum LayerPiece {
    Bytes(Slice),
    /// The layer is complete. An edge that closes without it was cut off.
    End,
}

/// A layer on its way to a worker.
pub(crate) struct LayerFeed {
    pub(crate) index: usize,
    pub(crate) workspace: bool,
    pub(crate) pieces: Receiver<LayerPiece>,
}

/// What leaves a worker.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Every sink has this layer already.
    Known(Packed),
    /// To be sent to every sink.
    Whole(Arc<Layer>),
    /// To be sent while it is made, one for each sink; its names come when it is complete.
    Live(Vec<LiveLayer>, oneshot::Receiver<Packed>),
    /// To be kept by a sink while it is made, and complete from then on for the others.
    ToKeep(LiveLayer),
}

/// A layer's names, once it has them.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub(crate) index: usize,
    pub(crate) diff_id: DiffId,
    pub(crate) tar_bytes: u64,
    pub(crate) descriptor: Descriptor,
    pub(crate) workspace: bool,
}

/// Finds layers that need not be packed again, and learns those that were.
pub(crate) trait KnownLayers: Send + Sync {
    /// The blob of `diff_id`, if it was packed before and every sink still has it. May block on the sinks' answers.
    fn find(&self, diff_id: DiffId) -> Option<Descriptor>;
    /// Whether a layer that begins with the bytes of `prefix` was packed before.
    fn expects(&self, prefix: DiffId) -> bool;
    /// Packing `diff_id`, which begins with `prefix` if it is too long to be held, gave `descriptor`.
    fn learn(&self, diff_id: DiffId, prefix: Option<DiffId>, descriptor: &Descriptor);
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// One worker.
pub(crate) struct Packer {
    pub(crate) method: Method,
    /// What a layer may hold; see [`Budget`].
    pub(crate) budget: Budget,
    pub(crate) sinks: usize,
    /// Whether one of the sinks keeps live layers, but for those of `/workspace`.
    pub(crate) sinks_keep: bool,
    pub(crate) memory: Memory,
    pub(crate) scratch: Arc<Scratch>,
    pub(crate) known: Arc<dyn KnownLayers>,
    pub(crate) outgoing: mpsc::Sender<Outgoing>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) track: Track,
    /// Processor time that hashing took.
    pub(crate) hashing: Cell<Duration>,
    /// A compressor without a layer, and how many threads of its own it has.
    pub(crate) idle: Cell<Option<(u32, Idle)>>,
}

impl Packer {
    /// Packs layers until there are no more; this is all that its thread does.
    pub(crate) fn work(&self, feeds: &Receiver<LayerFeed>) -> Result<()> {
        let began = thread_time();
        while let Ok(feed) = self.track.during(Activity::WaitsForCut, || feeds.recv()) {
            self.pack(&feed)?;
        }
        let (all, hashing) = (thread_time().saturating_sub(began), self.hashing.get());
        self.meters.hash.used(hashing);
        self.meters.compress.used_by_thread(all.saturating_sub(hashing));
        Ok(())
    }

    fn pack(&self, feed: &LayerFeed) -> Result<()> {
        let mut coming = Coming::new(self, feed);
        while let Some(bytes) = self.next(feed)? {
            coming.take(bytes)?;
        }
        coming.finish()?.map_or(Ok(()), |outgoing| self.send(outgoing))
    }

    fn next(&self, feed: &LayerFeed) -> Result<Option<Slice>> {
        match self.track.during(Activity::WaitsForCut, || feed.pieces.recv()) {
            Ok(LayerPiece::Bytes(bytes)) => {
                self.meters.hash.took(bytes.len() as u64);
                Ok(Some(bytes))
            }
            Ok(LayerPiece::End) => Ok(None),
            Err(_) => Err(Error::hung_up("the cut")),
        }
    }

    fn hash(&self, hasher: &mut DiffIdHasher, bytes: &[u8]) {
        let _hashing = self.track.enter(Activity::Hashes);
        let began = (bytes.len() >= TIMED_BYTES_MIN).then(thread_time);
        hasher.update(bytes);
        if let Some(began) = began {
            self.hashing.set(self.hashing.get() + thread_time().saturating_sub(began));
        }
    }

    /// One that this worker used before, where there is one.
    fn encoder(&self, threads: u32) -> Result<Encoder> {
        // Never two: the budget has room for one.
        let idle = match self.idle.take() {
            Some((same, idle)) if same == threads => idle,
            other => {
                drop(other);
                Idle::new(self.method, threads)?
            }
        };
        Ok(idle.begin(&self.memory))
    }

    fn compress(&self, bytes: &Slice, encoder: &mut Encoder, gathering: &mut Gathering) -> Result<()> {
        self.meters.compress.took(bytes.len() as u64);
        self.track.during(Activity::Compresses, || encoder.write(bytes, &mut |bytes| gathering.push(bytes)))
    }

    fn send(&self, outgoing: Outgoing) -> Result<()> {
        let send = || self.outgoing.blocking_send(outgoing).map_err(|_| Error::hung_up("the sinks"));
        self.track.during(Activity::WaitsForUploads, send)
    }
}

/// A layer as it comes in.
struct Coming<'a> {
    packer: &'a Packer,
    index: usize,
    workspace: bool,
    hasher: DiffIdHasher,
    /// SHA-256 of the first bytes, once there are more than may be held.
    prefix: Option<DiffId>,
    held: VecDeque<Slice>,
    held_bytes: u64,
    tar_bytes: u64,
    way: Way<'a>,
}

/// What becomes of a layer's bytes.
enum Way<'a> {
    /// They are held until the layer is complete.
    Holding,
    /// Too many to hold, but likely known: the rest waits in scratch space.
    Spilling(ScratchFile),
    /// They are compressed at once.
    Streaming(Box<Encoder>, Box<Gathering<'a>>),
}

impl<'a> Coming<'a> {
    fn new(packer: &'a Packer, feed: &LayerFeed) -> Self {
        Self {
            packer,
            index: feed.index,
            workspace: feed.workspace,
            hasher: DiffIdHasher::default(),
            prefix: None,
            held: VecDeque::new(),
            held_bytes: 0,
            tar_bytes: 0,
            way: Way::Holding,
        }
    }

    fn take(&mut self, bytes: Slice) -> Result<()> {
        let packer = self.packer;
        // A layer that can't be held has at least so many bytes, whatever the buffers they came in.
        let before = index((packer.budget.hold_bytes_max / 8 * 7).saturating_sub(self.tar_bytes)).min(bytes.len());
        packer.hash(&mut self.hasher, &bytes[..before]);
        if before < bytes.len() && self.prefix.is_none() {
            self.prefix = Some(self.hasher.clone().finish().0);
        }
        packer.hash(&mut self.hasher, &bytes[before..]);
        self.tar_bytes += bytes.len() as u64;
        if matches!(self.way, Way::Holding)
            && self.held_bytes + bytes.held_bytes() > packer.memory.share(packer.budget.hold_bytes_max)
        {
            self.past_hold()?;
        }
        if let Way::Spilling(file) = &mut self.way {
            if file.append(&bytes) {
                return Ok(());
            }
            self.stream(false)?;
        }
        if let Way::Streaming(encoder, gathering) = &mut self.way {
            packer.compress(&bytes, encoder, gathering)
        } else {
            self.held_bytes += bytes.held_bytes();
            self.held.push_back(bytes);
            Ok(())
        }
    }

    /// The layer is longer than may be held. If one with the same beginning was packed before, it is likely to be the
    /// same to its end: then the rest waits in scratch space for its diff_id. Else it is compressed as it streams.
    fn past_hold(&mut self) -> Result<()> {
        let packer = self.packer;
        if self.prefix.is_some_and(|prefix| packer.known.expects(prefix))
            && let Some(file) = ScratchFile::create(&packer.scratch, BUFFER_BYTES as u64)
        {
            self.way = Way::Spilling(file);
            return Ok(());
        }
        self.stream(false)
    }

    /// Begins to compress: first what is held and what was spilled.
    fn stream(&mut self, is_whole: bool) -> Result<()> {
        let packer = self.packer;
        // What is held whole is compressed in its place.
        let (threads, memory_bytes_max) = if is_whole {
            (0, u64::MAX)
        } else {
            (packer.budget.stream_threads, packer.memory.share(packer.budget.gather_bytes_max))
        };
        let mut encoder = packer.encoder(threads)?;
        let mut gathering = Gathering { helpers: threads, ..Gathering::new(self, memory_bytes_max) };
        while let Some(bytes) = self.held.pop_front() {
            packer.compress(&bytes, &mut encoder, &mut gathering)?;
        }
        if let Way::Spilling(file) = std::mem::replace(&mut self.way, Way::Holding) {
            let spilled = file.finish(packer.memory.clone());
            let mut offset = 0;
            while offset < spilled.length {
                let length = (spilled.length - offset).min(BUFFER_BYTES as u64);
                for bytes in spilled.read(offset, length)? {
                    packer.compress(&bytes, &mut encoder, &mut gathering)?;
                }
                offset += length;
            }
        }
        self.way = Way::Streaming(Box::new(encoder), Box::new(gathering));
        Ok(())
    }

    /// The layer is complete: what is still to be told.
    fn finish(mut self) -> Result<Option<Outgoing>> {
        let (diff_id, tar_bytes) = std::mem::take(&mut self.hasher).finish();
        if !matches!(self.way, Way::Streaming(..)) {
            let known = self.packer.track.during(Activity::Asks, || self.packer.known.find(diff_id));
            if let Some(descriptor) = known {
                self.packer.observer.layer_known(self.index, tar_bytes, descriptor.size);
                let (index, workspace) = (self.index, self.workspace);
                return Ok(Some(Outgoing::Known(Packed { index, diff_id, tar_bytes, descriptor, workspace })));
            }
            self.stream(matches!(self.way, Way::Holding))?;
        }
        let Way::Streaming(encoder, mut gathering) = self.way else { return Err(Error::hung_up("a packer")) };
        let packer = self.packer;
        let idle = packer.track.during(Activity::Compresses, || encoder.finish(&mut |bytes| gathering.push(bytes)))?;
        packer.idle.replace(Some((gathering.helpers, idle)));
        gathering.count_helpers();
        gathering.finish(diff_id, self.prefix, tar_bytes)
    }
}

/// A layer's output on its way to being complete.
struct Gathering<'a> {
    packer: &'a Packer,
    index: usize,
    workspace: bool,
    memory_bytes_max: u64,
    digest: DigestHasher,
    chunks: Vec<Bytes>,
    held_bytes: u64,
    scratch: Option<ScratchFile>,
    live: Vec<mpsc::Sender<LivePiece>>,
    /// For the names of a live layer that no sink keeps.
    live_end: Option<oneshot::Sender<Packed>>,
    began: Instant,
    /// Threads of the compressor's own.
    helpers: u32,
}

impl<'a> Gathering<'a> {
    fn new(coming: &Coming<'a>, memory_bytes_max: u64) -> Self {
        Self {
            packer: coming.packer,
            index: coming.index,
            workspace: coming.workspace,
            memory_bytes_max,
            digest: DigestHasher::default(),
            chunks: Vec::new(),
            held_bytes: 0,
            scratch: None,
            live: Vec::new(),
            live_end: None,
            began: Instant::now(),
            helpers: 0,
        }
    }

    fn count_helpers(&self) {
        self.packer.meters.helpers.was_busy(self.began.elapsed() * self.helpers);
    }

    fn push(&mut self, bytes: Slice) -> Result<()> {
        self.digest.update(&bytes);
        self.packer.meters.compress.gave(bytes.len() as u64);
        if !self.live.is_empty() {
            return self.push_live(&LivePiece::Bytes(bytes.into()));
        }
        if self.scratch.is_none() && self.held_bytes + bytes.held_bytes() <= self.memory_bytes_max {
            self.held_bytes += bytes.held_bytes();
            self.chunks.push(bytes.into());
            return Ok(());
        }
        if self.scratch.is_none() {
            self.scratch = ScratchFile::create(&self.packer.scratch, bytes.len() as u64);
        }
        if self.scratch.as_mut().is_some_and(|scratch| scratch.append(&bytes)) {
            return Ok(());
        }
        self.go_live()?;
        self.push_live(&LivePiece::Bytes(bytes.into()))
    }

    /// Neither memory nor scratch has room: the rest goes to the sinks as it is made.
    fn go_live(&mut self) -> Result<()> {
        let head = self.body();
        let mut live = || {
            let (sender, tail) = mpsc::channel(LIVE_EDGE_BLOCKS);
            self.live.push(sender);
            let media_type = self.packer.method.compression.media_type().to_owned();
            LiveLayer { index: self.index, media_type, workspace: self.workspace, head: head.clone(), tail }
        };
        let outgoing = if self.packer.sinks_keep && !self.workspace {
            Outgoing::ToKeep(live())
        } else {
            let layers = (0..self.packer.sinks).map(|_| live()).collect();
            let (live_end, end) = oneshot::channel();
            self.live_end = Some(live_end);
            Outgoing::Live(layers, end)
        };
        self.packer.send(outgoing)
    }

    fn push_live(&self, piece: &LivePiece) -> Result<()> {
        self.packer.track.during(Activity::WaitsForUploads, || {
            let send = |sink: &mpsc::Sender<_>| sink.blocking_send(piece.clone()).map_err(|_| Error::hung_up("a sink"));
            self.live.iter().try_for_each(send)
        })
    }

    fn body(&mut self) -> Body {
        let chunks = std::mem::take(&mut self.chunks);
        match self.scratch.take() {
            Some(scratch) => Body::with_file(chunks, scratch.finish(self.packer.memory.clone())),
            None => Body::from_chunks(chunks),
        }
    }

    fn finish(mut self, diff_id: DiffId, prefix: Option<DiffId>, tar_bytes: u64) -> Result<Option<Outgoing>> {
        let (digest, size) = std::mem::take(&mut self.digest).finish();
        let media_type = self.packer.method.compression.media_type().to_owned();
        let descriptor = Descriptor { media_type, digest, size };
        self.packer.known.learn(diff_id, prefix, &descriptor);
        self.packer.observer.layer_packed(self.index, tar_bytes, size);
        let (index, workspace) = (self.index, self.workspace);
        if self.live.is_empty() {
            let body = self.body();
            let layer = Layer { index, diff_id, tar_bytes, descriptor, workspace, body };
            return Ok(Some(Outgoing::Whole(Arc::new(layer))));
        }
        self.push_live(&LivePiece::End(LiveEnd { descriptor: descriptor.clone(), diff_id, tar_bytes }))?;
        if let Some(live_end) = self.live_end {
            // Its upload takes it, or has failed and tells why.
            let _ = live_end.send(Packed { index, diff_id, tar_bytes, descriptor, workspace });
        }
        Ok(None)
    }
}
