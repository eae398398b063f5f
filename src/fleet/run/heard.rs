//! What a freeze last had to try again: where it is ended by its deadline, that is why.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::progress::{Activity, NoticeKind, Observer, Row};

/// Passes all on, and keeps the last thing that was tried again.
pub(super) struct Heard {
    observer: Arc<dyn Observer>,
    last: Mutex<Option<String>>,
}

impl Heard {
    pub(super) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer, last: Mutex::default() }
    }

    /// In words.
    pub(super) fn last(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for Heard {
    fn expected(&self, tar_bytes: u64) {
        self.observer.expected(tar_bytes);
    }

    fn read(&self, bytes: u64) {
        self.observer.read(bytes);
    }

    fn layer_began(&self, index: usize) {
        self.observer.layer_began(index);
    }

    fn layer_packed(&self, index: usize, tar_bytes: u64, blob_bytes: u64) {
        self.observer.layer_packed(index, tar_bytes, blob_bytes);
    }

    fn layer_known(&self, index: usize, tar_bytes: u64, blob_bytes: u64) {
        self.observer.layer_known(index, tar_bytes, blob_bytes);
    }

    fn part_sent(&self, index: usize, bytes: u64) {
        self.observer.part_sent(index, bytes);
    }

    fn layer_put_aside(&self, index: usize) {
        self.observer.layer_put_aside(index);
    }

    fn layer_sent(&self, index: usize) {
        self.observer.layer_sent(index);
    }

    fn retrying(&self, subject: &str, reason: &str, delay: Duration) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{subject}: {reason}"));
        self.observer.retrying(subject, reason, delay);
    }

    fn span(&self, row: Row, activity: Activity, began: Instant, took: Duration) {
        self.observer.span(row, activity, began, took);
    }

    fn held(&self, bytes: u64) {
        self.observer.held(bytes);
    }

    fn noticed(&self, kind: NoticeKind, path: &[u8]) {
        self.observer.noticed(kind, path);
    }
}
