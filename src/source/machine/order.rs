//! What the host has our reader do in a guest, as JSON in the line of `guest.sh` that starts with `#= `.

use serde::{Deserialize, Serialize};

use crate::night::Sample;
use crate::source::wanted::Wanted;

/// The whole order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What is captured.
    #[serde(flatten)]
    pub wanted: Wanted,
    /// To list it first, and to read what the host picks then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<ListOrder>,
}

/// How it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListOrder {
    /// There is an index to compare with: entries' attributes are compared, too, and what is in these files.
    pub sample: Option<Sample>,
}

/// The name in the spool of what the host asks about the list, [sealed](super::sealed).
pub(super) const QUESTIONS: &str = "questions";
/// The same of what it picks.
pub(super) const PICKS: &str = "picks";
