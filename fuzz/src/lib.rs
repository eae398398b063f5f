//! What the fuzz targets share: building tars, cutting them, reading them with another reader, comparing.

pub mod build;
pub mod check;
pub mod oracle;
pub mod run;
