//! Manifests: by tag, and by digest.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, LOCATION};
use axum::http::{HeaderMap, Response, StatusCode};

use super::blobs::answer;
use super::entries::Entry;
use super::fault::{Code, Fault};
use super::manifest::{self, Manifest};
use super::name::{Reference, Repository};
use super::router::{DOCKER_CONTENT_DIGEST, Registry, header, off_the_runtime};
use super::uploads;
use crate::oci::Descriptor;
use crate::oci::json::DOCUMENT_BYTES_MAX;
use crate::stage::digest::DigestHasher;

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// `GET` and `HEAD /v2/NAME/manifests/REFERENCE`.
pub async fn read(
    State(registry): State<Arc<Registry>>,
    Extension(repository): Extension<Repository>,
    Path(reference): Path<String>,
) -> Result<Response<Body>, Fault> {
    let reference = Reference::parse(&reference)?;
    let found = off_the_runtime(move || registry.store.manifest(&repository, &reference)).await?;
    let (Descriptor { media_type, digest, .. }, bytes) = found;
    let response = Response::builder()
        .header(CONTENT_TYPE, media_type)
        .header(CONTENT_LENGTH, bytes.len())
        .header(ETAG, format!("\"{digest}\""))
        .header(DOCKER_CONTENT_DIGEST, digest.to_string());
    answer(response.body(Body::from(bytes)))
}

/// `PUT /v2/NAME/manifests/REFERENCE`.
pub async fn write(
    State(registry): State<Arc<Registry>>,
    Extension(repository): Extension<Repository>,
    Path(reference): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Fault> {
    let bytes = uploads::small_body(body, DOCUMENT_BYTES_MAX).await?.ok_or_else(manifest::too_large)?;
    let reference = Reference::parse(&reference)?;
    // A parameter, such as a charset, is no part of the type.
    let stated = header(&headers, &CONTENT_TYPE).and_then(|value| value.split(';').next()).map(str::trim);
    let parsed = Manifest::parse(&bytes, stated)?;
    let digest = DigestHasher::of(&bytes);
    let tag = match reference {
        Reference::Tag(tag) => Some(tag),
        Reference::Digest(asked) if asked == digest => None,
        Reference::Digest(asked) => {
            return Err(Fault::new(Code::DigestInvalid, format!("the manifest is {digest}, not {asked}")));
        }
    };
    let mut response = Response::builder()
        .status(StatusCode::CREATED)
        .header(LOCATION, format!("/v2/{repository}/manifests/{digest}"))
        .header(DOCKER_CONTENT_DIGEST, digest.to_string());
    if let Some(subject) = parsed.subject {
        response = response.header(OCI_SUBJECT, subject.to_string());
    }
    let manifest = Descriptor { media_type: parsed.media_type.clone(), digest, size: bytes.len() as u64 };
    let entry = Entry { repository, tag, manifest };
    off_the_runtime(move || registry.store.put_manifest(&entry, &parsed, &bytes)).await?;
    answer(response.body(Body::empty()))
}

/// `DELETE /v2/NAME/manifests/REFERENCE`.
pub async fn remove(
    State(registry): State<Arc<Registry>>,
    Extension(repository): Extension<Repository>,
    Path(reference): Path<String>,
) -> Result<StatusCode, Fault> {
    let reference = Reference::parse(&reference)?;
    off_the_runtime(move || registry.store.remove_manifest(&repository, &reference)).await?;
    Ok(StatusCode::ACCEPTED)
}
