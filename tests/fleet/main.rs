//! The fleet: its file, its runs, and what they leave.

#![expect(clippy::unwrap_used, reason = "a test panics where something is missing")]

mod file;
mod made_up;
mod metrics;
mod notify;
mod status;
