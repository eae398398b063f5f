//! A server that answers each path as a test says, and keeps to no rule of HTTP that the test does not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// What comes back for one request.
#[derive(Clone)]
pub enum Reply {
    /// Status, header lines, body; with a Content-Length unless a header line has one.
    Whole(u16, String, Vec<u8>),
    /// These bytes, and no more.
    Raw(Vec<u8>),
    /// These bytes, and then the others over and over, until the client leaves.
    Flood(Vec<u8>, Vec<u8>),
    /// These bytes, and then one a second, for ever.
    Drip(Vec<u8>, u8),
    /// Nothing, until the client leaves.
    Silence,
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

/// One request a connection: its method, its target, and its body, which nobody looks at.
fn answer(mut connection: TcpStream, script: &dyn Fn(&str, &str) -> Reply) -> Option<()> {
    let mut request = BufReader::new(connection.try_clone().ok()?);
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        request.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().ok()?;
        }
        head.push(line);
    }
    let mut words = head.first()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    std::io::copy(&mut request.take(length), &mut std::io::sink()).ok()?;
    let mut send = |bytes: &[u8]| connection.write_all(bytes).ok();
    match script(&method, &path) {
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
        Reply::Raw(bytes) => send(&bytes)?,
        Reply::Flood(head, block) => {
            send(&head)?;
            loop {
                send(&block)?;
            }
        }
        Reply::Drip(head, byte) => {
            send(&head)?;
            loop {
                send(&[byte])?;
                thread::sleep(Duration::from_secs(1));
            }
        }
        Reply::Silence => drop(connection.read(&mut [0])),
    }
    Some(())
}
