//! As much HTTP/1.1 as a model needs: one request a connection.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// What is read at a time.
const BLOCK_BYTES: u64 = 64 << 10;

pub struct Request {
    pub method: String,
    pub target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A field of the query.
    pub fn field(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// Bytes of its body; none where its end isn't known yet.
    pub fn length(&self) -> Option<u64> {
        match self.header("content-length") {
            Some(length) => length.parse().ok(),
            None if self.header("transfer-encoding").is_some() => None,
            None => Some(0),
        }
    }
}

#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Arc<Vec<u8>>,
}

impl Answer {
    pub fn of(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Arc::default() }
    }

    pub fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"as ordered"}}]}}"#);
        Self { body: Arc::new(body.into_bytes()), ..Self::of(status) }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Whole,
    /// No more was read, because a test wants it so.
    Cut,
    TooLarge,
}

pub struct Body {
    pub bytes: Vec<u8>,
    pub end: End,
}

pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self(BufReader::with_capacity(64 << 10, stream)))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    pub fn request(&mut self) -> io::Result<Request> {
        let first = self.line()?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Request { method, target, headers });
            }
            headers.extend(line.split_once(": ").map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
    }

    /// Reads a body up to `cut_at`, or as long as it has at most `bytes_max`.
    pub fn body(&mut self, request: &Request, cut_at: u64, bytes_max: u64) -> io::Result<Body> {
        let mut bytes = Vec::new();
        let mut left = request.length();
        if left.is_some_and(|length| length > bytes_max) {
            return Ok(Body { bytes, end: End::TooLarge });
        }
        loop {
            let chunk = match left.take() {
                Some(length) => length,
                None => u64::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?,
            };
            let mut rest = chunk;
            while rest > 0 {
                let room = cut_at - bytes.len() as u64;
                if room == 0 {
                    return Ok(Body { bytes, end: End::Cut });
                }
                let step = rest.min(room).min(BLOCK_BYTES);
                if io::copy(&mut self.0.by_ref().take(step), &mut bytes)? != step {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                rest -= step;
                if bytes.len() as u64 > bytes_max {
                    return Ok(Body { bytes, end: End::TooLarge });
                }
            }
            if request.length().is_some() {
                return Ok(Body { bytes, end: End::Whole });
            }
            self.line()?;
            if chunk == 0 {
                return Ok(Body { bytes, end: End::Whole });
            }
        }
    }

    /// What was not read of the body is thrown away, so that the answer gets through.
    pub fn answer(&mut self, request: &Request, answer: &Answer) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
        if answer.status != 204 {
            write!(head, "Content-Length: {}\r\n", answer.body.len()).expect("a string takes all");
        }
        for (name, value) in &answer.headers {
            write!(head, "{name}: {value}\r\n").expect("a string takes all");
        }
        let stream = self.0.get_mut();
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if request.method != "HEAD" {
            stream.write_all(&answer.body)?;
        }
        stream.shutdown(Shutdown::Write)?;
        io::copy(&mut self.0, &mut io::sink()).map(drop)
    }
}
