//! `smolfreeze fleet init`.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::{Error, Result};
use smolfreeze::fleet::file::EXAMPLE;

use super::FleetFile;

/// Write a commented file to begin with. One that is there is left alone.
#[derive(Args)]
pub struct Init {
    #[command(flatten)]
    file: FleetFile,
    /// Print it instead.
    #[arg(long)]
    print: bool,
}

impl Init {
    pub fn run(self) -> Result<ExitCode> {
        if self.print {
            return crate::cli::print(EXAMPLE);
        }
        let path = self.file.path();
        let write = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            File::create_new(&path)?.write_all(EXAMPLE.as_bytes())
        };
        write().map_err(|error| {
            let error =
                Error::sink("writing the fleet's file", format_args!("'{}'", path.display()), &error).because(error);
            error.hint("name another one with --file, or look at it with --print")
        })?;
        crate::cli::print(&path.display().to_string())
    }
}
