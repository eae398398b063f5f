//! What moves bytes through a freeze.
//!
//! ```text
//!  source ──Piece──▶ cut ──LayerPiece──▶ packer: hash ▸ known? ▸ compress ──Outgoing──▶ uploads ──▶ sinks
//!    ▲  waits for memory                    holds a layer, counted                    waits for a slot
//!    └───────────────────────── memory: what a slice holds comes back with its last user ────────────┘
//! ```
//!
//! [`memory`] counts what is held. [`budget`] divides it, so that whoever waits for memory gets it. `run` starts all
//! threads and finds the root cause. `pack` makes a blob of a layer and [`known`] spares it that; [`gather`] is where a
//! layer's bytes are, [`scratch`] the files among these places. `uploads` sends. `feed` runs the cut; `watch` ends what has
//! come to a stand.

pub mod budget;
mod feed;
pub mod gather;
pub mod known;
pub mod memory;
mod pack;
pub(crate) mod run;
pub mod scratch;
mod uploads;
mod watch;
