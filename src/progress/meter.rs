//! How much each stage did, and how long it took.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::processor;
use super::track::{Activity, Now, Row};

/// Bytes and times of one stage, summed over its threads. Adding is one atomic instruction.
#[derive(Debug, Default)]
pub struct Meter {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    busy_nanos: AtomicU64,
    waiting_nanos: AtomicU64,
    cpu_nanos: AtomicU64,
    threads: AtomicU64,
    retries: AtomicU64,
}

/// A [`Meter`] read at one moment.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Measured {
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
    /// Seconds spent working, summed over rows of a profile. Where all cores are taken, this holds waiting for one too.
    pub busy_seconds: f64,
    /// Seconds spent waiting for a neighbour or for memory, summed over threads.
    pub waiting_seconds: f64,
    /// Seconds of processor time, summed over threads.
    #[serde(default)]
    pub cpu_seconds: f64,
    /// Threads whose processor time this is.
    #[serde(default)]
    pub threads: u64,
    /// Operations that were tried again.
    pub retries: u64,
}

impl Meter {
    /// Counts bytes that came in.
    pub fn took(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that went out.
    pub fn gave(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts an operation that is tried again.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs `work`, which is all that its thread does for this stage, and counts its processor time.
    pub fn on_thread<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = processor::thread_time();
        let result = work();
        self.used_by_thread(processor::thread_time().saturating_sub(began));
        result
    }

    /// Counts the processor time of a whole thread.
    pub(crate) fn used_by_thread(&self, time: Duration) {
        self.used(time);
        self.threads.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts processor time.
    pub fn used(&self, time: Duration) {
        self.cpu_nanos.fetch_add(nanos(time), Ordering::Relaxed);
    }

    /// Counts busy time.
    pub fn was_busy(&self, time: Duration) {
        self.busy_nanos.fetch_add(nanos(time), Ordering::Relaxed);
    }

    /// Counts waiting time.
    pub fn waited(&self, time: Duration) {
        self.waiting_nanos.fetch_add(nanos(time), Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn read(&self) -> Measured {
        let seconds = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed)).as_secs_f64();
        Measured {
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            busy_seconds: seconds(&self.busy_nanos),
            waiting_seconds: seconds(&self.waiting_nanos),
            cpu_seconds: seconds(&self.cpu_nanos),
            threads: self.threads.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// One [`Meter`] a stage, in flow order.
#[derive(Debug, Default)]
pub struct Meters {
    /// Reading the source.
    pub source: Meter,
    /// Finding entries and cuts.
    pub cut: Meter,
    /// SHA-256 of the uncompressed layer.
    pub hash: Meter,
    /// Compression, and SHA-256 of what it gives.
    pub compress: Meter,
    /// Sending to all sinks.
    pub send: Meter,
    /// The source's waiting for memory; it is part of `source`, too.
    pub memory: Meter,
    /// What compressors with threads of their own had, as these threads times their lives: they took no more than that.
    pub helpers: Meter,
    /// Whether a machine was read by our own reader in the guest.
    pub own_reader: AtomicBool,
    /// Bytes that crossed the link between a machine and this host, both ways.
    pub link_bytes: AtomicU64,
    rows: Mutex<Vec<Weak<Now>>>,
    undone: Mutex<Vec<String>>,
    passed_over: Mutex<Vec<String>>,
}

impl Meters {
    /// Remembers what the source had still to do when all of it was read, and could not: the image is whole without it.
    pub fn left_undone(&self, what: String) {
        self.undone.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// What was left undone, in order.
    #[must_use]
    pub fn undone(&self) -> Vec<String> {
        self.undone.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers why a program that was found could not be our reader in a guest.
    pub fn passed_over_reader(&self, why: String) {
        self.passed_over.lock().unwrap_or_else(PoisonError::into_inner).push(why);
    }

    /// Those programs, in order.
    #[must_use]
    pub fn readers_passed_over(&self) -> Vec<String> {
        self.passed_over.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What each row does at this moment.
    #[must_use]
    pub fn rows(&self) -> Vec<(Row, Activity)> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.retain(|row| row.strong_count() > 0);
        let mut rows: Vec<_> = rows.iter().filter_map(Weak::upgrade).map(|now| (now.row, now.activity())).collect();
        rows.sort();
        rows
    }

    /// Grows with every byte that moves anywhere, and every try.
    #[must_use]
    pub fn moved(&self) -> u64 {
        let sum = |meter: &Meter| {
            let counters = [&meter.bytes_in, &meter.bytes_out, &meter.retries];
            counters
                .map(|counter| counter.load(Ordering::Relaxed))
                .iter()
                .fold(0, |sum: u64, more| sum.wrapping_add(*more))
        };
        let meters = [&self.source, &self.cut, &self.hash, &self.compress, &self.send];
        meters.into_iter().map(sum).fold(0, u64::wrapping_add)
    }

    pub(super) fn began(&self, now: &Arc<Now>) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(now));
    }
}
