//! `smolfreeze verify`.

use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::{Kind, Result};
use smolfreeze::state::State;
use smolfreeze::stored::{Stored, StoredName, Wanted};
use smolfreeze::text;

use super::given::Given;
use super::{PlatformArgument, RegistryArguments};
use crate::bars::{self, ProgressMode};

/// Read all of an image or a .smolmachine file again, and check sizes, digests, diff_ids and tars.
///
/// The last image of a folder is compared with what this host's state folder knows of it, entry by entry.
#[derive(Args)]
pub struct Verify {
    /// A reference, oci:DIR[:TAG] (in a layout that was served also oci:DIR:NAME:TAG), or an artifact: a path that ends in
    /// .smolmachine, or pack:PATH.
    image: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Refuse an image whose layers unpack to more than this (100GiB).
    #[arg(long, value_name = "SIZE", value_parser = super::bytes)]
    max_size: Option<u64>,
    /// How to show progress.
    #[arg(long, value_enum, default_value = "auto")]
    progress: ProgressMode,
    #[command(flatten)]
    platform: PlatformArgument,
    #[command(flatten)]
    registry: RegistryArguments,
}

impl Verify {
    /// Verifies, and prints each fault on a line of its own.
    pub async fn run(self, given: &Given) -> Result<ExitCode> {
        let name: StoredName = self.image.parse()?;
        given.check_read(&self.image, matches!(name, StoredName::Registry(_)))?;
        let wanted = Wanted { tar_bytes_max: self.max_size, ..self.platform.of(&name) };
        let stored = Stored::open(wanted, self.registry.options(), RegistryArguments::context()).await?;
        let (observer, shown) = bars::observer(self.progress, false);
        let state = super::state_folder().and_then(|folder| State::at(&folder).ok());
        let indexes = state.map(|state| state.indexes());
        let verified = stored.verify(indexes.as_deref(), &observer).await;
        shown.finish();
        let verified = verified?;
        if self.json {
            super::print(&serde_json::to_string_pretty(&verified).unwrap_or_default())?;
        } else if verified.faults.is_empty() {
            let size = |bytes: u64| humansize::format_size(bytes, humansize::BINARY);
            super::print(&format!(
                "verified    {}: {} layers, {} entries, {} of tar in {} stored",
                text::line(&self.image),
                verified.layers,
                verified.entries,
                size(verified.tar_bytes),
                size(verified.stored_bytes)
            ))?;
            if let Some(entries) = verified.compared {
                super::print(&format!("compared    with the index of this host: {entries} entries"))?;
            }
        } else {
            super::print(&text::lines(&verified.faults))?;
        }
        Ok(if verified.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(Kind::Corrupt.exit_code()) })
    }
}
