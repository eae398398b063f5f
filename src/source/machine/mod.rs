//! A running smolvm machine as a source: its root filesystem, live, through smolvm's own command line.
//!
//! ```text
//!  guest: find ▸ tar ▸ chunks in a spool, at most `window_chunks`     (guest.sh; or our own reader, where it can run)
//!  host:  next ▸ take ▸ check ▸ in order                              (relay, link, trying)
//!         ▸ decompress ▸ join archives ▸ buffers on the edge          (deliver, join)
//! ```
//! [`Machine::open`] probes and looks; [`Machine::survey`] asks how large it is; [`Machine::stream`] carries it over and
//! leaves the guest as it was, on every way out. What the guest says is parsed by `answer`, `capture` and `verdict`: pure,
//! and careful, because a guest is untrusted.

#[doc(hidden)]
pub mod answer;
#[doc(hidden)]
pub mod capture;
mod checksum;
mod deliver;
mod folder;
pub mod guest;
mod join;
mod link;
mod listing;
mod offer;
mod options;
mod order;
mod patterns;
mod probe;
mod reader;
mod relay;
mod sealed;
mod session;
mod transfer;
mod trying;
#[doc(hidden)]
pub mod verdict;

pub use offer::Reader;
pub use options::Options;
pub use order::ListOrder;
pub use probe::{Machine, MachineFacts};
pub use transfer::Transfer;

pub use crate::smolvm::Program;

/// The guest's side, as it is copied in.
const GUEST_SCRIPT: &str = include_str!("guest.sh");
