//! A live layer into an artifact.
//!
//! It may take long, and whoever makes it may wait for memory that whole layers hold, which wait for their turn in the
//! artifact. So it never has the artifact while it streams: its bytes wait in a file beside it until the last has come.

use crate::error::{Error, Kind, Result, Side};
use crate::gather::{LiveEnd, LiveLayer, LivePiece};
use crate::oci::Descriptor;

use super::incoming::Incoming;
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
        let (side, end) = match self.gather(layer).await {
            Ok(gathered) => gathered,
            Err(error) => {
                // Without this layer it never becomes an artifact.
                return Err(match self.abort().await {
                    Ok(()) => error,
                    Err(cleanup) => error.attach(cleanup),
                });
            }
        };
        let (stop, descriptor) = (self.options.stop.clone(), end.descriptor.clone());
        self.work(end.diff_id, move |unfinished| {
            let LiveEnd { descriptor, diff_id, tar_bytes } = &end;
            let (diff_id, tar_bytes) = (*diff_id, *tar_bytes);
            let layer = Incoming { diff_id, tar_bytes, descriptor, stored: side.moving(&stop) };
            if workspace { unfinished.embed_workspace(layer) } else { unfinished.embed_layer(layer) }
        })
        .await?;
        Ok(descriptor)
    }

    /// All of the layer, and what it is.
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
