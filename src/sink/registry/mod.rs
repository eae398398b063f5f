//! An OCI registry as a sink: blobs in any order, several at once; the manifest, under its tag, at the very end.
//!
//! ```text
//! connect ─▶ has / put / put_live / put_blob … ─▶ commit          retry   every verdict, every wait
//!                     │                                            wire    one function an endpoint
//!                  upload ─▶ retry ─▶ wire ─▶ http ─▶ guard        auth    credentials; token: what they are good for
//!                     └─ abort: cancels the sessions still open    read    manifests and blobs, the other way
//!                                                                tags    what names stand for; taking one away
//!                                                                content bodies, which can be given again
//!                                                                habits  what this registry was seen to do
//!                                                                mount   a blob of another repository, unsent
//!                                                                pace    how fast bodies go
//! ```
//!
//! A running `put` holds one or two buffers of what is in a file, and one part of what is live:
//! [`RegistryOptions::part_bytes`], 8 MiB, or what the registry wants, at most 64 MiB.

mod answer;
mod auth;
mod cause;
mod contact;
mod content;
mod credentials;
mod failure;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod habits;
mod helper;
mod http;
mod mount;
mod pace;
mod parts;
mod proxy;
mod read;
mod reference;
mod report;
mod retry;
mod tags;
mod tls;
mod token;
mod upload;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oci_spec::distribution::Reference;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

use self::auth::Auth;
use self::failure::Failure;
use self::http::Client;
use self::mount::{Mounted, Neighbours};
use self::parts::{Live, Parts};
use self::reference::parse_name;
use self::report::Report;
use self::retry::Request;
use self::tls::Certificates;
use self::upload::{Look, Sessions, Upload};
use self::wire::Wire;
use super::{Committed, Image, Put, SinkContext};
use crate::error::{Error, Result};
use crate::oci::{CONFIG_MEDIA_TYPE, Descriptor};
use crate::pipeline::gather::{Body, Layer, LiveLayer};
use crate::stop::Stop;
use crate::text;

pub(crate) use self::cause::chain as cause_of;
pub(crate) use self::guard::is_loopback;
pub use self::pace::Pace;
pub use self::read::{BlobReader, RegistryReader};
pub(crate) use self::reference::{check_form, check_name};
pub use self::report::{Patience, Random, RegistryOptions};
pub use self::tags::{RegistryTags, Untagged, repository_and_tag};
pub(crate) use self::tls::{check_authorities, system_tls};

/// A credential helper may wait for a person who isn't there.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// All sessions together get this long to be cancelled.
const ABORT_TIMEOUT: Duration = Duration::from_millis(1200);

/// One repository and tag of a registry. Clones share connections, tokens and open sessions.
#[derive(Debug, Clone)]
pub struct RegistrySink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reference: Reference,
    client: Client,
    report: Report,
    sessions: Sessions,
    turns: Option<Arc<Semaphore>>,
}

/// A registry that was reached, and what was reached there.
struct Reached {
    reference: Reference,
    client: Client,
    report: Report,
}

impl RegistrySink {
    /// Reads `reference`, finds credentials, and reaches the registry: with its answer, and a token to push with, all
    /// that can be wrong before the first byte is known.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a reference with a typo or a bad file;
    /// [`Kind::Sink`](crate::error::Kind::Sink) when the registry can't be reached;
    /// [`Kind::Unauthorized`](crate::error::Kind::Unauthorized) when it refuses the credentials.
    pub async fn connect(reference: &str, options: RegistryOptions, context: SinkContext) -> Result<Self> {
        let (parsed, turns) = (parse_name(reference)?, options.turns.clone());
        let Reached { reference, client, report } = reach(parsed, "pull,push", options, context).await?;
        Ok(Self(Arc::new(Inner { reference, client, report, sessions: Sessions::default(), turns })))
    }

    /// The image's name there.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.reference.to_string()
    }

    /// Whether the registry has the blob. One that it has with another size counts as missing.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        let Inner { client, report, .. } = &*self.0;
        let look = Look::default();
        let asked = Request(async || Ok(look.at(client, descriptor).await? || self.mounts(descriptor).await?));
        let has = retry::run(client, report, &descriptor.digest.to_string(), asked).await?;
        if has {
            self.remember(descriptor);
        }
        Ok(has)
    }

    /// Whether the registry has the blob now, of another repository.
    async fn mounts(&self, descriptor: &Descriptor) -> Result<bool, Failure> {
        let Inner { client, report, sessions, .. } = &*self.0;
        match mount::mount(client, report, descriptor).await? {
            Mounted::There(_) => Ok(true),
            Mounted::Nothing => Ok(false),
            // There is nothing to be sent yet.
            Mounted::Opened(opened) => {
                let id = sessions.add(opened.session.clone());
                if client.cancel(&opened.session).await.is_ok() {
                    sessions.remove(id);
                }
                Ok(false)
            }
        }
    }

    fn remember(&self, descriptor: &Descriptor) {
        if let Some(neighbours) = &self.0.report.neighbours {
            neighbours.remember(&descriptor.digest);
        }
    }

    /// The registry, as long as it may mount blobs from one of its repositories into another.
    #[must_use]
    pub fn mounting(&self) -> Option<&str> {
        let Inner { report, .. } = &*self.0;
        (report.neighbours.is_some() && report.habits.mounts()).then_some(report.registry.as_str())
    }

    /// Waits for the turn to send something whole, where all freezes together have so many.
    async fn turn(&self) -> Result<Option<SemaphorePermit<'_>>> {
        let Some(turns) = &self.0.turns else { return Ok(None) };
        tokio::select! {
            turn = turns.acquire() => Ok(turn.ok()),
            () = self.0.report.stop.stopped() => Err(Error::interrupted()),
        }
    }

    /// Sends a gathered layer, unless the registry has it. Either way its bytes are reported as confirmed, once.
    ///
    /// # Errors
    /// When the registry can't take it, after all that could be tried; when the freeze was stopped.
    pub async fn put(&self, layer: &Arc<Layer>) -> Result<Put> {
        let parts = Parts::Gathered { descriptor: &layer.descriptor, body: &layer.body };
        let subject = format!("layer {} ({})", layer.index, layer.descriptor.digest);
        let _turn = self.turn().await?;
        let upload = self.upload(Some(layer.index), parts);
        let put = retry::run(&self.0.client, &self.0.report, &subject, upload).await?.1;
        self.remember(&layer.descriptor);
        Ok(put)
    }

    /// Sends a layer while it is made: in parts, where the registry was seen to add one to the other, so that a failed
    /// request is made good as long as the session lives; else in one request, which can only begin anew at its beginning.
    /// It waits for no turn: there is no room for it here, and what has the turn may wait for that room.
    ///
    /// # Errors
    /// As [`Self::put`], and when the registry loses the session after bytes are gone. A hang-up when `tail` is cut off.
    pub async fn put_live(&self, layer: LiveLayer) -> Result<Descriptor> {
        let (index, media_type) = (layer.index, layer.media_type.clone());
        let upload =
            self.upload(Some(index), Parts::Live(Arc::new(Mutex::new(Live::new(layer, self.0.report.part_bytes)))));
        let (descriptor, _) =
            retry::run(&self.0.client, &self.0.report, &format!("layer {index}, streamed"), upload).await?;
        self.remember(&descriptor);
        Ok(Descriptor { media_type, ..descriptor })
    }

    /// Sends a small blob, unless the registry has it.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_blob(&self, descriptor: &Descriptor, bytes: Bytes) -> Result<Put> {
        let body = Body::from_chunks(vec![bytes]);
        let what = if descriptor.media_type == CONFIG_MEDIA_TYPE { "config" } else { "blob" };
        let subject = format!("{what} {}", descriptor.digest);
        let _turn = self.turn().await?;
        let upload = self.upload(None, Parts::Gathered { descriptor, body: &body });
        Ok(retry::run(&self.0.client, &self.0.report, &subject, upload).await?.1)
    }

    /// Makes the image exist: the config if it is missing, then the manifest under its tag, the last thing written.
    ///
    /// # Errors
    /// When the registry refuses the manifest, or stored another one than it was given.
    pub async fn commit(&self, image: &Image) -> Result<Committed> {
        self.put_blob(&image.config.0, image.config.1.clone()).await?;
        let Inner { client, report, reference, .. } = &*self.0;
        let tag = reference.tag().unwrap_or_default();
        let write = Request(|| client.put_manifest(tag, &image.manifest));
        let stored = match retry::run(client, report, &format!("tag '{tag}'"), write).await? {
            // Servers that are no registry say yes to everything.
            None => client.stored_manifest(tag).await.map(|digest| digest.to_string()),
            stated => stated,
        };
        let digest = image.manifest.0.digest;
        match stored {
            Some(stored) if stored != digest.to_string() => {
                let words = format!("the registry stored {}, and {digest} was sent", text::line(&stored));
                Err(Error::sink("writing the manifest", self.name(), words))
            }
            _ => Ok(Committed { name: self.name(), digest, artifact_bytes: None, launcher: None }),
        }
    }

    /// Cancels every upload session that is still open, in 1.2 s or not at all. Uploads must not be running any more.
    ///
    /// # Errors
    /// What could not be cancelled, to be attached to the cause.
    pub async fn abort(&self) -> Result<()> {
        let Inner { client, report, sessions, .. } = &*self.0;
        let report = report.hurried(Stop::new(), ABORT_TIMEOUT);
        let open = sessions.take();
        let count = open.len();
        let cancelled =
            futures_util::future::join_all(open.iter().map(|session| {
                retry::run(client, &report, "after a failure", Request(move || client.cancel(session)))
            }));
        let late = || {
            Error::sink("cancelling upload sessions", &report.registry, format!("{count} sessions, no answer in 1.2 s"))
        };
        let outcomes = tokio::time::timeout(ABORT_TIMEOUT, cancelled).await.map_err(|_| late())?;
        let mut failures = outcomes.into_iter().filter_map(Result::err);
        match failures.next() {
            Some(first) => Err(failures.fold(first, Error::attach)),
            None => Ok(()),
        }
    }

    fn upload<'a>(&'a self, index: Option<usize>, parts: Parts<'a>) -> Upload<'a, Client> {
        Upload::new(&self.0.client, &self.0.sessions, &self.0.report, index, parts)
    }
}

/// What sink and reader have in common: from a reference to a registry that answers. A registry that lets everybody in
/// at `/v2/` says only to a writer what it wants of writers; then the first upload gets the token, or the refusal.
async fn reach(reference: Reference, actions: &str, options: RegistryOptions, context: SinkContext) -> Result<Reached> {
    let (host, repository) = (reference.resolve_registry().to_owned(), reference.repository().to_owned());
    let files = options.auth_files.clone().unwrap_or_else(credentials::user_files);
    let credentials = credentials::find(&files, reference.registry(), &repository, HELPER_TIMEOUT).await?;
    let mut report = Report::new(&options, context, host.clone(), credentials.origin.clone());
    report.neighbours =
        options.known.clone().map(|known| Neighbours { known, registry: host.clone(), repository: repository.clone() });
    let auth = Arc::new(Auth::new(credentials, format!("repository:{repository}:{actions}")));
    let certificates = Certificates::read(&options, reference.registry())?;
    let connect = async |scheme: &str| {
        let root = format!("{scheme}://{host}/v2/");
        let root = root.parse().map_err(|error| Error::usage("reading a reference", &host, error))?;
        Client::new(root, &repository, Arc::clone(&auth), &options, &certificates).await
    };
    let is_loopback = guard::is_loopback(host.rsplit_once(':').map_or(&host, |(name, _)| name));
    let is_plain = options.plain_http || (is_loopback && options.ca_cert.is_none());
    let mut client = connect(if is_plain { "http" } else { "https" }).await?;
    let mut first = client.ping().await;
    // On loopback nobody said which it is. The first question holds nothing secret, and what follows goes where it was
    // answered. TLS first would be no good: a server of plain http may wait for the end of a line that never comes.
    if is_plain && !options.plain_http && first.as_ref().is_err_and(contact::is_of_a_tls_server) {
        let secure = connect("https").await?;
        let answer = secure.ping().await;
        if contact::speaks_tls(&answer) {
            (client, first) = (secure, answer);
        }
    }
    let contact = contact::Contact { client: &client, first: Some(first) };
    retry::run(&client, &report.first_contact(), "", contact).await?;
    Ok(Reached { reference, client, report })
}
