//! A fleet on one page of HTML: the last run, what failed and why, and nights as charts. It needs no network and no script,
//! and names of machines and words of others are escaped by the template engine.

mod chart;
mod figure;
mod machines;
mod nights;
mod problems;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use askama::Template;
use jiff::tz::TimeZone;

use self::chart::Chart;
use self::figure::{count, duration, float, size};
use self::machines::{Growing, Machine, Stage};
use self::problems::Problem;
use super::file::Unselected;
use super::night::History;
use super::status::{Standing, Status};
use crate::error::{Error, Kind, Result, Side};

/// What a page shows of a fleet.
#[derive(Debug, Clone)]
pub struct Shown {
    /// So many of the newest nights.
    pub nights: usize,
    /// Times are told in this zone.
    pub zone: TimeZone,
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page {
    fleet: String,
    host: Option<String>,
    verdict: String,
    mood: &'static str,
    lead: String,
    facts: Vec<Fact>,
    problems: Vec<Problem>,
    machines: Vec<Machine>,
    unselected: String,
    nights_title: String,
    charts: Vec<Chart>,
    width: f64,
    height: f64,
    stages: Vec<Stage>,
    growing: Vec<Growing>,
    version: &'static str,
    made_at: String,
    remark: String,
}

struct Fact {
    label: &'static str,
    value: String,
    note: String,
}

/// The page of a fleet that stands so.
///
/// # Errors
/// When the template can't be filled in.
pub fn html(status: &Status, history: &History, shown: &Shown) -> Result<String> {
    let slots = nights::slots(history, shown.nights);
    let unselected = if status.unselected_means == Unselected::Ignore { &[][..] } else { &status.unselected };
    let page = Page {
        fleet: status.fleet.clone(),
        host: history.nights.last().map(|night| night.host.clone()),
        verdict: verdict(status),
        mood: if status.is_right { "good" } else { "bad" },
        lead: lead(history, &shown.zone),
        facts: facts(history),
        problems: problems::problems(status, history),
        machines: machines::machines(status, history, &slots),
        unselected: unselected.join(", "),
        nights_title: count(slots.len(), "night", "nights"),
        charts: nights::charts(status, &slots),
        width: chart::WIDTH,
        height: chart::HEIGHT,
        stages: machines::stages(history),
        growing: machines::growing(status, &slots),
        version: env!("CARGO_PKG_VERSION"),
        made_at: figure::time(status.at, &shown.zone),
        remark: remark(status, history),
    };
    let failed = |error| Error::new(Kind::Internal, Side::Plan, "making the page", "its template", error);
    page.render().map_err(failed)
}

/// Writes a page to a file: a reader sees the old one or the new one, whole.
///
/// # Errors
/// When it can't be written.
pub fn write(path: &Path, html: &str) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let put = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".smolfreeze-").tempfile_in(folder)?;
        file.write_all(html.as_bytes())?;
        // A web server is another user.
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644))?;
        file.persist(path)?;
        Ok(())
    };
    put().map_err(|error| Error::sink("writing the page", format_args!("'{}'", path.display()), &error).because(error))
}

fn verdict(status: &Status) -> String {
    let (all, good) = (status.pairs.len(), status.count(Standing::Good));
    match all - good {
        _ if all == 0 => "No machine is selected".to_owned(),
        0 if status.is_right => "Every snapshot is as it should be".to_owned(),
        0 => format!("{} no policy", if status.unselected.len() == 1 { "A machine has" } else { "Machines have" }),
        1 => format!("1 of {all} snapshots is too old, or was never made"),
        bad => format!("{bad} of {all} snapshots are too old, or were never made"),
    }
}

/// The newest night in a sentence.
fn lead(history: &History, zone: &TimeZone) -> String {
    let Some(night) = history.nights.last() else { return "There was no run yet.".to_owned() };
    let sums = night.sums();
    let began = sums.began.map_or_else(String::new, |at| format!(" began on {}", figure::time(at, zone)));
    let end = match (sums.ended, sums.exit_code) {
        (None, _) => ", and has not ended: it is still under way, or was killed".to_owned(),
        (Some(_), Some(code)) => format!(", took {} and ended with exit code {code}", duration(sums.seconds)),
        (Some(_), None) => format!(", took {}", duration(sums.seconds)),
    };
    format!("Night {}{began}{end}.", sums.night)
}

fn facts(history: &History) -> Vec<Fact> {
    let Some(night) = history.nights.last() else { return Vec::new() };
    let sums = night.sums();
    let all = sums.done + sums.failed + sums.skipped + sums.pending;
    let parts = [(sums.failed, "failed"), (sums.skipped, "skipped"), (sums.pending, "not reached")];
    let parts: Vec<_> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    let note = if parts.is_empty() { "none failed".to_owned() } else { parts.join(", ") };
    let of_size = |bytes: u64| if sums.size_bytes == 0 { 0.0 } else { float(bytes) / float(sums.size_bytes) };
    let stored = night.made().map(|(_, made)| made.stored_bytes).sum();
    vec![
        Fact { label: "Images made", value: format!("{} of {all}", sums.done), note },
        Fact { label: "In them", value: size(float(sums.size_bytes)), note: "each machine once".to_owned() },
        Fact {
            label: "Read",
            value: size(float(sums.read_bytes)),
            note: format!("{} of that", figure::percent(of_size(sums.read_bytes))),
        },
        Fact { label: "Sent", value: size(float(sums.sent_bytes)), note: format!("{} stored", size(float(stored))) },
        Fact { label: "Took", value: duration(sums.seconds), note: usual(history) },
    ]
}

/// What nights usually take: the median.
fn usual(history: &History) -> String {
    let ended = history.nights.iter().filter(|night| night.ended().is_some());
    let mut seconds: Vec<f64> = ended.map(|night| night.sums().seconds).collect();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).map_or_else(String::new, |seconds| format!("usually {}", duration(*seconds)))
}

fn remark(status: &Status, history: &History) -> String {
    let silent = status
        .smolvm
        .as_ref()
        .map(|reason| format!("smolvm could not be asked, so the machines are those of the last nights: {reason}"));
    let unreadable = (!history.unreadable.is_empty())
        .then(|| format!("{} could not be read", count(history.unreadable.len(), "night", "nights")));
    silent.into_iter().chain(unreadable).collect::<Vec<_>>().join(". ")
}

/// In percent, with one digit behind the point.
fn share(part: f64, all: f64) -> f64 {
    if all > 0.0 { (part / all * 1000.0).round() / 10.0 } else { 0.0 }
}
