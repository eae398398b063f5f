//! How large a folder is as a tar, from looking at its entries alone.

use super::Directory;
use super::header::{BLOCK_BYTES, Header, Target, Writer, padding};
use super::links::{File, Links};
use super::meta::{Kind, Meta};
use super::walk::{Seen, Walk};
use super::xattrs::Xattrs;
use crate::error::Result;
use crate::source::Survey;
use crate::stop::Stop;

/// Walks through `directory` and adds up. Exact on a folder that rests, but for attributes and links' long texts.
pub(super) fn survey(directory: &Directory, stop: &Stop) -> Result<Survey> {
    let mut totals = Totals::default();
    let mut tar_bytes = 2 * BLOCK_BYTES as u64;
    let mut survey = Survey::default();
    let mut walk = Walk::new(directory, stop);
    while let Some(seen) = walk.next()? {
        let (Seen::Folder { meta, .. } | Seen::Entry { meta, .. } | Seen::MountedFile { meta }) = seen else {
            continue;
        };
        survey.entries += 1;
        let file = directory.rules.file(meta.id, walk.path());
        let content_bytes = totals.content_bytes(&meta, file, walk.path());
        survey.largest_entry_bytes = survey.largest_entry_bytes.max(content_bytes);
        tar_bytes += totals.header_bytes(&meta, walk.path()) + content_bytes + padding(content_bytes) as u64;
    }
    survey.tar_bytes = Some(tar_bytes);
    Ok(survey)
}

#[derive(Default)]
struct Totals {
    headers: Writer,
    header: Vec<u8>,
    none: Xattrs,
    links: Links,
}

impl Totals {
    fn content_bytes(&mut self, meta: &Meta, file: File, path: &[u8]) -> u64 {
        let is_another_name = meta.kind != Kind::Directory && meta.links > 1 && !self.links.add(file, path);
        if meta.kind == Kind::Regular && !is_another_name { meta.size_bytes } else { 0 }
    }

    fn header_bytes(&mut self, meta: &Meta, path: &[u8]) -> u64 {
        self.header.clear();
        self.headers.write(&mut self.header, &Header { path, meta, target: Target::Nowhere, xattrs: &self.none });
        self.header.len() as u64
    }
}
