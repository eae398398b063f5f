//! Stand-ins for tests: small products, with faults that a test orders.

pub mod docker_registry;
pub mod kills;
pub mod layers;
pub mod model;
pub mod network;
pub mod proxy;
pub mod scripted;
pub mod sidecar;
