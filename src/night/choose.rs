//! Which layers of the last image stay, and which are written anew for what is dead in them.

use std::collections::BTreeSet;

use super::index::Kept;

/// Layers of an image, about: runtimes take 125, and a night may add some.
const LAYERS_MAX: usize = 100;
/// So many are left where there were too many, so that it is not each night's work.
const LAYERS_LEFT: usize = 85;
/// Dead bytes in kept layers, at most: so many live ones for each of them.
const LIVE_FOR_DEAD: u64 = 5;

/// A layer, and what of it is still alive.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) number: u32,
    /// Bytes of tar of the entries that it was made of.
    pub(super) entry_bytes: u64,
    /// Those of entries that are there, unchanged.
    pub(super) live_bytes: u64,
}

impl Candidate {
    pub(super) fn new(kept: &Kept, live_bytes: u64) -> Self {
        Self { number: kept.number, entry_bytes: kept.entry_bytes, live_bytes: live_bytes.min(kept.entry_bytes) }
    }

    fn dead_bytes(&self) -> u64 {
        self.entry_bytes - self.live_bytes
    }

    /// What has to be read for each byte that is won; the least first.
    fn price(&self) -> f64 {
        if self.dead_bytes() == 0 {
            return f64::INFINITY;
        }
        #[expect(clippy::cast_precision_loss, reason = "for an order")]
        let (live, dead) = (self.live_bytes as f64, self.dead_bytes() as f64);
        live / dead
    }
}

/// The layers that go, besides those in `gone`: their live entries are read again. `fresh_bytes` are read anyway, and make
/// about a layer for each `layer_bytes`.
pub(super) fn dropped(
    mut candidates: Vec<Candidate>,
    mut gone: BTreeSet<u32>,
    mut fresh_bytes: u64,
    layer_bytes: u64,
) -> BTreeSet<u32> {
    fresh_bytes +=
        candidates.iter().filter(|layer| gone.contains(&layer.number)).map(|layer| layer.live_bytes).sum::<u64>();
    candidates.retain(|layer| !gone.contains(&layer.number));
    let mut drop = |layer: Candidate, fresh_bytes: &mut u64| {
        *fresh_bytes += layer.live_bytes;
        gone.insert(layer.number);
    };
    candidates.sort_by(|one, other| other.price().total_cmp(&one.price()));
    let mut dead_bytes: u64 = candidates.iter().map(Candidate::dead_bytes).sum();
    let live_bytes: u64 = candidates.iter().map(|layer| layer.live_bytes).sum::<u64>() + fresh_bytes;
    while dead_bytes.saturating_mul(LIVE_FOR_DEAD) > live_bytes
        && let Some(cheapest) = candidates.pop()
    {
        dead_bytes -= cheapest.dead_bytes();
        drop(cheapest, &mut fresh_bytes);
    }
    let layers =
        |fresh_bytes: u64| usize::try_from(fresh_bytes.div_ceil((layer_bytes / 2).max(1))).unwrap_or(usize::MAX);
    if candidates.len().saturating_add(layers(fresh_bytes)) > LAYERS_MAX {
        candidates.sort_by_key(|layer| std::cmp::Reverse(layer.live_bytes));
        while candidates.len().saturating_add(layers(fresh_bytes)) > LAYERS_LEFT
            && let Some(smallest) = candidates.pop()
        {
            drop(smallest, &mut fresh_bytes);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(number: u32, entry_bytes: u64, live_bytes: u64) -> Candidate {
        Candidate { number, entry_bytes, live_bytes }
    }

    #[test]
    fn the_cheapest_goes_until_little_is_dead() {
        let layers = vec![layer(1, 1000, 1000), layer(2, 1000, 100), layer(3, 1000, 700), layer(4, 1000, 990)];
        let gone = dropped(layers.clone(), BTreeSet::new(), 0, 1000);
        assert_eq!(gone, BTreeSet::from([2]));
        assert_eq!(dropped(layers, BTreeSet::from([2]), 0, 1000), BTreeSet::from([2]), "an output lost it");
        assert!(dropped(vec![layer(1, 1000, 900)], BTreeSet::new(), 0, 1000).is_empty());
        assert_eq!(dropped(vec![layer(1, 0, 0), layer(2, 10, 0)], BTreeSet::new(), 0, 1000), BTreeSet::from([2]));
    }

    #[test]
    fn there_are_never_too_many_layers() {
        let many: Vec<_> =
            (0..100).map(|number| layer(number, 1000 + u64::from(number), 1000 + u64::from(number))).collect();
        assert!(dropped(many.clone(), BTreeSet::new(), 0, 100_000).is_empty());
        let gone = dropped(many.clone(), BTreeSet::new(), 1, 100_000);
        assert_eq!(gone, (0..16).collect::<BTreeSet<_>>(), "the smallest");
        assert_eq!(dropped(many, BTreeSet::new(), 1 << 40, 1 << 20).len(), 100, "all is new");
    }
}
