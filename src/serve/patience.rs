//! How long a client may keep the server waiting: each holds one of the connections that there may be.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::fault::{Code, Fault};

/// A client that sends nothing, or next to nothing, for so long has gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Less is next to nothing.
const SEND_BYTES_MIN: usize = 1 << 10;
/// A client that takes nothing of an answer for so long has gone.
const TAKE_TIMEOUT: Duration = Duration::from_secs(120);

/// A body on its way here.
pub struct Arriving {
    stream: BodyDataStream,
    /// Bytes that came lately, and how long they were waited for.
    bytes: usize,
    waited: Duration,
}

impl Arriving {
    pub fn new(body: Body) -> Self {
        Self { stream: body.into_data_stream(), bytes: 0, waited: Duration::ZERO }
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// When it is cut off, or brings next to nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let cut = |words: &str| Fault::new(Code::BlobUploadInvalid, words).with_status(StatusCode::REQUEST_TIMEOUT);
        let began = Instant::now();
        let bytes = match timeout(SEND_TIMEOUT, self.stream.next()).await {
            Ok(Some(Ok(bytes))) => bytes,
            Ok(Some(Err(_))) => return Err(cut("the request was cut off")),
            Ok(None) => return Ok(None),
            Err(_) => return Err(cut("nothing was sent for a minute")),
        };
        self.waited += began.elapsed();
        self.bytes += bytes.len();
        if self.bytes >= SEND_BYTES_MIN {
            (self.bytes, self.waited) = (0, Duration::ZERO);
        }
        if self.waited >= SEND_TIMEOUT {
            return Err(cut("less than 1024 bytes were sent in a minute"));
        }
        Ok(Some(bytes))
    }

    /// What is left of it.
    pub fn rest(self) -> BodyDataStream {
        self.stream
    }
}

/// A connection whose other side has to take what is sent.
pub struct Taken<S> {
    stream: S,
    /// There while it does not.
    late: Option<Pin<Box<Sleep>>>,
}

impl<S> Taken<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, late: None }
    }

    fn in_time<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.late = None;
            return written;
        }
        let late = self.late.get_or_insert_with(|| Box::pin(sleep(TAKE_TIMEOUT)));
        late.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.in_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.in_time(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A body of `bytes` each ten seconds.
    fn drip(bytes: usize) -> Arriving {
        let pieces = futures_util::stream::unfold(0, move |at| async move {
            sleep(Duration::from_secs(10)).await;
            (at < 100).then(|| (Ok::<_, io::Error>(Bytes::from(vec![0; bytes])), at + 1))
        });
        Arriving::new(Body::from_stream(pieces))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_cut_and_a_slow_one_is_not() {
        for (bytes, pieces) in [(1, 5), (100, 5), (200, 100), (1024, 100)] {
            let (mut body, mut came) = (drip(bytes), 0);
            let end = loop {
                match body.next().await {
                    Ok(Some(_)) => came += 1,
                    Ok(None) => break "whole",
                    Err(fault) => {
                        assert!(fault.to_string().contains("less than 1024 bytes"), "{fault}");
                        break "cut";
                    }
                }
            };
            assert_eq!((came, end), (pieces, if pieces == 100 { "whole" } else { "cut" }), "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_an_answer_is_let_go() {
        let (server, mut client) = tokio::io::duplex(16);
        let mut server = Taken::new(server);
        let reading = tokio::spawn(async move {
            for _ in 0..10 {
                sleep(Duration::from_secs(100)).await;
                client.read_exact(&mut [0; 16]).await.unwrap();
            }
            client
        });
        server.write_all(&[0; 160]).await.unwrap();
        let client = reading.await.unwrap();
        let began = Instant::now();
        let error = server.write_all(&[0; 160]).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 120));
        drop(client);
    }
}
