//! What is done after the freezes: retention over a year, at real places; verification; drills.

mod drill;
pub mod images;
pub mod keeper;
mod places;
mod verify;
mod year;
