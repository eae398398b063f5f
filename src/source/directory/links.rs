//! Names of files with several links, kept until everything else was written.

use std::collections::HashMap;

use super::meta::Id;

/// The names found so far. Memory: the path and 24 bytes a name, about 50 bytes a file.
#[derive(Default)]
pub(super) struct Links {
    paths: Vec<u8>,
    names: Vec<Name>,
    groups: HashMap<File, u32>,
    files: Vec<File>,
}

/// What makes names those of one file in the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct File {
    pub(super) id: Id,
    /// The folder that no link leaves, if the name is in one.
    pub(super) apart: Option<usize>,
}

struct Name {
    group: u32,
    path_bytes: u32,
    path_at: usize,
}

impl Links {
    /// Remembers one name of `file`. Returns whether it is the first one.
    pub(super) fn add(&mut self, file: File, path: &[u8]) -> bool {
        let new_group = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let group = *self.groups.entry(file).or_insert(new_group);
        if group == new_group {
            self.files.push(file);
        }
        let path_bytes = u32::try_from(path.len()).unwrap_or(u32::MAX);
        self.names.push(Name { group, path_bytes, path_at: self.paths.len() });
        self.paths.extend_from_slice(path);
        group == new_group
    }

    /// All names, group by group in the order the groups were first seen, within a group in the order of the walk.
    pub(super) fn sort(&mut self) {
        self.groups = HashMap::new();
        self.names.sort_by_key(|name| name.group);
    }

    /// What they take of memory.
    pub(super) fn bytes(&self) -> usize {
        let groups =
            self.groups.capacity() * (size_of::<(File, u32)>() + 1) + self.files.capacity() * size_of::<File>();
        self.paths.capacity() + self.names.capacity() * size_of::<Name>() + groups
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The name at `index` and the file that had it when it was seen.
    pub(super) fn get(&self, index: usize) -> (File, &[u8]) {
        let name = &self.names[index];
        (self.files[name.group as usize], &self.paths[name.path_at..][..name.path_bytes as usize])
    }
}
