//! The memory a freeze may hold: buffers of one size, counted against one bound.
//!
//! The source fills buffers and waits when the bound is reached; what it made travels as slices ([`bytes::Bytes`]), and
//! a buffer comes home when the last slice of it is gone, wherever that is. So a slow registry makes the source wait,
//! with nothing between them that counts. A packer takes its output buffers as [`Memory::overdraft`]: it is about to
//! give back at least as much input, so waiting would be a deadlock, and not waiting costs one buffer a worker. So does
//! who copies small slices together ([`crate::stage::compact`]). Bytes that wait in a file are read into buffers that
//! don't wait either ([`Memory::reread`]); what they take can be kept from the source ([`Memory::reserve`]).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::error::Result;
use crate::stop::Stop;

/// Bytes of one buffer, and so the usual size of a piece on an edge.
pub const BUFFER_BYTES: usize = 1 << 20;

/// How often a wait for memory looks whether the freeze was stopped.
const STOP_POLL: Duration = Duration::from_millis(50);

/// Buffers that share one bound. Clones share it too.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Home>);

#[derive(Debug)]
struct Home {
    state: Mutex<State>,
    returned: Condvar,
    most_out: usize,
    stop: Stop,
}

#[derive(Debug, Default)]
struct State {
    out: usize,
    /// Of those that are out.
    reread: usize,
    /// For those that are reread.
    reserved: usize,
    out_peak: usize,
    idle: Vec<Vec<u8>>,
}

impl Memory {
    /// At most `held_bytes_max` bytes, in whole buffers and at least two of them, are out at a time.
    #[must_use]
    pub fn new(held_bytes_max: u64, stop: Stop) -> Self {
        let buffers = usize::try_from(held_bytes_max / BUFFER_BYTES as u64).unwrap_or(usize::MAX);
        Self(Arc::new(Home { state: Mutex::default(), returned: Condvar::new(), most_out: buffers.max(2), stop }))
    }

    /// An empty buffer; blocks the calling thread until one is free.
    ///
    /// # Errors
    /// When the freeze is stopped meanwhile.
    pub fn buffer(&self) -> Result<Buffer> {
        let mut state = self.0.lock();
        while state.out + state.reserved.saturating_sub(state.reread) >= self.0.most_out {
            self.0.stop.check()?;
            state = self.0.returned.wait_timeout(state, STOP_POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(self.take(&mut state, false))
    }

    /// An empty buffer at once, past the bound if need be. For those who hold input that the output replaces.
    #[must_use]
    pub fn overdraft(&self) -> Buffer {
        let mut state = self.0.lock();
        self.take(&mut state, false)
    }

    /// An empty buffer at once, for bytes that wait in a file: what is reserved is for them.
    #[must_use]
    pub fn reread(&self) -> Buffer {
        let mut state = self.0.lock();
        state.reread += 1;
        self.take(&mut state, true)
    }

    /// Keeps `bytes`, in whole buffers, for [`Self::reread`] until the guard is dropped; none if that is more than half of
    /// all. What is out by now stays out.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> Option<Reserved> {
        let buffers = usize::try_from(bytes.div_ceil(BUFFER_BYTES as u64)).unwrap_or(usize::MAX);
        if buffers > self.0.most_out / 2 {
            return None;
        }
        self.0.lock().reserved += buffers;
        Some(Reserved { buffers, home: Arc::clone(&self.0) })
    }

    /// The bytes that are out, in whole buffers.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        (self.0.lock().out * BUFFER_BYTES) as u64
    }

    /// The most bytes that were ever out, in whole buffers.
    #[must_use]
    pub fn held_bytes_peak(&self) -> u64 {
        (self.0.lock().out_peak * BUFFER_BYTES) as u64
    }

    fn take(&self, state: &mut State, reread: bool) -> Buffer {
        state.out += 1;
        state.out_peak = state.out_peak.max(state.out);
        let bytes = state.idle.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        Buffer { bytes, reread, home: Arc::clone(&self.0) }
    }
}

impl Home {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Buffers that nobody waits for; see [`Memory::reserve`].
#[derive(Debug)]
pub struct Reserved {
    buffers: usize,
    home: Arc<Home>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.home.lock().reserved -= self.buffers;
        self.home.returned.notify_all();
    }
}

/// A buffer that is being filled; it goes home when dropped, or when the last slice of what it became is.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    reread: bool,
    home: Arc<Home>,
}

impl Buffer {
    /// The bytes so far; the vector has [`BUFFER_BYTES`] of capacity and may grow past it a little.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Bytes that still fit without growing.
    #[must_use]
    pub fn room(&self) -> usize {
        BUFFER_BYTES.saturating_sub(self.bytes.len())
    }

    /// Filled bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was filled in yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The filled bytes, to be sliced and passed on without a copy.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut state = self.home.lock();
        state.out -= 1;
        state.reread -= usize::from(self.reread);
        // A buffer that grew goes back to the allocator. The others never do: the allocator would keep them apart from
        // each other and from the system, and the process would grow to twice the bound.
        if bytes.capacity() == BUFFER_BYTES {
            bytes.clear();
            state.idle.push(bytes);
        }
        drop(state);
        self.home.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    #[test]
    fn a_buffer_comes_home_with_its_last_slice() {
        let memory = Memory::new(2 * BUFFER_BYTES as u64, Stop::new());
        let (mut first, _second) = (memory.buffer().unwrap(), memory.buffer().unwrap());
        first.bytes_mut().extend_from_slice(b"ab");
        let whole = first.freeze();
        let slice = whole.slice(1..);
        drop(whole);
        let waiter = std::thread::spawn({
            let memory = memory.clone();
            move || memory.buffer().map(|buffer| buffer.is_empty())
        });
        assert_eq!(&slice[..], b"b");
        drop(slice);
        assert!(waiter.join().unwrap().unwrap(), "a reused buffer starts empty");
        assert_eq!(memory.held_bytes_peak(), 2 * BUFFER_BYTES as u64);
    }

    #[test]
    fn what_is_reserved_is_waited_for() {
        let stop = Stop::new();
        let memory = Memory::new(4 * BUFFER_BYTES as u64, stop.clone());
        // Who has to wait now is told of the stop.
        stop.stop(Error::interrupted());
        assert!(memory.reserve(3 * BUFFER_BYTES as u64).is_none());
        let reserved = memory.reserve(2 * BUFFER_BYTES as u64).unwrap();
        let first = memory.buffer().unwrap();
        let _second = memory.buffer().unwrap();
        assert!(memory.buffer().is_err());
        drop(first);
        // What is reread takes what was reserved, and nothing of the rest.
        let _reread = memory.reread();
        let _third = memory.buffer().unwrap();
        assert!(memory.buffer().is_err());
        drop(reserved);
        assert!(memory.buffer().is_ok());
    }

    #[test]
    fn a_stopped_freeze_does_not_wait_for_memory() {
        let stop = Stop::new();
        let memory = Memory::new(0, stop.clone());
        let _held = (memory.buffer().unwrap(), memory.buffer().unwrap());
        stop.stop(Error::interrupted());
        assert_eq!(memory.buffer().unwrap_err().kind(), Kind::HungUp);
    }
}
