//! A small registry over one layout folder: the OCI distribution specification 1.1, for loopback.
//!
//! ```text
//! connections ─▶ admit (host, path) ─▶ router ─▶ blobs      range          ┐
//!      bounded     pure                          uploads    session        ├─▶ store ─▶ layout
//!                                                manifests  manifest, name │     entries
//!                                                lists                     ┘
//! ```
//!
//! What is shared and what is not: a repository has its own tags and manifests, and is asked for no other's. Blobs are one
//! pool: whoever knows a digest may read it under any repository's name, and a mount only asks whether it is there. There
//! is neither TLS nor a password; who reaches the server may do everything that it can.

mod admit;
mod blobs;
mod connections;
mod entries;
mod fault;
#[doc(hidden)]
pub mod fuzzing;
mod lists;
mod manifest;
mod manifests;
mod name;
mod patience;
mod range;
mod router;
mod session;
mod store;
mod uploads;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use self::name::Repository;
use self::router::Registry;
use self::session::Sessions;
use self::store::Store;
use crate::error::{Error, Result};
use crate::stop::Stop;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Pull, push and delete.
    #[default]
    ReadWrite,
    /// Pull.
    ReadOnly,
}

/// How to serve; everything has a default.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// What a client may do. Read-only, nothing is written into the folder, which has to be a layout.
    pub access: Access,
    /// The repository of images with a plain tag, as `oci:DIR:TAG` makes them: by default the folder's name, or `layout`
    /// where that is no repository's name.
    pub home: Option<String>,
    /// Names that a `Host` header may have, besides IP addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Upload sessions at a time, 256. Each holds a file descriptor.
    pub sessions_max: usize,
    /// A session that nobody asked for in so long is dropped: an hour.
    pub session_idle_max: Duration,
    /// Connections at a time, 128; further ones wait. Each holds about 1 MiB while it sends a blob, and 4 MiB while it sends
    /// the largest manifest there may be.
    pub connections_max: usize,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            access: Access::default(),
            home: None,
            hosts: Vec::new(),
            sessions_max: 256,
            session_idle_max: Duration::from_secs(3600),
            connections_max: 128,
        }
    }
}

/// A registry that listens, and answers once it runs.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    registry: Arc<Registry>,
    connections_max: usize,
}

impl Server {
    /// Opens the layout at `folder`, which is made if it is not there, and removes what a dead writer left in it. Blocks
    /// for a moment.
    ///
    /// # Errors
    /// When the folder is no layout and not empty, or can't be written to; when `home` is no repository's name.
    pub fn open(folder: &Path, listener: TcpListener, options: ServeOptions) -> Result<Self> {
        let address =
            listener.local_addr().map_err(|error| Error::sink("listening", "the socket", &error).because(error))?;
        let home = match &options.home {
            Some(name) => Repository::parse(name).map_err(|_| {
                Error::usage("reading --repository", format_args!("'{name}'"), "it is no repository's name")
            })?,
            None => home_of(folder),
        };
        let store = match options.access {
            Access::ReadWrite => Store::make(folder, home)?,
            Access::ReadOnly => Store::open(folder, home)?,
        };
        let registry = Registry {
            store,
            sessions: Sessions::new(options.sessions_max, options.session_idle_max),
            access: options.access,
            hosts: options.hosts,
            uploads: tokio_util::task::TaskTracker::new(),
        };
        let connections_max = options.connections_max;
        Ok(Self { listener, address, registry: Arc::new(registry), connections_max })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until stopped, then lets those that are under way end for two seconds. Being stopped is how a
    /// server ends, so it is no error.
    pub async fn run(self, stop: &Stop) {
        connections::serve(self.listener, &self.registry, self.connections_max, stop).await;
    }
}

/// The folder's own name, if a repository may be called so.
fn home_of(folder: &Path) -> Repository {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    Repository::parse(name).unwrap_or_default()
}
