//! Where an upload's bytes come from: a gathered layer, or one that is still being made.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::oci::Descriptor;
use crate::pipeline::gather::{Body, LiveLayer, LivePiece};

/// The next request's body.
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
    Live(Live),
}

impl Parts<'_> {
    /// What the blob is, once that is known.
    pub(super) fn descriptor(&self) -> Option<&Descriptor> {
        match self {
            Self::Gathered { descriptor, .. } => Some(descriptor),
            Self::Live(live) => live.end.as_ref(),
        }
    }

    /// `part_bytes` from `offset` on, or as many as there are; of what lies in memory anyway, `memory_part_bytes` if those are
    /// more. Waits for a live layer's stage.
    pub(super) async fn part(&mut self, offset: u64, part_bytes: u64, memory_part_bytes: u64) -> Result<Part> {
        match self {
            Self::Gathered { body, .. } => {
                let part_bytes = body.in_memory_from(offset).min(memory_part_bytes).max(part_bytes);
                let is_last = offset.saturating_add(part_bytes) >= body.len();
                Ok(Part::new(body.slice(offset, part_bytes).await?, is_last))
            }
            Self::Live(live) => live.part(offset, part_bytes).await,
        }
    }

    /// The registry has everything before `offset`: it need not be kept for this session.
    pub(super) fn acknowledge(&mut self, offset: u64) {
        if let Self::Live(live) = self {
            live.acknowledge(offset);
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
    tail: mpsc::Receiver<LivePiece>,
    end: Option<Descriptor>,
}

impl Live {
    pub(super) fn new(layer: LiveLayer) -> Self {
        let window_start = layer.head.len();
        Self { head: layer.head, window: VecDeque::new(), window_start, window_bytes: 0, tail: layer.tail, end: None }
    }

    async fn part(&mut self, offset: u64, part_bytes: u64) -> Result<Part> {
        let wanted = offset.saturating_add(part_bytes);
        while self.end.is_none() && self.window_start + self.window_bytes < wanted {
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
        let end = self.window_start + self.window_bytes;
        if let Some(descriptor) = self.end.as_ref().filter(|descriptor| descriptor.size != end) {
            let words = format!("{end} bytes came, {} were announced", descriptor.size);
            return Err(Error::new(
                crate::error::Kind::Internal,
                crate::error::Side::Stage,
                "streaming",
                descriptor.digest,
                words,
            ));
        }
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

    fn acknowledge(&mut self, offset: u64) {
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
    use crate::pipeline::memory::Memory;
    use crate::pipeline::scratch::{Scratch, ScratchFile};
    use crate::stop::Stop;

    fn end(size: u64) -> LivePiece {
        let name = format!("sha256:{}", "0".repeat(64));
        let descriptor = Descriptor { media_type: String::new(), digest: name.parse().unwrap(), size };
        LivePiece::End(LiveEnd { descriptor, diff_id: name.parse().unwrap(), tar_bytes: 0 })
    }

    fn live(head: Body, tail: mpsc::Receiver<LivePiece>) -> Live {
        Live::new(LiveLayer { index: 0, media_type: String::new(), workspace: false, head, tail })
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
    async fn only_a_part_of_what_is_in_memory_is_larger() {
        let scratch = Scratch::new(&std::env::temp_dir(), 1 << 20);
        let mut file = ScratchFile::create(&scratch, 1).unwrap();
        assert!(file.append(b"ghijkl"));
        let filed = file.finish(Memory::new(4 << 20, Stop::new()));
        let body = Body::with_file(vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")], filed);
        let LivePiece::End(LiveEnd { descriptor, .. }) = end(12) else { unreachable!() };
        let mut parts = Parts::Gathered { descriptor: &descriptor, body: &body };
        for (offset, memory_part_bytes, wanted) in [
            (0, 0, "ab"),
            (0, 1, "ab"),
            (0, 4, "abcd"),
            (0, 100, "abcdef"),
            (5, 100, "fg"),
            (6, 100, "gh"),
            (10, 100, "kl"),
        ] {
            let part = parts.part(offset, 2, memory_part_bytes).await.unwrap();
            assert_eq!(part.bytes.concat(), wanted.as_bytes(), "{offset} {memory_part_bytes}");
            assert_eq!(part.is_last, offset == 10);
        }
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
