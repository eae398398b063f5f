//! The watch: ends a freeze in which everything waits for each other, which must not happen.
//!
//! What waits for an outside party (a disk, a guest, an output) is left to that party's own patience. It is a net: that
//! there is nothing to catch is for [`super::budget`] to show.

use std::fmt::Write as _;
use std::time::Duration;

use super::memory::Memory;
use crate::error::{Error, Kind, Side};
use crate::progress::Meters;

/// Where nothing has moved for so long, nothing will.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// So many looks within the patience. A process that was stopped for a while, or a machine that slept, misses all but one.
const LOOKS: u32 = 24;

/// Returns when nothing has moved for `patience`.
pub(super) async fn watch(meters: &Meters, memory: &Memory, patience: Duration) -> Error {
    let (mut seen, mut still) = (meters.moved(), 0);
    while still < LOOKS {
        tokio::time::sleep(patience / LOOKS).await;
        let moved = meters.moved();
        let is_outside = meters.rows().iter().any(|(_, activity)| activity.is_outside());
        still = if moved == seen && !is_outside { still + 1 } else { 0 };
        seen = moved;
    }
    let mut reason = format!("nothing has moved for {}:", humantime::format_duration(patience));
    for (row, activity) in meters.rows() {
        let _ = write!(reason, " {row} {},", activity.words());
    }
    let _ = write!(reason, " and {} MiB of memory are held", memory.held_bytes() >> 20);
    Error::new(Kind::Internal, Side::Stage, "moving bytes", "the freeze", reason)
        .hint("this is a bug in smolfreeze; another --memory or --layer-size may help meanwhile")
}
