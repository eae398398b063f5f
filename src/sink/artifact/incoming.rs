//! A layer that is to be embedded: what it is, and its stored bytes as a plain input for a thread that may block.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;

use crate::oci::{Compression, Descriptor, DiffId};
use crate::pipeline::gather::Layer;
use crate::stage::decode::decoder;
use crate::stop::Stop;

/// Stored bytes that are taken from a gathered layer at a time.
const STEP_BYTES: u64 = 1 << 20;

/// A layer, wherever its stored bytes come from.
pub(super) struct Incoming<'a, R> {
    pub(super) diff_id: DiffId,
    pub(super) tar_bytes: u64,
    pub(super) descriptor: &'a Descriptor,
    pub(super) stored: R,
}

impl<'a, R: BufRead + 'a> Incoming<'a, R> {
    /// How the bytes are stored.
    pub(super) fn compression(&self) -> io::Result<Compression> {
        let media_type = &self.descriptor.media_type;
        Compression::from_media_type(media_type).ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, format!("a layer of type {media_type} can't be embedded"))
        })
    }

    /// The layer's tar.
    pub(super) fn decoded(self) -> io::Result<Box<dyn Read + 'a>> {
        let compression = self.compression()?;
        decoder(self.stored, compression)
    }

    /// Copies the bytes as they are, slice by slice, and holds them against the size in the layer's name.
    pub(super) fn copy(mut self, mut to: impl Write) -> io::Result<()> {
        let (mut copied_bytes, expected_bytes) = (0, self.descriptor.size);
        loop {
            let slice = self.stored.fill_buf()?;
            if slice.is_empty() {
                break;
            }
            to.write_all(slice)?;
            let length = slice.len();
            copied_bytes += length as u64;
            self.stored.consume(length);
        }
        if copied_bytes == expected_bytes {
            return Ok(());
        }
        let reason = format!("{copied_bytes} bytes are not the {expected_bytes} of its name");
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    }
}

impl<'a> Incoming<'a, Gathered<'a>> {
    /// A complete layer. `runtime` is the one that this blocking thread belongs to.
    pub(super) fn gathered(layer: &'a Layer, runtime: &'a Handle, stop: &'a Stop) -> Self {
        let stored = Gathered { layer, offset: 0, slices: VecDeque::new(), runtime, stop };
        Self { diff_id: layer.diff_id, tar_bytes: layer.tar_bytes, descriptor: &layer.descriptor, stored }
    }
}

/// The bytes of a layer that memory and scratch space hold.
pub(super) struct Gathered<'a> {
    layer: &'a Layer,
    offset: u64,
    slices: VecDeque<Bytes>,
    runtime: &'a Handle,
    stop: &'a Stop,
}

impl BufRead for Gathered<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.slices.front().is_some_and(Bytes::is_empty) {
            self.slices.pop_front();
        }
        if self.slices.is_empty() {
            self.stop.check().map_err(io::Error::other)?;
            let slices =
                self.runtime.block_on(self.layer.body.slice(self.offset, STEP_BYTES)).map_err(io::Error::other)?;
            self.offset += slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
            self.slices = slices.into();
        }
        Ok(self.slices.front().map_or(&[], |slice| slice))
    }

    fn consume(&mut self, amount: usize) {
        if let Some(slice) = self.slices.front_mut() {
            slice.advance(amount);
        }
    }
}

impl Read for Gathered<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(into.len());
        into[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}
