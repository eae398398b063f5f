//! What is done after the freezes: retention over a year, at real places; verification; drills.

pub mod images;
pub mod keeper;
mod year;
