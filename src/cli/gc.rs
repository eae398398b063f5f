//! `smolfreeze gc`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use smolfreeze::error::Result;
use smolfreeze::layout::collect::{Collected, Sum, collect};
use smolfreeze::text;

/// Remove the blobs of an OCI layout folder that no image in it needs.
///
/// Without --delete it only tells. Needed is whatever the index names, and all that this names in turn, whoever wrote it.
/// Nothing is removed while a freeze or `smolfreeze serve` uses the folder. Other programs don't say that they use it: what
/// is younger than --older-than stays for their sake.
#[derive(Args)]
pub struct Gc {
    /// The layout's folder.
    folder: PathBuf,
    /// Remove what is found.
    #[arg(long)]
    delete: bool,
    /// Only what has been in the folder for longer than this (24h, 7d).
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "24h")]
    older_than: Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Gc {
    /// Collects, and prints what was found.
    pub fn run(self) -> Result<ExitCode> {
        let found = collect(&self.folder, self.older_than, self.delete)?;
        if self.json {
            return super::print(&serde_json::to_string_pretty(&found).unwrap_or_default());
        }
        super::print(&self.lines(&found))
    }

    fn lines(&self, found: &Collected) -> String {
        let size = |bytes: u64| humansize::format_size(bytes, humansize::BINARY);
        let sum = |sum: &Sum| format!("{} blobs of {}", sum.count, size(sum.bytes));
        let verb = if found.deleted { "removed" } else { "would remove" };
        let blobs = found.blobs.iter().map(|blob| format!("{verb} {}  {}", blob.digest, size(blob.bytes)));
        let leftovers = found.leftovers.iter().map(|path| format!("{verb} {}", path.display()));
        let mut lines: Vec<_> = blobs.chain(leftovers).collect();
        let bytes = found.blobs.iter().map(|blob| blob.bytes).sum();
        let gone = Sum { count: found.blobs.len() as u64, bytes };
        let age = humantime::format_duration(self.older_than);
        lines.push(format!("{verb} {}", sum(&gone)));
        lines.push(format!(
            "keeping {} that are needed, and {} younger than {age}",
            sum(&found.needed),
            sum(&found.young)
        ));
        if found.in_use {
            lines.push("somebody is using the folder, so nothing can be removed now".to_owned());
        } else if !found.deleted && lines.len() > 2 {
            lines.push("--delete removes them".to_owned());
        }
        text::lines(lines)
    }
}
