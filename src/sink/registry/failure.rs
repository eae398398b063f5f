//! What can go wrong with one request, as data: the table in `retry` decides over it, people read it.

use std::fmt;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};

use super::Report;
use crate::error::{Error, Kind, Side};
use crate::text;

/// The request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// `GET /v2/`.
    Ping,
    /// The token endpoint.
    Token,
    /// `HEAD` of a blob.
    Head,
    /// `POST`: a new upload session.
    Open,
    /// `PATCH`: one part.
    Patch,
    /// `GET` of a session: how far it got.
    Status,
    /// `PUT` of a session: the blob is complete.
    Finish,
    /// `DELETE` of a session.
    Cancel,
    /// `PUT` of a manifest.
    Manifest,
    /// `GET` of a manifest or a blob, or of the list of tags.
    Read,
    /// `DELETE` of a manifest, or of a tag.
    Delete,
}

impl Step {
    /// Whether the request goes to an upload session, which may know more than we do after a failure.
    #[must_use]
    pub fn has_session(self) -> bool {
        matches!(self, Self::Patch | Self::Status | Self::Finish)
    }

    fn operation(self) -> &'static str {
        match self {
            Self::Ping => "reaching the registry",
            Self::Token => "getting a token",
            Self::Head => "looking for a blob",
            Self::Open => "opening an upload session",
            Self::Patch => "sending a part",
            Self::Status => "asking an upload session",
            Self::Finish => "finishing an upload",
            Self::Cancel => "cancelling an upload session",
            Self::Manifest => "writing the manifest",
            Self::Read => "reading from the registry",
            Self::Delete => "deleting from the registry",
        }
    }
}

/// The error codes of the distribution specification that change what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The session is not known.
    BlobUploadUnknown,
    /// The session is broken.
    BlobUploadInvalid,
    /// The bytes are not those of the digest.
    DigestInvalid,
    /// The bytes are not as many as was said.
    SizeInvalid,
    /// The manifest names a blob that isn't known.
    BlobUnknown,
    /// Any other.
    Other,
}

impl Code {
    fn from_text(text: &str) -> Self {
        match text {
            "BLOB_UPLOAD_UNKNOWN" => Self::BlobUploadUnknown,
            "BLOB_UPLOAD_INVALID" => Self::BlobUploadInvalid,
            "DIGEST_INVALID" => Self::DigestInvalid,
            "SIZE_INVALID" => Self::SizeInvalid,
            "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN" => Self::BlobUnknown,
            _ => Self::Other,
        }
    }
}

/// How a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Io {
    /// No connection came about.
    Unreachable,
    /// The other side's certificate is not trusted, or it does not speak TLS.
    Untrusted,
    /// What came is no HTTP.
    NoHttp,
    /// We refused to go where the registry sent us.
    Refused,
    /// The connection ended before the answer did.
    Cut,
    /// Nothing moved for too long.
    Stalled,
}

/// Why a request failed.
#[derive(Debug)]
pub enum Cause {
    /// The registry answered, and not with what the step wants.
    Status {
        /// The HTTP status.
        status: u16,
        /// The first error code of the body.
        code: Option<Code>,
    },
    /// No answer came.
    Io(Io),
    /// The answer can't be true or can't be read.
    Nonsense,
    /// Our own side failed: scratch, or the stage that gives the bytes.
    Local(Error),
}

/// The token a request was refused with, and what the registry wants instead.
#[derive(Debug, Clone, Default)]
pub struct Stale {
    /// Counts tokens, so that ten refused requests fetch one new token.
    pub(super) generation: u64,
    /// `WWW-Authenticate`, each as it came.
    pub(super) challenges: Vec<String>,
}

/// One failed request.
#[derive(Debug)]
pub struct Failure {
    /// Which request.
    pub step: Step,
    /// Why.
    pub cause: Cause,
    /// The registry's `Retry-After`.
    pub retry_after: Option<Duration>,
    pub(super) stale: Option<Stale>,
    detail: String,
}

impl Failure {
    /// A failure without an answer of HTTP; `detail` is the reason in words.
    pub fn new(step: Step, cause: Cause, detail: impl fmt::Display) -> Self {
        Self { step, cause, retry_after: None, stale: None, detail: detail.to_string() }
    }

    /// Our own side failed.
    pub(super) fn local(step: Step, error: Error) -> Self {
        let detail = error.to_string();
        Self::new(step, Cause::Local(error), detail)
    }

    /// An answer with a status that `step` doesn't want. `body` is its beginning, at most 64 KiB.
    pub(super) fn from_answer(step: Step, status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let (code, words) = error_of(body);
        let phrase = reqwest::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let mut detail = format!("{status} {}", phrase.unwrap_or("(no standard status)"));
        if !words.is_empty() {
            detail = format!("{detail}: {words}");
        }
        let text = |value: &reqwest::header::HeaderValue| value.to_str().ok().map(str::to_owned);
        let wish = headers.get(RETRY_AFTER).and_then(text).and_then(|wish| retry_after(&wish, SystemTime::now()));
        if let Some(wish) = wish {
            detail = format!("{detail} (it asks for {} s of patience)", wish.as_secs());
        }
        Self {
            retry_after: wish,
            stale: (status == 401).then(|| Stale {
                generation: 0,
                challenges: headers.get_all(WWW_AUTHENTICATE).iter().filter_map(text).collect(),
            }),
            ..Self::new(step, Cause::Status { status, code }, detail)
        }
    }

    /// Whether the registry knows nothing of the kind that it was asked for.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self.cause, Cause::Status { status: 404, .. })
    }

    /// Whether the registry does not do such a thing, or not for these credentials, now or at another time.
    pub(super) fn is_refusal(&self) -> bool {
        match self.cause {
            Cause::Status { status: 401 | 404 | 408 | 425 | 429, .. } => false,
            Cause::Status { status, .. } => status == 501 || (400..=499).contains(&status),
            _ => false,
        }
    }

    /// Whether session and sender disagree about how far they are. One that asks for patience has another request still.
    pub(super) fn is_out_of_step(&self) -> bool {
        matches!(self.cause, Cause::Status { status: 416, .. }) && self.retry_after.is_none()
    }

    /// Whether the registry says that it has no such session.
    pub(super) fn is_of_no_session(&self) -> bool {
        matches!(
            self.cause,
            Cause::Status { status: 404 | 410, .. }
                | Cause::Status { code: Some(Code::BlobUploadUnknown | Code::BlobUploadInvalid), .. }
        )
    }

    /// Whether the registry does not take bytes in this way, and will not at another time.
    pub(super) fn is_refusal_of_a_part(&self) -> bool {
        match self.cause {
            Cause::Status { status: 416, .. } => self.is_out_of_step(),
            Cause::Status { status: 401 | 403 | 408 | 425 | 429, .. }
            | Cause::Status { code: Some(Code::BlobUploadUnknown | Code::BlobUploadInvalid), .. } => false,
            Cause::Status { status, .. } => (400..=499).contains(&status),
            _ => false,
        }
    }

    /// The error that people see. `tried` says how often, and for how long, when it was more than once.
    pub(super) fn into_error(self, report: &Report, subject: &str, tried: Option<(u32, Duration)>) -> Error {
        let cause = match self.cause {
            Cause::Local(error) => return error,
            cause => cause,
        };
        let reason = match tried {
            Some((times, time)) => format!("{}; tried {times} times in {:.1} s", self.detail, time.as_secs_f64()),
            None => self.detail,
        };
        let refused = matches!(cause, Cause::Status { status: 401 | 403, .. });
        let kind = if refused { Kind::Unauthorized } else { Kind::Sink };
        let subject =
            if subject.is_empty() { report.registry.clone() } else { format!("{}: {subject}", report.registry) };
        let error = Error::new(kind, Side::Sink, self.step.operation(), subject, reason);
        match hint(self.step, &cause, report) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step.operation(), self.detail)
    }
}

fn hint(step: Step, cause: &Cause, report: &Report) -> Option<String> {
    match (step, cause) {
        (_, Cause::Status { status: 401 | 403, .. }) => {
            Some(format!("check the credentials ({}), or log in again", report.credentials))
        }
        (Step::Ping, Cause::Status { .. }) => Some("check that this is an OCI registry".to_owned()),
        (Step::Patch | Step::Finish, Cause::Status { status: 413, .. }) => {
            Some(match report.habits.body_bytes_max() {
                u64::MAX => "a proxy before the registry limits the size of requests; raise its limit".to_owned(),
                limit => format!(
                    "the registry, or a proxy before it, takes no requests of {} MiB; raise its limit",
                    (limit * 2).div_ceil(1 << 20)
                ),
            })
        }
        (Step::Manifest, Cause::Status { status: 400 | 415 | 422, code: Some(Code::Other) | None }) => {
            Some("it may not take layers in zstd; --compression gzip makes others".to_owned())
        }
        (_, Cause::Status { status: 507, .. }) => Some("the registry's own disk is full; make room there".to_owned()),
        (Step::Patch | Step::Finish, Cause::Status { status: 400..=499, .. }) if report.habits.body_bytes_max() < u64::MAX => {
            Some("it takes no large requests, and no layers in parts either: raise its limit, or give a smaller --layer-size".to_owned())
        }
        (Step::Patch, Cause::Status { status: 400 | 404 | 405, .. }) => {
            Some("it takes layers only whole: give more --scratch, so that none has to be sent while it is made".to_owned())
        }
        (_, Cause::Io(Io::Untrusted)) => {
            Some("give its authority with --ca-cert, or --plain-http if it has no TLS".to_owned())
        }
        (Step::Ping, Cause::Io(Io::Unreachable)) => Some("check the registry's name and port, and HTTPS_PROXY or HTTP_PROXY where one is set".to_owned()),
        _ => None,
    }
}

/// The first code and message of an error body, or the beginning of its text.
fn error_of(body: &[u8]) -> (Option<Code>, String) {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<OneError>,
    }
    #[derive(serde::Deserialize)]
    struct OneError {
        code: String,
        #[serde(default)]
        message: Option<String>,
    }
    let first = serde_json::from_slice::<Errors>(body).ok().and_then(|errors| errors.errors.into_iter().next());
    match first {
        Some(error) => {
            let words = printable(&format!("{} {}", error.code, error.message.unwrap_or_default()));
            (Some(Code::from_text(&error.code)), words)
        }
        None if body.trim_ascii_start().starts_with(b"<") => (None, String::new()),
        None => (None, printable(&String::from_utf8_lossy(body))),
    }
}

/// What a registry says: its first line, and not more of it than anybody reads.
fn printable(said: &str) -> String {
    let line = said.split(['\r', '\n']).next().unwrap_or_default();
    text::line(&line.chars().take(200).collect::<String>()).trim().to_owned()
}

/// `Retry-After`: seconds, or a date of HTTP. A date that has passed asks for nothing.
pub(super) fn retry_after(wish: &str, now: SystemTime) -> Option<Duration> {
    let wish = wish.trim();
    if let Ok(seconds) = wish.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let date = httpdate::parse_http_date(wish).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}
