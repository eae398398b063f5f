//! What is done when the freezes of a run are over: verification, retention, drills.

use super::file::File;
use super::night::{Night, Nights};
use super::run::{Clock, Host};
use crate::stop::Stop;

/// What there is to work with.
pub struct Context<'a> {
    /// The fleet.
    pub file: &'a File,
    /// Where its nights are.
    pub nights: &'a Nights,
    /// This host.
    pub host: &'a Host,
    /// The time.
    pub clock: &'a dyn Clock,
}

/// Called once, when all freezes of a run are over, unless it was interrupted. What it does is noted in `night`, which is
/// written afterwards; what fails is a trouble there.
#[expect(clippy::unused_async, reason = "there is nothing to wait for yet")]
pub async fn carry_out(_context: &Context<'_>, _night: &mut Night, _stop: &Stop) {}
