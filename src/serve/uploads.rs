//! Uploads: in one request, in parts, or not at all because the blob is there.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderName, LOCATION, RANGE, RETRY_AFTER};
use axum::http::{HeaderMap, Response, StatusCode};
use futures_util::StreamExt as _;

use super::blobs::answer;
use super::fault::{Code, Fault};
use super::name::{self, Repository};
use super::patience::Arriving;
use super::range;
use super::router::{DOCKER_CONTENT_DIGEST, Registry, header, off_the_runtime};
use super::session::{Held, Session};
use crate::oci::Digest;

/// Bytes of a body that are gathered before they go to the disk.
const WRITE_BYTES: usize = 1 << 20;
/// Of a body that is refused so much is still read, for so long: a client that can't send on does not see the answer.
const DRAIN_BYTES_MAX: u64 = 64 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// `POST /v2/NAME/blobs/uploads/`, with `?mount=DIGEST`, with `?digest=DIGEST` and the whole blob, or to begin a session.
pub async fn open(
    State(registry): State<Arc<Registry>>,
    Extension(repository): Extension<Repository>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response<Body>, Fault> {
    let mounted = name::query(query.as_deref(), "mount").and_then(|digest| name::digest(&digest).ok());
    if let Some(digest) = mounted {
        // Blobs are one pool: where it comes from makes no difference.
        let registry = Arc::clone(&registry);
        if off_the_runtime(move || registry.store.blob(digest)).await.is_ok() {
            return created(&repository, digest);
        }
    }
    let digest = match name::query(query.as_deref(), "digest").map(|digest| name::digest(&digest)).transpose() {
        Ok(digest) => digest,
        Err(fault) => return Err(refuse(fault, body).await),
    };
    let session = {
        let (registry, repository) = (Arc::clone(&registry), repository.clone());
        off_the_runtime(move || registry.sessions.open(&registry.store, &repository)).await?
    };
    match (digest, session.hold()) {
        (Some(digest), Some(held)) => {
            let shared = Arc::clone(&registry);
            let complete = async move {
                let part = Part { body, range: None };
                let completed = complete(Arc::clone(&shared), session.clone(), held, part, digest).await;
                // Nobody knows of the session, so nobody could go on with it.
                shared.sessions.close(&session);
                completed
            };
            on_its_own(&registry, complete).await?;
            created(&repository, digest)
        }
        _ => accepted(StatusCode::ACCEPTED, &repository, &session, 0),
    }
}

/// `GET` of a session: how far it got.
pub async fn status(
    State(registry): State<Arc<Registry>>,
    Extension(repository): Extension<Repository>,
    Path(id): Path<String>,
) -> Result<Response<Body>, Fault> {
    let session = registry.sessions.find(&repository, &id)?;
    let received = session.received().await.ok_or_else(|| Session::is_over(&id))?;
    accepted(StatusCode::NO_CONTENT, &repository, &session, received)
}

/// `PATCH` of a session: its next bytes.
pub async fn append(
    State(registry): State<Arc<Registry>>,
    Extension(repository): Extension<Repository>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Fault> {
    let (session, held, part) = next_part(&registry, &repository, &id, &headers, body).await?;
    let held = on_its_own(&registry, receive(held, part)).await?;
    let received = held.as_ref().map_or(0, super::session::Upload::received);
    accepted(StatusCode::ACCEPTED, &repository, &session, received)
}

/// `PUT` of a session: its last bytes, if any, and what they all have to be.
pub async fn finish(
    State(registry): State<Arc<Registry>>,
    Extension(repository): Extension<Repository>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    (headers, body): (HeaderMap, Body),
) -> Result<Response<Body>, Fault> {
    let digest = match name::digest(&name::query(query.as_deref(), "digest").unwrap_or_default()) {
        Ok(digest) => digest,
        Err(fault) => return Err(refuse(fault, body).await),
    };
    let (session, held, part) = next_part(&registry, &repository, &id, &headers, body).await?;
    let complete = complete(Arc::clone(&registry), session, held, part, digest);
    on_its_own(&registry, complete).await?;
    created(&repository, digest)
}

/// `DELETE` of a session.
pub async fn cancel(
    State(registry): State<Arc<Registry>>,
    Extension(repository): Extension<Repository>,
    Path(id): Path<String>,
) -> Result<StatusCode, Fault> {
    let session = registry.sessions.find(&repository, &id)?;
    registry.sessions.close(&session);
    Ok(StatusCode::NO_CONTENT)
}

/// A body of at most `bytes_max`; none if it is longer.
///
/// # Errors
/// When it is cut off.
pub async fn small_body(body: Body, bytes_max: u64) -> Result<Option<Vec<u8>>, Fault> {
    let (mut body, mut bytes) = (Arriving::new(body), Vec::new());
    while let Some(more) = body.next().await? {
        bytes.extend_from_slice(&more);
        if bytes.len() as u64 > bytes_max {
            drain(body.rest()).await;
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

/// Bytes on their way, and where they say that they go.
struct Part {
    body: Body,
    range: Option<Range<u64>>,
}

/// Takes a session for the part that is to come, if it is the one that comes next.
async fn next_part(
    registry: &Registry,
    repository: &Repository,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Session, Held, Part), Fault> {
    let taken = async {
        let session = registry.sessions.find(repository, id)?;
        let range = part_range(headers)?;
        let elsewhere = |words: &str| {
            let location = location(repository, &session);
            Fault::new(Code::BlobUploadInvalid, words).with_header(LOCATION, location)
        };
        // It may be one of the same client's, whose end this side has not seen yet.
        let busy = || elsewhere("another request adds to this upload").with_header(RETRY_AFTER, "1".to_owned());
        let held = session.hold_in_turn().await.ok_or_else(busy)?;
        let received = held.as_ref().ok_or_else(|| Session::is_over(id))?.received();
        if range.as_ref().is_some_and(|range| range.start != received) {
            let fault = elsewhere(&format!("the upload has {received} bytes, so the next part begins there"));
            return Err(fault.with_header(RANGE, range::received(received)));
        }
        Ok((session, held, range))
    };
    match taken.await {
        Ok((session, held, range)) => Ok((session, held, Part { body, range })),
        Err(fault) => Err(refuse(fault, body).await),
    }
}

fn part_range(headers: &HeaderMap) -> Result<Option<Range<u64>>, Fault> {
    let Some(text) = header(headers, &CONTENT_RANGE) else { return Ok(None) };
    let invalid = || {
        Fault::new(Code::BlobUploadInvalid, "Content-Range is FIRST-LAST, both inclusive")
            .with_status(StatusCode::BAD_REQUEST)
    };
    let range = range::of_part(text).ok_or_else(invalid)?;
    let length = header(headers, &CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length != range.end - range.start) {
        return Err(Fault::new(Code::SizeInvalid, "Content-Range and Content-Length are not of one length"));
    }
    Ok(Some(range))
}

/// Adds a body to a session. What arrived before a cut is added, too.
async fn receive(mut held: Held, part: Part) -> Result<Held, Fault> {
    let mut body = Arriving::new(part.body);
    let mut left = part.range.as_ref().map_or(u64::MAX, |range| range.end - range.start);
    loop {
        let (mut slices, mut gathered, mut end) = (Vec::new(), 0, None);
        while end.is_none() && gathered < WRITE_BYTES {
            match body.next().await {
                Ok(Some(bytes)) if bytes.len() as u64 > left => {
                    end = Some(Err(Fault::new(Code::SizeInvalid, "there are more bytes than Content-Range says")));
                }
                Ok(Some(bytes)) => {
                    (gathered, left) = (gathered + bytes.len(), left - bytes.len() as u64);
                    slices.push(bytes);
                }
                Ok(None) if part.range.is_some() && left > 0 => {
                    end = Some(Err(Fault::new(Code::SizeInvalid, "there are fewer bytes than Content-Range says")));
                }
                Ok(None) => end = Some(Ok(())),
                Err(cut) => end = Some(Err(cut)),
            }
        }
        let appended = off_the_runtime(move || {
            if let Some(upload) = held.as_mut() {
                upload.append(&slices)?;
            }
            Ok(held)
        });
        held = match (appended.await, end) {
            (Ok(held), None) => held,
            (Ok(held), Some(Ok(()))) => return Ok(held),
            (Err(fault), _) | (Ok(_), Some(Err(fault))) => {
                drain(body.rest()).await;
                return Err(fault);
            }
        };
    }
}

/// Adds a body to a session and makes a blob of it all. The session is over then, whether it was the right one or not.
async fn complete(
    registry: Arc<Registry>,
    session: Session,
    held: Held,
    part: Part,
    digest: Digest,
) -> Result<(), Fault> {
    let mut held = receive(held, part).await?;
    let upload = held.take().ok_or_else(|| Session::is_over(&session.id))?;
    registry.sessions.close(&session);
    off_the_runtime(move || upload.finish(&registry.store, digest)).await
}

/// Runs work that goes on when the request is dropped: a connection that breaks takes its request with it.
async fn on_its_own<T: Send + 'static>(
    registry: &Registry,
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    let done = registry.uploads.spawn(work).await;
    done.unwrap_or_else(|_| Err(Fault::new(Code::Unknown, "the upload came to an end too early")))
}

/// Reads on for a while, so that the client comes to read the answer.
async fn refuse(fault: Fault, body: Body) -> Fault {
    drain(body.into_data_stream()).await;
    fault
}

async fn drain(mut stream: BodyDataStream) {
    let all = async {
        let mut drained = 0;
        while let Some(Ok(bytes)) = stream.next().await {
            drained += bytes.len() as u64;
            if drained > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, all).await;
}

fn location(repository: &Repository, session: &Session) -> String {
    format!("/v2/{repository}/blobs/uploads/{}", session.id)
}

fn accepted(
    status: StatusCode,
    repository: &Repository,
    session: &Session,
    received: u64,
) -> Result<Response<Body>, Fault> {
    let response = Response::builder()
        .status(status)
        .header(LOCATION, location(repository, session))
        .header(RANGE, range::received(received))
        .header(DOCKER_UPLOAD_UUID, &session.id);
    answer(response.body(Body::empty()))
}

fn created(repository: &Repository, digest: Digest) -> Result<Response<Body>, Fault> {
    let response = Response::builder()
        .status(StatusCode::CREATED)
        .header(LOCATION, format!("/v2/{repository}/blobs/{digest}"))
        .header(DOCKER_CONTENT_DIGEST, digest.to_string());
    answer(response.body(Body::empty()))
}
