//! The fleet: its file, its runs, and what they leave. Machines are the stand-in's, registries real. As root, as tests/machine.

#![expect(clippy::unwrap_used, reason = "a test panics where something is missing")]

#[path = "../freeze/host.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod host;
#[path = "../support/standin.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod standin;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod support;

mod after;
mod desk;
mod documents;
mod ends;
mod file;
mod fourteen;
mod install;
mod killed;
mod late;
mod made_up;
mod metrics;
mod notify;
mod packed;
mod page;
mod runs;
mod spare;
mod status;
mod together;
