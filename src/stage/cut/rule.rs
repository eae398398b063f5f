//! Where a layer ends.

/// How large layers are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayerSize {
    /// Everything in one layer.
    #[default]
    One,
    /// About this many bytes of tar a layer: at least a quarter of it, at most twice as much, unless one entry is larger.
    About(u64),
}

/// Most layers of an image, whatever comes: Docker's overlay2 stops at 125, containerd's overlayfs at 127.
///
/// How this is held: a plan takes a size of which the source has at most `LAYERS_PLANNED`. Layers are about that long
/// in the mean, so that there are about a hundred at most. From the hundredth on each may be twice as long as
/// the one before, and the last one that a size ends is followed by as many as borders want that no size can lift: where
/// links begin, and those of folders with layers of their own. More such borders than that are refused.
pub const LAYERS_MAX: u64 = 120;

/// A source of any size is cut into about this many layers of the size aimed at, and so into a third more at most.
const LAYERS_PLANNED: u64 = 75;

/// So many layers have the size aimed at: where they end depends on their content alone.
const LAYERS_STEADY: u64 = 100;

/// Layers that are kept for borders.
const LAYERS_FOR_BORDERS: u64 = 6;

/// The smallest size that a plan chooses by itself, in bytes. Of 16, 32 and 64 MiB it sends little more again after a
/// small change than the first, with half as many layers.
const TARGET_BYTES_MIN: u64 = 32 << 20;

impl LayerSize {
    /// The size for a tar of about `tar_bytes`: 32 MiB, doubled until there are at most about a hundred layers.
    /// Doubling keeps the cuts of a machine that grows a little where they were.
    #[must_use]
    pub fn for_tar(tar_bytes: u64) -> Self {
        let mut target = TARGET_BYTES_MIN;
        while tar_bytes / target > LAYERS_PLANNED {
            target *= 2;
        }
        Self::About(target)
    }

    /// Most bytes of a layer that holds more than one entry; none where there is no bound.
    #[must_use]
    pub fn layer_bytes_max(self) -> Option<u64> {
        match self {
            Self::One => None,
            Self::About(target) => Some(target.saturating_mul(2)),
        }
    }

    /// Whether layer `number`, which has `layer_bytes` and counts from 1, ends before the entry at `path`, whose headers and
    /// content are `entry_bytes`.
    pub(super) fn ends_before(self, path: &[u8], entry_bytes: u64, number: u64, layer_bytes: u64) -> bool {
        let Self::About(target) = self else { return false };
        if layer_bytes == 0 || number > LAYERS_MAX - LAYERS_FOR_BORDERS {
            return false;
        }
        let doublings = u32::try_from(number.saturating_sub(LAYERS_STEADY)).unwrap_or(u32::MAX);
        let target = target.saturating_mul(2_u64.saturating_pow(doublings));
        if layer_bytes.saturating_add(entry_bytes) > target.saturating_mul(2) {
            return true;
        }
        let least = target / 4;
        // A cut is as likely as the entry is large, so that layers are about `target` long whether files are small or
        // large. The size counts as a power of two: a file that grows a little keeps its cut. It is the next one for small
        // files and the one before for large ones, a few of which reach the least size at once.
        let power = entry_bytes.checked_next_power_of_two().unwrap_or(u64::MAX);
        let weight = u128::from(if entry_bytes > target / 8 { power / 2 } else { power });
        layer_bytes >= least && (u128::from(hash(path)) * u128::from((target - least).max(1))) >> 64 < weight
    }
}

/// FNV-1a over the path, with murmur's finalizer so that all bits depend on all bytes. Not for anyone's protection: who
/// chooses the names chooses the cuts, and nothing more.
pub(in crate::stage) fn hash(path: &[u8]) -> u64 {
    let sum = path
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (sum ^ (sum >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_about_as_large_as_asked_for_any_file_size() {
        let target = 1 << 20;
        for entry_bytes in [1024, 10_000, 100_000, 140_000, 270_000, 530_000, 700_000, 1_000_000, 1_040_000] {
            let (mut layers, mut layer_bytes, mut total) = (1_u64, 0, 0);
            for at in 0..(200 * target / entry_bytes) {
                if LayerSize::About(target).ends_before(format!("a/{at}").as_bytes(), entry_bytes, 1, layer_bytes) {
                    assert!(layer_bytes >= target / 4 && layer_bytes <= 2 * target);
                    (layers, layer_bytes) = (layers + 1, 0);
                }
                layer_bytes += entry_bytes;
                total += entry_bytes;
            }
            let mean = total / layers;
            assert!(mean > target * 3 / 5 && mean < target * 3 / 2, "{entry_bytes}: {mean}");
        }
    }

    #[test]
    fn there_are_at_most_about_a_hundred_layers() {
        assert_eq!(LayerSize::for_tar(1 << 30), LayerSize::About(32 << 20));
        let LayerSize::About(target) = LayerSize::for_tar(50 << 30) else { panic!() };
        assert!((50 << 30) / target <= 100, "{target}");
    }

    /// How many layers there are of entries of these sizes, and the longest.
    fn layers(size: LayerSize, entries: impl Iterator<Item = u64>) -> (u64, u64) {
        let (mut number, mut layer_bytes, mut longest) = (1, 0, 0);
        for (at, entry_bytes) in entries.enumerate() {
            if size.ends_before(format!("a/{at}").as_bytes(), entry_bytes, number, layer_bytes) {
                (number, layer_bytes) = (number + 1, 0);
            }
            layer_bytes += entry_bytes;
            longest = longest.max(layer_bytes);
        }
        (number, longest)
    }

    #[test]
    fn no_sizes_give_more_layers_than_runtimes_take() {
        const MEBI: u64 = 1 << 20;
        let same = |bytes: u64, count: usize| std::iter::repeat_n(bytes, count);
        // As planned: 2.4 GB in the size that a plan takes for them, all files just past a border of the rule.
        for bytes in [MEBI, 4 * MEBI + 1, 8 * MEBI + 1, 8_500_000, 16 * MEBI + 1, 24 * MEBI + 1, 64 * MEBI + 1] {
            let count = usize::try_from(75 * 32 * MEBI / bytes).unwrap();
            let size = LayerSize::for_tar(bytes * count as u64);
            assert_eq!(size, LayerSize::About(32 * MEBI));
            let (layers, longest) = layers(size, same(bytes, count));
            assert!(layers <= LAYERS_STEADY + 5, "{bytes}: {layers}");
            assert!(longest <= 128 * MEBI, "{bytes}: {longest}");
            let (layers, _) = self::layers(size, (0..count).flat_map(|_| [bytes, 1024]));
            assert!(layers <= LAYERS_STEADY + 5, "{bytes} and small ones: {layers}");
        }
        // And not as planned.
        for (bytes, count) in [(1 << 20, 100_000), (1 << 30, 10_000), (1024, 1_000_000)] {
            let (layers, _) = layers(LayerSize::About(64 << 10), same(bytes, count));
            assert!(layers <= LAYERS_MAX - LAYERS_FOR_BORDERS + 1, "{bytes}: {layers}");
        }
    }

    #[test]
    fn a_large_file_is_a_layer_of_its_own() {
        let size = LayerSize::About(1 << 20);
        assert!(size.ends_before(b"large", 5 << 20, 1, 512), "before it");
        assert!(size.ends_before(b"next", 512, 1, 5 << 20), "after it");
        assert!(!size.ends_before(b"large", 5 << 20, 1, 0), "but not an empty layer");
    }
}
