//! Which endpoint answers which request.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, HOST, HeaderName, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, Method, Response, Uri};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use super::admit::{self, Target};
use super::fault::{Code, Fault};
use super::session::Sessions;
use super::store::Store;
use super::{Access, blobs, lists, manifests, uploads};
use crate::error::Error;

/// The header in which registries say what a body is.
pub const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Everything that requests share.
#[derive(Debug)]
pub struct Registry {
    /// The layout.
    pub store: Store,
    /// Uploads that are not complete.
    pub sessions: Sessions,
    /// What a client may do.
    pub access: Access,
    /// Names in `Host` headers.
    pub hosts: Vec<String>,
    /// Bodies that are being received. They are tasks of their own, because a request is dropped with its connection,
    /// and what arrived has to be kept.
    pub uploads: TaskTracker,
}

/// The endpoints of the distribution specification, without the repository, which is an extension of the request.
pub fn router(registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/", get(async || ([(CONTENT_TYPE, "application/json")], "{}")))
        .route("/_catalog", get(lists::catalog))
        .route("/blobs/{digest}", get(blobs::read).delete(blobs::remove))
        .route("/blobs/uploads/", post(uploads::open))
        .route(
            "/blobs/uploads/{session}",
            get(uploads::status).patch(uploads::append).put(uploads::finish).delete(uploads::cancel),
        )
        .route("/manifests/{reference}", get(manifests::read).put(manifests::write).delete(manifests::remove))
        .route("/tags/list", get(lists::tags))
        .route("/referrers/{digest}", get(lists::referrers))
        .fallback(async || Fault::new(Code::NameUnknown, "there is no such endpoint"))
        .method_not_allowed_fallback(async || Fault::new(Code::Unsupported, "this endpoint has no such method"))
        .with_state(registry)
}

/// Answers one request.
pub async fn answer(registry: &Registry, mut router: Router, mut request: Request) -> Response<Body> {
    let mut response = match admit(registry, &mut request) {
        Ok(()) => match router.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        Err(fault) => fault.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    // Whatever a blob is, a browser must not run it.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Refuses what is not meant for this server, and takes the repository out of the path.
fn admit(registry: &Registry, request: &mut Request) -> Result<(), Fault> {
    let host = request.uri().host().map(str::to_owned);
    let host = host.as_deref().or_else(|| header(request.headers(), &HOST));
    if !admit::is_meant(host, &registry.hosts) {
        let words = "this server is not called what the Host header says; ask it by its IP address, or as localhost";
        return Err(Fault::new(Code::Denied, words));
    }
    let only_reads = matches!(*request.method(), Method::GET | Method::HEAD);
    // Clients of registries send none; browsers do, for any page that asks them to.
    if !only_reads && request.headers().contains_key(ORIGIN) {
        return Err(Fault::new(Code::Denied, "pages on the web can't write here"));
    }
    if !only_reads && registry.access == Access::ReadOnly {
        return Err(Fault::new(Code::Unsupported, "this registry is read-only"));
    }
    let target = Target::parse(request.uri().path())?;
    let path_and_query = match request.uri().query() {
        Some(query) => format!("{}?{query}", target.endpoint),
        None => target.endpoint,
    };
    *request.uri_mut() = Uri::try_from(path_and_query)
        .map_err(|_| Fault::new(Code::NameInvalid, "the path has characters that no path has"))?;
    if let Some(repository) = target.repository {
        request.extensions_mut().insert(repository);
    }
    Ok(())
}

/// A header's value, as far as it is text.
pub fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The disk blocks, so its work is done elsewhere.
pub async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Error::hung_up("the disk").into()))
}
