//! Names that try to be something else than names.

use crate::host::{Host, names};
use crate::images::{digest, image};
use crate::served::Served;

#[rustfmt::skip]
const REPOSITORIES: &[&str] = &[
    "..", ".", "../..", "a/..", "../secret", "%2e%2e", "%2E%2E", "%2e%2e%2fsecret", "a%2fb", "team%2Fapp",
    "a//b", "/a", "a/", "//", "%00", "a%00", "a\\b", "%5c..", "A", "team/APP", "a b", "a%20b", "\u{e4}",
    "%c3%a4", "-a", "a-", "a..b", "a:b", "%", "%zz",
];

#[rustfmt::skip]
const REFERENCES: &[&str] = &[
    "manifests/..", "manifests/%2e%2e", "manifests/..%2f..%2fsecret", "manifests/.v1", "blobs/..",
    "blobs/../../secret", "blobs/sha256:../../../secret", "blobs/sha256:%2e%2e%2f%2e%2e%2fsecret",
    "blobs/sha512:aa", "blobs/uploads/..", "blobs/uploads/%2e%2e%2fsecret", "blobs/uploads/.smolfreeze-x",
    "referrers/../x", "manifests/v1/", "manifests/", "manifests/%00", "manifests/sha256:00",
    "blobs/sha256%3a", "manifests/a%2fb",
];

#[test]
fn no_name_leads_out_of_the_layout() {
    let host = Host::new();
    std::fs::write(host.path("secret"), "nobody may read this").unwrap();
    let served = Served::start(&host, "layout");
    let image = image(1, &serde_json::json!({}));
    let digest = served.push("team/app", Some("v1"), &image);
    let before = (names(&host.path("")), served.blobs(), std::fs::read(host.path("layout/index.json")).unwrap());

    let long = "a/".repeat(2000) + "a";
    let endpoints: [(&str, String); 7] = [
        ("GET", "manifests/v1".into()),
        ("PUT", "manifests/v1".into()),
        ("DELETE", "manifests/v1".into()),
        ("GET", format!("blobs/{digest}")),
        ("POST", format!("blobs/uploads/?digest={digest}")),
        ("GET", "tags/list".into()),
        ("GET", format!("referrers/{digest}")),
    ];
    for repository in REPOSITORIES.iter().copied().chain([&*long]) {
        for (method, endpoint) in &endpoints {
            let answer = served.ask(method, &format!("/v2/{repository}/{endpoint}"), &[], &image.manifest);
            assert!((400..500).contains(&answer.status), "{method} {repository}/{endpoint}: {}", answer.status);
            assert!(!answer.text().contains("nobody may"), "{repository}/{endpoint}");
        }
    }
    for endpoint in REFERENCES {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = served.ask(method, &format!("/v2/team/app/{endpoint}"), &[], &image.manifest);
            assert!((400..500).contains(&answer.status), "{method} {endpoint}: {}", answer.status);
            assert!(!answer.text().contains("nobody may"), "{endpoint}");
        }
    }
    let after = (names(&host.path("")), served.blobs(), std::fs::read(host.path("layout/index.json")).unwrap());
    assert_eq!(before, after);
    assert_eq!(std::fs::read(host.path("secret")).unwrap(), b"nobody may read this");
    assert_eq!(
        served.expect(200, "GET", "/v2/team/app/manifests/v1", b"").header("docker-content-digest"),
        Some(&*digest)
    );
}

#[test]
fn the_longest_name_is_a_name() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let longest = "a".repeat(255);
    let pushed = served.push(&longest, Some(&"t".repeat(128)), &image(1, &serde_json::json!({})));
    assert_eq!(pushed, digest(&served.expect(200, "GET", &format!("/v2/{longest}/manifests/{pushed}"), b"").body));
    served.expect(400, "GET", &format!("/v2/{longest}a/manifests/{pushed}"), b"");
}

#[test]
fn a_head_that_is_none_or_has_no_end_is_refused() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    let long = "x".repeat(200_000);
    assert_eq!(served.ask("GET", "/v2/", &[("X-Long", &long)], b"").status, 431);
    assert!(matches!(served.ask("GET", &format!("/v2/{long}"), &[], b"").status, 414 | 431 | 400));
    served.expect(200, "GET", "/v2/", b"");
}
