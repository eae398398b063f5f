//! `smolfreeze fleet status`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use smolfreeze::error::Result;
use smolfreeze::fleet::file::Unselected;
use smolfreeze::fleet::run;
use smolfreeze::fleet::status::{LastError, Pair, Standing, Status};
use smolfreeze::text;

use super::FleetFile;
use crate::cli::columns;

/// Say of every selected machine, at each of its destinations, how old its last good snapshot is, and why it last failed.
///
/// The exit code is 13 when one is older than its policy allows or was never made, and, if the file says `unselected = "fail"`,
/// when a machine has no policy.
#[derive(Args)]
pub struct StatusCommand {
    #[command(flatten)]
    file: FleetFile,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl StatusCommand {
    pub async fn run(self) -> Result<ExitCode> {
        let (file, history) = self.file.with_history()?;
        let status = Status::of(&file, &history, run::list(&super::host(&file)?).await, Timestamp::now())?;
        let text = if self.json { serde_json::to_string_pretty(&status).unwrap_or_default() } else { shown(&status) };
        crate::cli::print(&text)?;
        Ok(if status.is_right { ExitCode::SUCCESS } else { Status::EXIT_CODE_WRONG.into() })
    }
}

fn shown(status: &Status) -> String {
    let zone = TimeZone::system();
    let mut rows =
        vec![["MACHINE", "DESTINATION", "STANDS", "LAST GOOD", "AGE", "LIMIT", "LAST ERROR"].map(str::to_owned)];
    rows.extend(status.pairs.iter().map(|pair| row(pair, &zone)));
    let mut parts = Vec::new();
    if let Some(reason) = &status.smolvm {
        parts.push(format!("smolvm could not be asked, so the machines are those of the last nights: {reason}"));
    }
    parts.push(if status.pairs.is_empty() { "no machine is selected".to_owned() } else { columns::table(&rows) });
    parts.extend(read_in_full(status));
    parts.push(summary(status));
    parts.join("\n")
}

/// The machines of which each night reads everything, by why it does.
fn read_in_full(status: &Status) -> Vec<String> {
    let mut machines = BTreeMap::<&str, BTreeSet<&str>>::new();
    for pair in &status.pairs {
        if let Some(why) = &pair.in_full {
            machines.entry(why).or_default().insert(&pair.machine);
        }
    }
    let line = |(why, machines): (&str, BTreeSet<&str>)| {
        let machines: Vec<_> = machines.into_iter().collect();
        text::line(&format!("all of it was read, not what has changed: {}: {why}", machines.join(", "))).into_owned()
    };
    machines.into_iter().map(line).collect()
}

fn row(pair: &Pair, zone: &TimeZone) -> [String; 7] {
    let good = pair.last_good.as_ref();
    let seconds = |seconds: u64| columns::age(i64::try_from(seconds).unwrap_or(i64::MAX));
    let taken = |at: Timestamp| at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string();
    let stands = match pair.standing {
        Standing::Good => "good",
        Standing::Old => "OLD",
        Standing::Never => "NEVER",
    };
    [
        pair.machine.clone(),
        pair.destination.clone(),
        stands.to_owned(),
        good.map_or_else(|| "-".to_owned(), |good| taken(good.taken)),
        good.map_or_else(|| "-".to_owned(), |good| seconds(good.age_seconds)),
        pair.max_age_seconds.map_or_else(|| "-".to_owned(), seconds),
        pair.last_error.as_ref().map_or_else(String::new, error),
    ]
}

fn error(error: &LastError) -> String {
    let mended = if error.is_mended { " (not since)" } else { "" };
    format!("{}{mended}: {}", error.night, error.trouble.text)
}

fn summary(status: &Status) -> String {
    let (old, never, all) = (status.count(Standing::Old), status.count(Standing::Never), status.pairs.len());
    let mut parts =
        vec![format!("{} of {all} are good, {old} too old, {never} never made", status.count(Standing::Good))];
    if !status.unselected.is_empty() && status.unselected_means != Unselected::Ignore {
        parts.push(format!("without a policy: {}", status.unselected.join(", ")));
    }
    let run = status.last_night.as_ref().and_then(|last| Some((&last.night, last.run.as_ref()?.exit)));
    parts.push(match run {
        None => "no run yet".to_owned(),
        Some((night, None)) => format!("the run of night {night} has not ended, or was killed"),
        Some((night, Some(code))) => format!("the last run was of night {night} and ended with {code}"),
    });
    text::line(&parts.join("; ")).into_owned()
}
