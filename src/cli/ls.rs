//! `smolfreeze ls`.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use smolfreeze::error::Result;
use smolfreeze::record::series::Asked;
use smolfreeze::record::store::{Listing, Standing, list};
use smolfreeze::record::{Output, OutputKind, Record};
use smolfreeze::state::State;
use smolfreeze::text;

use super::columns;

/// List the freezes of this host, the newest last.
///
/// SIZE is what the image's layers take where they are stored, READ the bytes of tar that were read of the source, and SENT
/// what went to all outputs together.
/// An artifact that is gone is marked `missing`, and one that a later freeze wrote over `replaced`.
#[derive(Args)]
pub struct Ls {
    /// Only those of this source (a machine's NAME, dir:PATH, tar:FILE), or of this --name.
    source: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    record: &'a Record,
    /// Whether a local artifact is not there any more, or is of another freeze.
    missing: bool,
}

impl Ls {
    /// Reads the records, and prints them.
    pub fn run(self) -> Result<ExitCode> {
        let listing = match super::state_folder() {
            Some(folder) => list(&State::at(&folder)?)?,
            None => Listing::default(),
        };
        super::warn_of(&listing);
        let asked = self.source.as_deref().map(Asked::new);
        let asked = |record: &&Record| asked.as_ref().is_none_or(|asked| asked.fits(record));
        let records: Vec<_> = listing.records.iter().filter(asked).collect();
        if self.json {
            let missing = |record: &Record| {
                record.artifacts().any(|(output, path)| standing(&listing, record, output, path) != Standing::Present)
            };
            let listed: Vec<_> =
                records.into_iter().map(|record| Listed { record, missing: missing(record) }).collect();
            return super::print(&serde_json::to_string_pretty(&listed).unwrap_or_default());
        }
        if records.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        super::print(&table(&listing, &records))
    }
}

fn standing(listing: &Listing, record: &Record, output: &Output, path: &Path) -> Standing {
    listing.standing(record, path, output.bytes)
}

fn table(listing: &Listing, records: &[&Record]) -> String {
    let (now, zone) = (Timestamp::now(), TimeZone::system());
    let mut rows = vec![["ID", "TIME", "AGE", "SOURCE", "SIZE", "READ", "SENT", "OUTPUTS"].map(str::to_owned)];
    rows.extend(records.iter().map(|record| {
        [
            record.id.to_string(),
            record.started.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string(),
            columns::age(now.duration_since(record.started).as_secs()),
            source(record),
            columns::size(record.stored_bytes),
            columns::size(record.tar_bytes),
            columns::size(record.sent_bytes),
            record.outputs.iter().map(|output| shown(listing, record, output)).collect::<Vec<_>>().join("  "),
        ]
    }));
    columns::table(&rows)
}

fn source(record: &Record) -> String {
    let name = record.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    text::line(&format!("{}{name}", record.source)).into_owned()
}

fn shown(listing: &Listing, record: &Record, output: &Output) -> String {
    let (OutputKind::Artifact, Some(path)) = (output.kind, &output.path) else { return output.name.clone() };
    let mark = match standing(listing, record, output, path) {
        Standing::Present => "",
        Standing::Missing => " (missing)",
        Standing::Replaced => " (replaced)",
    };
    format!("{}{mark}", path.display())
}
