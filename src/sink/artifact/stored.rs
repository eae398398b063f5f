//! A gathered layer's bytes, as a plain input for threads that may block.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};

use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;
use tokio::runtime::Handle;

use crate::gather::Layer;
use crate::oci::Compression;
use crate::stop::Stop;

/// Stored bytes that are taken from the layer at a time.
const STEP_BYTES: u64 = 1 << 20;

/// A layer's stored bytes as a plain input, for a thread that may block.
pub(super) struct Stored<'a> {
    layer: &'a Layer,
    offset: u64,
    slices: VecDeque<Bytes>,
    runtime: &'a Handle,
    stop: &'a Stop,
}

impl<'a> Stored<'a> {
    /// From the start. `runtime` is the one that this blocking thread belongs to.
    pub(super) fn new(layer: &'a Layer, runtime: &'a Handle, stop: &'a Stop) -> Self {
        Self { layer, offset: 0, slices: VecDeque::new(), runtime, stop }
    }

    /// How the bytes are stored.
    pub(super) fn compression(&self) -> io::Result<Compression> {
        Compression::from_media_type(&self.layer.descriptor.media_type).ok_or_else(|| {
            let reason = format!("a layer of type {} can't be embedded", self.layer.descriptor.media_type);
            io::Error::new(io::ErrorKind::Unsupported, reason)
        })
    }

    /// The layer's tar.
    pub(super) fn decoded(self) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self.compression()? {
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(self)?),
            Compression::Gzip => Box::new(MultiGzDecoder::new(self)),
            Compression::None => Box::new(self),
        })
    }

    /// Copies the bytes as they are, slice by slice, and holds them against the size in the layer's name.
    pub(super) fn copy(mut self, mut to: impl Write) -> io::Result<()> {
        let (mut copied_bytes, expected_bytes) = (0, self.layer.descriptor.size);
        loop {
            let slice = self.fill_buf()?;
            if slice.is_empty() {
                break;
            }
            to.write_all(slice)?;
            let length = slice.len();
            copied_bytes += length as u64;
            self.consume(length);
        }
        if copied_bytes == expected_bytes {
            return Ok(());
        }
        let reason = format!("{copied_bytes} bytes are not the {expected_bytes} of its name");
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    }
}

impl BufRead for Stored<'_> {
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

impl Read for Stored<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(into.len());
        into[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}
