//! `smolfreeze fleet check`.

use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::{Error, Kind, Result};
use smolfreeze::fleet::file::File;

use super::FleetFile;

/// Say whether the file is right, and of each mistake where it is and what was meant.
#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    file: FleetFile,
}

impl Check {
    pub fn run(self) -> Result<ExitCode> {
        let path = self.file.path();
        let subject = format!("'{}'", path.display());
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let hint = "write one with 'smolfreeze fleet init'";
            Error::usage("reading the fleet's file", &subject, &error).hint(hint).because(error)
        })?;
        match File::parse(&text) {
            Ok(file) => {
                let (policies, places) = (file.policies.len(), file.destinations.len());
                crate::cli::print(&format!("{subject} is right: {policies} policies, {places} destinations"))
            }
            Err(mistakes) => {
                for mistake in &mistakes {
                    crate::cli::remark(&format!("{}: {mistake}", path.display()));
                }
                Ok(Kind::Usage.exit_code().into())
            }
        }
    }
}
