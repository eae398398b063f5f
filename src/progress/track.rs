//! What a row of the picture does at any moment: one activity, or another.
//!
//! A row is a thread, or a place where uploads run one after the other. Its time goes to the meters without a gap, and to
//! the observer as spans. Spans are as long as a pixel at least: an activity's short moments are put together until
//! there are enough of them, so that their sums stay exact while their places shift by as much.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Meter, Meters, Observer};

/// No span is shorter, but for a row's last ones.
const SPAN_MIN: Duration = Duration::from_millis(1);
/// A row's spans get longer with its age, to this part of it, so that a freeze of hours still gives a small trace.
const SPANS_AN_AGE: u32 = 1000;

/// A row of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    /// The source, with all of its threads.
    Source,
    /// The cut.
    Cut,
    /// A packer, by its number from 0.
    Packer(usize),
    /// An upload at a time, by its number from 0.
    Upload(usize),
}

/// What a row does. Of several at once, the last one in this order counts: who waits inside of work, waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activity {
    /// An upload has nothing to send.
    WaitsForLayers,
    /// The source reads, or waits for what it reads from: a disk, a pipe, a guest.
    Reads,
    /// The cut works.
    Cuts,
    /// A packer moves what is neither hashed nor compressed.
    Gathers,
    /// SHA-256 of a layer.
    Hashes,
    /// Compression, and SHA-256 of what it gives.
    Compresses,
    /// An upload sends, or waits for its outputs.
    Sends,
    /// The cut has nothing to cut.
    WaitsForSource,
    /// The source is ahead of the cut, or a packer behind it.
    WaitsForCut,
    /// The cut is ahead of the packers.
    WaitsForPackers,
    /// A packer asks the outputs whether they have a layer.
    Asks,
    /// A packer is ahead of the uploads.
    WaitsForUploads,
    /// The source is ahead of all that hold memory.
    WaitsForMemory,
}

/// How many activities there are.
const ACTIVITIES: usize = Activity::WaitsForMemory as usize + 1;

impl Activity {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::WaitsForLayers => "waits for layers",
            Self::Reads => "reads",
            Self::Cuts => "cuts",
            Self::Gathers => "gathers",
            Self::Hashes => "hashes",
            Self::Compresses => "compresses",
            Self::Sends => "sends",
            Self::WaitsForSource => "waits for the source",
            Self::WaitsForCut => "waits for the cut",
            Self::WaitsForPackers => "waits for the packers",
            Self::Asks => "asks the outputs",
            Self::WaitsForUploads => "waits for the uploads",
            Self::WaitsForMemory => "waits for memory",
        }
    }

    /// Whether this is for an outside party: a disk, a guest, an output. Each has a patience of its own.
    #[must_use]
    pub fn is_outside(self) -> bool {
        matches!(self, Self::Reads | Self::Sends | Self::Asks)
    }

    /// Whether this is work, and not waiting for a neighbour, an answer or memory.
    #[must_use]
    pub fn is_busy(self) -> bool {
        matches!(self, Self::Reads | Self::Cuts | Self::Gathers | Self::Hashes | Self::Compresses | Self::Sends)
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Source => write!(f, "the source"),
            Self::Cut => write!(f, "the cut"),
            Self::Packer(number) => write!(f, "packer {number}"),
            Self::Upload(number) => write!(f, "upload {number}"),
        }
    }
}

impl Row {
    /// What it does when nothing else is said.
    fn base(self) -> Activity {
        match self {
            Self::Source => Activity::Reads,
            Self::Cut => Activity::Cuts,
            Self::Packer(_) => Activity::Gathers,
            Self::Upload(_) => Activity::WaitsForLayers,
        }
    }

    fn meter(self, activity: Activity, meters: &Meters) -> &Meter {
        match (self, activity) {
            (Self::Source, _) => &meters.source,
            (Self::Cut, _) => &meters.cut,
            (Self::Packer(_), Activity::Hashes | Activity::WaitsForCut) => &meters.hash,
            (Self::Packer(_), _) => &meters.compress,
            (Self::Upload(_), _) => &meters.send,
        }
    }
}

/// One row's time. Dropping it ends the row.
pub struct Track {
    row: Row,
    meters: Arc<Meters>,
    observer: Arc<dyn Observer>,
    state: Mutex<State>,
    now: Arc<Now>,
}

/// What a row does at this moment, for who looks from outside.
#[derive(Debug)]
pub(super) struct Now {
    pub(super) row: Row,
    activity: AtomicUsize,
}

impl Now {
    pub(super) fn activity(&self) -> Activity {
        ALL.get(self.activity.load(Ordering::Relaxed)).copied().unwrap_or(self.row.base())
    }
}

struct State {
    under_way: [u32; ACTIVITIES],
    current: Activity,
    since: Instant,
    began: Instant,
    /// Up to here there are spans; the time from here to `since` is in `unshown`.
    shown: Instant,
    unshown: [Duration; ACTIVITIES],
}

impl Track {
    /// A row that begins now.
    #[must_use]
    pub fn new(row: Row, meters: Arc<Meters>, observer: Arc<dyn Observer>) -> Self {
        let (now, current) = (Instant::now(), row.base());
        let mut under_way = [0; ACTIVITIES];
        under_way[current as usize] = 1;
        let unshown = [Duration::ZERO; ACTIVITIES];
        let state = State { under_way, current, since: now, began: now, shown: now, unshown };
        let now = Arc::new(Now { row, activity: AtomicUsize::new(current as usize) });
        meters.began(&now);
        Self { row, meters, observer, state: Mutex::new(state), now }
    }

    /// Does this until the answer is dropped. Of several threads at once, too.
    pub fn enter(&self, activity: Activity) -> Doing<'_> {
        self.change(activity, 1);
        Doing { track: self, activity }
    }

    /// Does this while `work` runs.
    pub fn during<T>(&self, activity: Activity, work: impl FnOnce() -> T) -> T {
        let _doing = self.enter(activity);
        work()
    }

    fn change(&self, activity: Activity, by: i32) {
        let mut state = self.lock();
        let count = &mut state.under_way[activity as usize];
        *count = count.saturating_add_signed(by);
        if let Some(last) = ALL.into_iter().rev().find(|activity| state.under_way[*activity as usize] > 0)
            && last != state.current
        {
            self.settle(&mut state);
            state.current = last;
            self.now.activity.store(last as usize, Ordering::Relaxed);
        }
    }

    /// Counts what was done until now, and shows it once it is long enough.
    fn settle(&self, state: &mut State) {
        let (now, current) = (Instant::now(), state.current);
        let took = now.duration_since(state.since);
        state.since = now;
        let meter = self.row.meter(current, &self.meters);
        if current.is_busy() {
            meter.was_busy(took);
        } else {
            meter.waited(took);
        }
        if current == Activity::WaitsForMemory {
            self.meters.memory.waited(took);
        }
        state.unshown[current as usize] += took;
        if state.unshown[current as usize] >= SPAN_MIN.max(now.duration_since(state.began) / SPANS_AN_AGE) {
            self.show(state, current);
        }
    }

    fn show(&self, state: &mut State, activity: Activity) {
        let took = std::mem::take(&mut state.unshown[activity as usize]);
        if !took.is_zero() {
            self.observer.span(self.row, activity, state.shown, took);
            state.shown += took;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ALL: [Activity; ACTIVITIES] = [
    Activity::WaitsForLayers,
    Activity::Reads,
    Activity::Cuts,
    Activity::Gathers,
    Activity::Hashes,
    Activity::Compresses,
    Activity::Sends,
    Activity::WaitsForSource,
    Activity::WaitsForCut,
    Activity::WaitsForPackers,
    Activity::Asks,
    Activity::WaitsForUploads,
    Activity::WaitsForMemory,
];

impl Drop for Track {
    fn drop(&mut self) {
        let mut state = self.lock();
        self.settle(&mut state);
        for activity in ALL {
            self.show(&mut state, activity);
        }
    }
}

/// A row is at something, until this is dropped.
#[must_use]
pub struct Doing<'a> {
    track: &'a Track,
    activity: Activity,
}

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        self.track.change(self.activity, -1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Span = (Activity, Instant, Duration);

    #[derive(Default)]
    struct Spans(Mutex<Vec<Span>>);

    impl Observer for Spans {
        fn span(&self, _row: Row, activity: Activity, began: Instant, took: Duration) {
            self.0.lock().unwrap().push((activity, began, took));
        }
    }

    fn spans(work: impl FnOnce(&Track)) -> (Vec<Span>, Arc<Meters>) {
        let (seen, meters) = (Arc::new(Spans::default()), Arc::new(Meters::default()));
        let track = Track::new(Row::Source, Arc::clone(&meters), Arc::<Spans>::clone(&seen));
        work(&track);
        drop(track);
        (std::mem::take(&mut seen.0.lock().unwrap()), meters)
    }

    #[test]
    fn short_moments_come_together_without_a_gap() {
        let (spans, meters) = spans(|track| {
            for _ in 0..2000 {
                track.during(Activity::WaitsForCut, || std::thread::sleep(Duration::from_micros(20)));
            }
        });
        assert!(spans.windows(2).all(|pair| pair[0].1 + pair[0].2 == pair[1].1), "a gap");
        // The last ones are what was left.
        let whole = &spans[..spans.len().saturating_sub(2)];
        assert!(!whole.is_empty() && whole.iter().all(|(_, _, took)| *took >= SPAN_MIN));
        let sum = |wanted: Activity| -> Duration {
            spans.iter().filter(|(activity, ..)| *activity == wanted).map(|(_, _, took)| *took).sum()
        };
        let source = meters.source.read();
        assert_eq!(sum(Activity::Reads).as_secs_f64().to_bits(), source.busy_seconds.to_bits());
        assert_eq!(sum(Activity::WaitsForCut).as_secs_f64().to_bits(), source.waiting_seconds.to_bits());
    }

    #[test]
    fn of_several_at_once_the_one_that_holds_all_up_counts() {
        let pause = || std::thread::sleep(Duration::from_millis(5));
        let (spans, meters) = spans(|track| {
            // Another thread of the source waits for memory while this one waits for the cut, and goes on a little longer.
            let waiting = track.enter(Activity::WaitsForMemory);
            track.during(Activity::WaitsForCut, pause);
            pause();
            drop(waiting);
            let (waiting, again) = (track.enter(Activity::WaitsForMemory), track.enter(Activity::WaitsForMemory));
            drop(waiting);
            pause();
            drop(again);
            pause();
        });
        assert!(spans.iter().all(|(activity, ..)| *activity != Activity::WaitsForCut));
        assert!(meters.memory.read().waiting_seconds >= 0.015);
        assert_eq!(meters.memory.read().waiting_seconds.to_bits(), meters.source.read().waiting_seconds.to_bits());
        assert!(meters.source.read().busy_seconds >= 0.005);
    }
}
