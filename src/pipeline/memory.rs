//! The memory a freeze may hold, counted in bytes against one bound.
//!
//! The source fills buffers of one size and waits when the bound is reached. What it made travels as [`Slice`]s, each of
//! which knows what it holds: its share of the buffer that it keeps, which may be more than its bytes. A buffer comes home
//! when the last slice of it is gone, wherever that is. So a slow registry makes the source wait.
//!
//! Who waits, and who need not:
//! - [`Memory::buffer`] waits: sources, and the cut for what it adds to a layer. [`crate::pipeline::budget`] says why
//!   they never wait for each other.
//! - [`Memory::overdraft`] does not: a packer is about to give back at least as much input, and who copies together gives
//!   back what was copied. It costs one buffer each.
//! - [`Memory::reread`] does not: bytes that wait in a file come back. What that takes can be kept from the source
//!   ([`Memory::reserve`]).

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::stop::Stop;

/// Bytes of one buffer, and so the usual size of a piece on an edge.
pub const BUFFER_BYTES: usize = 1 << 20;

/// What a slice takes beside its bytes: its place in a queue, a reference count, the allocator's own words.
const SLICE_BYTES: usize = 128;

/// A buffer is passed on as it is where no more of it is wasted than one byte in so many.
const WASTE_PART: usize = 8;

/// Fewer bytes are copied to an allocation of their own size rather than keep a buffer.
const SMALL_BYTES: usize = 64 << 10;

/// Buffers that are kept for reuse past the bound: what a freeze on few cores takes as overdraft.
const SPARE_BUFFERS: usize = 4;

/// How often a wait for memory looks whether the freeze was stopped.
const STOP_POLL: Duration = Duration::from_millis(50);

/// Bytes, and what they hold of the memory until they are gone.
#[derive(Debug, Clone)]
pub struct Slice {
    bytes: Bytes,
    held_bytes: usize,
}

impl Slice {
    /// Bytes that the program itself contains.
    #[must_use]
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self { bytes: Bytes::from_static(bytes), held_bytes: SLICE_BYTES }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What they hold, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes as u64
    }

    /// A part of it that holds as much as the whole one.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self { bytes: self.bytes.slice(range), held_bytes: self.held_bytes }
    }

    /// `parts` of it, in order, share what it holds; none where too much of that would be wasted.
    #[must_use]
    pub fn parts(&self, parts: &[Bytes]) -> Option<Vec<Self>> {
        let kept: usize = parts.iter().map(Bytes::len).sum();
        if self.held_bytes.saturating_sub(kept) > self.held_bytes / WASTE_PART {
            return None;
        }
        let share = |part: &Bytes| (self.held_bytes * part.len()).div_ceil(kept.max(1)) + SLICE_BYTES;
        Some(parts.iter().map(|part| Self { bytes: part.clone(), held_bytes: share(part) }).collect())
    }
}

/// Bytes that are counted nowhere.
impl From<Bytes> for Slice {
    fn from(bytes: Bytes) -> Self {
        let held_bytes = bytes.len() + SLICE_BYTES;
        Self { bytes, held_bytes }
    }
}

impl From<Slice> for Bytes {
    fn from(slice: Slice) -> Self {
        slice.bytes
    }
}

impl std::ops::Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What is out, and the bound for it. Clones share both.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Home>);

#[derive(Debug)]
struct Home {
    state: Mutex<State>,
    returned: Condvar,
    held_bytes_max: usize,
    table_bytes_max: usize,
    stop: Stop,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    /// Of what is held.
    reread: usize,
    /// For what is reread.
    reserved: usize,
    /// Of what is held.
    tables: usize,
    held_peak: usize,
    idle: Vec<Vec<u8>>,
}

impl State {
    fn hold(&mut self, bytes: usize) {
        self.held += bytes;
        self.held_peak = self.held_peak.max(self.held);
    }

    /// Something else than buffers has grown: what would be kept for reuse past the bound goes back to the allocator. Not at
    /// the bound, where buffers of overdraft come and go: allocated anew each time, they made the process a third larger.
    fn trim(&mut self, bound: usize) {
        let room = (bound + SPARE_BUFFERS * BUFFER_BYTES).saturating_sub(self.held) / BUFFER_BYTES;
        self.idle.truncate(room);
    }
}

impl Memory {
    /// At most `held_bytes_max` bytes, and at least two buffers, are held at a time; half of it by tables.
    #[must_use]
    pub fn new(held_bytes_max: u64, stop: Stop) -> Self {
        Self::with_tables(held_bytes_max, held_bytes_max / 2, stop)
    }

    /// The same, with at most `table_bytes_max` for tables.
    #[must_use]
    pub fn with_tables(held_bytes_max: u64, table_bytes_max: u64, stop: Stop) -> Self {
        let bytes = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (held_bytes_max, table_bytes_max) = (bytes(held_bytes_max).max(2 * BUFFER_BYTES), bytes(table_bytes_max));
        Self(Arc::new(Home {
            state: Mutex::default(),
            returned: Condvar::new(),
            held_bytes_max,
            table_bytes_max,
            stop,
        }))
    }

    /// An empty buffer; blocks the calling thread until there is room for it.
    ///
    /// # Errors
    /// When the freeze is stopped meanwhile.
    pub fn buffer(&self) -> Result<Buffer> {
        let mut state = self.0.lock();
        while state.held + state.reserved.saturating_sub(state.reread) + BUFFER_BYTES > self.0.held_bytes_max {
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
        state.reread += BUFFER_BYTES;
        self.take(&mut state, true)
    }

    /// Counts that `table` has so many bytes now. The source gets less by that, and so does whoever takes a share
    /// ([`Self::share`]).
    ///
    /// # Errors
    /// Where all tables take more than they may.
    pub fn count(&self, table: &mut Table, bytes: usize) -> Result<()> {
        if bytes == table.bytes {
            return Ok(());
        }
        let mut state = self.0.lock();
        state.held -= table.bytes;
        state.tables = state.tables + bytes - table.bytes;
        state.hold(bytes);
        state.trim(self.0.held_bytes_max);
        (table.bytes, table.home) = (bytes, Some(Arc::clone(&self.0)));
        if state.tables <= self.0.table_bytes_max {
            return Ok(());
        }
        let reason = format!("{} MiB of memory are not enough for them", self.0.table_bytes_max >> 20);
        Err(Error::source("remembering names", "the source's folders and links", reason).hint("give more --memory"))
    }

    /// `bytes` of all memory, in proportion to what the tables leave of it.
    #[must_use]
    pub fn share(&self, bytes: u64) -> u64 {
        let (all, tables) = (self.0.held_bytes_max as u128, self.0.lock().tables as u128);
        let share = u128::from(bytes) * all.saturating_sub(tables) / all;
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Keeps `bytes` for [`Self::reread`] until the guard is dropped; none if that is more than half of all. What is held
    /// by now stays held.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> Option<Reserved> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > self.0.held_bytes_max / 2 {
            return None;
        }
        self.0.lock().reserved += bytes;
        Some(Reserved { bytes, home: Arc::clone(&self.0) })
    }

    /// The bytes that are held.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.0.lock().held as u64
    }

    /// The most bytes that were ever held.
    #[must_use]
    pub fn held_bytes_peak(&self) -> u64 {
        self.0.lock().held_peak as u64
    }

    fn take(&self, state: &mut State, is_reread: bool) -> Buffer {
        let bytes = state.idle.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        state.hold(BUFFER_BYTES);
        Buffer { bytes, held_bytes: BUFFER_BYTES, is_reread, home: Arc::clone(&self.0) }
    }
}

impl Home {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Memory::count`] counted; given back when dropped.
#[derive(Debug, Default)]
pub struct Table {
    bytes: usize,
    home: Option<Arc<Home>>,
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let mut state = home.lock();
            state.held -= self.bytes;
            state.tables -= self.bytes;
            drop(state);
            home.returned.notify_all();
        }
    }
}

/// Bytes that nobody waits for; see [`Memory::reserve`].
#[derive(Debug)]
pub struct Reserved {
    bytes: usize,
    home: Arc<Home>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.home.lock().reserved -= self.bytes;
        self.home.returned.notify_all();
    }
}

/// A buffer that is being filled; it goes home when dropped, or when the last slice of what it became is.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// What is counted for it.
    held_bytes: usize,
    is_reread: bool,
    home: Arc<Home>,
}

impl Buffer {
    /// The bytes so far; the vector has [`BUFFER_BYTES`] of capacity and may grow past it, for one entry's headers.
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

    /// The filled bytes, to be passed on without a copy, but where there are so few that they need not keep a buffer.
    #[must_use]
    pub fn freeze(mut self) -> Slice {
        if self.bytes.len() < SMALL_BYTES {
            self.shrink();
        } else if self.bytes.capacity() > self.held_bytes {
            self.recount(self.bytes.capacity());
        }
        let held_bytes = self.held_bytes;
        Slice { bytes: Bytes::from_owner(self), held_bytes }
    }

    /// Moves to an allocation as large as what was filled in.
    fn shrink(&mut self) {
        let exact = self.bytes.as_slice().to_vec();
        let mut buffer = std::mem::replace(&mut self.bytes, exact);
        self.recount(self.bytes.capacity() + SLICE_BYTES);
        if buffer.capacity() == BUFFER_BYTES {
            buffer.clear();
            let mut state = self.home.lock();
            state.idle.push(buffer);
            state.trim(self.home.held_bytes_max);
        }
    }

    fn recount(&mut self, held_bytes: usize) {
        let mut state = self.home.lock();
        state.held -= self.held_bytes;
        state.hold(held_bytes);
        state.trim(self.home.held_bytes_max);
        if self.is_reread {
            state.reread = state.reread + held_bytes - self.held_bytes;
        }
        self.held_bytes = held_bytes;
        drop(state);
        self.home.returned.notify_one();
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
        state.held -= self.held_bytes;
        if self.is_reread {
            state.reread -= self.held_bytes;
        }
        // A buffer that grew goes back to the allocator. The others don't while there is room: the allocator would keep
        // them apart from each other and from the system, and the process would grow to twice the bound.
        if bytes.capacity() == BUFFER_BYTES {
            bytes.clear();
            state.idle.push(bytes);
        }
        drop(state);
        self.home.returned.notify_one();
    }
}

#[cfg(test)]
mod tests;
