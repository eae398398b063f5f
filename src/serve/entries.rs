//! Which entry of the layout's index is whose: pure.
//!
//! `org.opencontainers.image.ref.name` is `REPOSITORY:TAG`. A plain tag, as others write it (`oci:DIR:TAG`), belongs to
//! the *home* repository. A manifest without a tag keeps its repository in an annotation of ours; without that, and where
//! a name is neither of the two, it is the home repository's, by digest alone. Where two entries are one tag's, the last
//! one counts.

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::name::{Repository, Tag};
use crate::layout::REF_NAME;
use crate::oci::{Descriptor, Digest};

/// The annotation that keeps the repository of an entry without a tag.
const REPOSITORY: &str = "smolfreeze.repository";

/// An entry of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub repository: Repository,
    /// Its tag, if it has one.
    pub tag: Option<Tag>,
    /// The manifest.
    pub manifest: Descriptor,
}

impl Entry {
    /// Reads an entry; none if it has no descriptor that can be served.
    fn read(value: &Value, home: &Repository) -> Option<Self> {
        let manifest = Descriptor::deserialize(value).ok()?;
        let annotation = |key: &str| value["annotations"][key].as_str();
        let (repository, tag) = match annotation(REF_NAME) {
            Some(name) => named(name, home),
            None => (annotation(REPOSITORY).and_then(|name| Repository::parse(name).ok()), None),
        };
        Some(Self { repository: repository.unwrap_or_else(|| home.clone()), tag, manifest })
    }

    fn is(&self, repository: &Repository, tag: &Tag) -> bool {
        self.repository == *repository && self.tag.as_ref() == Some(tag)
    }

    fn holds(&self, repository: &Repository, digest: Digest) -> bool {
        self.repository == *repository && self.manifest.digest == digest
    }

    fn write(&self) -> Value {
        let Self { repository, tag, manifest } = self;
        let annotations = match tag {
            Some(tag) => json!({ REF_NAME: format!("{repository}:{}", tag.as_str()) }),
            None => json!({ REPOSITORY: repository.to_string() }),
        };
        let Descriptor { media_type, digest, size } = manifest;
        json!({ "mediaType": media_type, "digest": digest, "size": size, "annotations": annotations })
    }
}

fn named(name: &str, home: &Repository) -> (Option<Repository>, Option<Tag>) {
    match name.rsplit_once(':') {
        None => (Some(home.clone()), Tag::parse(name)),
        Some((repository, tag)) => match (Repository::parse(repository), Tag::parse(tag)) {
            (Ok(repository), Some(tag)) => (Some(repository), Some(tag)),
            _ => (None, None),
        },
    }
}

/// The list of manifests in an index, and the repository of plain tags.
pub struct Entries<'a> {
    /// As they are in the index; what is not understood stays as it is.
    pub manifests: &'a mut Vec<Value>,
    /// The home repository.
    pub home: &'a Repository,
}

/// All entries that can be served, in the index' order.
#[must_use]
pub fn read(manifests: &[Value], home: &Repository) -> Vec<Entry> {
    manifests.iter().filter_map(|value| Entry::read(value, home)).collect()
}

impl Entries<'_> {
    /// Adds a manifest, under a tag if there is one. What the tag named before stays, without a tag.
    pub fn put(&mut self, new: &Entry) {
        let Entry { repository, tag, manifest } = new;
        let Some(tag) = tag else {
            if !self.any(|entry| entry.holds(repository, manifest.digest)) {
                self.manifests.push(new.write());
            }
            return;
        };
        let written = new.write();
        let is_tags = |value: &&Value| Entry::read(value, self.home).is_some_and(|entry| entry.is(repository, tag));
        if self.manifests.iter().filter(is_tags).eq([&written]) {
            return;
        }
        let before = self.take(|entry| entry.is(repository, tag));
        self.take(|entry| entry.holds(repository, manifest.digest) && entry.tag.is_none());
        self.manifests.push(written);
        self.keep(before);
    }

    /// Takes a tag away; its manifest stays. Whether there was one.
    pub fn remove_tag(&mut self, repository: &Repository, tag: &Tag) -> bool {
        let removed = self.take(|entry| entry.is(repository, tag));
        let was_there = !removed.is_empty();
        self.keep(removed);
        was_there
    }

    /// Takes a manifest away, with all its tags. Whether there was one.
    pub fn remove_manifest(&mut self, repository: &Repository, digest: Digest) -> bool {
        !self.take(|entry| entry.holds(repository, digest)).is_empty()
    }

    /// Keeps what lost its tag.
    fn keep(&mut self, removed: Vec<Entry>) {
        for entry in removed {
            self.put(&Entry { tag: None, ..entry });
        }
    }

    fn any(&self, is: impl Fn(&Entry) -> bool) -> bool {
        self.manifests.iter().filter_map(|value| Entry::read(value, self.home)).any(|entry| is(&entry))
    }

    fn take(&mut self, is: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut taken = Vec::new();
        self.manifests.retain(|value| match Entry::read(value, self.home).filter(|entry| is(entry)) {
            Some(entry) => {
                taken.push(entry);
                false
            }
            None => true,
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str) -> Repository {
        Repository::parse(name).unwrap()
    }

    fn entry(name: &str, tag: Option<&str>, fill: char) -> Entry {
        let digest = format!("sha256:{}", fill.to_string().repeat(64)).parse().unwrap();
        let manifest = Descriptor { media_type: "a/b".to_owned(), digest, size: 1 };
        Entry { repository: repository(name), tag: tag.and_then(Tag::parse), manifest }
    }

    fn foreign(name: Option<&str>, fill: char) -> Value {
        let mut value = entry("x", None, fill).write();
        value["annotations"] = name.map_or(json!({"kept": "as it is"}), |name| json!({ REF_NAME: name }));
        value
    }

    #[test]
    fn names_of_others_are_understood() {
        let home = repository("home");
        for (name, whose, tag) in [
            (Some("v1"), "home", Some("v1")),
            (Some("team/app:v1"), "team/app", Some("v1")),
            (Some("docker.io/library/x:1.0"), "docker.io/library/x", Some("1.0")),
            (Some("a@b+c"), "home", None),
            (Some("UPPER:v1"), "home", None),
            (Some("../x:v1"), "home", None),
            (None, "home", None),
        ] {
            assert_eq!(read(&[foreign(name, 'a')], &home), [entry(whose, tag, 'a')], "{name:?}");
        }
        assert!(read(&[json!({"digest": "sha256:12"}), json!(1)], &home).is_empty());
    }

    #[test]
    fn a_tag_moves_and_manifests_stay() {
        let home = repository("home");
        let (first, second, other) =
            (entry("home", Some("v1"), 'a'), entry("home", Some("v1"), 'b'), entry("t", Some("v1"), 'a'));
        let mut manifests = vec![foreign(Some("v1"), 'a'), json!("nonsense")];
        let mut entries = Entries { manifests: &mut manifests, home: &home };
        entries.put(&other);
        entries.put(&second);
        entries.put(&second);
        let untagged = Entry { tag: None, ..first.clone() };
        assert_eq!(read(entries.manifests, &home), [other.clone(), second.clone(), untagged.clone()]);

        entries.put(&first);
        let second_untagged = Entry { tag: None, ..second.clone() };
        assert_eq!(read(entries.manifests, &home), [other.clone(), first.clone(), second_untagged.clone()]);

        let tag = Tag::parse("v1").unwrap();
        assert!(entries.remove_tag(&home, &tag) && !entries.remove_tag(&home, &tag));
        assert_eq!(read(entries.manifests, &home), [other.clone(), second_untagged, untagged]);
        assert!(entries.remove_manifest(&home, first.manifest.digest));
        assert!(!entries.remove_manifest(&home, first.manifest.digest));
        assert_eq!(read(entries.manifests, &home).len(), 2);
        assert!(manifests.contains(&json!("nonsense")));
    }
}
