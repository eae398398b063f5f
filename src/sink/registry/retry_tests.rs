use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use super::super::failure::{Stale, retry_after};
use super::*;
use crate::progress::{Meters, Observer};
use crate::sink::SinkContext;
use crate::sink::registry::RegistryOptions;
use crate::stop::Stop;

const STEPS: [Step; 10] = [
    Step::Ping,
    Step::Token,
    Step::Head,
    Step::Open,
    Step::Patch,
    Step::Status,
    Step::Finish,
    Step::Cancel,
    Step::Manifest,
    Step::Read,
];

fn status(status: u16) -> Cause {
    Cause::Status { status, code: None }
}

fn coded(status: u16, code: Code) -> Cause {
    Cause::Status { status, code: Some(code) }
}

#[test]
fn the_table() {
    let after = Some(Duration::from_secs(30));
    let (again, resume) = (Verdict::Again { after }, Verdict::Resume { after });
    for step in STEPS {
        let once_more = if step.has_session() { resume } else { again };
        for good in [200, 201, 202, 204, 206] {
            assert_eq!(verdict(step, &status(good), after), Verdict::Done, "{step:?} {good}");
        }
        for weak in [408, 425, 429, 500, 502, 503, 504, 522, 530] {
            assert_eq!(verdict(step, &status(weak), after), once_more, "{step:?} {weak}");
        }
        for hard in [301, 307, 400, 402, 403, 405, 409, 410, 411, 413, 415, 418, 451, 501, 505] {
            // A session that can't be asked is of no use; the layer's bytes are.
            let is_question = step == Step::Status && hard >= 400 && hard != 505;
            let wanted = if is_question { Verdict::Restart } else { Verdict::Fatal };
            assert_eq!(verdict(step, &status(hard), after), wanted, "{step:?} {hard}");
        }
        let renewed = if step == Step::Token { Verdict::Fatal } else { Verdict::Refresh };
        assert_eq!(verdict(step, &status(401), after), renewed, "{step:?}");
        for weak in [Io::Unreachable, Io::Cut, Io::Stalled, Io::NoHttp] {
            assert_eq!(verdict(step, &Cause::Io(weak), after), once_more, "{step:?} {weak:?}");
        }
        for hard in [Io::Untrusted, Io::Refused] {
            assert_eq!(verdict(step, &Cause::Io(hard), after), Verdict::Fatal, "{step:?} {hard:?}");
        }
        let nonsense = if step.has_session() { Verdict::Restart } else { again };
        assert_eq!(verdict(step, &Cause::Nonsense, after), nonsense, "{step:?}");
        let local = Cause::Local(Error::hung_up("a neighbour"));
        assert_eq!(verdict(step, &local, after), Verdict::Fatal, "{step:?}");
    }
}

#[test]
fn the_table_where_the_step_counts() {
    let resume = Verdict::Resume { after: None };
    for (step, cause, wanted) in [
        (Step::Head, status(404), Verdict::Done),
        (Step::Cancel, status(404), Verdict::Done),
        (Step::Open, status(404), Verdict::Fatal),
        (Step::Read, status(404), Verdict::Fatal),
        (Step::Manifest, status(404), Verdict::Fatal),
        (Step::Patch, status(404), Verdict::Restart),
        (Step::Status, status(404), Verdict::Restart),
        (Step::Finish, status(404), Verdict::Restart),
        (Step::Patch, coded(400, Code::BlobUploadInvalid), Verdict::Restart),
        (Step::Status, coded(404, Code::BlobUploadInvalid), Verdict::Restart),
        (Step::Finish, coded(400, Code::BlobUploadUnknown), Verdict::Restart),
        (Step::Finish, coded(400, Code::DigestInvalid), Verdict::Restart),
        (Step::Manifest, coded(400, Code::DigestInvalid), Verdict::Fatal),
        (Step::Patch, coded(400, Code::Other), Verdict::Fatal),
        (Step::Manifest, coded(404, Code::BlobUnknown), Verdict::Again { after: None }),
        (Step::Patch, coded(416, Code::BlobUploadInvalid), resume),
        (Step::Patch, status(416), resume),
        (Step::Finish, status(416), resume),
        (Step::Status, status(416), Verdict::Restart),
        (Step::Read, status(416), Verdict::Fatal),
    ] {
        assert_eq!(verdict(step, &cause, None), wanted, "{step:?} {cause:?}");
    }
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = httpdate::parse_http_date("Wed, 21 Oct 2026 07:28:00 GMT").unwrap();
    for (wish, wanted) in [
        ("30", Some(30)),
        (" 0 ", Some(0)),
        ("Wed, 21 Oct 2026 07:28:45 GMT", Some(45)),
        ("Wed, 21 Oct 2026 07:27:00 GMT", Some(0)),
        ("soon", None),
        ("-1", None),
        ("", None),
    ] {
        assert_eq!(retry_after(wish, now), wanted.map(Duration::from_secs), "{wish}");
    }
    assert!(retry_after("99999999999999999999", SystemTime::now()).is_none());
}

/// A wire that only counts the tokens it was asked for.
#[derive(Default)]
struct Tokens(AtomicU32);

impl Wire for Tokens {
    async fn head(&self, _: &crate::oci::Digest) -> Result<super::super::wire::Found, Failure> {
        Ok(super::super::wire::Found::Absent)
    }
    async fn open(&self) -> Result<super::super::wire::Opened, Failure> {
        Err(Failure::new(Step::Open, Cause::Nonsense, ""))
    }
    async fn mount(&self, _: &crate::oci::Digest, _: &str) -> Result<Option<super::super::wire::Opened>, Failure> {
        Ok(None)
    }
    async fn patch(
        &self,
        at: &super::super::wire::Session,
        _: Option<u64>,
        _: super::super::content::Content,
    ) -> Result<super::super::wire::Accepted, Failure> {
        self.status(at).await
    }
    async fn status(&self, _: &super::super::wire::Session) -> Result<super::super::wire::Accepted, Failure> {
        Err(Failure::new(Step::Status, Cause::Nonsense, ""))
    }
    async fn finish(
        &self,
        at: &super::super::wire::Session,
        _: &crate::oci::Digest,
        _: super::super::content::Content,
    ) -> Result<(), Failure> {
        self.cancel(at).await
    }
    async fn cancel(&self, _: &super::super::wire::Session) -> Result<(), Failure> {
        Ok(())
    }
    async fn refresh(&self, _: &Stale) -> Result<(), Failure> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

struct Silent;
impl Observer for Silent {}

fn report(stop: Stop) -> (Report, Arc<Meters>) {
    let meters = Arc::new(Meters::default());
    let context = SinkContext { observer: Arc::new(Silent), meters: meters.clone(), stop };
    let mut options = RegistryOptions::default();
    options.patience.random = Arc::new(|| 0.0);
    (Report::new(&options, context, "registry.example".to_owned(), "none".to_owned()), meters)
}

fn failing(status: u16, retry_after: Option<&str>) -> Failure {
    let mut headers = reqwest::header::HeaderMap::new();
    if let Some(wish) = retry_after {
        headers.insert("retry-after", wish.parse().unwrap());
    }
    Failure::from_answer(Step::Patch, status, &headers, b"")
}

/// Fails with each of `statuses` in turn, then gives how often it was tried.
async fn tried(statuses: &[(u16, Option<&str>)]) -> (Result<usize>, u32, u64, Duration) {
    let ((report, meters), wire, began) = (report(Stop::new()), Tokens::default(), Instant::now());
    let mut tries = 0;
    let work = Request(|| {
        let answer = statuses.get(tries).map_or(Ok(tries), |(status, wish)| Err(failing(*status, *wish)));
        tries += 1;
        std::future::ready(answer)
    });
    let outcome = run(&wire, &report, "a part", work).await;
    (outcome, wire.0.into_inner(), meters.send.read().retries, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_asks_for_30_s_gets_them() {
    for status in [429, 503] {
        let (outcome, _, retries, time) = tried(&[(status, Some("30")), (status, Some("30"))]).await;
        assert_eq!((outcome.unwrap(), retries), (2, 2));
        assert!(time >= Duration::from_secs(60), "{time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wish_past_all_patience_is_an_error_and_never_cut_short() {
    let (outcome, _, _, time) = tried(&[(429, Some("86400"))]).await;
    assert!(outcome.unwrap_err().to_string().contains("429"));
    assert!(time < Duration::from_secs(1), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn patience_ends_and_says_how_long_it_was() {
    let (outcome, _, retries, _) = tried(&[(502, None); 99]).await;
    let words = outcome.unwrap_err().to_string();
    assert!(words.contains("registry.example") && words.contains("502") && words.contains("tried 9 times"), "{words}");
    assert_eq!(retries, 8);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_once_and_that_is_no_retry() {
    let (outcome, tokens, retries, _) = tried(&[(401, None)]).await;
    assert_eq!((outcome.unwrap(), tokens, retries), (1, 1, 0));
    let (outcome, tokens, retries, _) = tried(&[(401, None), (401, None)]).await;
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), tokens, retries), (crate::error::Kind::Unauthorized, 1, 0));
    assert!(!error.to_string().contains("tried"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_a_wait() {
    let stop = Stop::new();
    let (report, _) = report(stop.clone());
    let wire = Tokens::default();
    let waiting =
        run(&wire, &report, "a part", Request(|| std::future::ready(Err::<(), _>(failing(429, Some("300"))))));
    let (outcome, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.interrupt();
    });
    assert_eq!(outcome.unwrap_err().kind(), crate::error::Kind::HungUp);
}
