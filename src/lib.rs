//! smolfreeze
pub mod error;
pub mod exclude;
pub mod gather;
pub mod memory;
pub mod oci;
pub mod progress;
pub mod sink;
pub mod source;
pub mod stop;
