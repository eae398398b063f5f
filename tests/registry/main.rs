//! The registry sink against Debian's own registry, through a proxy that fails as ordered.

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod support;

mod access;
mod faults;
mod reading;
