//! Where a registry may send us: `Location`, redirects and token realms come from the network and name any host.
//!
//! The registry's own host is fine. Any other host is fine as long as it isn't nearer to us than the registry is itself: a
//! public one sends nobody into our networks, and one in our networks nobody to this host. Names are checked when they are
//! resolved for the connection, so an answer that changes between check and use gains nothing. A name that a proxy resolves
//! is the proxy's to judge. A token's realm gets the user's password, so it is never asked without TLS, unless it is on the
//! registry's own host, which is spoken to that way already.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// At most this many other hosts are followed; more is no registry.
const HOSTS_MAX: usize = 64;

/// Judges addresses for one registry.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    registry: Url,
    nearest: Nearness,
    foreign: Arc<Mutex<HashSet<String>>>,
}

/// How near an address is, the farthest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Public,
    /// In networks of ours, or of whoever connects us.
    Private,
    /// On the same link, where clouds tell a machine its secrets, or to many at once.
    Link,
    /// This host.
    Loopback,
}

/// An address that we were sent to, and must not go to.
#[derive(Debug)]
pub(super) struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Guard {
    /// Looks up where the registry itself is. A name that can't be resolved here counts as public: a proxy may know it.
    pub(super) async fn new(registry: &Url) -> Self {
        let nearest = match registry.host() {
            Some(url::Host::Domain(name)) => match tokio::net::lookup_host((name, 0)).await {
                Ok(addresses) => addresses.map(|address| nearness(address.ip())).max(),
                Err(_) => None,
            },
            Some(host) => address_of(&host).map(nearness),
            None => None,
        };
        Self { registry: registry.clone(), nearest: nearest.unwrap_or(Nearness::Public), foreign: Arc::default() }
    }

    /// Whether credentials for the registry may go there: same scheme, host and port.
    pub(super) fn is_registry(&self, url: &Url) -> bool {
        url.origin() == self.registry.origin()
    }

    /// Where `location`, found in an answer from `base`, leads.
    pub(super) fn follow(&self, base: &Url, location: &str) -> Result<Url, Refused> {
        let refuse = |why: &str| Refused(format!("the registry sent us to '{}', {why}", crate::text::line(location)));
        let mut url = base.join(location).map_err(|_| refuse("which is no address"))?;
        match (base.scheme(), url.scheme()) {
            ("https" | "http", "https") | ("http", "http") => {}
            ("https", "http") => return Err(refuse("which would leave TLS")),
            _ => return Err(refuse("which is not http")),
        }
        // Credentials in a Location are the registry's idea, not the user's.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        if url.host() == self.registry.host() || self.nearest == Nearness::Loopback {
            return Ok(url);
        }
        let refused = match url.host() {
            Some(url::Host::Domain(name)) => {
                let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
                if foreign.len() >= HOSTS_MAX && !foreign.contains(name) {
                    return Err(refuse("after many other hosts"));
                }
                foreign.insert(name.to_owned());
                false
            }
            host => host.and_then(|host| address_of(&host)).is_none_or(|address| nearness(address) > self.nearest),
        };
        if refused { Err(refuse("an address inside this network")) } else { Ok(url) }
    }

    /// Where a realm leads, to which the user's password goes.
    pub(super) fn realm(&self, realm: &str) -> Result<Url, Refused> {
        let url = self.follow(&self.registry, realm)?;
        let is_here = |url: &Url| url.host_str().is_some_and(is_loopback);
        let is_same = url.host() == self.registry.host() || (is_here(&url) && is_here(&self.registry));
        if url.scheme() == "https" || is_same {
            return Ok(url);
        }
        let realm = crate::text::line(realm);
        Err(Refused(format!("the registry wants credentials to be sent to '{realm}', another host, without TLS")))
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        let is_foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner).contains(&name);
        let nearest = self.nearest;
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if is_foreign && addresses.iter().any(|address| nearness(address.ip()) > nearest) {
                let why = format!("the registry sent us to '{name}', an address inside this network");
                return Err(Box::new(Refused(why)) as Box<dyn std::error::Error + Send + Sync>);
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn address_of(host: &url::Host<&str>) -> Option<IpAddr> {
    match *host {
        url::Host::Ipv4(address) => Some(address.into()),
        url::Host::Ipv6(address) => Some(address.into()),
        url::Host::Domain(_) => None,
    }
}

fn nearness(address: IpAddr) -> Nearness {
    match address {
        IpAddr::V4(address) => nearness_v4(address),
        IpAddr::V6(address) => nearness_v6(address),
    }
}

fn nearness_v4(address: Ipv4Addr) -> Nearness {
    let [first, second, ..] = address.octets();
    // What begins with 0 is this host, too.
    if address.is_loopback() || first == 0 {
        Nearness::Loopback
    } else if address.is_link_local() || address.is_broadcast() || address.is_multicast() {
        Nearness::Link
    // Shared by carriers (RFC 6598); clouds keep services there.
    } else if address.is_private() || (first == 100 && (64..128).contains(&second)) {
        Nearness::Private
    } else {
        Nearness::Public
    }
}

fn nearness_v6(address: Ipv6Addr) -> Nearness {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        nearness_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // IPv4 inside IPv6: mapped and compatible, NAT64 (RFC 6052), 6to4 (RFC 3056).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            embedded(high, low)
        }
        _ if address.is_multicast() || address.is_unicast_link_local() => Nearness::Link,
        _ if address.is_unique_local() => Nearness::Private,
        _ => Nearness::Public,
    }
}

/// Whether a registry's host means this very host, where plain http is the custom.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(registry: &str, nearest: Nearness) -> Guard {
        Guard { registry: registry.parse().unwrap(), nearest, foreign: Arc::default() }
    }

    #[test]
    fn a_location_can_be_relative_and_carry_a_query() {
        let guard = guard("https://registry.example/", Nearness::Public);
        let base = "https://registry.example/v2/a/blobs/uploads/".parse().unwrap();
        let url = guard.follow(&base, "/v2/a/blobs/uploads/1?state=x").unwrap();
        assert_eq!(url.as_str(), "https://registry.example/v2/a/blobs/uploads/1?state=x");
        assert!(guard.is_registry(&url));
        let other = guard.follow(&base, "https://storage.example/1").unwrap();
        assert!(!guard.is_registry(&other));
        assert!(!guard.is_registry(&guard.follow(&base, "https://registry.example:8443/1").unwrap()));
    }

    #[test]
    fn a_location_never_leaves_tls_or_http() {
        let guard = guard("https://registry.example/", Nearness::Public);
        let base = "https://registry.example/".parse().unwrap();
        for bad in ["http://registry.example/1", "ftp://registry.example/1", "file:///etc/passwd", "https://"] {
            assert!(guard.follow(&base, bad).is_err(), "{bad}");
        }
        let url = guard.follow(&base, "https://user:word@registry.example/1").unwrap();
        assert_eq!(url.as_str(), "https://registry.example/1");
    }

    #[test]
    fn an_inner_address_is_only_for_an_inner_registry() {
        let inner = [
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "192.168.0.1",
            "172.16.9.9",
            "100.64.0.1",
            "0.0.0.0",
            "[::1]",
            "[fe80::1]",
            "[fd00::1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "2130706433",
            "0x7f.1",
        ];
        let base = "https://registry.example/".parse().unwrap();
        for host in inner {
            let location = format!("https://{host}/1");
            assert!(guard("https://registry.example/", Nearness::Public).follow(&base, &location).is_err(), "{host}");
            assert!(guard("https://registry.example/", Nearness::Loopback).follow(&base, &location).is_ok(), "{host}");
        }
        for host in ["203.0.113.7", "[2001:db8::1]", "100.128.0.1", "172.32.0.1"] {
            let location = format!("https://{host}/1");
            assert!(guard("https://registry.example/", Nearness::Public).follow(&base, &location).is_ok(), "{host}");
        }
    }

    #[test]
    fn nobody_is_sent_nearer_than_the_registry_is() {
        use Nearness::{Link, Loopback, Private, Public};
        let base = "https://registry.example/".parse().unwrap();
        let places = [
            ("203.0.113.7", Public),
            ("10.1.2.3", Private),
            ("[fd00::1]", Private),
            ("169.254.169.254", Link),
            ("[fe80::1]", Link),
            ("[::ffff:169.254.169.254]", Link),
            ("127.0.0.1", Loopback),
            ("[::1]", Loopback),
            ("0.0.0.0", Loopback),
        ];
        for registry in [Public, Private, Link, Loopback] {
            for (host, place) in places {
                let followed = guard("https://registry.example/", registry).follow(&base, &format!("https://{host}/1"));
                assert_eq!(followed.is_ok(), place <= registry, "{registry:?} {host}");
            }
        }
    }

    #[test]
    fn a_password_goes_to_another_host_over_tls_alone() {
        for (registry, realm, is_good) in [
            ("https://registry.example/", "https://auth.example/token", true),
            ("https://registry.example/", "http://registry.example/token", false),
            ("http://registry.example/", "http://registry.example:5001/token", true),
            ("http://registry.example/", "/token", true),
            ("http://registry.example/", "https://auth.example/token", true),
            ("http://registry.example/", "http://auth.example/token", false),
            ("http://localhost:5000/", "http://127.0.0.1:5001/token", true),
            ("http://localhost:5000/", "http://auth.example/token", false),
        ] {
            assert_eq!(guard(registry, Nearness::Loopback).realm(realm).is_ok(), is_good, "{registry} {realm}");
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_when_it_is_resolved() {
        let guard = guard("https://registry.example/", Nearness::Public);
        let base = "https://registry.example/".parse().unwrap();
        assert!(guard.resolve("localhost".parse().unwrap()).await.is_ok());
        guard.follow(&base, "https://localhost/1").unwrap();
        assert!(guard.resolve("localhost".parse().unwrap()).await.is_err());
    }

    #[test]
    fn loopback_has_three_spellings() {
        assert!(["localhost", "127.9.9.9", "::1", "[::1]", "LOCALHOST"].into_iter().all(is_loopback));
        assert!(!["registry.example", "128.0.0.1", "localhost.example"].into_iter().any(is_loopback));
    }
}
