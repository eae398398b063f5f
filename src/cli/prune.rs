//! `smolfreeze prune`.

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use jiff::tz::TimeZone;
use smolfreeze::error::{Error, Kind, Result, Side};
use smolfreeze::record::Record;
use smolfreeze::record::retention::{Count, Policy, Reason, Within};
use smolfreeze::record::series::Asked;
use smolfreeze::record::store::{Elsewhere, Listing, Removed, list};
use smolfreeze::state::State;
use smolfreeze::text;

/// Remove all freezes but those that a rule keeps, with the artifacts that the state folder keeps for them.
///
/// The rules are those of restic: each counts the newest freeze of the newest hours, days, weeks (from Monday), months or
/// years that have one, in local time, source by source, or --name by --name; one that any rule keeps stays. A freeze of
/// standard input without a --name is of no source, and stays. Images in registries and OCI
/// layouts, and artifacts that --pack put elsewhere, are never touched.
#[derive(Args)]
#[command(group(ArgGroup::new("rule").required(true).multiple(true)))]
pub struct Prune {
    /// Only those of this source (a machine's NAME, dir:PATH, tar:FILE), or of this --name.
    source: Option<String>,
    /// Keep the last N, or 'unlimited'; so for all rules.
    #[arg(long, short = 'l', value_name = "N", default_value = "0", group = "rule", hide_default_value = true)]
    keep_last: Count,
    /// Keep the last N hourly ones.
    #[arg(long, short = 'H', value_name = "N", default_value = "0", group = "rule", hide_default_value = true)]
    keep_hourly: Count,
    /// Keep the last N daily ones.
    #[arg(long, short = 'd', value_name = "N", default_value = "0", group = "rule", hide_default_value = true)]
    keep_daily: Count,
    /// Keep the last N weekly ones.
    #[arg(long, short = 'w', value_name = "N", default_value = "0", group = "rule", hide_default_value = true)]
    keep_weekly: Count,
    /// Keep the last N monthly ones.
    #[arg(long, short = 'm', value_name = "N", default_value = "0", group = "rule", hide_default_value = true)]
    keep_monthly: Count,
    /// Keep the last N yearly ones.
    #[arg(long, short = 'y', value_name = "N", default_value = "0", group = "rule", hide_default_value = true)]
    keep_yearly: Count,
    /// Keep all that are younger than this, seen from the newest (1y5m7d2h).
    #[arg(long, value_name = "DURATION", group = "rule")]
    keep_within: Option<Within>,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(serde::Serialize)]
struct Report {
    dry_run: bool,
    kept: Vec<Kept>,
    removed: Vec<Gone>,
    /// What dead freezes left behind, removed.
    swept: Vec<std::path::PathBuf>,
}

#[derive(serde::Serialize)]
struct Kept {
    id: String,
    source: String,
    reasons: Vec<Reason>,
}

#[derive(serde::Serialize)]
struct Gone {
    id: String,
    source: String,
    #[serde(flatten)]
    removed: Removed,
    #[serde(skip)]
    line: String,
}

impl Prune {
    /// Decides, removes, sweeps, and prints what was done, however far it came.
    pub fn run(self) -> Result<ExitCode> {
        let policy = self.policy()?;
        let state = if self.dry_run { State::at(&super::state_path()?)? } else { super::state()? };
        let mut report = Report { dry_run: self.dry_run, kept: Vec::new(), removed: Vec::new(), swept: Vec::new() };
        let done = self.carry_out(&state, &policy, &mut report);
        if self.json {
            super::print(&serde_json::to_string_pretty(&report).unwrap_or_default())?;
        } else {
            report.lines().try_for_each(|line| super::print(&line).map(drop))?;
        }
        done.map(|()| ExitCode::SUCCESS)
    }

    fn carry_out(&self, state: &State, policy: &Policy, report: &mut Report) -> Result<()> {
        let listing = list(state)?;
        super::warn_of(&listing);
        let asked = self.source.as_deref().map(Asked::new);
        let is_asked =
            |records: &[&Record]| asked.as_ref().is_none_or(|asked| records.iter().any(|one| asked.fits(one)));
        for records in listing.by_series().into_values().filter(|records| is_asked(records)) {
            for (record, reasons) in listing.judge(state, &records, policy, &TimeZone::system()) {
                if reasons.is_empty() {
                    report.removed.push(self.remove(state, &listing, record)?);
                } else {
                    report.kept.push(Kept { id: record.id.to_string(), source: record.source.clone(), reasons });
                }
            }
        }
        let swept = if self.dry_run { None } else { state.sweep()? }.unwrap_or_default();
        report.swept = swept.removed;
        match swept.left.first() {
            Some(left) => Err(Error::new(Kind::Sink, Side::Plan, "removing what a dead freeze left", left, "it stays")),
            None => Ok(()),
        }
    }

    fn policy(&self) -> Result<Policy> {
        let policy = Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
        };
        if policy.is_empty() {
            let reason = "it keeps nothing";
            return Err(
                Error::usage("reading the rules", "--keep-…", reason).hint("to remove freezes, use 'smolfreeze rm'")
            );
        }
        Ok(policy)
    }

    fn remove(&self, state: &State, listing: &Listing, record: &Record) -> Result<Gone> {
        let (verb, removed) = if self.dry_run {
            ("would remove", listing.removal(state, record, Elsewhere::Keep))
        } else {
            ("removed", listing.remove(state, record, Elsewhere::Keep)?)
        };
        let line = super::removal_line(verb, record, &removed);
        Ok(Gone { id: record.id.to_string(), source: record.source.clone(), removed, line })
    }
}

impl Report {
    fn lines(&self) -> impl Iterator<Item = String> {
        let kept = self.kept.iter().map(|kept| {
            let reasons: Vec<_> = kept.reasons.iter().map(ToString::to_string).collect();
            format!("{} {}  {}", if self.dry_run { "would keep" } else { "kept" }, kept.id, reasons.join(", "))
        });
        let removed = self.removed.iter().map(|gone| gone.line.clone());
        kept.chain(removed)
            .chain(self.swept.iter().map(|path| text::line(&format!("swept {}", path.display())).into_owned()))
    }
}
