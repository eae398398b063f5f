//! Answers of registries, at each place where a command asks for one.

use crate::registry::Place::{Config, Head, Layer, Manifest, Open, Ping, Send, Tag, Token};
use crate::registry::{Place, good_but, whole};
use crate::run::{Case, prepared, refuse};
use crate::support::scripted::{Reply, Scripted};

type Script = fn(&str) -> Reply;

/// An answer, where it comes, and what is said of it.
type Row = (&'static str, &'static [Place], Script, &'static str);

/// All but the token's, which comes after a challenge.
const ALL: &[Place] = &[Ping, Manifest, Config, Layer, Open, Send, Tag];
/// One place of each command's own.
const SOME: &[Place] = &[Manifest, Layer, Send, Tag];
/// A body is read of these.
const READ: &[Place] = &[Manifest, Config, Layer];
const BLOBS: &[Place] = &[Config, Layer];

fn refuse_all(rows: &[Row]) {
    let host = prepared();
    let (mut servers, mut cases) = (Vec::new(), Vec::new());
    for (name, places, script, said) in rows {
        for place in *places {
            let server = good_but(*place, *script);
            for called in place.asked_by() {
                let words = called.of_registry(&format!("{}/a/b:v1", server.address));
                cases.push(Case::new(&format!("{name}, at {place:?}"), words, said));
            }
            servers.push(server);
        }
    }
    let wrong = refuse(&host, &cases);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn raw(bytes: &[u8]) -> Reply {
    Reply::Raw(bytes.to_vec())
}

fn flood(head: &str, block: &[u8]) -> Reply {
    Reply::Flood(head.as_bytes().to_vec(), block.repeat(1 + 4096 / block.len()))
}

fn drip(head: &str) -> Reply {
    Reply::Drip(head.as_bytes().to_vec(), b' ')
}

#[test]
fn bytes_that_never_end_or_end_too_early() {
    refuse_all(&[
        ("silence", ALL, |_| Reply::Silence, "nothing moved for 2 s"),
        ("a head of a byte a second", SOME, |_| drip("HTTP/1.1 200 X\r\nX:"), "nothing moved for 2 s"),
        (
            "interim answers without an end",
            &[Manifest, Send],
            |_| flood("", b"HTTP/1.1 103 X\r\n\r\n"),
            "nothing moved for",
        ),
        (
            "headers without an end",
            SOME,
            |_| flood("HTTP/1.1 200 X\r\n", b"X-Flood: aaaaaaaaaaaaaaaa\r\n"),
            "is no HTTP",
        ),
        ("a header of gigabytes", SOME, |_| flood("HTTP/1.1 200 X\r\nX: ", b"aaaaaaaa"), "is no HTTP"),
        (
            "a body of a byte a second",
            READ,
            |_| drip("HTTP/1.1 200 X\r\nContent-Length: 1000000\r\n\r\n"),
            "less than 1024 bytes in 10 s",
        ),
        (
            "an answer a byte, over and over",
            BLOBS,
            |_| raw(b"HTTP/1.1 206 X\r\nContent-Length: 1000000\r\n\r\n "),
            "less than 1024 bytes in 10 s",
        ),
        ("an error of a byte a second", SOME, |_| drip("HTTP/1.1 403 X\r\n\r\n"), "403"),
        ("an error of a byte a second, asked again", SOME, |_| drip("HTTP/1.1 503 X\r\n\r\n"), "503"),
        ("an endless manifest", &[Manifest], |_| flood("HTTP/1.1 200 X\r\n\r\n", b" "), "larger than 4194304 bytes"),
        ("an endless blob", BLOBS, |_| flood("HTTP/1.1 200 X\r\n\r\n", b" "), "more than its"),
        ("an error without an end", SOME, |_| flood("HTTP/1.1 404 X\r\n\r\n", b"x"), "404"),
        (
            "a manifest of a gigabyte",
            &[Manifest],
            |_| Reply::Whole(200, "Content-Length: 1073741824\r\n".to_owned(), vec![b' '; 8 << 20]),
            "larger than 4194304 bytes",
        ),
        (
            "a body of fewer bytes than it says",
            READ,
            |_| whole(200, "Content-Length: 100000\r\n", "{"),
            "end of file before message length reached",
        ),
        (
            "extensions of a chunk without an end",
            READ,
            |_| flood("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a=b;"),
            "is no HTTP",
        ),
        (
            "trailers without an end",
            READ,
            |_| flood("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Flood: aaaaaaaa\r\n"),
            "is no HTTP",
        ),
        (
            "a chunk of no length",
            READ,
            |_| raw(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n"),
            "is no HTTP",
        ),
        (
            "a chunk of 16 EiB",
            READ,
            |_| raw(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
            "is no HTTP",
        ),
    ]);
}

#[test]
fn heads_that_are_none_or_say_no() {
    refuse_all(&[
        ("another protocol", SOME, |_| raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "is no HTTP"),
        ("another protocol, first", &[Ping], |_| raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "HTTP"),
        ("HTTP 0.9", SOME, |_| raw(b"<html>it works"), "is no HTTP"),
        ("nothing", ALL, |_| raw(b""), "connection closed before message completed"),
        (
            "two lengths",
            SOME,
            |_| raw(b"HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"),
            "is no HTTP",
        ),
        ("a negative length", SOME, |_| whole(200, "Content-Length: -1\r\n", "{}"), "is no HTTP"),
        (
            "a length past all bounds",
            SOME,
            |_| whole(200, "Content-Length: 99999999999999999999\r\n", "{}"),
            "is no HTTP",
        ),
        ("NUL in a header", SOME, |_| whole(200, "X: \0\r\n", "{}"), "is no HTTP"),
        ("a status of four digits", SOME, |_| raw(b"HTTP/1.1 2000 X\r\n\r\n"), "is no HTTP"),
        ("another protocol is switched to", SOME, |_| raw(b"HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\n"), "101"),
        ("304", SOME, |_| whole(304, "", ""), "304"),
        ("a status of none", SOME, |_| whole(999, "", ""), "999"),
        ("an error that paints", SOME, |_| whole(410, "", "\u{1b}[2J gone"), "\\x1b"),
        (
            "an error with a forged line",
            SOME,
            |_| whole(410, "", "{\"errors\":[{\"code\":\"A\\nsmolfreeze: done\"}]}"),
            "410",
        ),
        ("an error of deep JSON", SOME, |_| Reply::Whole(410, String::new(), vec![b'['; 1 << 20]), "410"),
        ("patience for a year", ALL, |_| whole(503, "Retry-After: 31536000\r\n", ""), "it asks for 31536000 s"),
        (
            "patience until 9999",
            SOME,
            |_| whole(429, "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n", ""),
            "it asks for",
        ),
        ("patience of no number", SOME, |_| whole(429, "Retry-After: 99999999999999999999999\r\n", ""), "429"),
        ("too many requests, for ever", SOME, |_| whole(429, "Retry-After: 0\r\n", ""), "429 Too Many Requests"),
        ("the server's own failure, for ever", ALL, |_| whole(500, "", "it broke"), "it broke"),
        ("credentials are wanted", ALL, |_| whole(401, "", ""), "credentials"),
        ("a question for a blob that is refused", &[Head], |_| whole(403, "", ""), "403"),
        (
            "credentials are wanted, by Basic",
            SOME,
            |_| whole(401, "WWW-Authenticate: Basic realm=\"x\"\r\n", ""),
            "credentials",
        ),
        ("challenges without sense", SOME, |_| whole(401, "WWW-Authenticate: \"\r\n", ""), "credentials"),
        ("no entry", SOME, |_| whole(403, "", "{\"errors\":[{\"code\":\"DENIED\"}]}"), "DENIED"),
        ("a loop of redirects", ALL, |path| whole(307, &format!("Location: {path}\r\n"), ""), "round and round"),
        ("a redirect to a file", ALL, |_| whole(307, "Location: file:///etc/passwd\r\n", ""), "not http"),
        (
            "a redirect by another protocol",
            SOME,
            |_| whole(308, "Location: gopher://127.0.0.1:70/\r\n", ""),
            "not http",
        ),
        ("a redirect to no address", SOME, |_| whole(307, "Location: http://[\r\n", ""), "no address"),
        ("a redirect to nowhere", SOME, |_| whole(307, "", ""), "307"),
    ]);
}

#[test]
fn documents_and_blobs() {
    refuse_all(&[
        (
            "HTML with 200",
            &[Manifest],
            |_| whole(200, "Content-Type: text/html\r\n", "<html>log in"),
            "'<html>log in' of media type 'text/html'",
        ),
        ("HTML for a blob", BLOBS, |_| whole(200, "", "<html>"), "it ended after 6 of"),
        ("another blob", &[Config], |_| whole(200, "", "{}"), "it ended after 2 of"),
        ("a longer blob", BLOBS, |_| Reply::Whole(200, String::new(), vec![0; 4096]), "more than its"),
        (
            "another blob of the same size",
            &[Layer],
            |_| Reply::Whole(200, String::new(), vec![b'x'; 1536]),
            "layer sha256:",
        ),
        ("no bytes", &[Manifest], |_| whole(204, "", ""), "reading the manifest"),
        (
            "a digest of another",
            &[Manifest],
            |_| whole(200, "Docker-Content-Digest: sha256:00\r\n", "{}"),
            "it should be sha256:00",
        ),
        ("deep JSON", &[Manifest], |_| Reply::Whole(200, String::new(), vec![b'['; 1 << 20]), "objects and lists"),
        (
            "bytes that are compressed",
            &[Manifest],
            |_| Reply::Whole(200, "Content-Encoding: gzip\r\n".to_owned(), b"\x1f\x8b\x08\0\0\0\0\0\0\0".to_vec()),
            "reading the manifest",
        ),
        (
            "UTF-16",
            &[Manifest],
            |_| Reply::Whole(200, String::new(), b"\xff\xfe{\0}\0".to_vec()),
            "reading the manifest",
        ),
        (
            "a media type that paints",
            &[Manifest],
            |_| Reply::Whole(200, "Content-Type: \u{9b}2J\r\n".to_owned(), b"{}".to_vec()),
            "reading the manifest",
        ),
    ]);
}

#[test]
fn uploads() {
    refuse_all(&[
        ("no session", &[Open], |_| whole(202, "", ""), "no Location"),
        ("a session nowhere", &[Open], |_| whole(202, "Location:\r\n", ""), "no Location"),
        ("a session in a file", &[Open], |_| whole(202, "Location: file:///v2/\r\n", ""), "not http"),
        ("a session in UTF-16", &[Open], |_| raw(b"HTTP/1.1 202 X\r\nLocation: \xff\xfe/\0v\0\r\n\r\n"), "is no HTTP"),
        ("a session in Latin-1", &[Open], |_| raw(b"HTTP/1.1 202 X\r\nLocation: /v2/\xe9\r\n\r\n"), "no Location"),
        ("a session that leads out", &[Open], |_| whole(202, "Docker-Upload-UUID: ../../x\r\n", ""), "no Location"),
        ("HTML instead of a session", &[Open], |_| whole(200, "Content-Type: text/html\r\n", "<html>"), "no Location"),
        ("a session that is never right", &[Send], |_| whole(416, "Range: 0-0\r\n", ""), "416"),
        (
            "a session that is lost each time",
            &[Send],
            |_| whole(404, "", "{\"errors\":[{\"code\":\"BLOB_UPLOAD_UNKNOWN\"}]}"),
            "404",
        ),
        ("requests that are too large, always", &[Send], |_| whole(413, "", ""), "413"),
        (
            "another manifest is stored",
            &[Tag],
            |_| whole(201, "Docker-Content-Digest: sha256:00\r\n", ""),
            "stored sha256:00",
        ),
        ("a manifest that is not stored", &[Tag], |_| whole(200, "", "<html>"), "the registry stored"),
        (
            "a blob that stays unknown",
            &[Tag],
            |_| whole(404, "", "{\"errors\":[{\"code\":\"MANIFEST_BLOB_UNKNOWN\"}]}"),
            "404",
        ),
    ]);
}

/// A challenge for `realm`, and `answer` for the token.
fn token(path: &str, answer: Reply) -> Reply {
    if path.contains("/token") {
        return answer;
    }
    whole(401, "WWW-Authenticate: Bearer realm=\"/token\",service=\"x\"\r\n", "")
}

#[test]
fn tokens() {
    let at: &[Place] = &[Token];
    refuse_all(&[
        (
            "a realm that is a file",
            at,
            |_| whole(401, "WWW-Authenticate: Bearer realm=\"file:///etc/passwd\"\r\n", ""),
            "not http",
        ),
        (
            "a realm that is none",
            at,
            |_| whole(401, "WWW-Authenticate: Bearer realm=\"http://[\"\r\n", ""),
            "no address",
        ),
        ("no realm", at, |_| whole(401, "WWW-Authenticate: Bearer service=\"x\"\r\n", ""), "credentials"),
        ("a realm that leads on", at, |path| token(path, whole(307, "Location: /token2\r\n", "")), "307"),
        ("a realm that wants a token", at, |_| whole(401, "WWW-Authenticate: Bearer realm=\"/token\"\r\n", ""), "401"),
        ("no token", at, |path| token(path, whole(200, "", "{}")), "no token"),
        ("HTML for a token", at, |path| token(path, whole(200, "", "<html>")), "no token"),
        (
            "a token of deep JSON",
            at,
            |path| token(path, Reply::Whole(200, String::new(), vec![b'['; 1 << 19])),
            "no token",
        ),
        (
            "a token with a line of its own",
            at,
            |path| token(path, whole(200, "", r#"{"token":"a\r\nX: y"}"#)),
            "part of a header",
        ),
        ("a token that is not taken", at, |path| token(path, whole(200, "", r#"{"token":"a"}"#)), "401"),
        (
            "a token of a gigabyte",
            at,
            |path| token(path, flood("HTTP/1.1 200 X\r\n\r\n{\"token\":\"", b"a")),
            "larger than 1048576",
        ),
        (
            "a token of a megabyte",
            at,
            |path| token(path, whole(200, "", &format!("{{\"token\":\"{}\"}}", "a".repeat(1_000_000)))),
            "401",
        ),
        (
            "a token of a byte a second",
            at,
            |path| token(path, drip("HTTP/1.1 200 X\r\n\r\n")),
            "less than 1024 bytes in 10 s",
        ),
        ("silence for a token", at, |path| token(path, Reply::Silence), "nothing moved for 2 s"),
    ]);
}

#[test]
fn a_server_that_says_yes_to_everything() {
    let host = prepared();
    let server = Scripted::start(|_, _| whole(200, "Content-Type: text/html\r\n", "<html>welcome"));
    let cases = Ping.asked_by().iter().map(|called| {
        let said = if Manifest.asked_by().contains(called) { "<html>welcome" } else { "no Location" };
        Case::new("HTML for everything", called.of_registry(&format!("{}/a/b:v1", server.address)), said)
    });
    let wrong = refuse(&host, &cases.collect::<Vec<_>>());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
