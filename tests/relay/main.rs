//! The relay against the stand-in for smolvm: what comes over, what is left behind, and every fault.
//!
//! Root on Debian 12 (namespaces, mounts, loop devices), with debootstrap, busybox-static and e2fsprogs installed.
//! `cargo test --test relay`; the slow ones: `cargo test --test relay -- --ignored`.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

#[path = "../support/standin.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod standin;

mod calls;
mod faults;
mod lists;
mod night;
mod rig;
mod space;
mod whole;
