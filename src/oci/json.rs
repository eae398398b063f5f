//! JSON of others, in bounded memory.

use serde::Deserialize;

/// No manifest, index or config is larger: registries and other tools stop there, too.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Objects and arrays in one document. A small one takes some 700 bytes of memory, and as little as 8 of text.
const VALUES_MAX: usize = 100_000;

/// Reads a document, unless it would take far more memory than its text.
///
/// # Errors
/// What is wrong with it.
pub fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    let begun = text.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if begun > VALUES_MAX {
        return Err(format!("it has {begun} objects and lists, and more than {VALUES_MAX} are not read"));
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}
