//! Copying what was kept of a stream together, where it is small beside the buffers it came in.
//!
//! A slice keeps its whole buffer, and buffers are what the memory bound counts. Where small kept entries lie between
//! large ones that are left out, a layer of a few megabytes would hold all the memory there is, and the source would wait
//! for ever. So bytes are passed on as they came only while what they waste stays a small part of them; the rest is
//! copied into buffers that it fills. Those are overdraft: what was copied from goes back at once.

use bytes::Bytes;

use crate::error::Result;
use crate::pipeline::memory::{BUFFER_BYTES, Buffer, Memory};
use crate::stage::cut::CutPiece;

/// What is passed on as it came may keep one in so many bytes from others.
const WASTE_PART: usize = 16;

/// Copies together what is too thinly spread. Makes no more than one buffer more than it gives back.
pub struct Compact {
    memory: Memory,
    open: Option<Buffer>,
    /// Bytes passed on since the last border.
    kept: usize,
    /// Bytes that they keep from others.
    wasted: usize,
    /// Something of the chunk before was passed on as it came: what is left of it wastes no more.
    before_passed: bool,
}

impl Compact {
    /// Takes its buffers from `memory`.
    #[must_use]
    pub fn new(memory: Memory) -> Self {
        Self { memory, open: None, kept: 0, wasted: 0, before_passed: true }
    }

    /// Hands on `parts`, in order, all that was kept of `chunk`, and perhaps parts of chunks before it: as they are, or
    /// copied, and then perhaps later.
    ///
    /// # Errors
    /// Those of `emit`.
    pub fn take(&mut self, chunk: &Bytes, parts: Vec<Bytes>, emit: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<()> {
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        let (mut waste, own) = self.waste(chunk, &parts);
        let (open_bytes, open_room) = self.open.as_ref().map_or((0, 0), |open| (open.len(), open.room()));
        waste += open_room;
        let pays_itself = waste * WASTE_PART <= bytes;
        let passes = pays_itself || (self.wasted + waste) * WASTE_PART <= self.kept + open_bytes + bytes;
        self.before_passed = passes && own > 0;
        if passes {
            self.flush(emit)?;
            self.kept += bytes;
            self.wasted += waste - open_room;
            return parts.into_iter().try_for_each(emit);
        }
        parts.iter().try_for_each(|part| self.copy(part, emit))
    }

    /// [`Self::take`] for what a cut made of `chunk`. Where a layer begins or ends, nothing is copied: each layer may keep
    /// a buffer, but many small ones must not take one each in place of the one that they came in.
    ///
    /// # Errors
    /// Those of `emit`.
    pub fn take_cut(
        &mut self,
        chunk: &Bytes,
        pieces: Vec<CutPiece>,
        emit: &mut dyn FnMut(CutPiece) -> Result<()>,
    ) -> Result<()> {
        let border = pieces.iter().rposition(|piece| !matches!(piece, CutPiece::Bytes(_)));
        let parts = pieces[border.unwrap_or(0)..].iter().filter_map(|piece| match piece {
            CutPiece::Bytes(bytes) => Some(bytes.clone()),
            CutPiece::Begin { .. } | CutPiece::End => None,
        });
        let parts: Vec<_> = parts.collect();
        if border.is_none() {
            drop(pieces);
            return self.take(chunk, parts, &mut |bytes| emit(CutPiece::Bytes(bytes)));
        }
        self.border(chunk, &parts, &mut |bytes| emit(CutPiece::Bytes(bytes)))?;
        drop(parts);
        pieces.into_iter().try_for_each(emit)
    }

    /// Hands on what waits. A layer ends or begins in `chunk`, whose `parts` behind that the caller hands on itself.
    fn border(&mut self, chunk: &Bytes, parts: &[Bytes], emit: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<()> {
        self.flush(emit)?;
        self.kept = parts.iter().map(Bytes::len).sum();
        let (waste, own) = self.waste(chunk, parts);
        self.wasted = waste;
        self.before_passed = own > 0;
        Ok(())
    }

    /// Hands on what waits.
    ///
    /// # Errors
    /// Those of `emit`.
    pub fn flush(&mut self, emit: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        self.kept += open.len();
        self.wasted += open.room();
        emit(open.freeze())
    }

    /// What `parts` would keep from others, and how many bytes of them are of `chunk`. One that is not of `chunk` may be all that there is of an earlier one.
    fn waste(&self, chunk: &Bytes, parts: &[Bytes]) -> (usize, usize) {
        let (mut own, mut others) = (0, 0);
        let range = chunk.as_ptr_range();
        for part in parts {
            if range.contains(&part.as_ptr()) {
                own += part.len();
            } else {
                others += 1;
            }
        }
        let of_this = if own == 0 { 0 } else { chunk.len().saturating_sub(own) };
        (of_this + if self.before_passed { 0 } else { others * BUFFER_BYTES }, own)
    }

    fn copy(&mut self, mut bytes: &[u8], emit: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<()> {
        while !bytes.is_empty() {
            let memory = &self.memory;
            let open = self.open.get_or_insert_with(|| memory.overdraft());
            let (now, later) = bytes.split_at(bytes.len().min(open.room()));
            open.bytes_mut().extend_from_slice(now);
            bytes = later;
            if open.room() == 0 {
                self.flush(emit)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop::Stop;

    fn into(out: &mut Vec<Bytes>) -> impl FnMut(Bytes) -> Result<()> {
        |bytes| {
            out.push(bytes);
            Ok(())
        }
    }

    /// What comes out for a stream of full chunks, of each of which `keep` bytes are kept, and what the memory then holds.
    fn held(keeps: &[usize]) -> (Vec<Bytes>, usize) {
        let memory = Memory::new(2 * BUFFER_BYTES as u64, Stop::new());
        let mut compact = Compact::new(memory.clone());
        let (mut out, mut expected, mut most) = (Vec::new(), Vec::new(), 0);
        for (at, keep) in keeps.iter().enumerate() {
            let mut buffer = memory.overdraft();
            buffer.bytes_mut().resize(BUFFER_BYTES, u8::try_from(at % 251).unwrap());
            let chunk = buffer.freeze();
            let parts: Vec<_> = (*keep > 0).then(|| chunk.slice(..*keep)).into_iter().collect();
            expected.extend_from_slice(&chunk[..*keep]);
            compact.take(&chunk, parts, &mut into(&mut out)).unwrap();
            drop(chunk);
            let held = usize::try_from(memory.held_bytes()).unwrap();
            let kept = expected.len();
            most = most.max(held.saturating_sub(kept + kept / WASTE_PART));
        }
        compact.flush(&mut into(&mut out)).unwrap();
        assert_eq!(out.concat(), expected);
        assert!(most <= BUFFER_BYTES, "{most} bytes more than what was kept");
        (out, usize::try_from(memory.held_bytes()).unwrap() / BUFFER_BYTES)
    }

    #[test]
    fn what_is_thinly_spread_is_copied_together() {
        assert_eq!(held(&[1024; 1500]).1, 2);
        assert!(held(&[BUFFER_BYTES / 2; 40]).1 <= 20 + 20 / WASTE_PART);
        let thin_and_full: Vec<_> = (0..40).map(|at| if at % 2 == 0 { BUFFER_BYTES } else { 512 }).collect();
        assert!(held(&thin_and_full).1 <= 21 + 20 / WASTE_PART);
        assert_eq!(held(&[0; 50]), (vec![], 0));
    }

    #[test]
    fn what_is_kept_whole_is_passed_on_as_it_came() {
        let (out, buffers) = held(&[BUFFER_BYTES; 20]);
        assert_eq!((out.len(), buffers), (20, 20));
        let nearly_whole = held(&[BUFFER_BYTES - 10_000; 20]).0;
        assert!(nearly_whole.iter().all(|bytes| bytes.len() == BUFFER_BYTES - 10_000));
        // One gap is paid for by what follows.
        let mut keeps = [BUFFER_BYTES; 60];
        keeps[0] = 512;
        let out = held(&keeps).0;
        assert_eq!(out.iter().filter(|bytes| bytes.len() == BUFFER_BYTES).count(), 59);
    }

    #[test]
    fn a_header_that_alone_is_left_of_a_chunk_does_not_keep_it() {
        let memory = Memory::new(2 * BUFFER_BYTES as u64, Stop::new());
        let mut compact = Compact::new(memory.clone());
        let mut out = Vec::new();
        let mut earlier: Option<Bytes> = None;
        for _ in 0..100 {
            let mut buffer = memory.overdraft();
            buffer.bytes_mut().resize(BUFFER_BYTES, 1);
            let chunk = buffer.freeze();
            let parts = earlier.replace(chunk.slice(BUFFER_BYTES - 512..)).into_iter().collect();
            compact.take(&chunk, parts, &mut into(&mut out)).unwrap();
        }
        assert!(memory.held_bytes() <= 3 * BUFFER_BYTES as u64, "{}", memory.held_bytes());
    }

    #[test]
    fn a_border_hands_on_what_waits() {
        let memory = Memory::new(2 * BUFFER_BYTES as u64, Stop::new());
        let mut compact = Compact::new(memory);
        let chunk = Bytes::from(vec![1; BUFFER_BYTES]);
        let mut out = Vec::new();
        compact.take(&chunk, vec![chunk.slice(..100)], &mut into(&mut out)).unwrap();
        assert!(out.is_empty());
        compact.border(&chunk, &[], &mut into(&mut out)).unwrap();
        assert_eq!(out.concat(), [1; 100]);
    }
}
