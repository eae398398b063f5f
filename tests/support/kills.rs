//! Random moments at which a run is killed, and what it takes to kill at the same ones again.

use std::fmt;
use std::time::Duration;

/// Moments within a run, and a little past its end: the last ones are where things get their names.
pub struct Kills {
    seed: u64,
    random: fastrand::Rng,
    whole: Duration,
    last: Duration,
}

impl Kills {
    /// For a run that takes about `whole`. `SMOLFREEZE_TEST_SEED` gives the moments of an earlier test.
    pub fn within(whole: Duration) -> Self {
        let given = std::env::var("SMOLFREEZE_TEST_SEED").ok();
        let seed = given.map_or_else(|| fastrand::u64(..), |text| text.parse().expect("a number"));
        Self { seed, random: fastrand::Rng::with_seed(seed), whole, last: Duration::ZERO }
    }

    /// Waits until a run that has just begun is to be killed.
    pub fn wait(&mut self) {
        self.last = self.whole.mul_f64(self.random.f64() * 1.1);
        std::thread::sleep(self.last);
    }
}

/// For the message of an assertion.
impl fmt::Display for Kills {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, last, whole, .. } = self;
        write!(formatter, "SMOLFREEZE_TEST_SEED={seed}, killed after {last:?} of {whole:?}")
    }
}
