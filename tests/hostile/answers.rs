//! Answers of registries.

use crate::host::Host;
use crate::run::refuses;
use crate::support::scripted::{Reply, Scripted};

fn whole(status: u16, headers: &str, body: &str) -> Reply {
    Reply::Whole(status, headers.to_owned(), body.as_bytes().to_vec())
}

type Script = fn(&str) -> Reply;

#[test]
fn manifests() {
    let host = Host::new();
    let cases: &[(&str, Script, &str)] = &[
        (
            "HTML with 200",
            |_| whole(200, "Content-Type: text/html\r\n", "<html>log in"),
            "'<html>log in' of media type 'text/html'",
        ),
        ("an endless manifest", |_| Reply::Endless(vec![b' '; 1 << 16]), "larger than 4194304 bytes"),
        (
            "a manifest of a gigabyte",
            |_| Reply::Whole(200, "Content-Length: 1073741824\r\n".to_owned(), vec![b' '; 8 << 20]),
            "larger than 4194304 bytes",
        ),
        ("a byte a second", |_| Reply::Drip, "less than 1024 bytes in 10 s"),
        ("a digest of another", |_| whole(200, "Docker-Content-Digest: sha256:00\r\n", "{}"), "it should be sha256:00"),
        ("a loop of redirects", |path| whole(307, &format!("Location: {path}\r\n"), ""), "round and round"),
        ("a redirect to a file", |_| whole(307, "Location: file:///etc/passwd\r\n", ""), "not http"),
        (
            "an error of gigabytes",
            |_| Reply::Whole(404, "Content-Length: 4294967296\r\n".to_owned(), vec![b'x'; 8 << 20]),
            "404",
        ),
        ("an error that paints", |_| whole(404, "", "\u{1b}[2J gone"), "\\x1b"),
        ("deep JSON", |_| Reply::Whole(200, String::new(), vec![b'['; 1 << 20]), "objects and lists"),
        ("credentials are wanted", |_| whole(401, "", ""), "credentials"),
        (
            "a realm that is a file",
            |_| whole(401, "WWW-Authenticate: Bearer realm=\"file:///etc/passwd\"\r\n", ""),
            "not http",
        ),
        ("challenges without sense", |_| whole(401, "WWW-Authenticate: \"\r\n", ""), "credentials"),
    ];
    let mut wrong = Vec::new();
    for (name, script, said) in cases {
        let script = *script;
        let server = Scripted::start(
            move |_, path| {
                if path.contains("/manifests/") { script(path) } else { whole(200, "", "{}") }
            },
        );
        let image = format!("{}/a/b:v1", server.address);
        wrong.extend(refuses(&host, name, &["inspect", &image], said));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
