//! What a word on the command line stands for.

use std::path::Path;

use crate::error::{Error, Result};
use crate::oci::Digest;
use crate::plan::LayoutName;
use crate::record::series::Asked;
use crate::record::store::{Listing, Standing, list};
use crate::record::{Output, OutputKind, Record};
use crate::sink::registry;
use crate::state::State;
use crate::stored::StoredName;

/// What is to be thawed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// Where it is stored.
    pub name: StoredName,
    /// The manifest's digest that has to be found there, where a record says one: a tag may have moved on.
    pub digest: Option<Digest>,
}

impl From<StoredName> for Thing {
    fn from(name: StoredName) -> Self {
        Self { name, digest: None }
    }
}

/// What `text` names: an artifact's file, else a layout's image, else a record of the state folder `state`, by its ID, or
/// the newest of the machine or source of this name, else a reference.
///
/// # Errors
/// When it can be none of them; when the ID is that of several records; when nothing of the record is left.
pub fn resolve(text: &str, state: Option<&Path>) -> Result<Thing> {
    let name: StoredName = text.parse()?;
    if let (StoredName::Registry(_), Some(folder)) = (&name, state) {
        let listing = list(&State::at(folder)?)?;
        if let Some(record) = find(&listing, text)? {
            return outputs(&listing, record);
        }
    }
    if let StoredName::Registry(reference) = &name {
        registry::check_form(reference)?;
    }
    Ok(name.into())
}

fn find<'a>(listing: &'a Listing, text: &str) -> Result<Option<&'a Record>> {
    let asked = Asked::new(text);
    // The newest is last.
    if let Some(newest) = listing.records.iter().rfind(|record| asked.fits(record)) {
        return Ok(Some(newest));
    }
    if listing.records.iter().any(|record| record.id.to_string().starts_with(text)) {
        return listing.find(text).map(Some);
    }
    Ok(None)
}

/// The artifact if it is there, for it is the shortest way; else the image.
fn outputs(listing: &Listing, record: &Record) -> Result<Thing> {
    let present = |output: &Output, path: &Path| listing.standing(record, path, output.bytes) == Standing::Present;
    if let Some((_, path)) = record.artifacts().find(|(output, path)| present(output, path)) {
        return Ok(StoredName::Artifact(path.to_owned()).into());
    }
    let image = record.outputs.iter().find(|output| output.kind != OutputKind::Artifact);
    let Some(output) = image else {
        let gone: Vec<_> = record.artifacts().map(|(_, path)| path.display().to_string()).collect();
        let reason = format!("its artifact is gone, or is another one now: {}", gone.join(", "));
        return Err(Error::usage("finding the snapshot", format_args!("record {}", record.id), reason));
    };
    let name = match (output.name.parse()?, &output.path) {
        (StoredName::Layout(named), Some(folder)) => StoredName::Layout(LayoutName { folder: folder.clone(), ..named }),
        // Under its digest it is there also when its tag has moved on.
        _ => StoredName::Registry(format!("{}@{}", output.name, output.digest)),
    };
    Ok(Thing { name, digest: Some(output.digest) })
}
