//! Whom we believe to be a registry, and what we show of ourselves: the system's authorities, `--ca-cert`, and the folders
//! that Docker and Podman have for a host's certificates.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::RegistryOptions;
use crate::error::{Error, Result};

/// Where the certificates of hosts are, in folders named `HOST` or `HOST:PORT` (docker-certs.d(5),
/// containers-certs.d(5)): the user's own first.
fn host_folders() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".config/containers/certs.d"));
    home.into_iter().chain(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from)).collect()
}

/// What the user has for one registry.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    /// Trusted besides the system's.
    trusted: Vec<CertificateDer<'static>>,
    /// Shown to a registry that asks who we are.
    own: Option<Arc<Own>>,
}

#[derive(Debug)]
struct Own {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    file: PathBuf,
}

/// What a connection goes by that is to no registry: the system's authorities alone.
///
/// # Errors
/// With `is_needed`, when there are none.
pub(crate) fn system_tls(is_needed: bool) -> Result<ClientConfig> {
    Certificates { trusted: Vec::new(), own: None }.config(is_needed)
}

impl Certificates {
    /// Reads `--ca-cert` and the folders of `registry`, which is a host with its port, as in a reference.
    ///
    /// # Errors
    /// When a file can't be read, or holds none.
    pub(super) fn read(options: &RegistryOptions, registry: &str) -> Result<Self> {
        let mut found = Self { trusted: Vec::new(), own: None };
        if let Some(path) = &options.ca_cert {
            found.trusted = authorities(path)?;
        }
        let folders = options.certificate_folders.clone().unwrap_or_else(host_folders);
        for folder in folders.iter().map(|folder| folder.join(registry)) {
            // One that is not there, or not for us to read, is none.
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => found.trusted.extend(authorities(&path)?),
                    Some("cert") if found.own.is_none() => found.own = Some(Arc::new(Own::read(&path)?)),
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// What a connection goes by.
    ///
    /// # Errors
    /// When the client's certificate and key don't belong together; with `is_needed`, when there is no authority at all.
    pub(super) fn config(&self, is_needed: bool) -> Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = Trust::new(self.trusted.clone(), &provider);
        if is_needed {
            trust.authorities().map_err(NoAuthority::into_error)?;
        }
        let refuse = |error: rustls::Error, file: &Path| {
            let reason = format!("it does not go with its key: {error}");
            Error::usage("reading a client certificate", file.display(), reason).because(error)
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refuse(error, Path::new("TLS")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust));
        match &self.own {
            None => Ok(builder.with_no_client_auth()),
            Some(own) => builder
                .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
                .map_err(|error| refuse(error, &own.file)),
        }
    }
}

impl Own {
    /// `NAME.cert`, and `NAME.key` beside it.
    fn read(file: &Path) -> Result<Self> {
        let (key_file, chain) = (file.with_extension("key"), certificates("reading a client certificate", file)?);
        let key = PrivateKeyDer::from_pem_file(&key_file).map_err(|error| {
            let hint = format!("it belongs to {}", file.display());
            Error::usage("reading a client's key", key_file.display(), &error).hint(hint).because(error)
        })?;
        Ok(Self { chain, key, file: file.to_owned() })
    }
}

/// Whether a file of authorities can be read.
///
/// # Errors
/// When it can't, or holds none.
pub(crate) fn check_authorities(path: &Path) -> Result<()> {
    authorities(path).map(drop)
}

fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    certificates("reading the CA certificate", path)
}

fn certificates(operation: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let refuse = |reason: &str| Error::usage(operation, path.display(), reason).hint("give a file of PEM certificates");
    let pem = std::fs::read(path).map_err(|error| refuse(&error.to_string()).because(error))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = read.map_err(|error| refuse(&error.to_string()).because(error))?;
    if found.is_empty() {
        return Err(refuse("it holds no PEM certificate"));
    }
    let broken = found.iter().find_map(|certificate| RootCertStore::empty().add(certificate.clone()).err());
    broken.map_or(Ok(found), |error| Err(refuse(&error.to_string()).because(error)))
}

/// Trusts what webpki trusts, and a server's certificate that is itself among the trusted ones, as curl and Go do: the
/// usual self-signed one is an authority by its form, which webpki takes from no server (`CaUsedAsEndEntity`).
#[derive(Debug)]
struct Trust {
    named: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Read when they are needed: plain http must not fail for want of the system's.
    authorities: OnceLock<Result<Authorities, NoAuthority>>,
}

#[derive(Debug)]
struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
}

/// Nobody can be trusted.
#[derive(Debug, Clone)]
struct NoAuthority(String);

impl NoAuthority {
    fn into_error(self) -> Error {
        let hint = "install the system's CA certificates, or give --ca-cert";
        Error::sink("preparing TLS", "the system's CA certificates", self.0).hint(hint)
    }
}

impl Trust {
    fn new(named: Vec<CertificateDer<'static>>, provider: &CryptoProvider) -> Self {
        Self { named, algorithms: provider.signature_verification_algorithms, authorities: OnceLock::new() }
    }

    fn authorities(&self) -> Result<&Authorities, NoAuthority> {
        let read = self.authorities.get_or_init(|| {
            let system = rustls_native_certs::load_native_certs();
            let mut certificates = self.named.clone();
            certificates.extend(system.certs);
            let mut roots = RootCertStore::empty();
            // Some systems carry what webpki can't read.
            if roots.add_parsable_certificates(certificates.iter().cloned()).0 == 0 {
                let why = system.errors.first().map_or("there are none".to_owned(), ToString::to_string);
                return Err(NoAuthority(why));
            }
            Ok(Authorities { certificates, roots })
        });
        read.as_ref().map_err(Clone::clone)
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Authorities { certificates, roots } = self.authorities().map_err(|none| rustls::Error::General(none.0))?;
        let parsed = ParsedCertificate::try_from(server)?;
        let all = self.algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, all) {
            Ok(()) => {}
            // Of what webpki has no kind of its own for, this comes after the time of validity was found to be right.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) if certificates.contains(server) => {}
            Err(error) => return Err(error),
        }
        verify_server_name(&parsed, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    /// As `openssl req -x509` makes it: signed by itself, and an authority by its form.
    fn self_signed(days: std::ops::Range<i64>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["registry.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let now = rcgen::date_time_ymd(2026, 1, 1);
        params.not_before = now + std::time::Duration::from_secs(86_400) * u32::try_from(days.start).unwrap();
        params.not_after = now + std::time::Duration::from_secs(86_400) * u32::try_from(days.end).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_that_was_given_is_trusted_for_its_name_and_time_alone() {
        let (given, other) = (self_signed(0..20), self_signed(0..20));
        let trust = Trust::new(vec![given.clone()], &rustls::crypto::ring::default_provider());
        // 2026-01-01, and days after it.
        let judged = |certificate: &CertificateDer<'_>, name: &str, day: u64| {
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_767_225_600 + day * 86_400));
            trust.verify_server_cert(certificate, &[], &ServerName::try_from(name.to_owned()).unwrap(), &[], now)
        };
        judged(&given, "registry.example", 10).unwrap();
        for (certificate, name, day) in
            [(&given, "other.example", 10), (&given, "registry.example", 30), (&other, "registry.example", 10)]
        {
            assert!(judged(certificate, name, day).is_err(), "{name} on day {day}");
        }
    }
}
