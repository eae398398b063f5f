//! The distribution specification's endpoints, one function each. Nothing is decided here.

use std::future::Future;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::answer::Answer;
use super::content::Content;
use super::failure::{Cause, Failure, Io, Stale, Step};
use super::http::{Ask, BODY_STALLS, Client, header};
use crate::oci::json::DOCUMENT_BYTES_MAX;
use crate::oci::{Descriptor, Digest, Media};
use crate::stage::digest::DigestHasher;

/// A registry that hashes, or moves, a whole blob before it answers a `PUT` gets so many stall timeouts for it.
const FINISH_STALLS: u32 = 10;

/// An upload session: where its next request goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Session(pub Url);

/// What a registry says of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It isn't there.
    Absent,
    /// It is there.
    Present {
        /// Its bytes, where the registry says how many.
        size: Option<u64>,
    },
}

/// A new session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Where it is.
    pub session: Session,
    /// `OCI-Chunk-Min-Length`: the registry wants no smaller parts, in bytes.
    pub part_bytes_min: Option<u64>,
}

/// What a session says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Where its next request goes.
    pub session: Session,
    /// Bytes it has, from the first on, where it says so.
    pub received: Option<u64>,
}

/// The requests an upload is made of. A fuzzer answers them as it likes.
pub trait Wire: Send + Sync {
    /// `HEAD /v2/NAME/blobs/DIGEST`.
    fn head(&self, digest: &Digest) -> impl Future<Output = Result<Found, Failure>> + Send;
    /// `POST /v2/NAME/blobs/uploads/`.
    fn open(&self) -> impl Future<Output = Result<Opened, Failure>> + Send;
    /// `POST /v2/NAME/blobs/uploads/?mount=DIGEST&from=NAME`: a session, or none where the blob is there now.
    fn mount(&self, digest: &Digest, from: &str) -> impl Future<Output = Result<Option<Opened>, Failure>> + Send;
    /// `PATCH` of a session: bytes from `offset` on; without one, all there will be.
    fn patch(
        &self,
        at: &Session,
        offset: Option<u64>,
        content: Content,
    ) -> impl Future<Output = Result<Accepted, Failure>> + Send;
    /// `GET` of a session: how far it got.
    fn status(&self, at: &Session) -> impl Future<Output = Result<Accepted, Failure>> + Send;
    /// `PUT` of a session: the blob is complete with `content`, which may be empty.
    fn finish(
        &self,
        at: &Session,
        digest: &Digest,
        content: Content,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// `DELETE` of a session.
    fn cancel(&self, at: &Session) -> impl Future<Output = Result<(), Failure>> + Send;
    /// A new token in place of the one that was refused.
    fn refresh(&self, stale: &Stale) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl Wire for Client {
    async fn head(&self, digest: &Digest) -> Result<Found, Failure> {
        let url = self.at(Step::Head, &format!("blobs/{digest}"))?;
        let answer = self.send(Ask::new(Step::Head, Method::HEAD, url)).await?;
        if !answer.response.status().is_success() {
            return Ok(Found::Absent);
        }
        Ok(Found::Present { size: answer.header(CONTENT_LENGTH).and_then(|length| length.parse().ok()) })
    }

    async fn open(&self) -> Result<Opened, Failure> {
        let url = self.at(Step::Open, "blobs/uploads/")?;
        opened(self, &self.send(Ask::new(Step::Open, Method::POST, url)).await?)
    }

    async fn mount(&self, digest: &Digest, from: &str) -> Result<Option<Opened>, Failure> {
        let mut url = self.at(Step::Open, "blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        let ask = || self.send(Ask::new(Step::Open, Method::POST, url.clone()));
        let answer = match ask().await {
            // Reading there may take a token that says so.
            Err(Failure { stale: Some(stale), .. }) => {
                self.renew(&stale, Some(from)).await?;
                ask().await?
            }
            answer => answer?,
        };
        if answer.response.status() == StatusCode::CREATED { Ok(None) } else { opened(self, &answer).map(Some) }
    }

    async fn patch(&self, at: &Session, offset: Option<u64>, content: Content) -> Result<Accepted, Failure> {
        let range = offset.zip(content.length());
        let mut ask = Ask { content, stalls: BODY_STALLS, ..Ask::new(Step::Patch, Method::PATCH, at.0.clone()) };
        ask.headers.insert(CONTENT_TYPE, header("application/octet-stream"));
        if let Some((offset, length)) = range {
            // The specification's form: both ends inclusive, without a unit.
            ask.headers.insert(CONTENT_RANGE, header(&format!("{offset}-{}", (offset + length).saturating_sub(1))));
        }
        accepted(self, at, &self.send(ask).await?)
    }

    async fn status(&self, at: &Session) -> Result<Accepted, Failure> {
        accepted(self, at, &self.send(Ask::new(Step::Status, Method::GET, at.0.clone())).await?)
    }

    async fn finish(&self, at: &Session, digest: &Digest, content: Content) -> Result<(), Failure> {
        let mut url = at.0.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut ask = Ask { content, stalls: FINISH_STALLS, ..Ask::new(Step::Finish, Method::PUT, url) };
        ask.headers.insert(CONTENT_TYPE, header("application/octet-stream"));
        self.send(ask).await.map(drop)
    }

    async fn cancel(&self, at: &Session) -> Result<(), Failure> {
        self.send(Ask::new(Step::Cancel, Method::DELETE, at.0.clone())).await.map(drop)
    }

    async fn refresh(&self, stale: &Stale) -> Result<(), Failure> {
        self.renew(stale, None).await
    }
}

impl Client {
    /// `GET /v2/`.
    pub(super) async fn ping(&self) -> Result<(), Failure> {
        self.send(Ask::new(Step::Ping, Method::GET, self.root.clone())).await.map(drop)
    }

    /// `PUT /v2/NAME/manifests/TAG`; the digest that the registry gave it, where it says so.
    pub(super) async fn put_manifest(
        &self,
        tag: &str,
        manifest: &(Descriptor, Bytes),
    ) -> Result<Option<String>, Failure> {
        let url = self.at(Step::Manifest, &format!("manifests/{tag}"))?;
        let mut ask =
            Ask { content: Content::chunks(vec![manifest.1.clone()]), ..Ask::new(Step::Manifest, Method::PUT, url) };
        ask.headers.insert(CONTENT_TYPE, header(&manifest.0.media_type));
        let answer = self.send(ask).await?;
        Ok(answer.header("docker-content-digest").map(str::to_owned))
    }

    /// `GET /v2/NAME/manifests/REFERENCE`.
    pub(super) async fn get_manifest(&self, reference: &str, accept: &str) -> Result<Answer, Failure> {
        let mut ask = Ask::new(Step::Read, Method::GET, self.at(Step::Read, &format!("manifests/{reference}"))?);
        ask.headers.insert(ACCEPT, header(accept));
        self.send(ask).await
    }

    /// `HEAD /v2/NAME/manifests/REFERENCE`; 404 is an answer.
    pub(super) async fn head_manifest(&self, reference: &str) -> Result<Answer, Failure> {
        let mut ask = Ask::new(Step::Head, Method::HEAD, self.at(Step::Head, &format!("manifests/{reference}"))?);
        ask.headers.insert(ACCEPT, header(Media::accepted().as_str()));
        self.send(ask).await
    }

    /// `DELETE /v2/NAME/manifests/REFERENCE`; 404 is an answer.
    pub(super) async fn delete_manifest(&self, reference: &str) -> Result<(), Failure> {
        let url = self.at(Step::Delete, &format!("manifests/{reference}"))?;
        self.send(Ask::new(Step::Delete, Method::DELETE, url)).await.map(drop)
    }

    /// `GET /v2/NAME/tags/list`, or the page that another one names as the next.
    pub(super) async fn list_tags(&self, next: Option<Url>) -> Result<Answer, Failure> {
        let url = next.map_or_else(|| self.at(Step::Read, "tags/list?n=1000"), Ok)?;
        self.send(Ask::new(Step::Read, Method::GET, url)).await
    }

    /// What is there under a tag, where that can be found out.
    pub(super) async fn stored_manifest(&self, tag: &str) -> Option<Digest> {
        let answer = self.get_manifest(tag, Media::accepted().as_str()).await.ok()?;
        let bytes = answer.bytes(usize::try_from(DOCUMENT_BYTES_MAX).unwrap_or(usize::MAX)).await.ok()?;
        Some(DigestHasher::of(&bytes))
    }

    /// `GET /v2/NAME/blobs/DIGEST`, from `offset` on.
    pub(super) async fn get_blob(&self, digest: &Digest, offset: u64) -> Result<Answer, Failure> {
        let mut ask = Ask::new(Step::Read, Method::GET, self.at(Step::Read, &format!("blobs/{digest}"))?);
        if offset > 0 {
            ask.headers.insert(RANGE, header(&format!("bytes={offset}-")));
        }
        self.send(ask).await
    }

    fn at(&self, step: Step, path: &str) -> Result<Url, Failure> {
        self.repository.join(path).map_err(|error| Failure::new(step, Cause::Io(Io::Refused), error))
    }
}

fn opened(client: &Client, answer: &Answer) -> Result<Opened, Failure> {
    let location = answer.header(LOCATION).filter(|location| !location.trim().is_empty());
    let session = match (location, answer.header("docker-upload-uuid")) {
        (Some(location), _) => client.follow(Step::Open, answer.response.url(), location)?,
        // The place that the specification's first version gave sessions.
        (None, Some(uuid)) if uuid.chars().all(|character| character.is_ascii_alphanumeric() || character == '-') => {
            client.at(Step::Open, &format!("blobs/uploads/{uuid}"))?
        }
        _ => return Err(Failure::new(Step::Open, Cause::Nonsense, "the answer has no Location")),
    };
    Ok(Opened {
        session: Session(session),
        part_bytes_min: answer.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok()),
    })
}

fn accepted(client: &Client, at: &Session, answer: &Answer) -> Result<Accepted, Failure> {
    let session = match answer.header(LOCATION) {
        Some(location) => Session(client.follow(answer.step, answer.response.url(), location)?),
        None => at.clone(),
    };
    Ok(Accepted { session, received: answer.header(RANGE).and_then(received) })
}

/// `0-N` to N + 1. `0-0` is what registries say of an empty session, so it counts as nothing; a byte is sent twice then.
pub(super) fn received(range: &str) -> Option<u64> {
    let range = range.trim();
    let range = range.strip_prefix("bytes").map_or(range, |rest| rest.trim_start_matches(['=', ' ']));
    match range.strip_prefix("0-")?.parse::<u64>().ok()? {
        0 => Some(0),
        last => last.checked_add(1),
    }
}
