//! An answer whose body is still to be read, and who only keeps us waiting with one.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::cause::{failure_of, stalled};
use super::failure::{Cause, Failure, Io, Step};

/// A wanted answer; its body is still to be read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) step: Step,
    pub(super) response: reqwest::Response,
    pub(super) stall: Duration,
    pub(super) trickle: Trickle,
}

/// What came of a body lately. A line that is down is a stall, and tried again; one that brings next to nothing in many
/// pieces is somebody who keeps us waiting, also where each piece is an answer of its own that is then cut.
#[derive(Debug, Default)]
pub(super) struct Trickle {
    since: Option<Instant>,
    bytes: usize,
    pieces: u32,
}

impl Trickle {
    const TIME: Duration = Duration::from_secs(10);
    const BYTES_MIN: usize = 1 << 10;
    const PIECES_MIN: u32 = 4;

    /// Whether it is one, with `bytes` more.
    fn is_one(&mut self, bytes: usize, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        (self.bytes, self.pieces) = (self.bytes + bytes, self.pieces + 1);
        if self.bytes >= Self::BYTES_MIN {
            *self = Self { since: Some(now), ..Self::default() };
        }
        now - since >= Self::TIME && self.pieces >= Self::PIECES_MIN
    }
}

impl Answer {
    /// One header as text.
    pub(super) fn header(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The next bytes of the body; none at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        match tokio::time::timeout(self.stall, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) if self.trickle.is_one(chunk.len(), Instant::now()) => {
                let (bytes, time) = (Trickle::BYTES_MIN, Trickle::TIME.as_secs());
                let words = format!("the answer brings less than {bytes} bytes in {time} s");
                Err(Failure::new(self.step, Cause::Io(Io::Refused), words))
            }
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(failure_of(self.step, &error)),
            Err(_) => Err(stalled(self.step, self.stall)),
        }
    }

    /// The whole body, which must not be larger than `bytes_max`.
    pub(super) async fn bytes(mut self, bytes_max: usize) -> Result<Bytes, Failure> {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > bytes_max {
                let words = format!("the answer is larger than {bytes_max} bytes");
                return Err(Failure::new(self.step, Cause::Io(Io::Refused), words));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}
