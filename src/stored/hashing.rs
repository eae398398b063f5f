//! A reader that hashes what passes through it. The hash is shared with who asks for it at the end.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::stage::digest::{DiffIdHasher, DigestHasher};

/// Passes bytes on and hashes them.
pub(super) struct Hashing<R, H> {
    reader: R,
    hasher: Arc<Mutex<H>>,
}

/// What takes bytes in to hash them.
pub(super) trait Update {
    fn take_in(&mut self, bytes: &[u8]);
}

impl Update for DigestHasher {
    fn take_in(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl Update for DiffIdHasher {
    fn take_in(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl<R, H> Hashing<R, H> {
    pub(super) fn new(reader: R, hasher: H) -> (Self, Arc<Mutex<H>>) {
        let hasher = Arc::new(Mutex::new(hasher));
        (Self { reader, hasher: Arc::clone(&hasher) }, hasher)
    }
}

/// The hasher, with all that passed so far.
pub(super) fn take<H: Default>(hasher: &Mutex<H>) -> H {
    std::mem::take(&mut *hasher.lock().unwrap_or_else(PoisonError::into_inner))
}

impl<R: AsyncRead + Unpin, H: Update> AsyncRead for Hashing<R, H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.reader).poll_read(context, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.hasher.lock().unwrap_or_else(PoisonError::into_inner).take_in(&buffer.filled()[before..]);
        }
        polled
    }
}
