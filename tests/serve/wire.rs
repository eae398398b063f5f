//! HTTP by hand: a library would make a path harmless before it sends it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What was answered.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Path and query of where to go on.
    pub fn location(&self) -> String {
        let location = self.header("location").unwrap_or_else(|| panic!("no Location in {self:?}"));
        match location.split_once("://") {
            Some((_, rest)) => rest[rest.find('/').unwrap()..].to_owned(),
            None => location.to_owned(),
        }
    }
}

/// A request with the usual headers; `headers` may say another `Host`. Without an answer, status 0.
pub fn ask(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let Ok(mut stream) = try_begin(address, method, target, headers, body.len()) else { return Answer::default() };
    // A server that refuses may stop to listen.
    let _ = stream.write_all(body);
    finish(&mut stream, method)
}

/// A request without its body, of which `length` bytes are announced.
pub fn begin(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], length: usize) -> TcpStream {
    try_begin(address, method, target, headers, length).unwrap()
}

fn try_begin(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    length: usize,
) -> io::Result<TcpStream> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.extend(["Host: ", &address.to_string(), "\r\n"]);
    }
    if length > 0 || !matches!(method, "GET" | "HEAD") {
        head.extend(["Content-Length: ", &length.to_string(), "\r\n"]);
    }
    for (name, value) in headers {
        head.extend([*name, ": ", *value, "\r\n"]);
    }
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    Ok(stream)
}

/// Reads the answer; none at all has status 0.
pub fn finish(stream: &mut TcpStream, method: &str) -> Answer {
    let mut bytes = Vec::new();
    // Whatever came before an end is what there is.
    let _ = io::copy(stream, &mut bytes);
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Answer::default() };
    let (head, body) = (String::from_utf8_lossy(&bytes[..end]).into_owned(), &bytes[end + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: body.to_owned() };
    if answer.header("transfer-encoding").is_some() {
        answer.body = unchunked(body);
    // Of an error, docker-registry 2.8 says the length that the blob has.
    } else if (200..300).contains(&status)
        && method != "HEAD"
        && let Some(length) = answer.header("content-length")
    {
        assert_eq!(length.parse(), Ok(answer.body.len()), "{head}");
    }
    answer
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        let mut chunk = vec![0; size];
        bytes = &bytes[end + 2..];
        bytes.read_exact(&mut chunk).unwrap();
        whole.extend(chunk);
        bytes = &bytes[2..];
    }
}
