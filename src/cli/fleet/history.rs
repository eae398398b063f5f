//! `smolfreeze fleet history`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use smolfreeze::error::Result;
use smolfreeze::fleet::history::Sums;
use smolfreeze::fleet::night::{History, Night, Outcome, Standing};

use super::FleetFile;
use crate::cli::columns::{self, size};

/// List the nights of the fleet, the newest last; or those of one machine, at each of its destinations.
///
/// SIZE is what the images hold, READ the bytes of tar that were read of the machines, and SENT what went to all
/// destinations together.
#[derive(Args)]
pub struct HistoryCommand {
    /// Only this machine.
    machine: Option<String>,
    #[command(flatten)]
    file: FleetFile,
    /// Only so many of the newest nights.
    #[arg(long, value_name = "N")]
    nights: Option<usize>,
    /// Print JSON: the nights' sums, or the machine's outcomes, as the nights' files have them.
    #[arg(long)]
    json: bool,
}

/// What a night's file says of one machine at a destination.
#[derive(serde::Serialize)]
struct OfMachine<'a> {
    night: &'a str,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

impl HistoryCommand {
    pub fn run(self) -> Result<ExitCode> {
        let (_, history) = self.file.with_history()?;
        let nights = newest(&history, self.nights);
        let text = match &self.machine {
            None => {
                let sums: Vec<_> = nights.iter().map(Night::sums).collect();
                if self.json { serde_json::to_string_pretty(&sums).unwrap_or_default() } else { table(&sums) }
            }
            Some(machine) => {
                let mut outcomes = Vec::new();
                for night in nights {
                    let of_machine = night.outcomes.iter().filter(|outcome| outcome.machine == *machine);
                    outcomes.extend(of_machine.map(|outcome| OfMachine { night: &night.night, outcome }));
                }
                if self.json {
                    serde_json::to_string_pretty(&outcomes).unwrap_or_default()
                } else {
                    of_machine(&outcomes)
                }
            }
        };
        if text.is_empty() { Ok(ExitCode::SUCCESS) } else { crate::cli::print(&text) }
    }
}

fn newest(history: &History, count: Option<usize>) -> &[Night] {
    let all = &history.nights;
    &all[all.len().saturating_sub(count.unwrap_or(all.len()))..]
}

fn time(at: Option<Timestamp>) -> String {
    let shown = |at: Timestamp| at.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string();
    at.map_or_else(|| "-".to_owned(), shown)
}

/// Whole seconds, in minutes and hours where there are any.
fn took(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.round()).unwrap_or_default();
    humantime::format_duration(whole).to_string()
}

fn table(nights: &[Sums]) -> String {
    if nights.is_empty() {
        return String::new();
    }
    let head = ["NIGHT", "BEGAN", "TOOK", "EXIT", "DONE", "FAILED", "SKIPPED", "SIZE", "READ", "SENT", "TROUBLES"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(nights.iter().map(|sums| {
        [
            sums.night.clone(),
            time(sums.began),
            took(sums.seconds),
            sums.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
            sums.done.to_string(),
            // What was not reached is no success either.
            (sums.failed + sums.pending).to_string(),
            sums.skipped.to_string(),
            size(sums.size_bytes),
            size(sums.read_bytes),
            size(sums.sent_bytes),
            sums.troubles.to_string(),
        ]
    }));
    columns::table(&rows)
}

fn of_machine(outcomes: &[OfMachine]) -> String {
    if outcomes.is_empty() {
        return String::new();
    }
    let head = ["NIGHT", "DESTINATION", "BECAME", "TOOK", "SIZE", "READ", "SENT", "NAME OR REASON"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(outcomes.iter().map(|OfMachine { night, outcome }| {
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size);
        let image = outcome.image.as_ref();
        let became = match outcome.state {
            Standing::Done => "done",
            Standing::Failed => "FAILED",
            Standing::Skipped => "skipped",
            Standing::Pending => "not reached",
        };
        [
            (*night).to_owned(),
            outcome.destination.clone(),
            became.to_owned(),
            outcome.began.map_or_else(|| "-".to_owned(), |_| took(outcome.seconds)),
            bytes(image.map(|image| image.tar_bytes)),
            bytes(image.map(|image| image.read_bytes)),
            bytes(image.map(|image| image.sent_bytes)),
            outcome.trouble.as_ref().map_or_else(|| outcome.name.clone(), |trouble| trouble.text.clone()),
        ]
    }));
    columns::table(&rows)
}
