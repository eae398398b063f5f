//! `smolfreeze fleet drill`.

use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::{Error, Result};
use smolfreeze::fleet::after::{Context, Drills, drill_now};
use smolfreeze::fleet::file::File;
use smolfreeze::fleet::night::{Drilled, Nights};
use smolfreeze::fleet::run::{BUSY, Exit, HostClock, Watcher};
use smolfreeze::stop::Stop;
use smolfreeze::text;

use super::FleetFile;

/// Make a machine of each machine's newest good snapshot, run the policy's command in it, and delete it again.
///
/// For the machines whose policy has a `drill`. Exit codes: 0 every machine answered as it has to; 10 some did not; 11 none
/// did; 12 there was none to be drilled; 14 a run is under way.
#[derive(Args)]
pub struct DrillCommand {
    #[command(flatten)]
    file: FleetFile,
    /// Only this machine. Repeatable.
    #[arg(long, value_name = "NAME")]
    machine: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Says what happens.
struct Aloud;

impl Watcher for Aloud {
    fn said(&self, text: &str) {
        crate::cli::remark(text);
    }
}

impl DrillCommand {
    pub async fn run(self, stop: Stop) -> Result<ExitCode> {
        let file = File::read(&self.file.path())?;
        let host = super::host(&file)?;
        let nights = Nights::at(&host.state, &file.name);
        let context = Context::new((&file, &nights, &host), &HostClock, &Aloud);
        let is_wanted = |machine: &str| self.machine.is_empty() || self.machine.iter().any(|name| name == machine);
        let drills = match Box::pin(drill_now(&context, is_wanted, &stop)).await? {
            Drills::Busy(who) => {
                let reason = format!("a run is under way: {who}");
                crate::cli::remark(&Error::usage("drilling", &file.name, reason).to_string());
                return Ok(BUSY.into());
            }
            Drills::Done(drills) => drills,
        };
        if self.json {
            crate::cli::print(&serde_json::to_string_pretty(&drills).unwrap_or_default())?;
        } else {
            crate::cli::print(&text::lines(drills.iter().map(line)))?;
        }
        Ok(exit(&drills).code().into())
    }
}

fn line(drilled: &Drilled) -> String {
    let Drilled { machine, name, seconds, trouble, .. } = drilled;
    match trouble {
        None => format!("{machine:<24} {name}  {seconds:.1} s"),
        Some(trouble) => format!("{machine:<24} {name}  FAILED: {}", trouble.text),
    }
}

fn exit(drills: &[Drilled]) -> Exit {
    match (drills.len(), drills.iter().filter(|drilled| drilled.trouble.is_some()).count()) {
        (0, _) => Exit::NothingSelected,
        (_, 0) => Exit::All,
        (all, failed) if all == failed => Exit::None,
        _ => Exit::Some,
    }
}
