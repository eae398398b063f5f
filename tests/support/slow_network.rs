//! A slow network before a registry, for `benches/side-by-side --network`:
//! `slow_network REGISTRY LATENCY_MILLISECONDS BYTES_PER_SECOND` prints its own address, and runs until it is killed.

use std::error::Error;
use std::io::Write;
use std::time::Duration;

#[expect(dead_code, reason = "only tests hold connections")]
mod network;

use network::{Network, Shape};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [registry, latency, bytes_per_second] = &words[..] else {
        return Err("usage: slow_network REGISTRY LATENCY_MILLISECONDS BYTES_PER_SECOND".into());
    };
    let shape = Shape {
        latency: Duration::from_millis(latency.parse()?),
        bytes_per_second: Some(bytes_per_second.parse()?),
        ..Shape::default()
    };
    let network = Network::start(registry.parse()?, shape)?;
    writeln!(std::io::stdout(), "{}", network.address)?;
    std::future::pending().await
}
