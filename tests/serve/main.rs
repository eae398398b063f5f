//! `smolfreeze serve`: the distribution specification as a table, real clients, and what goes wrong. The table is also run
//! against Debian's docker-registry, so that it is checked itself.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

#[path = "../freeze/host.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod host;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod support;

mod access;
mod clients;
mod conformance;
mod images;
mod killed;
mod layouts;
mod names;
mod served;
mod table;
mod uploads;
mod wire;
