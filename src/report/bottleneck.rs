//! Which stage decided how long a freeze took.
//!
//! A thread that is neither waiting for a neighbour nor running waits for something else: for a disk, a network, a guest,
//! and that is its stage's own time; or, where all cores are taken, for a core, and that is the time of whoever has
//! them. Nobody says which, so off-core time counts as far as cores were free.

use crate::progress::processor::Used;

/// Where this part of the cores is free, nobody waits for one for long.
const FREE_ENOUGH: f64 = 0.25;
/// A stage that is engaged for less of the time than this may have been starved of memory.
const ENGAGED_MIN: f64 = 0.5;

/// What memory is called in place of a stage.
pub(super) const MEMORY: &str = "too little memory (--memory)";

/// What a stage had to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) name: &'static str,
    /// Seconds not spent waiting for a neighbour, summed over its rows.
    pub(super) busy_seconds: f64,
    pub(super) rows: u64,
    pub(super) cpu_seconds: f64,
    pub(super) threads: u64,
}

impl Load {
    /// The part of the time that the stage needed for itself, 0 to 1 or a little more.
    #[expect(clippy::cast_precision_loss, reason = "a handful of threads")]
    fn engaged(&self, used: &Used) -> f64 {
        let seconds = used.seconds.max(f64::MIN_POSITIVE);
        let cores = self.threads.clamp(1, used.cores.max(1) as u64) as f64;
        let on_core = self.cpu_seconds / cores / seconds;
        let off_core = (self.busy_seconds / self.rows.max(1) as f64 / seconds - on_core).max(0.0);
        let free = ((1.0 - used.fullness) / FREE_ENOUGH).clamp(0.0, 1.0);
        on_core + off_core * free
    }
}

/// The name of the stage that was engaged most; or of memory, where the source waited for it for longer than any stage
/// was at work, and none was for most of the time.
pub(super) fn bottleneck(used: &Used, loads: &[Load], memory_waiting_seconds: f64) -> &'static str {
    let engaged = loads.iter().map(|load| (load.name, load.engaged(used)));
    let Some((name, most)) = engaged.max_by(|one, other| one.1.total_cmp(&other.1)) else { return MEMORY };
    let starved = memory_waiting_seconds / used.seconds.max(f64::MIN_POSITIVE);
    if most < ENGAGED_MIN && starved > most { MEMORY } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten seconds on two cores.
    fn used(fullness: f64) -> Used {
        Used { seconds: 10.0, cpu_seconds: 20.0 * fullness, cores: 2, fullness }
    }

    /// A stage by its rows, busy seconds, threads and seconds of processor time.
    fn load(name: &'static str, (rows, busy_seconds): (u64, f64), (threads, cpu_seconds): (u64, f64)) -> Load {
        Load { name, busy_seconds, rows, cpu_seconds, threads }
    }

    fn found(
        fullness: f64,
        [source, cut, packing, sending]: [((u64, f64), (u64, f64)); 4],
        memory: f64,
    ) -> &'static str {
        let loads = [
            load("source", source.0, source.1),
            load("cut", cut.0, cut.1),
            load("packing", packing.0, packing.1),
            load("sending", sending.0, sending.1),
        ];
        bottleneck(&used(fullness), &loads, memory)
    }

    #[test]
    fn whoever_was_at_work_or_waited_for_the_world() {
        let cut = ((1, 0.3), (1, 0.2));
        let cases = [
            // All cores pack; the source's one row is "busy" because its readers wait for a core.
            ("packing", 0.98, [((1, 9.5), (4, 2.5)), cut, ((2, 19.0), (2, 15.0)), ((4, 12.0), (2, 1.5))], 0.0),
            // The same with a registry on this machine: ours is not all of the processor time.
            ("packing", 0.95, [((1, 9.5), (4, 2.0)), cut, ((2, 18.0), (2, 12.0)), ((4, 30.0), (2, 2.0))], 0.0),
            // The same, and the source is far ahead: it waits for memory, but not because there is too little.
            ("packing", 0.98, [((1, 2.0), (4, 2.5)), cut, ((2, 19.0), (2, 15.0)), ((4, 12.0), (2, 1.5))], 7.5),
            // All uploads wait for the network, so the packers, and so the source.
            ("sending", 0.15, [((1, 0.5), (4, 0.5)), cut, ((2, 2.5), (2, 2.0)), ((4, 39.0), (2, 0.5))], 9.0),
            // A guest's link: hardly any processor time, and everybody waits for the source.
            ("source", 0.20, [((1, 9.8), (2, 0.4)), cut, ((2, 3.0), (2, 2.8)), ((4, 2.0), (2, 0.3))], 0.0),
            // The same while the rest keeps most of the cores at work.
            ("source", 0.70, [((1, 9.0), (2, 0.4)), cut, ((2, 13.0), (2, 11.5)), ((4, 6.0), (2, 1.0))], 0.0),
            // A disk, read by several threads.
            ("source", 0.30, [((1, 9.9), (4, 2.0)), cut, ((2, 3.5), (2, 3.3)), ((1, 1.0), (2, 0.3))], 0.0),
            // A source whose readers take all cores themselves, because of many small files.
            ("source", 0.97, [((1, 9.9), (4, 14.0)), cut, ((2, 6.0), (2, 4.5)), ((1, 1.0), (2, 0.5))], 0.0),
            // A single cut thread that is never idle.
            (
                "cut",
                0.60,
                [((1, 2.0), (4, 1.5)), ((1, 9.9), (1, 9.5)), ((2, 2.0), (2, 1.0)), ((4, 1.0), (2, 0.2))],
                0.0,
            ),
            // With two buffers everybody is idle most of the time, the source for want of memory.
            (MEMORY, 0.30, [((1, 2.5), (4, 1.0)), cut, ((2, 6.0), (2, 5.0)), ((4, 8.0), (2, 0.5))], 7.0),
            // Nobody is at work for long, and memory is not why.
            ("sending", 0.10, [((1, 1.0), (4, 0.5)), cut, ((2, 1.0), (2, 0.8)), ((4, 16.0), (2, 0.5))], 0.0),
        ];
        for (number, (expected, fullness, stages, memory)) in cases.into_iter().enumerate() {
            assert_eq!(found(fullness, stages, memory), expected, "case {number}");
        }
    }

    #[test]
    fn nothing_was_measured() {
        assert_eq!(bottleneck(&Used::default(), &[load("a", (0, 0.0), (0, 0.0))], 0.0), "a");
    }
}
