//! Connections: as many as there may be, and how they end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::patience::Taken;
use super::router::{self, Registry};
use crate::stop::Stop;

/// After a stop, requests that are under way get so long.
const GRACE: Duration = Duration::from_secs(2);
/// A connection on which no request comes, or none that ends, is closed after this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often sessions are looked at that nobody uses.
const IDLE_LOOK: Duration = Duration::from_secs(60);
/// Bytes of a request's head, and of what is read ahead of its body.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Out of file descriptors, there may be some again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts and serves until stopped; then everything that it started has ended.
pub async fn serve(listener: TcpListener, registry: &Arc<Registry>, connections_max: usize, stop: &Stop) {
    let router = router::router(Arc::clone(registry));
    let free = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    let mut idle_look = tokio::time::interval(IDLE_LOOK);
    loop {
        let next = async {
            let permit = Arc::clone(&free).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = stop.stopped() => break,
            _ = idle_look.tick() => registry.sessions.drop_idle(),
            Some(_) = connections.join_next() => {}
            (permit, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let (registry, router, stop) = (Arc::clone(registry), router.clone(), stop.clone());
                    connections.spawn(async move {
                        connection(stream, registry, router, stop).await;
                        drop(permit);
                    });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // Each ends by itself in time; this is for the ones that were not even polled.
    let _ = tokio::time::timeout(GRACE * 2, all).await;
    connections.shutdown().await;
    registry.uploads.close();
    registry.uploads.wait().await;
}

async fn connection(stream: TcpStream, registry: Arc<Registry>, router: Router, stop: Stop) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (registry, router) = (Arc::clone(&registry), router.clone());
        async move { Ok::<_, std::convert::Infallible>(router::answer(&registry, router, request.map(Body::new)).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(Taken::new(stream)), service);
    let mut connection = std::pin::pin!(connection);
    // How a connection ends is the client's affair: it sees the same.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.stopped() => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(GRACE, connection).await;
}
