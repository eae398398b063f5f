//! What a request has to be before it is routed: pure.

use super::fault::{Code, Fault};
use super::name::Repository;

/// A path of the distribution specification, taken apart. A repository's name has slashes, which no router's pattern takes
/// in the middle, so it comes out of the path first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The repository; none for what is about the whole registry.
    pub repository: Option<Repository>,
    /// The rest of the path, from its slash on.
    pub endpoint: String,
}

impl Target {
    /// Takes a request's path apart.
    ///
    /// # Errors
    /// `NAME_INVALID` where the name is none; `NAME_UNKNOWN` where the path is none of the specification's.
    pub fn parse(path: &str) -> Result<Self, Fault> {
        let unknown = || Fault::new(Code::NameUnknown, "there is nothing under this path; all names begin with /v2/");
        // Nothing else has to be encoded in these paths, and what is encoded could be a slash or a dot.
        let path = path.replace("%3A", ":").replace("%3a", ":");
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Self { repository: None, endpoint: "/".to_owned() }),
            Some("/_catalog") => return Ok(Self { repository: None, endpoint: "/_catalog".to_owned() }),
            Some(rest) => rest.strip_prefix('/').ok_or_else(unknown)?,
            None => return Err(unknown()),
        };
        let at = endpoint_start(rest).ok_or_else(unknown)?;
        let repository = Repository::parse(&rest[..at])?;
        let endpoint = &rest[at..];
        if endpoint.contains('%') {
            return Err(Fault::new(Code::NameInvalid, "a tag, digest or session has no characters to encode"));
        }
        let endpoint = if endpoint == "/blobs/uploads" { "/blobs/uploads/" } else { endpoint };
        Ok(Self { repository: Some(repository), endpoint: endpoint.to_owned() })
    }
}

/// Where the name ends and one of the endpoints begins. A name's component may be called `blobs`, so the end decides.
fn endpoint_start(rest: &str) -> Option<usize> {
    let slashes: Vec<usize> = rest.rmatch_indices('/').map(|(at, _)| at).take(3).collect();
    let begins = |at: Option<&usize>, with: &str| at.copied().filter(|at| rest[*at..].starts_with(with));
    begins(slashes.get(2), "/blobs/uploads/").or_else(|| {
        let at = slashes.get(1);
        begins(at, "/blobs/").or(begins(at, "/manifests/")).or(begins(at, "/tags/")).or(begins(at, "/referrers/"))
    })
}

/// Whether a request means this server. A page on the web can make a browser take its own host's name for a loopback
/// address (DNS rebinding); then the `Host` header still has that name.
#[must_use]
pub fn is_meant(host: Option<&str>, names: &[String]) -> bool {
    let Some(host) = host else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_repository_and_an_endpoint() {
        for (path, repository, endpoint) in [
            ("/v2/a/manifests/v1", "a", "/manifests/v1"),
            ("/v2/a/b/c/blobs/sha256:00", "a/b/c", "/blobs/sha256:00"),
            ("/v2/a/blobs/sha256%3A00", "a", "/blobs/sha256:00"),
            ("/v2/a/blobs/uploads/", "a", "/blobs/uploads/"),
            ("/v2/a/blobs/uploads", "a", "/blobs/uploads/"),
            ("/v2/a/blobs/uploads/0", "a", "/blobs/uploads/0"),
            ("/v2/blobs/uploads/blobs/uploads/0", "blobs/uploads", "/blobs/uploads/0"),
            ("/v2/manifests/manifests/manifests", "manifests", "/manifests/manifests"),
            ("/v2/a/tags/list", "a", "/tags/list"),
        ] {
            let target = Target::parse(path).unwrap();
            assert_eq!((target.repository.unwrap().to_string().as_str(), &*target.endpoint), (repository, endpoint));
        }
        assert_eq!(Target::parse("/v2/").unwrap(), Target { repository: None, endpoint: "/".to_owned() });
        for bad in [
            "",
            "/",
            "/v1/",
            "/v2x",
            "/v2//manifests/v1",
            "/v2/../manifests/v1",
            "/v2/a/../b/manifests/v1",
            "/v2/%2e%2e/manifests/v1",
            "/v2/a%2fb/manifests/v1",
            "/v2/a//b/manifests/v1",
            "/v2/a/manifests/%2e%2e",
            "/v2/a%00/manifests/v1",
            "/v2/a/nothing/v1",
            "/v2/a/b/_catalog",
            "/manifests/v1",
            "/v2/manifests/v1",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_browser_that_was_given_another_name_is_refused() {
        let names = ["build.example".to_owned()];
        for good in
            ["127.0.0.1:5000", "127.0.0.1", "[::1]:5000", "[::1]", "localhost:5000", "LOCALHOST", "build.example:1"]
        {
            assert!(is_meant(Some(good), &names), "{good}");
        }
        for bad in ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "", "[", "localhost.evil", "::"] {
            assert!(!is_meant(Some(bad), &names), "{bad}");
        }
        assert!(!is_meant(None, &names));
    }
}
