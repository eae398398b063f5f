//! A server that answers each path as a test says, and keeps to no rule of HTTP that the test does not.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// What comes back for one request.
#[derive(Clone)]
pub enum Reply {
    /// Status, header lines, body; with a Content-Length unless a header line has one.
    Whole(u16, String, Vec<u8>),
    /// A body of this block over and over, until the client leaves.
    Endless(Vec<u8>),
    /// A byte a second, for ever.
    Drip,
    /// Header lines without an end.
    Headers,
}

/// A running server. Its threads end with the connections, and with the process.
pub struct Scripted {
    pub address: SocketAddr,
}

impl Scripted {
    /// Answers `METHOD PATH` by `script`.
    pub fn start(script: impl Fn(&str, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let script = Arc::new(script);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let script = Arc::clone(&script);
                thread::spawn(move || answer(connection, &*script));
            }
        });
        Self { address }
    }
}

/// One request a connection.
fn answer(mut connection: TcpStream, script: &dyn Fn(&str, &str) -> Reply) -> Option<()> {
    let mut lines = BufReader::new(connection.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    lines.by_ref().map_while(Result::ok).find(String::is_empty)?;
    let reply = script(&method, &path);
    let mut send = |bytes: &[u8]| connection.write_all(bytes).ok();
    match reply {
        Reply::Whole(status, headers, body) => {
            let length = if headers.to_lowercase().contains("content-length") {
                String::new()
            } else {
                format!("Content-Length: {}\r\n", body.len())
            };
            send(format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{length}{headers}\r\n").as_bytes())?;
            if method != "HEAD" {
                send(&body)?;
            }
        }
        Reply::Endless(block) => {
            send(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n")?;
            loop {
                send(&block)?;
            }
        }
        Reply::Drip => {
            send(b"HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n")?;
            loop {
                send(b" ")?;
                thread::sleep(Duration::from_secs(1));
            }
        }
        Reply::Headers => {
            send(b"HTTP/1.1 200 X\r\n")?;
            loop {
                send(b"X-Flood: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")?;
            }
        }
    }
    Some(())
}
