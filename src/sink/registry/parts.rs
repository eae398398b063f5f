//! Where an upload's bytes come from: a gathered layer, or one that is still being made.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};

use crate::error::{Error, Kind, Result, Side};
use crate::oci::Descriptor;
use crate::pipeline::gather::{Body, LiveLayer, LivePiece};
use crate::pipeline::memory::BUFFER_BYTES;

/// The next part of a live layer.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) bytes: Vec<Bytes>,
    pub(super) length: u64,
    /// Nothing comes after it.
    pub(super) is_last: bool,
}

impl Part {
    fn new(bytes: Vec<Bytes>, is_last: bool) -> Self {
        let length = bytes.iter().map(|chunk| chunk.len() as u64).sum();
        Self { bytes, length, is_last }
    }
}

/// Bytes of one blob, from any offset that can still be sent.
#[derive(Debug)]
pub(super) enum Parts<'a> {
    /// Complete: any offset, any number of times.
    Gathered {
        /// What the bytes are.
        descriptor: &'a Descriptor,
        /// The bytes.
        body: &'a Body,
    },
    /// Coming in.
    Live(Arc<Mutex<Live>>),
}

impl Parts<'_> {
    /// What the blob is, once that is known.
    pub(super) async fn descriptor(&self) -> Option<Descriptor> {
        match self {
            Self::Gathered { descriptor, .. } => Some((*descriptor).clone()),
            Self::Live(live) => live.lock().await.end(),
        }
    }
}

/// A live layer: its head, which stays, and a window of its tail: what the registry has not acknowledged.
/// The window holds at most one part and one piece.
#[derive(Debug)]
pub(super) struct Live {
    head: Body,
    window: VecDeque<Bytes>,
    window_start: u64,
    window_bytes: u64,
    window_bytes_max: u64,
    tail: mpsc::Receiver<LivePiece>,
    end: Option<Descriptor>,
}

impl Live {
    /// Keeps up to `window_bytes_max` of what was sent without an answer.
    pub(super) fn new(layer: LiveLayer, window_bytes_max: u64) -> Self {
        let window_start = layer.head.len();
        let (window, end) = (VecDeque::new(), None);
        Self { head: layer.head, window, window_start, window_bytes: 0, window_bytes_max, tail: layer.tail, end }
    }

    /// The bytes that came so far.
    fn came(&self) -> u64 {
        self.window_start + self.window_bytes
    }

    /// Waits until `wanted` bytes came, or all.
    async fn fill(&mut self, wanted: u64) -> Result<()> {
        while self.end.is_none() && self.came() < wanted {
            match self.tail.recv().await {
                Some(LivePiece::Bytes(bytes)) if bytes.is_empty() => {}
                Some(LivePiece::Bytes(bytes)) => {
                    self.window_bytes += bytes.len() as u64;
                    self.window.push_back(bytes);
                }
                Some(LivePiece::End(end)) => self.end = Some(end.descriptor),
                // Cut off: whoever made the layer has the cause.
                None => return Err(Error::hung_up("the stage that packs the layer")),
            }
        }
        let end = self.came();
        match self.end.as_ref().filter(|descriptor| descriptor.size != end) {
            None => Ok(()),
            Some(descriptor) => {
                let words = format!("{end} bytes came, {} were announced", descriptor.size);
                Err(Error::new(Kind::Internal, Side::Stage, "streaming", descriptor.digest, words))
            }
        }
    }

    /// The bytes from `offset` on, as many as come at once; none at the end. For one that is sent as a whole: what is more
    /// than the window's bound behind is let go.
    pub(super) async fn piece(&mut self, offset: u64) -> Result<Option<Bytes>> {
        if offset < self.head.len() {
            return Ok(self.head.slice(offset, BUFFER_BYTES as u64).await?.into_iter().next());
        }
        if offset < self.window_start {
            return Err(self.lost());
        }
        self.fill(offset + 1).await?;
        let mut at = self.window_start;
        let piece = self.window.iter().find_map(|chunk| {
            let (from, to) = (at, at + chunk.len() as u64);
            at = to;
            (from <= offset && offset < to).then(|| chunk.slice(usize::try_from(offset - from).unwrap_or(0)..))
        });
        if self.window_bytes > self.window_bytes_max {
            self.acknowledge(offset);
        }
        Ok(piece)
    }

    /// `part_bytes` from `offset` on, or as many as there are.
    pub(super) async fn part(&mut self, offset: u64, part_bytes: u64) -> Result<Part> {
        let wanted = offset.saturating_add(part_bytes);
        self.fill(wanted).await?;
        let end = self.came();
        let mut at = self.window_start;
        if offset < at && at > self.head.len() {
            return Err(self.lost());
        }
        let mut bytes = self.head.slice(offset, part_bytes).await?;
        for chunk in &self.window {
            let (from, to) = (offset.max(at), wanted.min(at + chunk.len() as u64));
            if from < to {
                let within = |place: u64| usize::try_from(place - at).unwrap_or(usize::MAX);
                bytes.push(chunk.slice(within(from)..within(to)));
            }
            at += chunk.len() as u64;
        }
        Ok(Part::new(bytes, self.end.is_some() && wanted >= end))
    }

    /// Everything before `offset` need not be kept.
    pub(super) fn acknowledge(&mut self, offset: u64) {
        while let Some(first) = self.window.front() {
            let length = first.len() as u64;
            if self.window_start + length > offset {
                return;
            }
            self.window_start += length;
            self.window_bytes -= length;
            self.window.pop_front();
        }
    }

    /// What the layer is, once all of it came.
    pub(super) fn end(&self) -> Option<Descriptor> {
        self.end.clone()
    }

    /// Whether the layer can be sent again from its first byte.
    pub(super) fn can_restart(&self) -> Result<()> {
        if self.window_start == self.head.len() { Ok(()) } else { Err(self.lost()) }
    }

    fn lost(&self) -> Error {
        let words = "the registry lost the upload session, and the layer's bytes are gone: it was too large to be held";
        Error::sink("streaming a layer", format!("after {} bytes", self.window_start), words)
            .hint("give more --scratch, so that layers can be sent again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::gather::LiveEnd;

    fn end(size: u64) -> LivePiece {
        let name = format!("sha256:{}", "0".repeat(64));
        let descriptor = Descriptor { media_type: String::new(), digest: name.parse().unwrap(), size };
        LivePiece::End(LiveEnd { descriptor, diff_id: name.parse().unwrap(), tar_bytes: 0 })
    }

    fn live(head: Body, tail: mpsc::Receiver<LivePiece>) -> Live {
        Live::new(LiveLayer { index: 0, media_type: String::new(), workspace: false, head, tail }, 4)
    }

    #[tokio::test]
    async fn a_live_part_is_full_whatever_the_pieces_are() {
        let (sender, tail) = mpsc::channel(100);
        let head = Body::from_chunks(vec![Bytes::from_static(b"abc")]);
        let mut live = live(head, tail);
        for byte in b"defghij" {
            sender.send(LivePiece::Bytes(Bytes::copy_from_slice(&[*byte]))).await.unwrap();
        }
        sender.send(end(10)).await.unwrap();
        let part = live.part(0, 4).await.unwrap();
        assert_eq!((part.bytes.concat(), part.is_last), (b"abcd".to_vec(), false));
        live.acknowledge(3);
        assert!(live.window_start == 3);
        live.acknowledge(5);
        let part = live.part(6, 4).await.unwrap();
        assert_eq!((part.bytes.concat(), part.is_last), (b"ghij".to_vec(), false));
        assert!(live.part(3, 4).await.unwrap_err().to_string().contains("--scratch"));
        let part = live.part(10, 4).await.unwrap();
        assert_eq!((part.length, part.is_last), (0, true));
    }

    #[tokio::test]
    async fn a_layer_that_is_sent_as_a_whole_can_begin_anew_for_a_while() {
        let (sender, tail) = mpsc::channel(100);
        let mut live = live(Body::from_chunks(vec![Bytes::from_static(b"abc")]), tail);
        for piece in [&b"de"[..], b"fg", b"hi"] {
            sender.send(LivePiece::Bytes(Bytes::from_static(piece))).await.unwrap();
        }
        sender.send(end(9)).await.unwrap();
        assert_eq!(live.piece(0).await.unwrap().unwrap(), "abc");
        assert_eq!(live.piece(3).await.unwrap().unwrap(), "de");
        assert_eq!(live.piece(5).await.unwrap().unwrap(), "fg");
        assert_eq!(live.piece(4).await.unwrap().unwrap(), "e");
        assert_eq!(live.piece(7).await.unwrap().unwrap(), "hi");
        assert!(live.piece(9).await.unwrap().is_none());
        assert!(live.piece(3).await.unwrap_err().to_string().contains("--scratch"));
    }

    #[tokio::test]
    async fn a_cut_edge_is_no_end() {
        let (sender, tail) = mpsc::channel(1);
        let mut live = live(Body::default(), tail);
        sender.send(LivePiece::Bytes(Bytes::from_static(b"abc"))).await.unwrap();
        drop(sender);
        assert_eq!(live.part(0, 4).await.unwrap_err().kind(), crate::error::Kind::HungUp);
    }
}
