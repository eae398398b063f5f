//! What a word on the command line stands for.

use crate::error::Result;
use crate::stored::StoredName;

/// What `text` names: an artifact's file, else a layout's image, else a reference.
///
/// # Errors
/// When it can be none of them.
pub fn resolve(text: &str) -> Result<StoredName> {
    // A machine's name or a record's ID goes here, behind files and layouts and before references: its record has the
    // names of what was stored.
    text.parse()
}
