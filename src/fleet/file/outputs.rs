//! A destination as a freeze takes it.

use std::path::Path;

use super::{Destination, PackWithKey};
use crate::error::{Error, Result};
use crate::fleet::place::{Template, Values};
use crate::plan::OutputSpec;

impl Destination {
    /// Its name with placeholders, as it stands in the file.
    #[must_use]
    pub fn written(&self) -> &str {
        self.to.as_deref().or(self.pack.as_deref()).unwrap_or_default()
    }

    /// Its name with placeholders.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] for a placeholder that is none.
    pub fn template(&self) -> Result<Template> {
        let written = self.written();
        written.parse().map_err(|reason| Error::usage("reading a destination", format_args!("'{written}'"), reason))
    }

    /// Where an image goes. `pack_with` says who packs artifacts.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] for what is no name with these values.
    pub fn output(&self, values: &Values, pack_with: PackWithKey) -> Result<OutputSpec> {
        let name = self.template()?.expand(values);
        match (&self.pack, pack_with) {
            (None, _) => name.parse(),
            (Some(_), PackWithKey::Smolvm) => OutputSpec::packed(Path::new(&name)),
            (Some(_), PackWithKey::Auto | PackWithKey::Own) => OutputSpec::artifact(Path::new(&name)),
        }
    }
}
