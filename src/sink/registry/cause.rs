//! From an error of the HTTP client to a cause: by type, never by text.

use std::io::ErrorKind;
use std::time::Duration;

use super::failure::{Cause, Failure, Io, Step};
use super::guard::Refused;

pub(super) fn stalled(step: Step, stall: Duration) -> Failure {
    Failure::new(step, Cause::Io(Io::Stalled), format!("nothing moved for {:.0} s", stall.as_secs_f64()))
}

pub(super) fn failure_of(step: Step, error: &reqwest::Error) -> Failure {
    let io = io_of(error);
    let words = chain(error);
    let words = if io == Io::NoHttp { format!("the answer is no HTTP: {words}") } else { words };
    Failure::new(step, Cause::Io(io), words)
}

fn io_of(error: &reqwest::Error) -> Io {
    let (mut cause, mut in_body): (Option<&(dyn std::error::Error + 'static)>, _) = (Some(error), false);
    while let Some(error) = cause {
        if error.is::<Refused>() {
            return Io::Refused;
        }
        match error.downcast_ref() {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidMessage(_)) => return Io::Untrusted,
            Some(_) => break,
            None => {}
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>() {
            if hyper.is_parse() {
                return Io::NoHttp;
            }
            in_body = true;
        }
        // Chunks of a body that are none, or whose extensions have no end.
        let io = error.downcast_ref::<std::io::Error>();
        if in_body
            && io.is_some_and(|io| {
                io.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>())
                    && matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput)
            })
        {
            return Io::NoHttp;
        }
        cause = cause_of(error);
    }
    if error.is_connect() { Io::Unreachable } else { Io::Cut }
}

/// The innermost words; those around them only repeat that a request failed.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        innermost = error.to_string();
        cause = cause_of(error);
    }
    innermost
}

fn cause_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a (dyn std::error::Error + 'static)> {
    // `source` of an `io::Error` passes over the error it was made from.
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}
