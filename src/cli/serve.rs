//! `smolfreeze serve`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::{Error, Result};
use smolfreeze::serve::{Access, ServeOptions, Server};
use smolfreeze::stop::Stop;
use tokio::net::TcpListener;

/// Serve an OCI layout folder as a registry.
///
/// There is neither TLS nor a password: on another address than a loopback one, whoever reaches it may do everything. A
/// signal ends it, with exit code 0: requests that are under way get two seconds.
#[derive(Args)]
pub struct Serve {
    /// The layout's folder; it is made if it is not there.
    folder: PathBuf,
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    listen: String,
    /// Refuse everything that writes.
    #[arg(long)]
    read_only: bool,
    /// The repository of images with a plain tag (oci:DIR:TAG) [default: the folder's name]
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Another name of this host that clients may ask by, besides addresses and localhost. Repeatable.
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
}

impl Serve {
    /// Serves until stopped.
    pub async fn run(self, stop: Stop) -> Result<ExitCode> {
        let failed = |error: std::io::Error| {
            Error::usage("listening", format_args!("'{}'", self.listen), &error)
                .hint("give another --listen HOST:PORT")
                .because(error)
        };
        let listener = TcpListener::bind(&self.listen).await.map_err(failed)?;
        let mut hosts = self.host;
        hosts.extend(self.listen.rsplit_once(':').map(|(host, _)| host.to_owned()));
        let access = if self.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let options = ServeOptions { access, home: self.repository, hosts, ..ServeOptions::default() };
        let server = Server::open(&self.folder, listener, options)?;
        let address = server.address();
        super::print(&format!("listening on http://{address}"))?;
        if !address.ip().is_loopback() {
            let warning =
                "smolfreeze: there is no TLS and no authentication: whoever reaches this address may do everything";
            let _ = writeln!(std::io::stderr(), "{warning}");
        }
        server.run(&stop).await;
        Ok(ExitCode::SUCCESS)
    }
}
