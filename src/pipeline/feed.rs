//! From the source to the packers: the cut's thread, and what a layer keeps of the buffers that come in.
//!
//! A slice keeps its whole buffer, and buffers are what memory counts. Where a layer keeps nearly all of one, its slices go
//! on as they are. Where it keeps little (other entries were left out, or go to other layers; the source could not fill the
//! buffer), that is copied together, and the buffer goes home. So a layer never holds much more than its bytes, whatever
//! the shape of the input.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::memory::{Buffer, Memory, Slice, Table};
use super::pack::{LayerFeed, LayerPiece};
use crate::error::{Error, Result};
use crate::progress::{Activity, Meters, NoticeKind, Notices, Observer, Track};
use crate::source::Piece;
use crate::stage::cut::{CutPiece, CutSummary, Cutter, Placed};

/// Pieces of one layer between cut and packer; their bytes are counted against the memory bound.
const LAYER_PIECES: usize = 1024;

/// Who is told what went where; nothing, once, when all of it was told, while the last layers are still packed and sent.
pub(crate) type Journal = Box<dyn Fn(Option<&Placed>) -> Result<()> + Send>;

/// The thread between source and packers.
pub(super) struct Feed {
    pub(super) memory: Memory,
    pub(super) packers: Sender<LayerFeed>,
    pub(super) track: Track,
    pub(super) meters: Arc<Meters>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) journal: Option<Journal>,
}

/// The layer at hand.
#[derive(Default)]
struct Layers {
    begun: usize,
    pieces: Option<Sender<LayerPiece>>,
    /// Parts of the chunk at hand that go to this layer.
    parts: Vec<Bytes>,
    /// What is copied together.
    open: Option<Buffer>,
}

impl Feed {
    /// Cuts what comes in, and hands on layer by layer. All that a cut's thread does.
    pub(super) fn run(&self, mut cutter: Cutter, pieces: &Receiver<Piece>) -> Result<(CutSummary, Notices)> {
        let (mut layers, mut tables, mut notices) = (Layers::default(), Table::default(), Notices::default());
        loop {
            match self.track.during(Activity::WaitsForSource, || pieces.recv()) {
                Ok(Piece::Bytes(chunk)) => {
                    self.meters.cut.took(chunk.len() as u64);
                    cutter.push(chunk.bytes(), &mut |piece| self.take(&mut layers, Some(&chunk), piece))?;
                    self.settle(&mut layers, Some(&chunk))?;
                    self.tell(&mut cutter)?;
                    self.memory.count(&mut tables, cutter.table_bytes())?;
                    for path in cutter.unmarked() {
                        self.observer.noticed(NoticeKind::Overlay, &path);
                        notices.add(NoticeKind::Overlay, &path);
                    }
                }
                Ok(Piece::End) => {
                    let summary = cutter.finish(&mut |piece| self.take(&mut layers, None, piece))?;
                    self.journal.as_ref().map_or(Ok(()), |journal| journal(None))?;
                    return Ok((summary, notices));
                }
                Err(_) => return Err(Error::hung_up("the source")),
            }
        }
    }

    fn tell(&self, cutter: &mut Cutter) -> Result<()> {
        self.journal.as_ref().map_or(Ok(()), |journal| cutter.journal().try_for_each(|placed| journal(Some(&placed))))
    }

    fn take(&self, layers: &mut Layers, chunk: Option<&Slice>, piece: CutPiece) -> Result<()> {
        let piece = match piece {
            CutPiece::Bytes(part) => {
                self.meters.cut.gave(part.len() as u64);
                layers.parts.push(part);
                return Ok(());
            }
            other => other,
        };
        self.settle(layers, chunk)?;
        match piece {
            CutPiece::Begin { workspace } => self.begin(layers, workspace),
            CutPiece::Own(bytes) => {
                self.meters.cut.gave(bytes.len() as u64);
                // This is more than what came in, so it waits as the source does.
                self.copy(layers, &bytes, || self.track.during(Activity::WaitsForMemory, || self.memory.buffer()))
            }
            CutPiece::Bytes(_) | CutPiece::End => {
                self.flush(layers)?;
                self.pass(layers, LayerPiece::End)?;
                layers.pieces = None;
                Ok(())
            }
        }
    }

    fn begin(&self, layers: &mut Layers, workspace: bool) -> Result<()> {
        let (layer_end, pieces) = bounded(LAYER_PIECES);
        self.observer.layer_began(layers.begun);
        let feed = LayerFeed { index: layers.begun, workspace, pieces };
        let sent = self.track.during(Activity::WaitsForPackers, || self.packers.send(feed));
        sent.map_err(|_| Error::hung_up("the packers"))?;
        layers.begun += 1;
        layers.pieces = Some(layer_end);
        Ok(())
    }

    /// Hands on the parts of `chunk` that came together: as they are, or copied.
    fn settle(&self, layers: &mut Layers, chunk: Option<&Slice>) -> Result<()> {
        let parts = std::mem::take(&mut layers.parts);
        let Some(chunk) = chunk.filter(|_| !parts.is_empty()) else { return Ok(()) };
        match chunk.parts(&parts) {
            Some(slices) => {
                self.flush(layers)?;
                slices.into_iter().try_for_each(|slice| self.pass(layers, LayerPiece::Bytes(slice)))
            }
            // It takes the place of what it is copied from.
            None => parts.iter().try_for_each(|part| self.copy(layers, part, || Ok(self.memory.overdraft()))),
        }
    }

    fn copy(&self, layers: &mut Layers, mut bytes: &[u8], buffer: impl Fn() -> Result<Buffer>) -> Result<()> {
        while !bytes.is_empty() {
            let mut open = layers.open.take().map_or_else(&buffer, Ok)?;
            let (now, later) = bytes.split_at(bytes.len().min(open.room()));
            open.bytes_mut().extend_from_slice(now);
            bytes = later;
            let is_full = open.room() == 0;
            layers.open = Some(open);
            if is_full {
                self.flush(layers)?;
            }
        }
        Ok(())
    }

    /// Hands on what was copied together.
    fn flush(&self, layers: &mut Layers) -> Result<()> {
        let open = layers.open.take();
        open.map_or(Ok(()), |open| self.pass(layers, LayerPiece::Bytes(open.freeze())))
    }

    fn pass(&self, layers: &Layers, piece: LayerPiece) -> Result<()> {
        let send = |layer: &Sender<LayerPiece>| self.track.during(Activity::WaitsForPackers, || layer.send(piece));
        if matches!(layers.pieces.as_ref().map(send), Some(Ok(()))) { Ok(()) } else { Err(Error::hung_up("a packer")) }
    }
}
