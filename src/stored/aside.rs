//! The hash of a tar, made by a thread of its own beside the one that decodes it: each has about half of the work.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use crate::oci::DiffId;
use crate::stage::digest::DiffIdHasher;

/// Bytes that are handed over at a time.
const STEP_BYTES: usize = 256 << 10;
/// How many such pieces may wait.
const STEPS_WAITING: usize = 3;

/// Takes the bytes of a tar. A short one needs no thread.
pub(super) struct Aside<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    step: Vec<u8>,
    thread: Option<Thread<'scope>>,
}

struct Thread<'scope> {
    full: SyncSender<Vec<u8>>,
    /// What was hashed, to be filled again.
    empty: Receiver<Vec<u8>>,
    hashing: ScopedJoinHandle<'scope, DiffIdHasher>,
}

impl<'scope, 'env> Aside<'scope, 'env> {
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>) -> Self {
        Self { scope, step: Vec::new(), thread: None }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(STEP_BYTES - self.step.len()));
            self.step.extend_from_slice(now);
            bytes = later;
            if self.step.len() == STEP_BYTES {
                let thread = self.thread.get_or_insert_with(|| Thread::start(self.scope));
                let mut empty = thread.empty.try_recv().unwrap_or_default();
                empty.clear();
                // It only hangs up if it panicked, which is found at the end.
                let _ = thread.full.send(std::mem::replace(&mut self.step, empty));
            }
        }
    }

    /// The diff_id of all bytes taken, and their number.
    pub(super) fn finish(self) -> (DiffId, u64) {
        let mut hasher = match self.thread {
            None => DiffIdHasher::default(),
            Some(Thread { full, empty: _empty, hashing }) => {
                drop(full);
                hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        };
        hasher.update(&self.step);
        hasher.finish()
    }
}

impl<'scope> Thread<'scope> {
    fn start(scope: &'scope Scope<'scope, '_>) -> Self {
        let (full, filled) = sync_channel::<Vec<u8>>(STEPS_WAITING);
        let (emptied, empty) = sync_channel(STEPS_WAITING + 1);
        let hashing = scope.spawn(move || {
            let mut hasher = DiffIdHasher::default();
            for step in filled {
                hasher.update(&step);
                let _ = emptied.try_send(step);
            }
            hasher
        });
        Self { full, empty, hashing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_hash_of_all_bytes() {
        for length in [0, 1, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 20 * STEP_BYTES + 7] {
            let bytes: Vec<u8> = (0..=250_u8).cycle().take(length).collect();
            let mut wanted = DiffIdHasher::default();
            wanted.update(&bytes);
            let found = std::thread::scope(|scope| {
                let mut aside = Aside::new(scope);
                bytes.chunks(100_003).for_each(|part| aside.update(part));
                aside.finish()
            });
            assert_eq!(found, wanted.finish(), "{length}");
        }
    }
}
