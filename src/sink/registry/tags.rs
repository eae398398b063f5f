//! The names of a repository: what they stand for, and taking one away.
//!
//! By its name, where the registry can: nothing else is touched then. Where it can't (docker-registry 2.8), the manifest
//! goes, and all of its names with it: so only when no other tag of the whole list, and no index under one, has it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, LINK};
use serde_json::Value;

use super::failure::{Cause, Failure, Io, Step};
use super::http::Client;
use super::report::{RegistryOptions, Report};
use super::retry::{self, Request};
use super::{Reached, SinkContext};
use crate::error::{Error, Result};
use crate::oci::json::DOCUMENT_BYTES_MAX;
use crate::oci::{Digest, Media, json};
use crate::stage::digest::DigestHasher;

/// Tags that are asked for at a time.
const QUESTIONS: usize = 8;
/// What the registry said of a tag counts for so long: others may give it to something else.
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// Pages of a list of tags; more is no list.
const PAGES_MAX: usize = 10_000;

/// One repository of a registry, whose names may be taken away.
#[derive(Debug)]
pub struct RegistryTags {
    name: String,
    client: Client,
    report: Report,
    /// What the registry said of each tag, and when.
    known: Mutex<HashMap<String, (Instant, Manifest)>>,
    /// It does not take single names away.
    only_manifests: AtomicBool,
}

/// What became of a name that was to be taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untagged {
    /// It is gone.
    Removed,
    /// It was not there.
    Absent,
    /// It stands for another image, and was left alone.
    Other(Digest),
    /// The registry takes away manifests alone, and this one is needed by another tag, which is named.
    Shared(String),
    /// The registry takes nothing away, in its own words.
    Refused(String),
}

/// What a tag stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Manifest {
    digest: Digest,
    /// It may list others.
    is_index: bool,
}

/// Repository and tag of an image's name.
///
/// # Errors
/// When it is no name that an image can be written under.
pub fn repository_and_tag(reference: &str) -> Result<(String, String)> {
    let parsed = super::parse_name(reference)?;
    let tag = parsed.tag().unwrap_or_default().to_owned();
    Ok((format!("{}/{}", parsed.registry(), parsed.repository()), tag))
}

impl RegistryTags {
    /// Finds credentials, and reaches the registry of an image.
    ///
    /// # Errors
    /// As [`RegistrySink::connect`](super::RegistrySink::connect).
    pub async fn connect(reference: &str, options: RegistryOptions, context: SinkContext) -> Result<Self> {
        let parsed = super::parse_name(reference)?;
        let name = format!("{}/{}", parsed.registry(), parsed.repository());
        // To delete is to write, for most; who wants another word for it says so in the challenge.
        let Reached { client, report, .. } = super::reach(parsed, "pull,push", options, context).await?;
        Ok(Self { name, client, report, known: Mutex::default(), only_manifests: AtomicBool::new(false) })
    }

    /// The manifest that a tag stands for; none where there is no such tag.
    ///
    /// # Errors
    /// When the registry does not say.
    pub async fn digest(&self, tag: &str) -> Result<Option<Digest>> {
        Ok(self.look(tag).await?.map(|manifest| manifest.digest))
    }

    /// Takes a tag away that stands for `digest`.
    ///
    /// # Errors
    /// When the registry fails; whether the tag is there then is not known.
    pub async fn remove(&self, tag: &str, digest: Digest) -> Result<Untagged> {
        match self.digest(tag).await? {
            None => return Ok(Untagged::Absent),
            Some(other) if other != digest => return Ok(Untagged::Other(other)),
            Some(_) => {}
        }
        if !self.only_manifests.load(Ordering::Relaxed) {
            if self.delete(tag).await?.is_none() && self.digest(tag).await?.is_none() {
                return Ok(Untagged::Removed);
            }
            self.only_manifests.store(true, Ordering::Relaxed);
        }
        if let Some(other) = self.sharing(tag, digest).await? {
            return Ok(Untagged::Shared(other));
        }
        if let Some(words) = self.delete(&digest.to_string()).await? {
            return Ok(Untagged::Refused(words));
        }
        match self.digest(tag).await? {
            None => Ok(Untagged::Removed),
            Some(_) => Ok(Untagged::Refused("it says that it is done, and has the image as before".to_owned())),
        }
    }

    /// Why the registry does not do it; none where it did.
    async fn delete(&self, reference: &str) -> Result<Option<String>> {
        let asked = Request(async || match self.client.delete_manifest(reference).await {
            Err(failure) if failure.is_refusal() => Ok(Some(failure.to_string())),
            outcome => outcome.map(|()| None),
        });
        let words = retry::run(&self.client, &self.report, &format!("manifest '{reference}'"), asked).await?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(reference);
        Ok(words)
    }

    /// Another tag that has this manifest, or an index that lists it.
    async fn sharing(&self, tag: &str, digest: Digest) -> Result<Option<String>> {
        let tags = self.tags().await?;
        if !tags.contains(tag) {
            let reason = format!("its list of tags has no '{tag}', which is there");
            return Err(Error::sink("listing the tags", &self.name, reason));
        }
        let others: Vec<_> = tags.into_iter().filter(|other| other != tag).collect();
        let needed = others.iter().map(async |other| {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(other).copied();
            let manifest = match known.filter(|(since, _)| since.elapsed() < KNOWN_FOR) {
                Some((_, manifest)) => Some(manifest),
                None => self.look(other).await?,
            };
            let needs = match manifest {
                Some(manifest) if manifest.digest == digest => true,
                Some(manifest) if manifest.is_index => self.lists(manifest.digest, digest).await?,
                _ => false,
            };
            Ok::<_, Error>(needs.then(|| other.clone()))
        });
        let needed: Vec<_> = needed.collect();
        let mut found = stream::iter(needed).buffer_unordered(QUESTIONS);
        while let Some(other) = found.try_next().await? {
            if other.is_some() {
                return Ok(other);
            }
        }
        Ok(None)
    }

    /// Whether an index lists a manifest, or another index, which may.
    async fn lists(&self, index: Digest, manifest: Digest) -> Result<bool> {
        let reference = index.to_string();
        let read = Request(async || {
            self.client.get_manifest(&reference, Media::accepted().as_str()).await?.bytes(most()).await
        });
        let bytes = retry::run(&self.client, &self.report, &format!("index '{reference}'"), read).await?;
        let wrong = |reason: String| Error::sink("reading an index", format_args!("{}@{index}", self.name), reason);
        let document: Value = json::read(&bytes).map_err(wrong)?;
        let needs = |entry: &Value| {
            let is_index = entry["mediaType"].as_str().is_none_or(|media| Media::of(media) != Some(Media::Manifest));
            is_index || entry["digest"].as_str() == Some(&manifest.to_string())
        };
        Ok(document["manifests"].as_array().is_some_and(|entries| entries.iter().any(needs)))
    }

    async fn look(&self, tag: &str) -> Result<Option<Manifest>> {
        let asked = Request(async || self.ask(tag).await);
        let found = retry::run(&self.client, &self.report, &format!("tag '{tag}'"), asked).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Some(manifest) => known.insert(tag.to_owned(), (Instant::now(), manifest)),
            None => known.remove(tag),
        };
        Ok(found)
    }

    async fn ask(&self, tag: &str) -> Result<Option<Manifest>, Failure> {
        let is_index = |media: Option<&str>| {
            let media = media.and_then(|media| media.split(';').next()).unwrap_or_default().trim();
            Media::of(media) != Some(Media::Manifest)
        };
        match self.client.head_manifest(tag).await {
            Ok(answer) if answer.response.status().as_u16() == 404 => return Ok(None),
            Ok(answer) => {
                if let Some(digest) = answer.header("docker-content-digest").and_then(|text| text.parse().ok()) {
                    return Ok(Some(Manifest { digest, is_index: is_index(answer.header(CONTENT_TYPE)) }));
                }
            }
            // Some have no HEAD.
            Err(failure) if failure.is_refusal() => {}
            Err(failure) => return Err(failure),
        }
        match self.client.get_manifest(tag, Media::accepted().as_str()).await {
            Ok(answer) => {
                let is_index = is_index(answer.header(CONTENT_TYPE));
                Ok(Some(Manifest { digest: DigestHasher::of(&answer.bytes(most()).await?), is_index }))
            }
            Err(failure) if failure.is_absence() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// All tags of the repository, page by page.
    async fn tags(&self) -> Result<HashSet<String>> {
        let (mut tags, mut next) = (HashSet::new(), None::<Url>);
        for _ in 0..PAGES_MAX {
            let read = Request(async || {
                let answer = self.client.list_tags(next.clone()).await?;
                let following = match answer.header(LINK).and_then(next_page) {
                    Some(target) => Some(self.client.follow(Step::Read, answer.response.url(), target)?),
                    None => None,
                };
                let page: Value = json::read(&answer.bytes(most()).await?)
                    .map_err(|reason: String| Failure::new(Step::Read, Cause::Io(Io::Refused), reason))?;
                Ok((page, following))
            });
            let (page, following) = retry::run(&self.client, &self.report, "its list of tags", read).await?;
            let before = tags.len();
            let names = page["tags"].as_array().into_iter().flatten();
            tags.extend(names.filter_map(Value::as_str).map(str::to_owned));
            match following {
                None => return Ok(tags),
                Some(_) if tags.len() == before => break,
                Some(_) => next = following,
            }
        }
        Err(Error::sink("listing the tags", &self.name, "the list has no end"))
    }
}

/// Where the next page is (RFC 8288).
fn next_page(link: &str) -> Option<&str> {
    link.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| parameter.trim().replace('"', "").eq_ignore_ascii_case("rel=next");
        parameters.split(';').any(is_next).then_some(target)
    })
}

fn most() -> usize {
    usize::try_from(DOCUMENT_BYTES_MAX).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        for (link, wanted) in [
            (r#"</v2/a/tags/list?n=2&last=b>; rel="next""#, Some("/v2/a/tags/list?n=2&last=b")),
            ("<https://r.example/x>; rel=next", Some("https://r.example/x")),
            (r#"</first>; rel="first", </x>; title="a"; rel="next""#, Some("/x")),
            (r#"</x>; rel="prev""#, None),
            ("nonsense", None),
        ] {
            assert_eq!(next_page(link), wanted, "{link}");
        }
    }

    #[test]
    fn a_name_is_a_repository_and_a_tag() {
        let parts = |name: &str| repository_and_tag(name).unwrap();
        assert_eq!(parts("registry.example/a/b:v1"), ("registry.example/a/b".to_owned(), "v1".to_owned()));
        assert_eq!(parts("localhost:5000/a"), ("localhost:5000/a".to_owned(), "latest".to_owned()));
        assert!(repository_and_tag("/srv/a").is_err());
    }
}
