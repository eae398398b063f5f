//! The other way: manifests of a registry, checked against the digest they were asked by, and the bytes of its blobs.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::StatusCode;
use sha2::{Digest as _, Sha256};

use super::answer::{Answer, Trickle};
use super::failure::{Cause, Failure, Io, Step};
use super::http::Client;
use super::report::{RegistryOptions, Report};
use super::retry::{self, Attempt, Recovery, Request};
use super::{Reached, SinkContext};
use crate::error::{Error, Kind, Result, Side};
use crate::oci::json::DOCUMENT_BYTES_MAX;
use crate::oci::{Descriptor, Digest, Media};
use crate::text;

/// One image of a registry, to be read.
#[derive(Debug, Clone)]
pub struct RegistryReader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What is asked for: a digest if the reference has one, else its tag.
    wanted: String,
    name: String,
    client: Client,
    report: Report,
}

impl RegistryReader {
    /// Reads `reference`, finds credentials, and reaches the registry.
    ///
    /// # Errors
    /// As [`RegistrySink::connect`](super::RegistrySink::connect).
    pub async fn connect(reference: &str, options: RegistryOptions, context: SinkContext) -> Result<Self> {
        let Reached { reference, client, report } =
            super::reach(super::reference::parse(reference)?, "pull", options, context).await?;
        let wanted = reference.digest().or(reference.tag()).unwrap_or("latest").to_owned();
        Ok(Self(Arc::new(Inner { wanted, name: reference.to_string(), client, report })))
    }

    /// What the registry has under the image's name: a manifest or an index, and the media type that it states.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when the bytes are not those of the digest.
    pub async fn manifest(&self) -> Result<(Descriptor, Bytes)> {
        self.pull(&self.0.wanted).await
    }

    /// A manifest that an index lists.
    ///
    /// # Errors
    /// As [`Self::manifest`]; when it has another size.
    pub async fn manifest_of(&self, listed: &Descriptor) -> Result<Bytes> {
        let (found, bytes) = self.pull(&listed.digest.to_string()).await?;
        if found.size != listed.size {
            let words = format!("the index says {} bytes of {}, there are {}", listed.size, found.digest, found.size);
            return Err(self.corrupt("reading the manifest", words));
        }
        Ok(bytes)
    }

    /// A blob's bytes, from the first on. Whoever reads them hashes them.
    #[must_use]
    pub fn blob(&self, descriptor: &Descriptor) -> BlobReader {
        BlobReader {
            image: self.clone(),
            subject: format!("blob {}", descriptor.digest),
            state: Reading {
                wanted: descriptor.clone(),
                offset: 0,
                skip: 0,
                answer: None,
                trickle: Trickle::default(),
            },
        }
    }

    async fn pull(&self, reference: &str) -> Result<(Descriptor, Bytes)> {
        let Inner { client, report, .. } = &*self.0;
        let accept = Media::accepted();
        let accept = accept.as_str();
        let read = Request(move || async move {
            let answer = client.get_manifest(reference, accept).await?;
            let media_type = answer.header("content-type").unwrap_or_default().to_owned();
            let stated = answer.header("docker-content-digest").map(str::to_owned);
            Ok((media_type, stated, answer.bytes(usize::try_from(DOCUMENT_BYTES_MAX).unwrap_or(usize::MAX)).await?))
        });
        let (media_type, stated, bytes) = retry::run(client, report, &format!("manifest '{reference}'"), read).await?;
        let digest = Digest::from_bytes(Sha256::digest(&bytes).into());
        let asked = reference.contains(':').then(|| reference.to_owned());
        for wanted in [asked, stated].into_iter().flatten().filter(|wanted| wanted.starts_with("sha256:")) {
            if wanted != digest.to_string() {
                let words = format!("it should be {}, and is {digest}", text::line(&wanted));
                return Err(self.corrupt("reading the manifest", words));
            }
        }
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        Ok((Descriptor { media_type, digest, size: bytes.len() as u64 }, bytes))
    }

    fn corrupt(&self, operation: &str, reason: impl std::fmt::Display) -> Error {
        Error::new(Kind::Corrupt, Side::Sink, operation, &self.0.name, reason)
    }
}

/// A blob being read: as many bytes as it should have, whatever they are. Only one who hashes them knows.
#[derive(Debug)]
pub struct BlobReader {
    image: RegistryReader,
    subject: String,
    state: Reading,
}

#[derive(Debug)]
struct Reading {
    wanted: Descriptor,
    offset: u64,
    /// Bytes to pass over: the registry began at the first one although it was asked for a later one.
    skip: u64,
    answer: Option<Answer>,
    /// Of all answers: one that gives a byte and is cut, over and over, keeps us waiting as well.
    trickle: Trickle,
}

impl BlobReader {
    /// The next bytes; none after the last. A cut connection is made good.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when there are too many; as any request otherwise.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let Inner { client, report, .. } = &*self.image.0;
        let chunk = retry::run(client, report, &self.subject, Next(&mut self.state, client)).await?;
        let wanted = &self.state.wanted;
        if self.state.offset > wanted.size {
            let words = format!("{} has more than its {} bytes", wanted.digest, wanted.size);
            return Err(self.image.corrupt("reading a blob", words));
        }
        Ok(chunk)
    }
}

/// The next chunk of a blob, as something that can be tried again.
struct Next<'a, 'b>(&'a mut Reading, &'b Client);

impl Reading {
    async fn next(&mut self, client: &Client) -> Result<Option<Bytes>, Failure> {
        let mut answer = if let Some(answer) = self.answer.take() {
            answer
        } else {
            let answer = client.get_blob(&self.wanted.digest, self.offset).await?;
            let is_partial = answer.response.status() == StatusCode::PARTIAL_CONTENT;
            self.skip = if is_partial { 0 } else { self.offset };
            Answer { trickle: std::mem::take(&mut self.trickle), ..answer }
        };
        loop {
            let chunk = answer.chunk().await;
            let Ok(Some(mut chunk)) = chunk else {
                self.trickle = answer.trickle;
                chunk?;
                break;
            };
            let skipped = self.skip.min(chunk.len() as u64);
            let _ = chunk.split_to(usize::try_from(skipped).unwrap_or(usize::MAX));
            self.skip -= skipped;
            if !chunk.is_empty() {
                self.offset += chunk.len() as u64;
                self.answer = Some(answer);
                return Ok(Some(chunk));
            }
        }
        if self.offset < self.wanted.size {
            let words = format!("it ended after {} of {} bytes", self.offset, self.wanted.size);
            return Err(Failure::new(Step::Read, Cause::Io(Io::Cut), words));
        }
        Ok(None)
    }
}

impl Attempt for Next<'_, '_> {
    type Output = Option<Bytes>;

    async fn attempt(&mut self, _: Recovery) -> Result<Option<Bytes>, Failure> {
        self.0.next(self.1).await
    }
}
