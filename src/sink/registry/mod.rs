//! An OCI registry as a sink.
