//! Processor time: of a thread, of the process, and how full the cores were meanwhile.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Processor time of the calling thread so far. A system call, so it is not for small pieces.
pub(crate) fn thread_time() -> Duration {
    time(clock_gettime(ClockId::ThreadCPUTime))
}

fn time(spec: Timespec) -> Duration {
    Duration::try_from(spec).unwrap_or_default()
}

/// How the machine's cores are used from one moment on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    began: Instant,
    process: Duration,
    machine: Option<Ticks>,
}

/// How the cores were used between two moments.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) seconds: f64,
    /// Processor time of this process.
    pub(crate) cpu_seconds: f64,
    pub(crate) cores: usize,
    /// The part of the cores that somebody used, 0 to 1.
    pub(crate) fullness: f64,
}

impl Usage {
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), process: time(clock_gettime(ClockId::ProcessCPUTime)), machine: Ticks::read() }
    }

    pub(crate) fn end(self) -> Used {
        let now = Self::begin();
        let seconds = now.began.duration_since(self.began).as_secs_f64();
        let cpu_seconds = now.process.saturating_sub(self.process).as_secs_f64();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        #[expect(clippy::cast_precision_loss, reason = "a handful of cores")]
        let own = cpu_seconds / (seconds * cores as f64).max(f64::MIN_POSITIVE);
        // A registry on this very machine takes cores as well; but a container with few cores does not see it.
        let machine = self.machine.zip(now.machine).map_or(0.0, |(before, after)| before.fullness_until(after));
        Used { seconds, cpu_seconds, cores, fullness: own.max(machine).clamp(0.0, 1.0) }
    }
}

/// The first line of `/proc/stat`: all cores' ticks since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    all: u64,
}

impl Ticks {
    fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
        let words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
        let ticks: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self { idle: ticks.get(3)? + ticks.get(4)?, all: ticks.iter().sum() })
    }

    #[expect(clippy::cast_precision_loss, reason = "a share")]
    fn fullness_until(self, later: Self) -> f64 {
        let (idle, all) = (later.idle.saturating_sub(self.idle), later.all.saturating_sub(self.all));
        if all == 0 { 0.0 } else { 1.0 - idle as f64 / all as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_all_cores() {
        let before = Ticks::parse("cpu  10 0 10 70 10 0 0 0 9 9\ncpu0 1 1 1 1\n").unwrap();
        assert_eq!(before, Ticks { idle: 80, all: 100 });
        let after = Ticks::parse("cpu  60 0 30 95 15 0 0 0 9 9\n").unwrap();
        assert!((before.fullness_until(after) - 0.7).abs() < 1e-9);
        assert!(before.fullness_until(before).abs() < 1e-9);
        assert_eq!(Ticks::parse("intr 1 2 3\n"), None);
    }

    #[test]
    fn a_thread_that_works_takes_processor_time_and_one_that_sleeps_does_not() {
        let before = thread_time();
        let mut sum = 0_u64;
        while thread_time().saturating_sub(before) < Duration::from_millis(5) {
            sum = std::hint::black_box(sum + 1);
        }
        let (worked, sleeping) = (thread_time(), Duration::from_millis(50));
        std::thread::sleep(sleeping);
        assert!(thread_time().saturating_sub(worked) < sleeping);
    }
}
