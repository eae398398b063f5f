//! Pure transformations: no I/O, no clock, no async, and the same result for any chunking of the input.

pub mod compress;
pub mod cut;
pub(crate) mod decode;
pub mod digest;
pub mod extra;
pub mod facts;
pub mod header;
mod renamed;
pub mod scan;
mod sparse;
pub(crate) mod stack;
pub mod sum;
pub(crate) mod walk;
