//! Credentials as Docker's and Podman's users have them, and what a registry granted for them.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use reqwest::header::HeaderValue;

use crate::error::{Error, Result};

/// No credential file of a person is larger.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The key under which everybody keeps the credentials of Docker's own registry.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// What the user has for a registry.
pub(super) enum Credential {
    /// Nothing.
    None,
    /// For basic authentication, and for token endpoints.
    Password {
        /// The user's name.
        user: String,
        /// The password, or a token in its place.
        password: String,
    },
    /// A refresh token of OAuth 2, for token endpoints.
    IdentityToken(String),
}

/// A credential, and where it was found.
pub(super) struct Credentials {
    pub(super) credential: Credential,
    /// For people: a file, or that there is none.
    pub(super) origin: String,
}

/// Nothing secret is printed, not even in a debugger's words.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// The credential files of this user, in the order they are asked. A file that was named on purpose comes first.
#[must_use]
pub fn user_files() -> Vec<PathBuf> {
    let home = |path: &str| env::var_os("HOME").map(|home| PathBuf::from(home).join(path));
    let docker = env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(|| home(".docker"));
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(|path| PathBuf::from(path).join("containers/auth.json"));
    [
        env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from),
        docker.map(|folder| folder.join("config.json")),
        runtime,
        home(".config/containers/auth.json"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Looks through `files` for the longest key that covers the repository. Helpers are run, so this blocks.
///
/// # Errors
/// When a file can't be read or understood, or a helper fails for another reason than having nothing.
pub(super) fn find(files: &[PathBuf], registry: &str, repository: &str) -> Result<Credentials> {
    for path in files {
        let Some(text) = read(path)? else { continue };
        let refuse = |reason: String| {
            Error::usage("reading credentials", path.display(), reason).hint("correct the file, or log in again")
        };
        let json: serde_json::Value = serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))?;
        for key in keys(registry, repository) {
            let listed = ["auths", "credHelpers"].into_iter().any(|part| json[part].get(&key).is_some());
            // The library matches older forms of a host's key, and asks `credsStore`; a path must be there as it is.
            if !listed && key.contains('/') && key != HUB_KEY {
                continue;
            }
            let credential = match get_credential_from_reader(text.as_slice(), &key) {
                Ok(DockerCredential::UsernamePassword(user, password)) => Credential::Password { user, password },
                Ok(DockerCredential::IdentityToken(token)) => Credential::IdentityToken(token),
                Err(CredentialRetrievalError::NoCredentialConfigured) => continue,
                Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("not found") => continue,
                Err(CredentialRetrievalError::HelperFailure { helper, stderr, .. }) => {
                    let words = stderr.lines().next().unwrap_or_default().to_owned();
                    return Err(refuse(format!("{helper} failed for '{key}': {words}")));
                }
                Err(error) => return Err(refuse(format!("'{key}': {error}"))),
            };
            return Ok(Credentials { credential, origin: format!("'{key}' in {}", path.display()) });
        }
    }
    let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    let origin = if files.is_empty() { "none".to_owned() } else { format!("none found in {}", files.join(", ")) };
    Ok(Credentials { credential: Credential::None, origin })
}

fn read(path: &PathBuf) -> Result<Option<Vec<u8>>> {
    let refuse = |reason: String| Error::usage("reading credentials", path.display(), reason);
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => Err(refuse(format!("it has {} bytes", metadata.len()))),
        Ok(metadata) if !metadata.is_file() => Ok(None),
        Ok(_) => std::fs::read(path).map(Some).map_err(|error| refuse(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refuse(error.to_string())),
    }
}

/// Podman's keys first, longest first (`host/namespace/name`), then the host's.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut key = format!("{registry}/{repository}");
    let mut keys = vec![key.clone()];
    while let Some((shorter, _)) = key.rsplit_once('/') {
        keys.push(shorter.to_owned());
        key = shorter.to_owned();
    }
    if registry == "docker.io" {
        keys.push(HUB_KEY.to_owned());
    }
    keys
}

/// What the registry granted so far: a header that goes with every request to it.
#[derive(Debug)]
pub(super) struct Auth {
    pub(super) credentials: Credentials,
    /// `repository:NAME:pull,push`, or without push.
    pub(super) scope: String,
    granted: RwLock<(u64, Option<HeaderValue>)>,
    /// Held while a token is fetched, so that many refused requests fetch one.
    pub(super) renewing: tokio::sync::Mutex<()>,
}

impl Auth {
    pub(super) fn new(credentials: Credentials, scope: String) -> Self {
        Self { credentials, scope, granted: RwLock::default(), renewing: tokio::sync::Mutex::default() }
    }

    /// The header, and which one in a row it is.
    pub(super) fn granted(&self) -> (u64, Option<HeaderValue>) {
        self.granted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn grant(&self, mut header: HeaderValue) {
        header.set_sensitive(true);
        let mut granted = self.granted.write().unwrap_or_else(PoisonError::into_inner);
        *granted = (granted.0 + 1, Some(header));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, registry: &str, repository: &str) -> Result<Option<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("auth.json");
        std::fs::write(&path, json).unwrap();
        let missing = folder.path().join("missing.json");
        Ok(match find(&[missing, path], registry, repository)?.credential {
            Credential::None => None,
            Credential::Password { user, password } => Some(format!("{user}:{password}")),
            Credential::IdentityToken(token) => Some(format!("token {token}")),
        })
    }

    #[test]
    fn the_longest_key_wins() {
        // x:host, x:space, x:name
        let json = r#"{"auths": {
            "r.example:5000": {"auth": "eDpob3N0"},
            "r.example:5000/space": {"auth": "eDpzcGFjZQ=="},
            "r.example:5000/space/name": {"auth": "eDpuYW1l"},
            "https://old.example/v1/": {"auth": "eDpob3N0"},
            "t.example": {"identitytoken": "abc", "auth": "eDo="},
            "https://index.docker.io/v1/": {"auth": "eDpob3N0"}
        }}"#;
        for (registry, repository, wanted) in [
            ("r.example:5000", "space/name", Some("x:name")),
            ("r.example:5000", "space/other", Some("x:space")),
            ("r.example:5000", "other/name", Some("x:host")),
            ("old.example", "name", Some("x:host")),
            ("t.example", "name", Some("token abc")),
            ("docker.io", "library/name", Some("x:host")),
            ("r.example", "space/name", None),
        ] {
            assert_eq!(found(json, registry, repository).unwrap().as_deref(), wanted, "{registry}/{repository}");
        }
    }

    #[test]
    fn a_broken_file_is_named() {
        for json in
            ["{", r#"{"auths": {"r.example": {"auth": "!"}}}"#, r#"{"credsStore": "smolfreeze-has-no-such-helper"}"#]
        {
            let error = found(json, "r.example", "name").unwrap_err().to_string();
            assert!(error.contains("auth.json"), "{error}");
        }
    }
}
