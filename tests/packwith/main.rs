//! Artifacts that smolvm packs, as a user has them made: the stand-in for smolvm pulls from the registry that is there for
//! it. As root: the stand-in makes namespaces, mounts and loop devices.

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

mod faithful;
mod nothing_left;
mod packing;
mod refused;
