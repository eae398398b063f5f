//! Debian's own `docker-registry`, on a free port of loopback, with its storage in a folder that goes with it.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{fs, thread};

const CONFIG: &str = "config.yml";

/// A running registry; it ends when this is dropped.
pub struct DockerRegistry {
    process: Child,
    /// Its configuration.
    folder: tempfile::TempDir,
    storage: PathBuf,
    pub address: SocketAddr,
}

/// What is not as usual.
#[derive(Default)]
pub struct Setup {
    /// The lines of an htpasswd file.
    pub htpasswd: Option<String>,
    /// Certificate chain and key, PEM.
    pub tls: Option<(String, String)>,
    /// The authority, PEM, of the clients that it lets in, over TLS.
    pub clients: Option<String>,
    /// The folder for what it stores; else it goes with the registry.
    pub storage: Option<PathBuf>,
    /// It deletes nothing, as it does by default.
    pub keeps_all: bool,
}

impl DockerRegistry {
    pub fn start() -> Self {
        Self::start_with(&Setup::default())
    }

    pub fn start_with(setup: &Setup) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let storage = setup.storage.clone().unwrap_or_else(|| folder.path().join("storage"));
        let config = configure(folder.path(), &storage, setup);
        let (process, address) = serve(&config);
        Self { process, folder, storage, address }
    }

    /// Kills it as it is.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Nobody listens any more.
    pub fn is_gone(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Starts it again over what it has stored, at another port.
    pub fn restart(&mut self) {
        self.kill();
        (self.process, self.address) = serve(&self.folder.path().join(CONFIG));
    }

    /// The upload sessions it keeps for a repository. A cancelled one leaves a folder without a start.
    pub fn open_sessions(&self, repository: &str) -> usize {
        fs::read_dir(self.repository(repository).join("_uploads"))
            .map_or(0, |entries| entries.flatten().filter(|entry| entry.path().join("startedat").exists()).count())
    }

    /// Where it keeps what it knows of a repository: `_uploads`, `_manifests/tags`.
    pub fn repository(&self, repository: &str) -> PathBuf {
        self.storage.join("docker/registry/v2/repositories").join(repository)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the process, and hears from it where it listens.
fn serve(config: &Path) -> (Child, SocketAddr) {
    let mut process = Command::new("docker-registry")
        .args([Path::new("serve"), config])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("docker-registry has to be installed (apt install docker-registry)");
    let mut log = BufReader::new(process.stderr.take().expect("its log"));
    let address = listening(&mut log).expect("docker-registry does not start");
    // It would stop when nobody reads its log.
    thread::spawn(move || io::copy(&mut log, &mut io::sink()));
    (process, address)
}

/// The port it took, in its own words: a port chosen here could be somebody else's by the time it starts.
fn listening(log: &mut impl BufRead) -> Option<SocketAddr> {
    log.lines().map_while(Result::ok).find_map(|line| {
        let (_, rest) = line.split_once("listening on ")?;
        rest.split(['"', ',', ' ']).next()?.parse().ok()
    })
}

fn configure(folder: &Path, storage: &Path, setup: &Setup) -> PathBuf {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).expect("a file in the temporary folder");
        path.display().to_string()
    };
    let http = match &setup.tls {
        Some((certificate, key)) => {
            let (certificate, key) = (write("chain.pem", certificate), write("key.pem", key));
            let clients = setup.clients.as_ref().map(|authority| write("clients.pem", authority));
            let clients = clients.map_or_else(String::new, |path| format!(", clientcas: [{path}]"));
            format!("{{addr: '127.0.0.1:0', tls: {{certificate: {certificate}, key: {key}{clients}}}}}")
        }
        None => "{addr: '127.0.0.1:0'}".to_owned(),
    };
    let auth = match &setup.htpasswd {
        Some(lines) => format!("{{htpasswd: {{realm: test, path: {}}}}}", write("htpasswd", lines)),
        None => "{}".to_owned(),
    };
    let (folder, deletes) = (storage.display(), !setup.keeps_all);
    let storage = format!("{{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: {deletes}}}}}");
    let config = format!("version: 0.1\nlog: {{level: info}}\nstorage: {storage}\nhttp: {http}\nauth: {auth}\n");
    PathBuf::from(write(CONFIG, &config))
}
