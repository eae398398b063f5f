//! The command itself, run as a user runs it, with real counterparts: Debian's docker-registry, skopeo, umoci, GNU tar
//! and busybox. The tests make devices and mounts, so they run as root.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod support;

mod again;
mod archive;
mod artifact;
mod artifact_broken;
mod bad_input;
mod faithful;
mod faults;
mod host;
mod interrupt;
mod memory;
mod models;
mod mount;
mod names;
mod network;
mod options;
mod printed;
mod profile;
mod reach;
mod tars;
mod thin;
mod trees;
