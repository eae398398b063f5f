//! `smolfreeze fleet`: one file a subcommand.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use smolfreeze::error::Result;
use smolfreeze::fleet::file::File;
use smolfreeze::fleet::night::{History, Nights};
use smolfreeze::fleet::run::Host;
use smolfreeze::source::machine::{Program, Reader};
use smolfreeze::stop::Stop;

mod check;
mod drill;
mod history;
mod init;
mod install;
mod report;
mod run;
mod status;

/// Freeze every machine of this host that a file selects, night by night.
///
/// The file is --file, else fleet.toml in the user's configuration folder (~/.config/smolfreeze), else
/// /etc/smolfreeze/fleet.toml.
#[derive(Args)]
pub struct Fleet {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::RunCommand),
    Init(init::Init),
    Check(check::Check),
    Status(status::StatusCommand),
    History(history::HistoryCommand),
    Report(report::ReportCommand),
    Install(install::InstallCommand),
    Drill(drill::DrillCommand),
    /// Print the JSON schema of the file, for editors.
    Schema,
}

/// Which fleet.
#[derive(Args)]
pub struct FleetFile {
    /// The fleet's file.
    #[arg(long, short, value_name = "FILE", env = "SMOLFREEZE_FLEET_FILE")]
    file: Option<PathBuf>,
}

/// Where it is for all users.
const OF_THE_HOST: &str = "/etc/smolfreeze/fleet.toml";

impl FleetFile {
    /// Where the file is.
    fn path(&self) -> PathBuf {
        let of_the_host = PathBuf::from(OF_THE_HOST);
        let found = || match super::xdg_folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("fleet.toml")) {
            Some(own) if own.exists() || !of_the_host.exists() => own,
            _ => of_the_host,
        };
        self.file.clone().unwrap_or_else(found)
    }

    /// What it says, and the nights of its fleet. Nights that can't be read are named, and left alone.
    fn with_history(&self) -> Result<(File, History)> {
        let file = File::read(&self.path())?;
        let history = Nights::at(&super::state_path()?, &file.name).history()?;
        for (path, reason) in &history.unreadable {
            super::remark(&format!("left alone: '{}': {reason}", path.display()));
        }
        Ok((file, history))
    }
}

impl Fleet {
    /// Runs one subcommand.
    pub async fn run(self, stop: Stop) -> Result<ExitCode> {
        match self.command {
            Command::Run(run) => run.run(stop).await,
            Command::Init(init) => init.run(),
            Command::Check(check) => check.run(),
            Command::Status(status) => super::until_stopped(status.run(), &stop).await,
            Command::History(history) => history.run(),
            Command::Report(report) => super::until_stopped(report.run(), &stop).await,
            Command::Install(install) => install.run(),
            Command::Drill(drill) => drill.run(stop).await,
            Command::Schema => {
                let schema = File::schema();
                super::print(&serde_json::to_string_pretty(&schema).unwrap_or_default())
            }
        }
    }
}

/// This host, as the file and the user's folders have it.
fn host(file: &File) -> Result<Host> {
    let program = file.smolvm.executable.clone().map_or_else(Program::default, Program::from);
    Ok(Host {
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        state: super::state_path()?,
        known: super::xdg_folder("XDG_CACHE_HOME", ".cache").map(|cache| cache.join("known-layers")),
        smolvm: Program { state_dir: file.smolvm.state_dir.clone(), ..program },
        reader: std::env::current_exe().map_or(Reader::Tools, Reader::FoundFor),
    })
}
