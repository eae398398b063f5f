//! `smolfreeze rm`.

use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::Result;
use smolfreeze::record::store::{Elsewhere, list};

/// Remove records, and the artifacts that the state folder keeps for them.
///
/// Images in registries and OCI layouts stay, and so does an artifact that --pack put elsewhere, unless --artifacts is
/// given; what stays is printed.
#[derive(Args)]
pub struct Rm {
    /// The freezes: an ID as `smolfreeze ls` shows it, or the beginning of one.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Remove artifacts outside of the state folder too.
    #[arg(long)]
    artifacts: bool,
}

impl Rm {
    /// Finds all of them, then removes one after the other.
    pub fn run(self) -> Result<ExitCode> {
        let state = super::state()?;
        let listing = list(&state)?;
        super::warn_of(&listing);
        let mut records = self.ids.iter().map(|id| listing.find(id)).collect::<Result<Vec<_>>>()?;
        records.sort_by(|one, other| one.id.cmp(&other.id));
        records.dedup_by(|one, other| one.id == other.id);
        let elsewhere = if self.artifacts { Elsewhere::Remove } else { Elsewhere::Keep };
        for record in records {
            let removed = listing.remove(&state, record, elsewhere)?;
            super::print(&super::removal_line("removed", record, &removed))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
