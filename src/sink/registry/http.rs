//! One request and its answer: credentials only for the registry itself, stalls noticed, redirects followed with
//! care, errors as [`Failure`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Url};
use tokio::time::Instant;

use super::answer::{Answer, Trickle};
use super::auth::Auth;
use super::cause::{chain, failure_of, stalled};
use super::content::Content;
use super::failure::{Cause, Failure, Io, Step};
use super::guard::Guard;
use super::retry::{Verdict, verdict};
use super::tls::Certificates;
use super::{Pace, RegistryOptions};
use crate::error::{Error, Result};

/// A connection that can't be made within this time can't be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Who has not answered the first question after this is not there, as Docker has it.
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// So much of an error's body is read.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// It is waited for so long.
const ERROR_TIME: Duration = Duration::from_secs(5);
/// A part goes to the connection in pieces of this size, so that a slow line is told from a dead one.
const PIECE_BYTES: usize = 64 << 10;
/// While we wait for our own bytes, this shows that we live.
const WAITING_BEAT: Duration = Duration::from_millis(200);
/// So many stall timeouts may pass while a body goes: what the kernel holds of it isn't seen moving, which on a slow line
/// takes longer than one.
pub(super) const BODY_STALLS: u32 = 3;
/// A request may be passed on so often.
const REDIRECTS_MAX: usize = 5;

/// The way to one repository of one registry: as many connections as there are requests at a time, kept for the next.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    /// `https://HOST/v2/`.
    pub(super) root: Url,
    /// `https://HOST/v2/NAME/`.
    pub(super) repository: Url,
    pub(super) guard: Guard,
    pub(super) auth: Arc<Auth>,
    stall: Duration,
    /// No request waits longer than all tries of it together may.
    longest: Duration,
    pace: Option<Pace>,
}

/// One request.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) step: Step,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
    /// So many stall timeouts may pass without a byte before the answer has to be there.
    pub(super) stalls: u32,
}

impl Ask {
    pub(super) fn new(step: Step, method: Method, url: Url) -> Self {
        Self { step, method, url, headers: HeaderMap::new(), content: Content::chunks(Vec::new()), stalls: 1 }
    }
}

impl Client {
    /// # Errors
    /// When the system's authorities can't be read and are needed.
    pub(super) async fn new(
        root: Url,
        repository: &str,
        auth: Arc<Auth>,
        options: &RegistryOptions,
        certificates: &Certificates,
    ) -> Result<Self> {
        let guard = Guard::new(&root).await;
        let repository = root
            .join(&format!("{repository}/"))
            .map_err(|error| Error::usage("reading a reference", repository, error))?;
        let (stall, longest) = (options.stall_timeout, options.patience.total);
        let http = build(&root, &guard, certificates, CONNECT_TIMEOUT.min(longest))?;
        Ok(Self { http, root, repository, guard, auth, stall: stall.min(longest), longest, pace: options.pace.clone() })
    }

    /// Sends, and gives the answer if `retry`'s table calls it what the step wants.
    pub(super) async fn send(&self, mut ask: Ask) -> Result<Answer, Failure> {
        let (step, mut hops) = (ask.step, 0);
        loop {
            let is_registry = self.guard.is_registry(&ask.url);
            let (generation, granted) = self.auth.granted();
            if let Some(header) = granted.filter(|_| is_registry && step != Step::Token) {
                ask.headers.insert(AUTHORIZATION, header);
            } else if step != Step::Token {
                ask.headers.remove(AUTHORIZATION);
            }
            let answer = self.send_once(&ask).await?;
            let status = answer.response.status();
            let cause = Cause::Status { status: status.as_u16(), code: None };
            if verdict(step, &cause, None) == Verdict::Done {
                return Ok(answer);
            }
            let target = answer.response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            // 307 and 308 ask for the same request, its body included, at another place; the others only tell where to read.
            let is_passed_on = match status.as_u16() {
                // A token's request may hold a password, which is for nobody else.
                307 | 308 => step != Step::Token,
                _ => status.is_redirection() && matches!(step, Step::Head | Step::Read),
            };
            if let (true, Some(target)) = (is_passed_on, target) {
                hops += 1;
                if hops > REDIRECTS_MAX {
                    return Err(Failure::new(step, Cause::Io(Io::Refused), "the registry sends us round and round"));
                }
                ask.url = self.follow(step, &ask.url, target)?;
                continue;
            }
            let headers = answer.response.headers().clone();
            let body = tokio::time::timeout(ERROR_TIME.min(self.stall), answer.bytes(ERROR_BYTES_MAX)).await;
            let body = body.unwrap_or(Ok(Bytes::new())).unwrap_or_default();
            let mut failure = Failure::from_answer(step, status.as_u16(), &headers, &body);
            match &mut failure.stale {
                Some(stale) if is_registry => stale.generation = generation,
                // Another host wants credentials of its own; ours are not for it.
                stale => *stale = None,
            }
            return Err(failure);
        }
    }

    /// Where a header of an answer leads, if we may go there.
    pub(super) fn follow(&self, step: Step, base: &Url, target: &str) -> Result<Url, Failure> {
        self.guard.follow(base, target).map_err(|refused| Failure::new(step, Cause::Io(Io::Refused), refused))
    }

    async fn send_once(&self, ask: &Ask) -> Result<Answer, Failure> {
        // Our own side's failure, which the connection only sees as an end.
        let (pulse, failed) = (Pulse::new(), Arc::new(Mutex::new(None)));
        let most = if ask.step == Step::Ping { PING_TIMEOUT } else { self.longest };
        let stall = (self.stall * ask.stalls.min(BODY_STALLS)).min(most);
        let mut request = self.http.request(ask.method.clone(), ask.url.clone()).headers(ask.headers.clone());
        if !matches!(ask.method, Method::GET | Method::HEAD | Method::DELETE) {
            if let Some(length) = ask.content.length() {
                request = request.header(CONTENT_LENGTH, length);
            }
            let body = slices(ask.content.stream(), pulse.clone(), self.pace.clone());
            let failed = Arc::clone(&failed);
            let end = EndOfBody(pulse.clone(), (self.stall * ask.stalls).min(self.longest).saturating_sub(stall));
            request = request.body(reqwest::Body::wrap_stream(body.map(move |piece| {
                let _until_dropped = &end;
                piece.map_err(|error| {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    std::io::Error::other("the body ended early")
                })
            })));
        }
        let outcome = unless_stalled(&pulse, stall, request.send()).await;
        if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(Failure::local(ask.step, error));
        }
        match outcome {
            Some(Ok(response)) => {
                Ok(Answer { step: ask.step, response, stall: self.stall, trickle: Trickle::default() })
            }
            Some(Err(error)) => Err(failure_of(ask.step, &error)),
            None => Err(stalled(ask.step, pulse.last().elapsed())),
        }
    }
}

fn build(root: &Url, guard: &Guard, certificates: &Certificates, connecting: Duration) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        // HTTP/2 would put all uploads on one connection, and so under one congestion window: on a line with any
        // latency or loss, four of them would get the throughput of one.
        .http1_only()
        // Heads are small and wait for an answer.
        .tcp_nodelay(true)
        .connect_timeout(connecting)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("smolfreeze/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(Arc::new(guard.clone()))
        .tls_backend_preconfigured(certificates.config(root.scheme() == "https")?);
    let is_loopback = root.host_str().is_some_and(super::guard::is_loopback);
    let builder = if is_loopback {
        builder.no_proxy()
    } else {
        super::proxy::check(root)?;
        builder
    };
    builder.build().map_err(|error| Error::sink("preparing a connection", root, chain(&error)).because(error))
}

/// The instant of the last movement on a connection.
#[derive(Debug, Clone)]
struct Pulse(Arc<Mutex<Instant>>);

impl Pulse {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// Something moves now, or will at `instant`: what we hold back ourselves is no stall.
    fn beat(&self, instant: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = instant;
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes with a body, once the connection has all of it: the answer may take so much longer than a piece of the body.
struct EndOfBody(Pulse, Duration);

impl Drop for EndOfBody {
    fn drop(&mut self) {
        self.0.beat(Instant::now() + self.1);
    }
}

/// Waits for `work` as long as the pulse beats; none once it has stopped for `stall`.
async fn unless_stalled<T>(pulse: &Pulse, stall: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(work);
    loop {
        let until = pulse.last() + stall;
        tokio::select! {
            biased;
            output = &mut work => return Some(output),
            () = tokio::time::sleep_until(until) => {
                if pulse.last() + stall <= until {
                    return None;
                }
            }
        }
    }
}

/// Slices of the same memory, never a copy; each when its time has come. Bytes that are still being made are no stall.
fn slices(
    source: BoxStream<'static, Result<Bytes>>,
    pulse: Pulse,
    pace: Option<Pace>,
) -> impl Stream<Item = Result<Bytes>> + Send {
    let waiting = pulse.clone();
    let source = futures_util::stream::unfold(source, move |mut source| {
        let pulse = waiting.clone();
        async move {
            loop {
                tokio::select! {
                    biased;
                    next = source.next() => return next.map(|next| (next, source)),
                    () = tokio::time::sleep(WAITING_BEAT) => pulse.beat(Instant::now()),
                }
            }
        }
    });
    let pieces = source.flat_map(|next| {
        let pieces: Box<dyn Iterator<Item = Result<Bytes>> + Send> = match next {
            Err(error) => Box::new(std::iter::once(Err(error))),
            Ok(mut chunk) => Box::new(std::iter::from_fn(move || {
                let length = chunk.len().min(PIECE_BYTES);
                (length > 0).then(|| Ok(chunk.split_to(length)))
            })),
        };
        futures_util::stream::iter(pieces)
    });
    pieces.then(move |piece| {
        let (pulse, pace) = (pulse.clone(), pace.clone());
        async move {
            let piece = piece?;
            if let Some(pace) = pace {
                let due = pace.book(piece.len());
                pulse.beat(due);
                pace.reach(due).await;
            }
            pulse.beat(Instant::now());
            Ok(piece)
        }
    })
}

/// A header from our own text, which is always ASCII.
pub(super) fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop::Stop;

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_longer_than_a_piece_of_the_body() {
        let (second, started) = (Duration::from_secs(1), Instant::now());
        let body = async |sent: bool| {
            let pulse = Pulse::new();
            let end = EndOfBody(pulse.clone(), 7 * second);
            let held = (!sent).then_some(end);
            let began = Instant::now();
            assert!(unless_stalled(&pulse, 3 * second, std::future::pending::<()>()).await.is_none());
            drop(held);
            began.elapsed().as_secs()
        };
        assert_eq!((body(false).await, body(true).await), (3, 10));
        assert_eq!(started.elapsed().as_secs(), 13);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_paced_by_the_slice_and_never_looks_stalled() {
        let pace = Pace::new(32 << 10, Stop::new());
        let part = vec![Bytes::from(vec![1; 100_000]), Bytes::from(vec![2; 1_000_000])];
        let (pulse, started, mut sent) = (Pulse::new(), Instant::now(), Vec::new());
        let source = Content::chunks(part.clone()).stream();
        let sending = slices(source, pulse.clone(), Some(pace)).for_each(|slice| {
            let slice = slice.unwrap();
            assert!(slice.len() <= PIECE_BYTES);
            sent.extend_from_slice(&slice);
            std::future::ready(())
        });
        // A slice takes two seconds, and a stall half of one.
        assert!(unless_stalled(&pulse, Duration::from_millis(500), sending).await.is_some());
        assert!(sent == part.concat());
        // On the paused clock: all but the last slice have been waited for.
        let waited_for = (sent.len() - 1_000_000 % PIECE_BYTES) as u128 * 1000 / (32 << 10);
        assert!(started.elapsed().as_millis().abs_diff(waited_for) < 50, "{:?}", started.elapsed());
    }
}
