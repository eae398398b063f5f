//! A sink that the others go on without, once it fails: registries and layouts, where a freeze may leave them out.
//!
//! It takes part until then; afterwards it says yes to everything, and gives its image no name. The last one that is left
//! fails like any other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::{Committed, Image, Put, Sink};
use crate::error::{Error, Kind, Result};
use crate::oci::Descriptor;
use crate::pipeline::gather::{Layer, LiveLayer, LivePiece};
use crate::stop::Stop;

/// A sink that the others go on without.
pub struct Spare {
    sink: Sink,
    /// Sinks of the freeze that have not failed.
    left: Arc<AtomicUsize>,
    lost: OnceLock<Error>,
    stop: Stop,
}

impl Spare {
    /// `left`: how many sinks the freeze has, for all of them to share.
    pub(crate) fn new(sink: Sink, left: &Arc<AtomicUsize>, stop: &Stop) -> Self {
        Self { sink, left: Arc::clone(left), lost: OnceLock::new(), stop: stop.clone() }
    }

    pub(super) fn sink(&self) -> &Sink {
        &self.sink
    }

    pub(super) fn lost(&self) -> Option<&Error> {
        self.lost.get()
    }

    /// Goes on without it, unless it is the last one, or the freeze ends anyway.
    fn lose(&self, error: Error) -> Result<()> {
        if self.stop.is_stopped() || matches!(error.kind(), Kind::Interrupted | Kind::HungUp) {
            return Err(error);
        }
        if self.lost().is_some() {
            return Ok(());
        }
        let others = |left: usize| (left > 1).then(|| left - 1);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, others).is_err() {
            return Err(error);
        }
        if self.lost.set(error).is_err() {
            // Another layer of it failed at the same time.
            self.left.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    pub(super) async fn has(&self, blob: &Descriptor) -> Result<bool> {
        if self.lost().is_some() {
            return Ok(true);
        }
        match Box::pin(self.sink.has(blob)).await {
            Err(error) => self.lose(error).map(|()| true),
            has => has,
        }
    }

    pub(super) async fn put(&self, layer: &Arc<Layer>) -> Result<Put> {
        if self.lost().is_some() {
            return Ok(Put::Present);
        }
        match Box::pin(self.sink.put(layer)).await {
            Err(error) => self.lose(error).map(|()| Put::Present),
            put => put,
        }
    }

    /// A layer that is half sent can't be read again, so its failure is the freeze's.
    pub(super) async fn put_live(&self, mut layer: LiveLayer) -> Result<Descriptor> {
        if self.lost().is_none() {
            return Box::pin(self.sink.put_live(layer)).await;
        }
        while let Some(piece) = layer.tail.recv().await {
            if let LivePiece::End(end) = piece {
                return Ok(Descriptor { media_type: layer.media_type, ..end.descriptor });
            }
        }
        Err(Error::hung_up("a packer"))
    }

    pub(super) async fn commit(&self, image: &Image) -> Result<Option<Committed>> {
        if self.lost().is_some() {
            return Ok(None);
        }
        match Box::pin(self.sink.commit(image)).await {
            Err(error) => self.lose(error).map(|()| None),
            committed => committed,
        }
    }
}
