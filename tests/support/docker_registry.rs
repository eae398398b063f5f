//! Debian's own `docker-registry`, on a free port of loopback, with its storage in a folder that goes with it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A running registry; it ends when this is dropped.
pub struct DockerRegistry {
    process: Child,
    folder: tempfile::TempDir,
    pub address: SocketAddr,
}

/// What is not as usual.
#[derive(Default)]
pub struct Setup {
    /// The lines of an htpasswd file.
    pub htpasswd: Option<String>,
    /// Certificate chain and key, PEM.
    pub tls: Option<(String, String)>,
}

impl DockerRegistry {
    pub fn start() -> Self {
        Self::start_with(&Setup::default())
    }

    pub fn start_with(setup: &Setup) -> Self {
        // The port is free until somebody else takes it in between; then the registry ends, and it is tried again.
        for _ in 0..5 {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let address = free_address();
            let config = configure(folder.path(), address, setup);
            let process = Command::new("docker-registry")
                .args([Path::new("serve"), &config])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry has to be installed (apt install docker-registry)");
            let mut registry = Self { process, folder, address };
            if registry.answers() {
                return registry;
            }
        }
        panic!("docker-registry does not start");
    }

    fn answers(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            if self.process.try_wait().expect("the registry's state").is_some() {
                return false;
            }
            if TcpStream::connect(self.address).is_ok() {
                return true;
            }
            sleep(Duration::from_millis(20));
        }
        false
    }

    /// The upload sessions it keeps for a repository. A cancelled one leaves a folder without a start.
    pub fn open_sessions(&self, repository: &str) -> usize {
        let folder =
            self.folder.path().join("storage/docker/registry/v2/repositories").join(repository).join("_uploads");
        fs::read_dir(folder)
            .map_or(0, |entries| entries.flatten().filter(|entry| entry.path().join("startedat").exists()).count())
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("the port's number")
}

fn configure(folder: &Path, address: SocketAddr, setup: &Setup) -> PathBuf {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).expect("a file in the temporary folder");
        path.display().to_string()
    };
    let storage = folder.join("storage");
    let http = match &setup.tls {
        Some((certificate, key)) => {
            let (certificate, key) = (write("chain.pem", certificate), write("key.pem", key));
            format!("{{addr: '{address}', tls: {{certificate: {certificate}, key: {key}}}}}")
        }
        None => format!("{{addr: '{address}'}}"),
    };
    let auth = match &setup.htpasswd {
        Some(lines) => format!("{{htpasswd: {{realm: test, path: {}}}}}", write("htpasswd", lines)),
        None => "{}".to_owned(),
    };
    let storage = format!("{{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}", storage.display());
    let config = format!("version: 0.1\nlog: {{level: error}}\nstorage: {storage}\nhttp: {http}\nauth: {auth}\n");
    PathBuf::from(write("config.yml", &config))
}
