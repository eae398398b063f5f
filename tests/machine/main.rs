//! The command on machines of the stand-in for smolvm, run as a user runs it, with real counterparts: Debian's
//! docker-registry, skopeo and umoci. As root: the stand-in makes namespaces, mounts and loop devices.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

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
mod trees;

mod artifact;
mod config;
mod desk;
mod documents;
mod embedding;
mod faithful;
mod interrupt;
mod live;
mod memory;
mod night;
mod reader;
mod refused;
mod small;
mod together;
