//! What the fuzz targets share: building tars and sidecars, cutting tars, reading them with another reader, comparing.

pub mod build;
pub mod check;
pub mod oracle;
pub mod run;
pub mod sidecar;
