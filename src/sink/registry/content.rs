//! A request's body, which can be given as often as the request has to be made: again after a redirect, again after a cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::Mutex;

use super::parts::Live;
use super::report::Report;
use crate::error::Result;
use crate::pipeline::gather::Body;
use crate::pipeline::memory::BUFFER_BYTES;

/// A body, and where in its blob it begins.
#[derive(Debug, Clone)]
pub struct Content {
    source: Source,
    /// The offset of its first byte.
    start: u64,
    sent: Option<Arc<Sent>>,
}

#[derive(Debug, Clone)]
enum Source {
    Chunks(Vec<Bytes>),
    /// So many bytes of a body from `start` on, read when they are sent.
    Body(Body, u64),
    /// All of a live layer, as long as its first bytes are still there.
    Live(Arc<Mutex<Live>>),
}

impl Content {
    /// Bytes in memory.
    pub(super) fn chunks(chunks: Vec<Bytes>) -> Self {
        Self { source: Source::Chunks(chunks), start: 0, sent: None }
    }

    /// `length` bytes of `body`, from its first one on, or where [`Self::told`] says.
    pub(super) fn of_body(body: &Body, length: u64) -> Self {
        Self { source: Source::Body(body.clone(), length), start: 0, sent: None }
    }

    /// A whole live layer, whose end nobody knows yet.
    pub(super) fn live(live: Arc<Mutex<Live>>) -> Self {
        Self { source: Source::Live(live), start: 0, sent: None }
    }

    /// The blob's bytes from `start` on, of which `sent` is told.
    pub(super) fn told(self, start: u64, sent: &Arc<Sent>) -> Self {
        Self { start, sent: Some(Arc::clone(sent)), ..self }
    }

    /// Bytes, where that is known.
    pub(super) fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Chunks(chunks) => Some(chunks.iter().map(|chunk| chunk.len() as u64).sum()),
            Source::Body(_, length) => Some(*length),
            Source::Live(_) => None,
        }
    }

    /// The bytes, from the first one on, in pieces of at most one buffer.
    pub(super) fn stream(&self) -> BoxStream<'static, Result<Bytes>> {
        let pieces = match self.source.clone() {
            Source::Chunks(chunks) => stream::iter(chunks.into_iter().map(Ok)).boxed(),
            Source::Body(body, length) => of_body(body, self.start, self.start.saturating_add(length)),
            Source::Live(live) => of_live(live),
        };
        let (sent, mut at) = (self.sent.clone(), self.start);
        pieces
            .inspect(move |piece| {
                if let (Some(sent), Ok(piece)) = (&sent, piece) {
                    at += piece.len() as u64;
                    sent.went(at, piece.len() as u64);
                }
            })
            .boxed()
    }
}

fn of_body(body: Body, start: u64, end: u64) -> BoxStream<'static, Result<Bytes>> {
    let slices = stream::try_unfold((body, start), move |(body, at)| async move {
        let length = (BUFFER_BYTES as u64).min(end.saturating_sub(at));
        if length == 0 {
            return Ok(None);
        }
        let slices = body.slice(at, length).await?;
        Ok(Some((stream::iter(slices.into_iter().map(Ok)), (body, at + length))))
    });
    futures_util::TryStreamExt::try_flatten(slices).boxed()
}

fn of_live(live: Arc<Mutex<Live>>) -> BoxStream<'static, Result<Bytes>> {
    let pieces = stream::try_unfold((live, 0), |(live, at)| async move {
        let piece = live.lock().await.piece(at).await?;
        Ok(piece.map(|piece| {
            let next = at + piece.len() as u64;
            (piece, (live, next))
        }))
    });
    pieces.boxed()
}

/// What of a blob went over the wire.
#[derive(Debug)]
pub(super) struct Sent {
    report: Report,
    /// The layer's place in the image; a config has none.
    index: Option<usize>,
    /// The end of what went, or was there: all that people are told of, once.
    furthest: AtomicU64,
    /// Bytes of all bodies; bytes sent twice count twice.
    bytes: AtomicU64,
}

impl Sent {
    pub(super) fn new(report: &Report, index: Option<usize>) -> Arc<Self> {
        Arc::new(Self { report: report.clone(), index, furthest: AtomicU64::new(0), bytes: AtomicU64::new(0) })
    }

    /// `bytes` went, the last one just before `end`.
    fn went(&self, end: u64, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.reached(end);
    }

    /// The registry has, or was sent, all before `end`. The sum of what is told is the blob's size, however often it went.
    pub(super) fn reached(&self, end: u64) {
        let before = self.furthest.fetch_max(end, Ordering::Relaxed);
        if end > before {
            self.report.sent(self.index, end - before);
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}
