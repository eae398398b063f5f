//! What lies between a host and its registry: a proxy of the environment's, and an authority of the system's.

// Nothing on loopback goes through a proxy, so the registry has a name here that the proxy alone knows.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::host::{Host, finish};
use crate::support::docker_registry::{DockerRegistry, Setup};

const NAME: &str = "registry.test";

/// Debian's tinyproxy, which asks for a password and finds [`NAME`] on loopback; it ends when this is dropped.
struct Tinyproxy {
    process: Child,
    address: String,
    log: std::path::PathBuf,
}

impl Tinyproxy {
    fn start(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (config, log) = (folder.join("tinyproxy.conf"), folder.join("tinyproxy.log"));
        let lines = format!(
            "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nBasicAuth user secret\nLogFile \"{}\"\nLogLevel Connect\n",
            log.display()
        );
        fs::write(&config, lines).unwrap();
        let hosts = folder.join("hosts");
        fs::write(&hosts, format!("127.0.0.1 {NAME}\n")).unwrap();
        let script = "mount --bind $1 /etc/hosts && exec tinyproxy -d -c $2";
        let mut process = Command::new("unshare");
        process.args(["--mount", "sh", "-c", script, "sh"]).args([&hosts, &config]).stdout(Stdio::null());
        let process = process.spawn().unwrap();
        let address = format!("127.0.0.1:{port}");
        while std::net::TcpStream::connect(&address).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, address, log }
    }

    /// The requests that it was asked for, by their first words.
    fn asked(&self, words: &str) -> usize {
        fs::read_to_string(&self.log).unwrap().matches(words).count()
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An authority's certificate, and what a server on loopback has of it.
fn authority() -> (String, (String, String)) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = ["127.0.0.1", NAME].map(str::to_owned);
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    (authority.pem(), (certificate.pem(), key.serialize_pem()))
}

fn freeze_with(host: &Host, variables: &[(&str, &str)], words: &[&str]) -> (bool, String) {
    let source = format!("dir:{}", host.path("tree").display());
    let mut command = host.command(&["freeze", "--quiet", &source, "--to"]);
    let output = finish(command.args(words).envs(variables.iter().copied()).spawn().unwrap());
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_proxy_of_the_environments_carries_everything() {
    let host = Host::new();
    host.tree("tree", "for i in {1..4}; do head -c 3000000 /dev/urandom >$i; done");
    let proxy = Tinyproxy::start(&host.path("."));
    let url = format!("http://user:secret@{}", proxy.address);
    let plain = DockerRegistry::start();
    let port = plain.address.port();
    let name = format!("{NAME}:{port}/space/name:tag");
    assert_eq!(freeze_with(&host, &[("HTTP_PROXY", &url)], &[&name, "--plain-http"]), (true, String::new()));
    assert!(proxy.asked(&format!("PUT http://{NAME}:{port}/v2/space/name/manifests/tag")) > 0);
    host.verify(&format!("{}/space/name:tag", plain.address));

    let (pem, tls) = authority();
    fs::write(host.path("ca.pem"), pem).unwrap();
    let secure = DockerRegistry::start_with(&Setup { tls: Some(tls), ..Setup::default() });
    let name = format!("{NAME}:{}/space/name:tag", secure.address.port());
    let trusted = ("SSL_CERT_FILE", &*host.text("ca.pem"));
    assert_eq!(freeze_with(&host, &[("HTTPS_PROXY", &url), trusted], &[&name]), (true, String::new()));
    assert!(proxy.asked(&format!("CONNECT {NAME}:{}", secure.address.port())) > 0);

    // Nobody else knows the name.
    for (variables, words) in [
        ([("HTTPS_PROXY", &*url), ("NO_PROXY", NAME)], NAME),
        ([("HTTPS_PROXY", &*url.replace("secret", "wrong")), trusted], "HTTPS_PROXY"),
    ] {
        let (good, said) = freeze_with(&host, &variables, &[&name]);
        assert!(!good && said.contains(words) && !said.contains("wrong"), "{said}");
    }
}

#[test]
fn an_authority_of_the_systems_is_trusted_on_loopback() {
    let host = Host::new();
    host.tree("tree", "echo x >x");
    let ((pem, tls), (stranger, _)) = (authority(), authority());
    fs::write(host.path("ca.pem"), pem).unwrap();
    fs::write(host.path("stranger.pem"), stranger).unwrap();
    let registry = DockerRegistry::start_with(&Setup { tls: Some(tls), ..Setup::default() });
    let name = format!("{}/space/name:tag", registry.address);
    assert_eq!(freeze_with(&host, &[("SSL_CERT_FILE", &host.text("ca.pem"))], &[&name]), (true, String::new()));
    let (good, said) = freeze_with(&host, &[("SSL_CERT_FILE", &host.text("stranger.pem"))], &[&name]);
    assert!(!good && said.contains("certificate") && said.contains("--ca-cert"), "{said}");
}
