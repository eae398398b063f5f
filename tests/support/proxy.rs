//! A proxy before a registry that does what a test orders: it cuts, stalls, answers by itself, forgets sessions, slows
//! down, changes `Location`, asks for tokens. It understands as much HTTP/1.1 as the tests need: one request a connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The registry gets half of the body, then both connections end.
    CutInBody,
    /// The registry gets half of the body, then the client's connection ends, and the registry's so much later.
    CutUnseen(Duration),
    /// The connection ends before the registry hears of the request.
    CutBefore,
    /// The registry does it all, and its answer is lost.
    CutAnswer,
    /// The registry does it all, and its answer ends after this many bytes of its body.
    CutInAnswer(u64),
    /// The proxy answers: status, further header lines, body. The registry hears nothing.
    Answer(u16, &'static str, &'static str),
    /// The session is cancelled at the registry, which then says what it knows of it. Strikes requests to sessions alone.
    Forget,
    /// Nothing more comes.
    Stall,
}

/// A fault, and when it strikes.
#[derive(Clone, Debug)]
pub struct Rule {
    pub method: &'static str,
    /// So many requests of this method pass first.
    pub skip: usize,
    /// Then so many are struck.
    pub times: usize,
    pub fault: Fault,
}

/// Strikes once, at request `nth` (from 1) of a method.
pub fn nth(method: &'static str, nth: usize, fault: Fault) -> Rule {
    Rule { method, skip: nth - 1, times: 1, fault }
}

/// What the proxy does all the time.
#[derive(Clone, Debug, Default)]
pub struct Habits {
    /// What becomes of the registry's `Location`, which is absolute and has a query.
    pub location: Location,
    /// A wait for each 64 KiB of a request's body, on each connection by itself.
    pub slowness: Option<Duration>,
    /// Tokens are wanted, and the first one is good for so many requests.
    pub first_token_requests: Option<usize>,
    /// Sent with the answer to every POST.
    pub part_bytes_min: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub enum Location {
    #[default]
    AsItIs,
    Relative,
    MoreQuery,
    /// The host is replaced by this one.
    Elsewhere(SocketAddr),
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// Bytes of the body as announced.
    pub length: u64,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Its body says where it ends.
    pub fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }
}

/// A running proxy; it ends with the test's runtime.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    registry: Mutex<SocketAddr>,
    address: SocketAddr,
    habits: Habits,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    /// Tokens given, and requests the last of them was used for.
    tokens: Mutex<(usize, usize)>,
}

impl Proxy {
    pub async fn start(registry: SocketAddr, habits: Habits, rules: Vec<Rule>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("the port's number");
        let (rules, seen, tokens) = (Mutex::new(rules), Mutex::default(), Mutex::default());
        let registry = Mutex::new(registry);
        let shared = Arc::new(Shared { registry, address, habits, rules, seen, tokens });
        let proxy = Self { address, shared: shared.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(shared.clone(), client));
            }
        });
        proxy
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("the list").clone()
    }

    /// The registry is there from now on.
    pub fn redirect(&self, registry: SocketAddr) {
        *self.shared.registry.lock().expect("the address") = registry;
    }

    /// Strikes no more.
    pub fn lift(&self) {
        self.shared.rules.lock().expect("the rules").clear();
    }

    /// Body bytes of all requests of a method.
    pub fn bytes(&self, method: &str) -> u64 {
        self.seen().iter().filter(|seen| seen.method == method).map(|seen| seen.length).sum()
    }

    pub fn tokens(&self) -> usize {
        self.shared.tokens.lock().expect("the count").0
    }
}

impl Shared {
    fn registry(&self) -> SocketAddr {
        *self.registry.lock().expect("the address")
    }

    fn fault(&self, request: &Seen) -> Option<Fault> {
        let is_session = request.target.contains("/blobs/uploads/");
        let fits =
            |rule: &&mut Rule| rule.method == request.method && (is_session || !matches!(rule.fault, Fault::Forget));
        for rule in self.rules.lock().expect("the rules").iter_mut().filter(fits) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.times > 0 {
                rule.times -= 1;
                return Some(rule.fault.clone());
            }
        }
        None
    }

    /// The answer to a request without a good token, or to one for a token.
    fn gate(&self, request: &Seen) -> Option<String> {
        let first = self.habits.first_token_requests?;
        let mut tokens = self.tokens.lock().expect("the count");
        if request.target.starts_with("/token") {
            *tokens = (tokens.0 + 1, 0);
            return Some(answer(200, "", &format!(r#"{{"token":"t{}"}}"#, tokens.0)));
        }
        let limit = if tokens.0 == 1 { first } else { usize::MAX };
        if request.header("authorization") == Some(&format!("Bearer t{}", tokens.0)) && tokens.1 < limit {
            tokens.1 += 1;
            return None;
        }
        let realm = format!("WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"test\"\r\n", self.address);
        Some(answer(401, &realm, r#"{"errors":[{"code":"UNAUTHORIZED","message":"no token"}]}"#))
    }
}

fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}", body.len())
}

/// Errors end a connection, as they do in life.
async fn serve(shared: Arc<Shared>, client: TcpStream) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let request = read_request(&mut client).await?;
    shared.seen.lock().expect("the list").push(request.clone());
    if let Some(answer) = shared.gate(&request) {
        drain(&mut client, request.length).await?;
        return client.write_all(answer.as_bytes()).await;
    }
    match shared.fault(&request) {
        Some(Fault::CutBefore) => drain(&mut client, request.length / 2).await,
        Some(Fault::Stall) => {
            // Until the client gives up.
            while client.read(&mut [0; 4096]).await? > 0 {}
            Ok(())
        }
        Some(Fault::Answer(status, headers, body)) => {
            drain(&mut client, request.length).await?;
            client.write_all(answer(status, headers, body).as_bytes()).await
        }
        Some(Fault::CutInBody) => {
            let mut registry = send_head(&shared, &request).await?;
            copy(&mut client, &mut registry, request.length / 2, None).await?;
            // Past its own buffers, so that it writes what it has before it sees the end.
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(())
        }
        Some(Fault::CutUnseen(later)) => {
            let mut registry = send_head(&shared, &request).await?;
            copy(&mut client, &mut registry, request.length / 2, None).await?;
            drop(client);
            tokio::time::sleep(later).await;
            Ok(())
        }
        Some(Fault::Forget) => {
            drain(&mut client, request.length).await?;
            let mut empty = request.clone();
            empty.headers.retain(|(key, _)| !key.to_lowercase().starts_with("content-"));
            empty.length = 0;
            let cancel = Seen { method: "DELETE".to_owned(), ..empty.clone() };
            drain_all(&mut send_head(&shared, &cancel).await?).await?;
            // As a question, because the registry answers a PATCH before it read it, and then the answer may get lost.
            let ask = Seen { method: "GET".to_owned(), ..empty };
            pass_on(&shared, &ask, &mut client, Some(u64::MAX)).await
        }
        Some(Fault::CutAnswer) => pass_on(&shared, &request, &mut client, None).await,
        Some(Fault::CutInAnswer(bytes)) => pass_on(&shared, &request, &mut client, Some(bytes)).await,
        None => pass_on(&shared, &request, &mut client, Some(u64::MAX)).await,
    }
}

/// `answer_bytes` of the answer's body reach the client; with none, nothing of the answer does.
async fn pass_on(
    shared: &Shared,
    request: &Seen,
    client: &mut BufReader<TcpStream>,
    answer_bytes: Option<u64>,
) -> io::Result<()> {
    let mut registry = send_head(shared, request).await?;
    if request.is_chunked() {
        copy_chunked(client, &mut registry).await?;
    } else {
        copy(client, &mut registry, request.length, shared.habits.slowness).await?;
    }
    let mut registry = BufReader::new(registry);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if registry.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let is_end = line == "\r\n";
        let is_location = line.to_lowercase().starts_with("location: ");
        if let (true, "POST", Some(least)) = (is_end, request.method.as_str(), shared.habits.part_bytes_min) {
            head.extend(["OCI-Chunk-Min-Length: ", &least.to_string(), "\r\n"]);
        }
        head += &if is_location { relocate(&line, shared) } else { line };
        if is_end {
            break;
        }
    }
    let Some(answer_bytes) = answer_bytes else {
        return drain_all(&mut registry.into_inner()).await;
    };
    client.write_all(head.as_bytes()).await?;
    tokio::io::copy(&mut registry.take(answer_bytes), client).await.map(drop)
}

fn relocate(line: &str, shared: &Shared) -> String {
    let here = format!("http://{}", shared.address);
    match &shared.habits.location {
        Location::AsItIs => line.to_owned(),
        Location::Relative => line.replace(&here, ""),
        Location::MoreQuery => line.replace("\r\n", "&more=a%20b\r\n"),
        Location::Elsewhere(address) => line.replace(&here, &format!("http://{address}")),
    }
}

async fn read_request(client: &mut BufReader<TcpStream>) -> io::Result<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if client.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut first = lines[0].split(' ').map(str::to_owned);
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let headers: Vec<_> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let mut request = Seen { method, target, headers, length: 0 };
    request.length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    Ok(request)
}

/// Opens a connection of its own, which the registry closes after its answer.
async fn send_head(shared: &Shared, request: &Seen) -> io::Result<TcpStream> {
    let mut registry = TcpStream::connect(shared.registry()).await?;
    let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", request.method, request.target);
    // `Location: Elsewhere` makes requests that name another host; the registry builds its own answer from it.
    for (key, value) in request.headers.iter().filter(|(key, _)| !key.eq_ignore_ascii_case("connection")) {
        head.extend([key, ": ", value, "\r\n"]);
    }
    registry.write_all(format!("{head}\r\n").as_bytes()).await?;
    Ok(registry)
}

async fn copy(
    client: &mut BufReader<TcpStream>,
    registry: &mut TcpStream,
    length: u64,
    slowness: Option<Duration>,
) -> io::Result<()> {
    let (mut left, mut buffer) = (length, vec![0; 64 << 10]);
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = client.read_exact(&mut buffer[..most]).await?;
        registry.write_all(&buffer[..count]).await?;
        left -= count as u64;
        if let Some(slowness) = slowness {
            tokio::time::sleep(slowness).await;
        }
    }
    Ok(())
}

async fn copy_chunked(client: &mut BufReader<TcpStream>, registry: &mut TcpStream) -> io::Result<()> {
    loop {
        let mut line = String::new();
        client.read_line(&mut line).await?;
        let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        registry.write_all(line.as_bytes()).await?;
        copy(client, registry, length + 2, None).await?;
        if length == 0 {
            return Ok(());
        }
    }
}

async fn drain(client: &mut BufReader<TcpStream>, length: u64) -> io::Result<()> {
    tokio::io::copy(&mut client.take(length), &mut tokio::io::sink()).await.map(drop)
}

async fn drain_all(registry: &mut TcpStream) -> io::Result<()> {
    tokio::io::copy(registry, &mut tokio::io::sink()).await.map(drop)
}
