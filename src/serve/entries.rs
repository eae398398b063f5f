//! Which entry of the layout's index is whose: pure.
//!
//! `org.opencontainers.image.ref.name` is `REPOSITORY:TAG`. A plain tag, as others write it (`oci:DIR:TAG`), belongs to
//! the *home* repository. A manifest without a tag keeps its repository in an annotation of ours; without that, and where
//! a name is neither of the two, it is the home repository's, by digest alone. Where two entries are one tag's, the last
//! one counts.

use serde_json::{Value, json};

use super::name::{Repository, Tag};
use crate::oci::index::{REF_NAME, descriptor};
use crate::oci::{Descriptor, Digest};

/// The annotation that keeps the repository of an entry without a tag.
const REPOSITORY: &str = "smolfreeze.repository";

/// A repository, and a tag in it.
type Owner = (Repository, Option<Tag>);

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
        let (repository, tag) = whose(value, home);
        Some(Self { repository, tag, manifest: descriptor(value).ok()? })
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

/// The repository and the tag of an entry, whether the rest of it is understood or not.
fn whose(value: &Value, home: &Repository) -> Owner {
    let annotation = |key: &str| value["annotations"][key].as_str();
    let (repository, tag) = match annotation(REF_NAME) {
        Some(name) => named(name, home),
        None => (annotation(REPOSITORY).and_then(|name| Repository::parse(name).ok()), None),
    };
    (repository.unwrap_or_else(|| home.clone()), tag)
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
        let is_it = |value: &Value| descriptor(value).is_ok_and(|there| there == *manifest);
        let Some(tag) = tag else {
            if !self.holds(repository, &manifest.digest.to_string()) {
                self.manifests.push(new.write());
            }
            return;
        };
        let (home, is_tags) = (self.home, |owner: &Owner| *owner == (repository.clone(), Some(tag.clone())));
        let mut tagged = self.manifests.iter().filter(|value| is_tags(&whose(value, home)));
        if tagged.next().is_some_and(is_it) && tagged.next().is_none() {
            return;
        }
        let before = self.take(|value| is_tags(&whose(value, home)));
        self.take(|value| is_it(value) && whose(value, home) == (repository.clone(), None));
        self.manifests.push(new.write());
        self.keep(before);
    }

    /// Takes a tag away; its manifest stays. Whether there was one.
    pub fn remove_tag(&mut self, repository: &Repository, tag: &Tag) -> bool {
        let (home, owner) = (self.home, (repository.clone(), Some(tag.clone())));
        let removed = self.take(|value| whose(value, home) == owner);
        let was_there = !removed.is_empty();
        self.keep(removed);
        was_there
    }

    /// Takes a manifest away, with all its tags. Whether there was one.
    pub fn remove_manifest(&mut self, repository: &Repository, digest: Digest) -> bool {
        let home = self.home;
        let is_it = |entry: &Entry| entry.repository == *repository && entry.manifest.digest == digest;
        !self.take(|value| Entry::read(value, home).is_some_and(|entry| is_it(&entry))).is_empty()
    }

    /// Keeps what lost its tag, with all else that its entry says.
    fn keep(&mut self, removed: Vec<Value>) {
        for mut entry in removed {
            let (repository, _) = whose(&entry, self.home);
            let is_there = entry["digest"].as_str().is_some_and(|digest| self.holds(&repository, digest));
            if let Some(annotations) = entry["annotations"].as_object_mut().filter(|_| !is_there) {
                annotations.remove(REF_NAME);
                annotations.insert(REPOSITORY.to_owned(), repository.to_string().into());
                self.manifests.push(entry);
            }
        }
    }

    /// Whether a repository has a manifest, by a digest of any algorithm.
    fn holds(&self, repository: &Repository, digest: &str) -> bool {
        let is_it = |value: &&Value| value["digest"] == digest && whose(value, self.home).0 == *repository;
        self.manifests.iter().any(|value| is_it(&value))
    }

    fn take(&mut self, is: impl Fn(&Value) -> bool) -> Vec<Value> {
        let (taken, kept) = std::mem::take(self.manifests).into_iter().partition(|value| is(value));
        *self.manifests = kept;
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
