//! `smolfreeze fleet report`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use smolfreeze::error::Result;
use smolfreeze::fleet::page::{self, Shown};
use smolfreeze::fleet::run;
use smolfreeze::fleet::status::Status;

use super::FleetFile;

/// Write a page of HTML: the last run, what failed and why, and nights as charts. It needs no network and no script.
#[derive(Args)]
pub struct ReportCommand {
    #[command(flatten)]
    file: FleetFile,
    /// Where the page goes; '-' is standard output.
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
    /// Show so many of the newest nights.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=366))]
    nights: u16,
}

impl ReportCommand {
    pub async fn run(self) -> Result<ExitCode> {
        let (file, history) = self.file.with_history()?;
        let status = Status::of(&file, &history, run::list(&super::host(&file)?).await, Timestamp::now())?;
        let shown = Shown { nights: self.nights.into(), zone: TimeZone::system() };
        let html = page::html(&status, &history, &shown)?;
        if self.html.as_os_str() == "-" {
            return crate::cli::print(&html);
        }
        page::write(&self.html, &html)?;
        Ok(ExitCode::SUCCESS)
    }
}
