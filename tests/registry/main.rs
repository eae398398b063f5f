//! The registry sink against Debian's own registry, through a proxy that fails as ordered.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod faults;
mod reading;
