//! A fleet: every machine of a host that a file selects, frozen night by night.
//!
//! ```text
//! fleet.toml ─▶ file ─▶ select (machines × policies) ─▶ run ─▶ night ─▶ what is read of nights: status, history, retention
//! ```
//!
//! # Words
//! A *policy* says which machines it is for, where their images go and how. A *destination* is a place with limits of its
//! own, and a name with placeholders. A *night* is a name, by default a date: what was done in it is not done again. An
//! *outcome* is what became of one machine at one destination.

pub mod after;
mod command;
pub mod file;
pub mod history;
pub mod install;
pub mod metrics;
pub mod night;
pub mod notify;
pub mod page;
pub mod place;
pub mod run;
pub mod select;
pub mod status;
