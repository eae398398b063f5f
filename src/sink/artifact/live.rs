//! A live layer into an artifact.
//!
//! It may take long, and whoever makes it may wait for memory that whole layers hold, which wait for their turn in the
//! artifact. So it never has the artifact while it streams: its bytes wait in a file beside it until the last has come.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::error::{Error, Kind, Result, Side};
use crate::oci::Descriptor;
use crate::pipeline::gather::{Body, FileRange, Layer, LiveEnd, LiveLayer, LivePiece};
use crate::pipeline::memory::{Memory, Reserved};
use crate::sink::Put;

use super::incoming::Incoming;
use super::kept::tar_in;
use super::side::SideFile;
use super::writing::io_failed;
use super::{ArtifactSink, off_the_runtime};

/// Bytes of the layer's head that one write takes.
const WRITE_BYTES: u64 = 4 << 20;

impl ArtifactSink {
    /// Embeds a layer that is still being made, or, if it is one of `/workspace`, adds it to what a new machine finds
    /// there. Other layers are embedded meanwhile.
    ///
    /// # Errors
    /// As [`Self::put`], and when the packer hung up or sent another number of bytes than it says.
    pub async fn put_live(&self, layer: LiveLayer) -> Result<Descriptor> {
        let workspace = layer.workspace;
        let (side, end) = self.gathered(layer).await?;
        let descriptor = end.descriptor.clone();
        self.put_side(side, end, workspace).await?;
        Ok(descriptor)
    }

    /// Keeps places in the artifact for layers that are stored with zstd, in so many bytes each: they can be written at
    /// the same time. What of them is not put afterwards leaves a hole.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn reserve(&self, lengths: Vec<u64>) -> Result<Vec<SideFile>> {
        self.step(move |unfinished| unfinished.reserve(&lengths)).await
    }

    /// Embeds a layer that was gathered beside the artifact or in its place there, or adds it to `/workspace`.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn put_side(&self, side: SideFile, end: LiveEnd, workspace: bool) -> Result<Put> {
        let stop = self.options.stop.clone();
        self.work(end.diff_id, move |unfinished| {
            if !workspace {
                return unfinished.embed_beside(side, &end, &stop);
            }
            let LiveEnd { descriptor, diff_id, tar_bytes } = &end;
            let (diff_id, tar_bytes) = (*diff_id, *tar_bytes);
            let layer = Incoming { diff_id, tar_bytes, descriptor, stored: side.moving(&stop) };
            unfinished.embed_workspace(layer)
        })
        .await
    }

    /// Embeds a layer that is still being made, compressed with zstd and not of `/workspace`, and gives it back complete:
    /// its bytes lie in the artifact from then on, nowhere else, and are read into buffers of `memory`.
    ///
    /// # Errors
    /// As [`Self::put_live`].
    pub async fn keep(&self, layer: LiveLayer, memory: Memory) -> Result<Layer> {
        let index = layer.index;
        let (side, LiveEnd { descriptor, diff_id, tar_bytes }) = self.gathered(layer).await?;
        let (stop, length, named) = (self.options.stop.clone(), descriptor.size, descriptor.clone());
        let (file, start) = self
            .step(move |unfinished| {
                if unfinished.embedded.has(diff_id) {
                    // The same tar in other bytes, perhaps: these are its descriptor's.
                    return Ok((side.into_file(), 0));
                }
                let end = LiveEnd { descriptor: named.clone(), diff_id, tar_bytes };
                if unfinished.embed_unmarked(diff_id, || tar_in(&side, &end, &stop))? {
                    return Ok((side.into_file(), 0));
                }
                let start = unfinished.keep_layer(Incoming {
                    diff_id,
                    tar_bytes,
                    descriptor: &named,
                    stored: side.moving(&stop),
                })?;
                Ok((Arc::new(unfinished.handle()?), start))
            })
            .await?;
        let filed = FileRange { file, start, length, memory, _share: None };
        let body = Body::with_file(Vec::new(), filed);
        Ok(Layer { index, diff_id, tar_bytes, descriptor, workspace: false, body })
    }

    /// The same for a layer that is complete; `reserved` is held as long as it is.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn keep_whole(&self, layer: &Arc<Layer>, memory: Memory, reserved: Arc<Reserved>) -> Result<Layer> {
        let (embedded, runtime, stop) = (Arc::clone(layer), Handle::current(), self.options.stop.clone());
        let filed = self
            .step(move |unfinished| {
                let stored = || Incoming::gathered(&embedded, &runtime, &stop);
                if unfinished.embedded.has(embedded.diff_id)
                    || unfinished.embed_unmarked(embedded.diff_id, || stored().decoded())?
                {
                    return Ok(None);
                }
                let start = unfinished.keep_layer(stored())?;
                Ok(Some((unfinished.handle()?, start)))
            })
            .await?;
        let Layer { index, diff_id, tar_bytes, workspace, .. } = **layer;
        let (descriptor, length) = (layer.descriptor.clone(), layer.descriptor.size);
        let body = match filed {
            Some((file, start)) => {
                let filed = FileRange { file: Arc::new(file), start, length, memory, _share: Some(reserved) };
                Body::with_file(Vec::new(), filed)
            }
            None => layer.body.clone(),
        };
        Ok(Layer { index, diff_id, tar_bytes, descriptor, workspace, body })
    }

    /// All of the layer, and what it is; without it, this never becomes an artifact.
    async fn gathered(&self, layer: LiveLayer) -> Result<(SideFile, LiveEnd)> {
        let gathered = self.gather(layer).await;
        match gathered {
            Ok(gathered) => Ok(gathered),
            Err(error) => Err(match self.abort().await {
                Ok(()) => error,
                Err(cleanup) => error.attach(cleanup),
            }),
        }
    }

    async fn gather(&self, mut layer: LiveLayer) -> Result<(SideFile, LiveEnd)> {
        let failed = |error| io_failed("gathering a layer beside the artifact", &self.target, error);
        let target = self.target.clone();
        let mut side = off_the_runtime(move || Ok(SideFile::beside(&target))).await?.map_err(failed)?;
        let mut offset = 0;
        while offset < layer.head.len() {
            let slices = layer.head.slice(offset, WRITE_BYTES).await?;
            offset += slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
            side = off_the_runtime(move || Ok(side.appended(&slices))).await?.map_err(failed)?;
        }
        loop {
            match layer.tail.recv().await {
                Some(LivePiece::Bytes(bytes)) => {
                    side = off_the_runtime(move || Ok(side.appended(&[bytes]))).await?.map_err(failed)?;
                }
                Some(LivePiece::End(end)) if end.descriptor.size == side.len() => return Ok((side, end)),
                Some(LivePiece::End(end)) => {
                    let reason = format!("{} bytes came, and {} were announced", side.len(), end.descriptor.size);
                    let digest = end.descriptor.digest;
                    return Err(Error::new(Kind::Internal, Side::Stage, "streaming a layer", digest, reason));
                }
                None => return Err(Error::hung_up("a packer")),
            }
        }
    }
}
