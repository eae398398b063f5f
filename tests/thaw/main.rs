//! The way back, as a user goes it: machines of the stand-in for smolvm are frozen and thawed, with real counterparts in
//! between. As root: the stand-in makes namespaces, mounts and loop devices.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

#[path = "../machine/desk.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod desk;
#[path = "../freeze/host.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod host;
#[path = "../support/standin.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod standin;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod support;
#[path = "../freeze/trees.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod trees;

mod artifact;
mod faithful;
mod interrupt;
mod layers;
mod refused;
mod thawing;
