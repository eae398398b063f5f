//! `smolfreeze guest-reader`: what a copy of this program does inside a guest. Not for people.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::Result;
use smolfreeze::source::machine::reader::{Spool, fill};

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
