//! Lists: repositories, tags, and what refers to a manifest.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_TYPE, HeaderName, LINK};
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::blobs::answer;
use super::fault::{Code, Fault};
use super::name::{self, Repository};
use super::router::{Registry, off_the_runtime};
use super::store::Store;
use crate::oci::{Digest, INDEX_MEDIA_TYPE};

const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// `GET /v2/_catalog`, which the specification has not and most registries have.
pub async fn catalog(
    State(registry): State<Arc<Registry>>,
    RawQuery(query): RawQuery,
) -> Result<Response<Body>, Fault> {
    let entries = off_the_runtime(move || Ok(registry.store.entries()?)).await?;
    let names: BTreeSet<_> = entries.into_iter().map(|entry| entry.repository.to_string()).collect();
    let page = Page::of(names, query.as_deref())?;
    page.answer("/v2/_catalog", &json!({ "repositories": page.names }))
}

/// `GET /v2/NAME/tags/list`.
pub async fn tags(
    State(registry): State<Arc<Registry>>,
    Extension(repository): Extension<Repository>,
    RawQuery(query): RawQuery,
) -> Result<Response<Body>, Fault> {
    let asked = repository.clone();
    let entries = off_the_runtime(move || registry.store.repository(&asked)).await?;
    let tags: BTreeSet<_> = entries.into_iter().filter_map(|entry| Some(entry.tag?.as_str().to_owned())).collect();
    let page = Page::of(tags, query.as_deref())?;
    let name = repository.to_string();
    page.answer(&format!("/v2/{name}/tags/list"), &json!({ "name": name, "tags": page.names }))
}

/// `GET /v2/NAME/referrers/DIGEST`.
pub async fn referrers(
    State(registry): State<Arc<Registry>>,
    Extension(repository): Extension<Repository>,
    Path(digest): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response<Body>, Fault> {
    let subject = name::digest(&digest)?;
    let wanted = name::query(query.as_deref(), "artifactType");
    let filter = wanted.clone();
    let manifests =
        off_the_runtime(move || referring(&registry.store, &repository, subject, filter.as_deref())).await?;
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": manifests });
    let mut response = Response::builder().header(CONTENT_TYPE, INDEX_MEDIA_TYPE);
    if wanted.is_some() {
        response = response.header(OCI_FILTERS_APPLIED, "artifactType");
    }
    answer(response.body(Body::from(index.to_string())))
}

/// Descriptors of a repository's manifests whose subject is `subject`; blocks.
fn referring(
    store: &Store,
    repository: &Repository,
    subject: Digest,
    artifact_type: Option<&str>,
) -> Result<Vec<Value>, Fault> {
    let mut seen = BTreeSet::new();
    let entries = store.entries()?.into_iter().filter(|entry| entry.repository == *repository);
    let manifests = entries.map(|entry| entry.manifest).filter(|manifest| seen.insert(manifest.digest));
    let mut found = Vec::new();
    for descriptor in manifests {
        let Some(manifest) = store.parse(&descriptor).filter(|manifest| manifest.subject == Some(subject)) else {
            continue;
        };
        if artifact_type.is_some_and(|wanted| manifest.artifact_type.as_deref() != Some(wanted)) {
            continue;
        }
        let mut value = json!({
            "mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size,
        });
        if let Some(artifact_type) = manifest.artifact_type {
            value["artifactType"] = artifact_type.into();
        }
        if !manifest.annotations.is_empty() {
            value["annotations"] = json!(manifest.annotations);
        }
        found.push(value);
    }
    Ok(found)
}

/// A part of a sorted list.
struct Page {
    names: Vec<String>,
    /// Where the next part begins, as a query.
    next: Option<String>,
}

impl Page {
    /// The names after `last`, and `n` of them at most.
    fn of(names: BTreeSet<String>, query: Option<&str>) -> Result<Self, Fault> {
        let invalid = || Fault::new(Code::Unsupported, "n is a number of entries").with_status(StatusCode::BAD_REQUEST);
        let count_max = name::query(query, "n").map(|n| n.parse::<usize>()).transpose().map_err(|_| invalid())?;
        let last = name::query(query, "last").unwrap_or_default();
        let mut names: Vec<_> = names.into_iter().filter(|name| *name > last).collect();
        let mut next = None;
        if let Some(count_max) = count_max.filter(|count_max| *count_max < names.len()) {
            names.truncate(count_max);
            next = names.last().map(|last| format!("n={count_max}&last={last}"));
        }
        Ok(Self { names, next })
    }

    fn answer(&self, path: &str, body: &Value) -> Result<Response<Body>, Fault> {
        let mut response = Response::builder().header(CONTENT_TYPE, "application/json");
        if let Some(next) = &self.next {
            response = response.header(LINK, format!("<{path}?{next}>; rel=\"next\""));
        }
        answer(response.body(Body::from(body.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let names = || ["a", "b", "c", "d"].map(str::to_owned).into();
        let page = |query| Page::of(names(), query).unwrap();
        assert_eq!((page(None).names.len(), page(None).next), (4, None));
        assert_eq!((page(Some("n=4")).names.len(), page(Some("n=4")).next), (4, None));
        let first = page(Some("n=2"));
        assert_eq!((first.names.join(""), first.next.as_deref()), ("ab".to_owned(), Some("n=2&last=b")));
        assert_eq!(page(first.next.as_deref()).names.join(""), "cd");
        assert_eq!((page(Some("n=0")).names.len(), page(Some("n=0")).next), (0, None));
        assert_eq!(page(Some("last=bb")).names.join(""), "cd");
        assert!(Page::of(names(), Some("n=-1")).is_err());
    }
}
