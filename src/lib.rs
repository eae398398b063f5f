//! smolfreeze
pub mod budget;
pub mod error;
pub mod exclude;
pub mod gather;
pub mod known;
pub mod memory;
pub mod oci;
mod pack;
pub mod progress;
pub mod scratch;
pub mod sink;
pub mod source;
pub mod stage;
pub mod stop;
