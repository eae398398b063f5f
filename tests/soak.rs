//! Many freezes in one process, as a fleet's run has them: nothing of one is left when it is over. In a crate of its own, for
//! it measures its process. `SMOLFREEZE_SOAK` is how many (40).

#![expect(clippy::unwrap_used, reason = "a test panics where something is missing")]

use std::path::Path;
use std::sync::Arc;

use smolfreeze::freeze::freeze;
use smolfreeze::night::Wish;
use smolfreeze::plan::{FreezeOptions, OutputSpec, Plan, SourceSpec};
use smolfreeze::progress::Silent;
use smolfreeze::stop::Stop;

#[path = "support/standin.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod standin;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod support;

use standin::{Kind, Standin};

/// Freezes that are looked at together, first and last. Those before have filled pools and caches.
const WINDOW: usize = 10;
/// An allocator keeps this and that.
const GROWTH_KIB_MAX: u64 = 8 << 10;
/// Of a runtime's pool, a thread comes and goes.
const GROWTH_THREADS_MAX: u64 = 2;

/// What this process has: resident KiB, threads, open files.
fn usage() -> [u64; 3] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    [of("VmRSS:"), of("Threads:"), std::fs::read_dir("/proc/self/fd").unwrap().count() as u64]
}

fn medians(usages: &[[u64; 3]]) -> [u64; 3] {
    [0, 1, 2].map(|which| {
        let mut values: Vec<_> = usages.iter().map(|usage| usage[which]).collect();
        values.sort_unstable();
        values[values.len() / 2]
    })
}

async fn frozen(machine: &Standin, folder: &Path, number: usize) {
    let output: OutputSpec = format!("oci:{}:n{}", folder.join("images").display(), number % 3).parse().unwrap();
    let mut options = FreezeOptions::new(SourceSpec::Machine(machine.name.to_owned()), vec![output]);
    options.machine.smolvm = machine.smolvm_path().into();
    options.records = Some(folder.join("state"));
    options.night = Some(Wish::default());
    let stop = Stop::new();
    let plan = Plan::make(options, &stop).await.unwrap();
    let snapshot = freeze(plan, Arc::new(Silent), stop).await.unwrap();
    assert!(snapshot.entries > 10, "{}", snapshot.summary());
}

#[test]
fn many_freezes_in_one_process_leave_nothing() {
    let freezes = std::env::var("SMOLFREEZE_SOAK").map_or(40, |text| text.parse().unwrap());
    assert!(freezes >= 3 * WINDOW);
    let (machine, folder) = (Standin::named("soak", Kind::Busybox), tempfile::tempdir_in("/var/tmp").unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let usages: Vec<_> = (0..freezes)
        .map(|number| {
            runtime.block_on(frozen(&machine, folder.path(), number));
            usage()
        })
        .collect();
    let (first, last) = (medians(&usages[WINDOW..2 * WINDOW]), medians(&usages[freezes - WINDOW..]));
    println!("{freezes} freezes; KiB, threads, files: {first:?} at first, {last:?} at last");
    assert!(last[0] <= first[0] + GROWTH_KIB_MAX, "{usages:?}");
    assert!(last[1] <= first[1] + GROWTH_THREADS_MAX, "{usages:?}");
    assert_eq!(last[2], first[2], "{usages:?}");
    machine.assert_clean();
}
