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

/// A machine of any size is cut into about this many layers of the size aimed at, and so into a third more at most: real
/// trees give shorter ones. Container runtimes stop at 127.
const LAYERS_MAX: u64 = 75;

/// The smallest size that a plan chooses by itself, in bytes. Of 16, 32 and 64 MiB it sends little more again after a
/// small change than the first, with half as many layers.
const TARGET_BYTES_MIN: u64 = 32 << 20;

impl LayerSize {
    /// The size for a tar of about `tar_bytes`: 32 MiB, doubled until there are at most about a hundred layers.
    /// Doubling keeps the cuts of a machine that grows a little where they were.
    #[must_use]
    pub fn for_tar(tar_bytes: u64) -> Self {
        let mut target = TARGET_BYTES_MIN;
        while tar_bytes / target > LAYERS_MAX {
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

    /// Whether a layer of `layer_bytes` ends before the entry at `path`, whose headers and content are `entry_bytes`.
    pub(super) fn ends_before(self, path: &[u8], entry_bytes: u64, layer_bytes: u64) -> bool {
        let Self::About(target) = self else { return false };
        if layer_bytes == 0 {
            return false;
        }
        if layer_bytes.saturating_add(entry_bytes) > target.saturating_mul(2) {
            return true;
        }
        let least = target / 4;
        // A cut is as likely as the entry is large, so that layers are about `target` long whether files are small or
        // large. The size counts as a power of two: a file that grows a little keeps its cut.
        let weight = u128::from(entry_bytes.next_power_of_two());
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
        for entry_bytes in [1024, 10_000, 100_000] {
            let (mut layers, mut layer_bytes, mut total) = (1_u64, 0, 0);
            for at in 0..(200 * target / entry_bytes) {
                if LayerSize::About(target).ends_before(format!("a/{at}").as_bytes(), entry_bytes, layer_bytes) {
                    assert!(layer_bytes >= target / 4 && layer_bytes <= 2 * target);
                    (layers, layer_bytes) = (layers + 1, 0);
                }
                layer_bytes += entry_bytes;
                total += entry_bytes;
            }
            let mean = total / layers;
            assert!(mean > target / 2 && mean < target * 5 / 4, "{entry_bytes}: {mean}");
        }
    }

    #[test]
    fn there_are_at_most_about_a_hundred_layers() {
        assert_eq!(LayerSize::for_tar(1 << 30), LayerSize::About(32 << 20));
        let LayerSize::About(target) = LayerSize::for_tar(50 << 30) else { panic!() };
        assert!((50 << 30) / target <= 100, "{target}");
    }

    #[test]
    fn a_large_file_is_a_layer_of_its_own() {
        let size = LayerSize::About(1 << 20);
        assert!(size.ends_before(b"large", 5 << 20, 512), "before it");
        assert!(size.ends_before(b"next", 512, 5 << 20), "after it");
        assert!(!size.ends_before(b"large", 5 << 20, 0), "but not an empty layer");
    }
}
