//! `smolfreeze guest-reader` and `guest-wait`: what a copy of this program does inside a guest. Not for people.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use smolfreeze::error::Result;
use smolfreeze::source::machine::reader::{Spool, fill, wait};

/// Read this machine's root filesystem into a spool of guest.sh.
#[derive(Args)]
pub struct GuestReader {
    /// The spool's folder.
    #[arg(long)]
    spool: PathBuf,
    /// Chunks that may wait there.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    window: u64,
    /// Bytes of a chunk.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    chunk_bytes: u64,
    /// What is to be read, as JSON.
    wanted: String,
}

impl GuestReader {
    /// Reads, and tells of what happened to files meanwhile on standard error.
    pub fn run(&self) -> Result<ExitCode> {
        let spool = Spool { folder: &self.spool, window_chunks: self.window, chunk_bytes: self.chunk_bytes };
        fill(Path::new("/"), &self.wanted, spool, &mut std::io::stderr().lock())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Wait for an item in a spool of guest.sh.
#[derive(Args)]
pub struct GuestWait {
    /// The spool's folder.
    #[arg(long)]
    spool: PathBuf,
    /// The item.
    #[arg(long)]
    index: u64,
    /// Seconds to wait at most.
    #[arg(long, value_parser = clap::value_parser!(u64).range(..3600))]
    seconds: u64,
}

impl GuestWait {
    /// Success, whether the item came or not.
    pub fn run(&self) -> ExitCode {
        wait(&self.spool, self.index, Duration::from_secs(self.seconds));
        ExitCode::SUCCESS
    }
}
