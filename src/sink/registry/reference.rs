//! What a user may write for an image of a registry, and what could have been meant by what is none: one reading for all
//! commands.

use oci_spec::distribution::Reference;

use crate::error::{Error, Result};
use crate::text;

/// What stands before other programs' names, and what to write instead; `{}` is what follows.
const FOREIGN: &[(&str, &str)] = &[
    ("docker://", "leave out 'docker://': {}"),
    ("oras://", "leave out 'oras://': {}"),
    ("oci://", "leave out 'oci://': {}"),
    ("https://", "leave out 'https://': {}"),
    ("http://", "leave out 'http://', and give --plain-http if it has no TLS: {}"),
    ("oci-archive:", "a layout is a folder, oci:DIR; `skopeo copy oci:DIR oci-archive:FILE` makes an archive of it"),
    ("docker-archive:", "a layout is a folder, oci:DIR; `skopeo copy oci:DIR oci-archive:FILE` makes an archive of it"),
    ("docker-daemon:", "take the way over a registry, or over oci:DIR and `skopeo copy`"),
    ("containers-storage:", "take the way over a registry, or over oci:DIR and `skopeo copy`"),
    ("dir:", "that is what `freeze` reads; an image goes to a layout folder, oci:{}, or to a registry"),
    ("tar:", "that is what `freeze` reads; an image goes to a layout folder, oci:DIR, or to a registry"),
    ("pack:", "`freeze` writes an artifact with --pack {}"),
];
/// What the names of files end in that are no layout's folders.
const ARCHIVES: &[&str] = &[".tar", ".tgz", ".tar.gz", ".tar.zst"];

/// Whether an image can be written under `reference`, as far as its letters say. The first time takes some 60 ms of
/// processor time: the library makes its grammar ready.
///
/// # Errors
/// Those that [`RegistrySink::connect`](super::RegistrySink::connect) has for it.
pub(crate) fn check_name(reference: &str) -> Result<()> {
    parse_name(reference).map(drop)
}

/// Whether it begins like a reference, with a registry's host; at no cost.
///
/// # Errors
/// With what it could have meant.
pub(crate) fn check_form(text: &str) -> Result<()> {
    let refuse = |reason: &str, hint: String| {
        Err(Error::usage("reading a reference", text::quoted(text.as_bytes()), reason).hint(hint))
    };
    if let Some((prefix, hint)) = FOREIGN.iter().find(|(prefix, _)| text.starts_with(prefix)) {
        return refuse(
            "it is no reference of a registry",
            hint.replace("{}", &text::shell(&text.as_bytes()[prefix.len()..])),
        );
    }
    if text.starts_with(['/', '~']) || text.split('/').any(|part| part == "." || part == "..") {
        return refuse("it is a path", path_hint(text));
    }
    match text.split_once('/') {
        Some((host, _)) if host == "localhost" || host.contains(['.', ':']) => Ok(()),
        None if text.ends_with(".smolmachine") || is_archive(text) => refuse("it is a path", path_hint(text)),
        _ if text.is_empty() || text.contains(char::is_whitespace) => refuse("it names nothing", full_form()),
        _ => refuse("it names no registry", meanings(text)),
    }
}

fn full_form() -> String {
    "give HOST/NAME:TAG".to_owned()
}

fn is_archive(text: &str) -> bool {
    ARCHIVES.iter().any(|ending| text.ends_with(ending))
}

fn path_hint(text: &str) -> String {
    let shown = |prefix: &str| text::shell(format!("{prefix}{text}").as_bytes());
    if text.ends_with(".smolmachine") {
        format!("`freeze` writes an artifact with --pack {}", shown(""))
    } else if is_archive(text) {
        "a layout is a folder, oci:DIR; `skopeo copy oci:DIR oci-archive:FILE` makes an archive of it".to_owned()
    } else {
        format!("a layout folder is {}; `freeze` writes an artifact with --pack {}", shown("oci:"), shown(""))
    }
}

/// What a word without a host could mean.
fn meanings(text: &str) -> String {
    let name = text.split(['@', ':']).next().unwrap_or_default();
    let library = if text.contains('/') { "" } else { "library/" };
    let hub = format!("docker.io/{library}{text}");
    let mut meant = Vec::new();
    if hub.parse::<Reference>().is_ok() {
        meant.push(format!("{hub} is one of Docker Hub"));
    }
    if !text.contains('/') && name.contains('.') {
        meant.push(format!("{text}/NAME:TAG one of the registry {text}"));
    }
    meant.push(format!("{} a layout folder", text::shell(format!("oci:./{text}").as_bytes())));
    if !text.contains(['/', ':', '@']) {
        meant.push(format!(
            "and what was frozen of a machine '{text}' is for `smolfreeze thaw` (`smolfreeze ls` lists it)"
        ));
    }
    meant.join(", ")
}

/// A name to write under.
pub(super) fn parse_name(reference: &str) -> Result<Reference> {
    let parsed = parse(reference)?;
    if parsed.digest().is_some() || parsed.tag().is_none() {
        let reason = "an image is written under a tag, not a digest";
        return Err(Error::usage("reading a reference", text::quoted(reference.as_bytes()), reason).hint(full_form()));
    }
    Ok(parsed)
}

pub(super) fn parse(reference: &str) -> Result<Reference> {
    check_form(reference)?;
    let refuse = |reason: &dyn std::fmt::Display| {
        Error::usage("reading a reference", text::quoted(reference.as_bytes()), reason).hint(full_form())
    };
    // The library's grammar has no addresses of IPv6.
    let (host, rest) = reference.split_once('/').unwrap_or_default();
    let parsed: Reference = if is_ipv6(host) {
        let other: Reference = format!("localhost/{rest}").parse().map_err(|error| refuse(&error).because(error))?;
        with_host(host, &other)
    } else {
        reference.parse().map_err(|error| refuse(&error).because(error))?
    };
    // The library takes a host in capitals without a dot for a part of the name.
    if parsed.repository().chars().any(|character| character.is_ascii_uppercase()) {
        return Err(refuse(&"a repository's name has no capital letters"));
    }
    Ok(parsed)
}

fn is_ipv6(host: &str) -> bool {
    let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) else { return false };
    let is_port =
        |port: &str| port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    address.parse::<std::net::Ipv6Addr>().is_ok() && is_port(port)
}

fn with_host(host: &str, other: &Reference) -> Reference {
    let (host, repository) = (host.to_owned(), other.repository().to_owned());
    match (other.tag().map(str::to_owned), other.digest().map(str::to_owned)) {
        (Some(tag), Some(digest)) => Reference::with_tag_and_digest(host, repository, tag, digest),
        (None, Some(digest)) => Reference::with_digest(host, repository, digest),
        (tag, None) => Reference::with_tag(host, repository, tag.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_without_a_host_is_refused_with_what_it_could_mean() {
        for (text, meanings) in [
            ("foo", &["docker.io/library/foo ", "oci:./foo ", "machine 'foo'"][..]),
            ("foo:v1", &["docker.io/library/foo:v1 ", "oci:./foo:v1 "]),
            ("team/dev", &["docker.io/team/dev ", "oci:./team/dev "]),
            ("registry.example", &["registry.example/NAME:TAG"]),
            ("host:5000", &["docker.io/library/host:5000", "oci:./host:5000"]),
            ("it's", &[r#""oci:./it's""#]),
            ("docker://registry.example/a:b", &["leave out 'docker://': registry.example/a:b"]),
            ("oci-archive:x.tar", &["oci:DIR"]),
            ("docker-archive:x.tar", &["oci:DIR"]),
            ("dir:/srv/x", &["oci:/srv/x"]),
            ("/srv/x", &["oci:/srv/x", "--pack /srv/x"]),
            ("./x y", &["'oci:./x y'"]),
            ("./x.tar", &["oci-archive:FILE"]),
            ("../x", &["oci:../x"]),
            ("x.tar.gz", &["oci-archive:FILE"]),
            ("dev.smolmachine", &["--pack dev.smolmachine"]),
            ("pack:/a/b", &["--pack /a/b"]),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Usage);
            let words = error.to_string();
            assert!(words.contains(&format!("'{text}'")), "{words}");
            assert!(meanings.iter().all(|meaning| words.contains(meaning)), "{words}");
        }
    }

    #[test]
    fn a_host_is_a_name_with_a_dot_or_a_port_or_an_address() {
        let digest = format!("sha256:{}", "1".repeat(64));
        let with_digest = format!("[::1]:5000/a/b:v1@{digest}");
        for (text, host, repository, tag) in [
            ("localhost/x", "localhost", "x", Some("latest")),
            ("registry:5000/x:v1", "registry:5000", "x", Some("v1")),
            ("[::1]:5000/x", "[::1]:5000", "x", Some("latest")),
            ("[2001:db8::1]/a/b:v1", "[2001:db8::1]", "a/b", Some("v1")),
            (&with_digest, "[::1]:5000", "a/b", Some("v1")),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!((parsed.registry(), parsed.repository(), parsed.tag()), (host, repository, tag), "{text}");
            assert_eq!(parse(&parsed.to_string()).unwrap(), parsed, "{text}");
        }
        for bad in ["[::1/x", "[::g]/x", "[::1]:x/x", "[::1]5000/x", "[]/x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
