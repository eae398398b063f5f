//! Blobs: whole, a part, or gone.

use std::io::SeekFrom;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use axum::http::{HeaderMap, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::fault::{Code, Fault};
use super::name;
use super::range::Wanted;
use super::router::{DOCKER_CONTENT_DIGEST, Registry, header, off_the_runtime};
use crate::error::Error;

/// Bytes that one read of a blob takes.
const READ_BYTES: usize = 256 << 10;

/// `GET` and `HEAD /v2/NAME/blobs/DIGEST`.
pub async fn read(
    State(registry): State<Arc<Registry>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Result<Response<Body>, Fault> {
    let digest = name::digest(&digest)?;
    let (file, size) = off_the_runtime(move || registry.store.blob(digest)).await?;
    // A blob never changes under its name, so an If-Range would always be true.
    let (status, range) = match Wanted::parse(header(&headers, &RANGE), size) {
        Wanted::Whole => (StatusCode::OK, 0..size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Beyond => {
            return Err(Fault::new(Code::SizeInvalid, format!("the blob has {size} bytes"))
                .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
                .with_header(CONTENT_RANGE, format!("bytes */{size}")));
        }
    };
    let mut file = tokio::fs::File::from_std(file);
    file.seek(SeekFrom::Start(range.start))
        .await
        .map_err(|error| Error::sink("reading a blob", digest, &error).because(error))?;
    let length = range.end - range.start;
    let mut response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(CONTENT_LENGTH, length)
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, format!("\"{digest}\""))
        .header(DOCKER_CONTENT_DIGEST, digest.to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        response = response.header(CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1));
    }
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), READ_BYTES));
    answer(response.body(body))
}

/// `DELETE /v2/NAME/blobs/DIGEST`.
pub async fn remove(State(registry): State<Arc<Registry>>, Path(digest): Path<String>) -> Result<StatusCode, Fault> {
    let digest = name::digest(&digest)?;
    off_the_runtime(move || registry.store.remove_blob(digest)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// An answer whose headers are all ours, so that it can always be built.
pub fn answer(built: Result<Response<Body>, axum::http::Error>) -> Result<Response<Body>, Fault> {
    built.map_err(|error| Fault::new(Code::Unknown, error.to_string()))
}
