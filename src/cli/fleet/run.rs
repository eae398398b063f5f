//! `smolfreeze fleet run`.

use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::{Error, Result};
use smolfreeze::fleet::after::{Step, What};
use smolfreeze::fleet::file::{File, Unselected};
use smolfreeze::fleet::night::{Night, Outcome, Snapshot, Standing};
use smolfreeze::fleet::notify;
use smolfreeze::fleet::run::{self, Around, Asked, BUSY, Exit, Finished, HostClock, Job, Preview, Ran};
use smolfreeze::stop::Stop;
use smolfreeze::text;

use super::FleetFile;
use crate::bars::ProgressMode;
use crate::bars::fleet::Watch;

/// Freeze every machine that the file selects, to all its destinations.
///
/// What is done in a night is not done again: a run that was interrupted is gone on with by the next one. Exit codes: 0 every
/// image is there; 7 and 8 it is, but something was left undone, or a file of earlier images was not what it should have been;
/// 10 some images are not there; 11 none is; 12 no machine is selected; 14 another run is under way.
#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are flags of the command line")]
pub struct RunCommand {
    #[command(flatten)]
    file: FleetFile,
    /// The night's name; by default the date on which it began.
    #[arg(long, value_name = "NAME")]
    night: Option<String>,
    /// Freeze again what is done in this night.
    #[arg(long)]
    force: bool,
    /// Only machines whose names match. Repeatable.
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Begin at once, whatever the file's jitter.
    #[arg(long)]
    now: bool,
    /// Print what would be done, in which order, how long it takes by the last time, and which old snapshots would go then; do
    /// nothing.
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print the night, or with --dry-run what would be done, as JSON.
    #[arg(long)]
    json: bool,
    /// How to show progress.
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto, value_name = "HOW")]
    progress: ProgressMode,
    /// Print nothing but errors.
    #[arg(long, short)]
    quiet: bool,
}

impl RunCommand {
    pub async fn run(self, stop: Stop) -> Result<ExitCode> {
        let file = match File::read(&self.file.path()) {
            Ok(file) => file,
            Err(error) if self.dry_run => return Err(error),
            Err(error) => {
                // Who waits for a ping hears why there is none.
                let text = std::fs::read_to_string(self.file.path()).unwrap_or_default();
                let unheard = notify::refused(&text, &error.to_string()).await;
                for trouble in &unheard {
                    crate::cli::remark(&trouble.text);
                }
                return Err(error);
            }
        };
        let host = super::host(&file)?;
        let asked = Asked { night: self.night.clone(), force: self.force, only: self.only.clone(), now: self.now };
        if self.dry_run {
            let preview = run::preview(&file, &host, &asked, &HostClock).await?;
            return self.print_preview(&file, &preview);
        }
        let watch = Watch::new(self.progress, self.quiet);
        let around = Around { clock: &HostClock, watcher: &*watch.watcher };
        let ran = Box::pin(run::run(&file, &host, &asked, around, &stop)).await;
        watch.finish();
        match ran? {
            Ran::Busy(who) => {
                let reason = format!("another run is under way: {who}");
                crate::cli::remark(&Error::usage("running the fleet", &file.name, reason).to_string());
                Ok(BUSY.into())
            }
            Ran::Finished(finished) => self.tell(&file, &finished),
        }
    }

    fn tell(&self, file: &File, finished: &Finished) -> Result<ExitCode> {
        let Finished { night, exit, machines } = finished;
        if self.json {
            crate::cli::print(&serde_json::to_string_pretty(night).unwrap_or_default())?;
        } else if !self.quiet {
            crate::cli::print(&summary(night, machines))?;
        }
        if self.quiet {
            failed(night, machines).for_each(|outcome| crate::cli::remark(&line(outcome)));
        }
        if file.unselected != Unselected::Ignore && !night.unselected.is_empty() {
            crate::cli::remark(&format!("no policy selects {}", night.unselected.join(", ")));
        }
        if *exit == Exit::NothingSelected {
            crate::cli::remark("no machine is selected; see --dry-run and 'smolvm machine ls'");
        }
        Ok(exit.code().into())
    }

    fn print_preview(&self, file: &File, preview: &Preview) -> Result<ExitCode> {
        let jobs = &preview.work.jobs;
        let seconds = run::forecast_seconds(jobs, file.concurrency.get());
        if self.json {
            let told: Vec<_> = jobs.iter().map(job_json).collect();
            let told = serde_json::json!({
                "night": preview.night, "machines": told, "seconds": seconds, "unselected": preview.unselected,
                "retention": preview.retention.iter().map(step_json).collect::<Vec<_>>(),
            });
            crate::cli::print(&serde_json::to_string_pretty(&told).unwrap_or_default())?;
        } else {
            let mut lines = vec![format!("night {}: {} of {} machines", preview.night, jobs.len(), preview.selected)];
            lines.extend(jobs.iter().flat_map(job_lines));
            lines.extend(preview.work.settled.iter().map(line));
            let unselected = (!preview.unselected.is_empty()).then(|| preview.unselected.join(", "));
            lines.extend(unselected.map(|names| format!("no policy selects {names}")));
            lines.extend(preview.retention.iter().map(ToString::to_string));
            lines.extend(seconds.map(|seconds| format!("about {seconds:.0} s, by the last time")));
            crate::cli::print(&text::lines(lines))?;
        }
        Ok(if preview.selected == 0 { Exit::NothingSelected.code().into() } else { ExitCode::SUCCESS })
    }
}

fn step_json(step: &Step) -> serde_json::Value {
    let (does, why) = match &step.what {
        What::Removes => ("removes", None),
        What::Finishes => ("finishes", None),
        What::Leaves(why) => ("leaves", Some(why)),
    };
    let Snapshot { machine, destination, name, .. } = &step.snapshot;
    serde_json::json!({ "machine": machine, "destination": destination, "name": name, "does": does, "why": why })
}

fn job_json(job: &Job) -> serde_json::Value {
    let names: Vec<_> = job
        .places
        .iter()
        .map(|place| serde_json::json!({ "destination": place.destination, "name": place.name }))
        .collect();
    serde_json::json!({
        "machine": job.machine.name, "state": job.machine.state, "policy": job.terms.policy, "to": names,
        "last_seconds": job.last.map(|last| last.0), "last_read_bytes": job.last.map(|last| last.1),
    })
}

fn job_lines(job: &Job) -> Vec<String> {
    let last = job.last.map_or("never frozen".to_owned(), |(seconds, bytes)| {
        format!("{seconds:.0} s and {} the last time", humansize::format_size(bytes, humansize::BINARY))
    });
    let stopped = match (job.is_stopped(), job.terms.stopped) {
        (false, _) => "",
        (true, smolfreeze::fleet::file::Stopped::Skip) => ", stopped: skipped",
        (true, smolfreeze::fleet::file::Stopped::Start) => ", stopped: started and stopped again",
    };
    let head = format!("{:<24} {} ({last}{stopped})", job.machine.name, job.terms.policy);
    std::iter::once(head).chain(job.places.iter().map(|place| format!("    {}", place.name))).collect()
}

fn of<'a>(night: &'a Night, machines: &'a [String]) -> impl Iterator<Item = &'a Outcome> {
    night.outcomes.iter().filter(|outcome| machines.contains(&outcome.machine))
}

fn failed<'a>(night: &'a Night, machines: &'a [String]) -> impl Iterator<Item = &'a Outcome> {
    of(night, machines).filter(|outcome| outcome.state != Standing::Skipped && outcome.good().is_none())
}

fn summary(night: &Night, machines: &[String]) -> String {
    let done = of(night, machines).filter(|outcome| outcome.good().is_some()).count();
    let all = of(night, machines).count();
    let mut lines: Vec<_> = of(night, machines).map(line).collect();
    lines.sort();
    let troubles = night.runs.last().into_iter().flat_map(|run| &run.troubles).chain(&night.after.troubles);
    lines.extend(troubles.map(|trouble| trouble.text.clone()));
    lines.extend(night.after.remarks.iter().cloned());
    lines.extend(night.after.removed.iter().map(|removed| format!("removed      {}", removed.name)));
    let failed = failed(night, machines).count();
    lines.push(format!("night {}: {done} of {all} images, {failed} failed", night.night));
    text::lines(lines)
}

fn line(outcome: &Outcome) -> String {
    let why = outcome.trouble.as_ref().map_or("", |trouble| trouble.text.as_str());
    let size = |bytes: u64| humansize::format_size(bytes, humansize::BINARY);
    let Outcome { machine, destination, name, .. } = outcome;
    match (outcome.state, &outcome.image) {
        (Standing::Done, _) if outcome.fault().is_some() => {
            format!("{machine:<24} {name}: DAMAGED: {}", outcome.fault().unwrap_or_default())
        }
        (Standing::Done, Some(made)) => {
            let (seconds, read, sent) = (outcome.seconds, size(made.read_bytes), size(made.sent_bytes));
            let remarks: Vec<_> = outcome.remarks.iter().chain(&made.alarm).cloned().chain(outcome.in_full()).collect();
            let remarks = if remarks.is_empty() { String::new() } else { format!("; {}", remarks.join("; ")) };
            format!("{machine:<24} {name}@{}  {seconds:.1} s, {read} read, {sent} sent{remarks}", made.digest)
        }
        (Standing::Skipped, _) => format!("{machine:<24} {destination}: skipped: {why}"),
        _ => format!("{machine:<24} {destination}: FAILED: {why}"),
    }
}
