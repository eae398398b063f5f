//! How fast registries may be sent bytes: one bucket for all uploads of a freeze.
//!
//! Bytes are booked a slice at a time, first come, first served, so an upload that hangs holds nobody else back. Only
//! bodies are booked: a question, a retry's decision or a cancellation never waits here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::stop::Stop;

/// What was not sent for so long may be sent at once: a timer that wakes late must not cost throughput.
const BURST: Duration = Duration::from_millis(100);

/// The bucket: a line that is free again at some moment. It has no clock of its own.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: u64,
    free_at: Instant,
}

impl Bucket {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: now }
    }

    /// Books `bytes`: when they may go.
    fn book(&mut self, bytes: usize, now: Instant) -> Instant {
        if self.free_at + BURST < now {
            self.free_at = now - BURST;
        }
        let due = self.free_at.max(now);
        let nanos = (bytes as u128 * 1_000_000_000).div_ceil(u128::from(self.bytes_per_second));
        self.free_at += Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        due
    }
}

/// A bound on what registries are sent, in bytes a second. Clones share it; a thrown [`Stop`] lifts it.
#[derive(Debug, Clone)]
pub struct Pace {
    bucket: Arc<Mutex<Bucket>>,
    stop: Stop,
}

impl Pace {
    /// At most `bytes_per_second`, until `stop` is thrown: the part that is under way may then end, because a registry
    /// that got half of it may never let go of the session.
    #[must_use]
    pub fn new(bytes_per_second: u64, stop: Stop) -> Self {
        Self { bucket: Arc::new(Mutex::new(Bucket::new(bytes_per_second, Instant::now()))), stop }
    }

    /// The same bound, lifted by another `stop`: that of a freeze which shares it with others.
    #[must_use]
    pub fn until(&self, stop: Stop) -> Self {
        Self { bucket: Arc::clone(&self.bucket), stop }
    }

    /// Books `bytes`: when they may go.
    pub(super) fn book(&self, bytes: usize) -> Instant {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).book(bytes, Instant::now())
    }

    /// Returns when `due` has come, or the freeze was stopped.
    pub(super) async fn reach(&self, due: Instant) {
        tokio::select! {
            biased;
            () = self.stop.stopped() => {}
            () = tokio::time::sleep_until(due) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE_BYTES: usize = 64 << 10;

    #[test]
    fn no_stretch_of_time_takes_more_than_its_share() {
        let start = Instant::now();
        let random = fastrand::Rng::with_seed(12);
        for bytes_per_second in [64 << 10, 20 << 20, 3_000_000_007] {
            let (mut bucket, mut random, mut now) = (Bucket::new(bytes_per_second, start), random.clone(), start);
            let gone: Vec<_> = (0..2000)
                .map(|_| {
                    // Some ask early, some after a rest.
                    now += Duration::from_micros(random.u64(..5000) * u64::from(random.u8(..10) == 0));
                    let bytes = random.usize(1..=SLICE_BYTES);
                    (bucket.book(bytes, now), bytes as u64)
                })
                .collect();
            assert!(gone.windows(2).all(|two| two[0].0 <= two[1].0), "first come, first served");
            for (first, (from, _)) in gone.iter().enumerate().step_by(97) {
                let mut sum = 0;
                for (at, bytes) in &gone[first..] {
                    sum += bytes;
                    let nanos = (*at - *from + BURST).as_nanos() * u128::from(bytes_per_second);
                    let bytes_max = nanos.div_ceil(1_000_000_000) + SLICE_BYTES as u128;
                    assert!(u128::from(sum) <= bytes_max, "{sum} of {bytes_max} bytes in {:?}", *at - *from);
                }
            }
        }
    }

    #[test]
    fn who_always_has_something_to_send_gets_all_of_it() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1 << 20, start);
        let mut now = start;
        for _ in 0..160 {
            // Each timer wakes a little late, and none of that adds up.
            now = bucket.book(SLICE_BYTES, now) + Duration::from_millis(1);
        }
        assert!(now - start <= Duration::from_secs(10), "{:?} for 10 MiB", now - start);
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_share_it_and_a_stop_lifts_it() {
        let stop = Stop::new();
        let pace = Pace::new(SLICE_BYTES as u64, stop.clone());
        let (one, other) = (pace.clone(), pace.clone());
        let started = Instant::now();
        let dues: Vec<_> = [&one, &other, &one, &other].map(|pace| pace.book(SLICE_BYTES)).into();
        assert_eq!(dues[3] - started, Duration::from_secs(3));
        one.reach(dues[2]).await;
        assert_eq!(started.elapsed().as_secs(), 2);
        stop.interrupt();
        other.reach(dues[3] + Duration::from_secs(3600)).await;
        assert_eq!(started.elapsed().as_secs(), 2);
    }
}
