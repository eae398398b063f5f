//! Records, and the commands on them, run as a user runs them, with real counterparts: Debian's docker-registry and
//! skopeo. As root: the tests mount small disks.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

#[path = "../freeze/host.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod host;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test crate uses its own part of what they share")]
mod support;

mod collected;
mod crash;
mod packed;
mod prune;
mod remembered;
mod series;
mod space;
mod written;
