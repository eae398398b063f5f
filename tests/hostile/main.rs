//! Hostile images and answers: each ends with an error that names the thing, without a panic, within 20 s and 300 MiB.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

#[path = "../freeze/host.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod host;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod support;

mod answers;
mod images;
mod layers;
mod places;
mod registry;
mod run;
