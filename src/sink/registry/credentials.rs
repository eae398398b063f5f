//! Credentials where Docker, Podman and Buildah put them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::helper;
use crate::error::{Error, Kind, Result, Side};
use crate::text;

/// No credential file of a person is larger.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The key under which everybody keeps the credentials of Docker's own registry.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Docker's own registry has several names.
const HUB_HOSTS: &[&str] = &["docker.io", "index.docker.io", "registry-1.docker.io"];

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

/// Of `config.json` and `auth.json` what concerns credentials; anything may be missing, null or empty.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// The credential files of this user, in the order they are asked. A file that was named on purpose comes first.
#[must_use]
pub(super) fn user_files() -> Vec<PathBuf> {
    files_of(|name| std::env::var_os(name).filter(|value| !value.is_empty()), rustix::process::geteuid().as_raw())
}

fn files_of(variable: impl Fn(&str) -> Option<OsString>, user: u32) -> Vec<PathBuf> {
    let folder = |name: &str| variable(name).map(PathBuf::from);
    let home = |path: &str| folder("HOME").map(|home| home.join(path));
    let docker = folder("DOCKER_CONFIG").or_else(|| home(".docker"));
    let config = folder("XDG_CONFIG_HOME").or_else(|| home(".config"));
    [
        folder("REGISTRY_AUTH_FILE"),
        docker.map(|folder| folder.join("config.json")),
        folder("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
        // Where Podman and Buildah put them without XDG_RUNTIME_DIR, as root mostly is.
        Some(format!("/run/containers/{user}/auth.json").into()),
        config.map(|folder| folder.join("containers/auth.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Looks through `files` for the longest key that covers the repository. A helper gets `limit`.
///
/// # Errors
/// [`Kind::Usage`] when a file can't be read or understood; [`Kind::Unauthorized`] when a helper fails for another reason
/// than having nothing.
pub(super) async fn find(files: &[PathBuf], registry: &str, repository: &str, limit: Duration) -> Result<Credentials> {
    for path in files {
        let Some(config) = read(path)? else { continue };
        for key in keys(registry, repository) {
            let credential = match config.helper(&key) {
                Some(name) => {
                    let asked = helper::get(name, &key, limit).await;
                    asked.map_err(|reason| helper_failed(name, path, &key, &reason))?
                }
                None => config.entry(&key).map_err(|reason| broken(path, format!("'{key}': {reason}")))?,
            };
            let credential = match (credential, config.store(&key)) {
                (None, Some(name)) => {
                    let asked = helper::get(name, &key, limit).await;
                    asked.map_err(|reason| helper_failed(name, path, &key, &reason))?
                }
                (found, _) => found,
            };
            if let Some(credential) = credential {
                return Ok(Credentials { credential, origin: format!("'{key}' in {}", path.display()) });
            }
        }
    }
    let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    let origin = if files.is_empty() { "none".to_owned() } else { format!("none found in {}", files.join(", ")) };
    Ok(Credentials { credential: Credential::None, origin })
}

fn helper_failed(name: &str, file: &Path, key: &str, reason: &str) -> Error {
    let subject = format!("docker-credential-{} for '{key}'", text::name(name.as_bytes()));
    let hint = format!("{} names it; log in again, or correct the file", file.display());
    Error::new(Kind::Unauthorized, Side::Sink, "asking a credential helper", subject, reason).hint(hint)
}

fn broken(file: &Path, reason: String) -> Error {
    Error::usage("reading credentials", file.display(), reason).hint("correct the file, or log in again")
}

fn read(path: &Path) -> Result<Option<Config>> {
    let text = match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return Err(broken(path, format!("it has {} bytes", metadata.len())));
        }
        Ok(metadata) if !metadata.is_file() => return Ok(None),
        Ok(_) => std::fs::read(path).map_err(|error| broken(path, error.to_string()))?,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(broken(path, error.to_string())),
    };
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    // Where, and not what: the words could hold a password.
    let place = |error: serde_json::Error| {
        format!("it is not JSON of credentials at line {}, column {}", error.line(), error.column())
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| broken(path, place(error)))
}

impl Config {
    fn helper(&self, key: &str) -> Option<&str> {
        let name = self.cred_helpers.as_ref()?.get(key)?;
        (!name.is_empty()).then_some(name)
    }

    /// The store of all other keys; it knows hosts, and no path but Docker's own.
    fn store(&self, key: &str) -> Option<&str> {
        let is_host = !key.contains('/') || key == HUB_KEY;
        self.creds_store.as_deref().filter(|name| is_host && !name.is_empty())
    }

    fn entry(&self, key: &str) -> Result<Option<Credential>, &'static str> {
        let Some(auths) = &self.auths else { return Ok(None) };
        // Older files have a host's key as an address.
        let older =
            || auths.iter().find(|(listed, _)| !key.contains('/') && is_same_host(listed, key)).map(|(_, entry)| entry);
        let Some(Some(entry)) = auths.get(key).or_else(older) else { return Ok(None) };
        let there = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = there(&entry.identitytoken) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        if let Some(auth) = there(&entry.auth) {
            return decoded(&auth).map(Some).ok_or("its auth is no base64 of USER:PASSWORD");
        }
        let user = there(&entry.username).zip(there(&entry.password));
        Ok(user.map(|(user, password)| Credential::Password { user, password }))
    }
}

fn is_same_host(listed: &str, host: &str) -> bool {
    let rest = listed.strip_prefix("https://").or(listed.strip_prefix("http://"));
    let listed = rest.map_or(listed, |rest| rest.split('/').next().unwrap_or_default());
    listed == host || (HUB_HOSTS.contains(&listed) && HUB_HOSTS.contains(&host))
}

fn decoded(auth: &str) -> Option<Credential> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, config).decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // Docker's own reader drops zeros at the end.
    Some(Credential::Password { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() })
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(json: &str, registry: &str, repository: &str) -> Result<Option<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("auth.json");
        std::fs::write(&path, json).unwrap();
        let missing = folder.path().join("missing.json");
        let found = find(&[missing, path], registry, repository, Duration::from_secs(9)).await?;
        Ok(match found.credential {
            Credential::None => None,
            Credential::Password { user, password } => Some(format!("{user}:{password}")),
            Credential::IdentityToken(token) => Some(format!("token {token}")),
        })
    }

    #[tokio::test]
    async fn the_longest_key_wins() {
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
            assert_eq!(found(json, registry, repository).await.unwrap().as_deref(), wanted, "{registry}/{repository}");
        }
    }

    #[tokio::test]
    async fn a_broken_file_is_named() {
        for (json, kind) in [
            ("{", Kind::Usage),
            (r#"{"auths": {"r.example": {"auth": "!"}}}"#, Kind::Usage),
            (r#"{"credsStore": "smolfreeze-has-no-such-helper"}"#, Kind::Unauthorized),
            (r#"{"credHelpers": {"r.example": "smolfreeze-has-no-such-helper"}}"#, Kind::Unauthorized),
        ] {
            let error = found(json, "r.example", "name").await.unwrap_err();
            assert_eq!(error.kind(), kind, "{json}");
            let words = error.to_string();
            assert!(words.contains("auth.json"), "{words}");
            assert_eq!(words.contains("docker-credential-smolfreeze-has-no-such-helper"), kind == Kind::Unauthorized);
        }
    }

    #[tokio::test]
    async fn what_programs_leave_empty_is_no_error() {
        for json in [
            "",
            " \n",
            "{}",
            r#"{"auths": null}"#,
            r#"{"auths": {}, "credsStore": "", "credHelpers": null, "HttpHeaders": {"a": "b"}, "detachKeys": "x"}"#,
            r#"{"auths": {"r.example": {}}}"#,
            r#"{"auths": {"r.example": null}}"#,
            r#"{"auths": {"r.example": {"auth": "", "email": null, "identitytoken": ""}}, "credHelpers": {"r.example": ""}}"#,
        ] {
            assert_eq!(found(json, "r.example", "name").await.unwrap(), None, "{json}");
        }
        let json = r#"{"auths": {"r.example": {"username": "x", "password": "y", "auth": ""}}, "credsStore": "none"}"#;
        assert_eq!(found(json, "r.example", "name").await.unwrap().as_deref(), Some("x:y"));
    }

    #[test]
    fn files_are_where_docker_podman_and_buildah_put_them() {
        let with = |set: &[(&str, &str)], user: u32| {
            let value = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(*value));
            files_of(value, user).iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            with(&[("HOME", "/root")], 0),
            ["/root/.docker/config.json", "/run/containers/0/auth.json", "/root/.config/containers/auth.json"]
        );
        let set =
            [("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/7"), ("REGISTRY_AUTH_FILE", "/f"), ("DOCKER_CONFIG", "/d")];
        assert_eq!(
            with(&set, 7),
            [
                "/f",
                "/d/config.json",
                "/run/user/7/containers/auth.json",
                "/run/containers/7/auth.json",
                "/h/.config/containers/auth.json"
            ]
        );
        assert_eq!(with(&[], 1000), ["/run/containers/1000/auth.json"]);
    }
}
