//! A network before a registry: each connection by itself has a latency and a bandwidth, and may be held in mid-body
//! until a test lets it go. It carries bytes and understands none, so TLS passes too.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// A connection that sent so much is in the middle of a blob: heads and handshakes are shorter.
const BODY_BYTES: usize = 96 << 10;
/// What is read at once.
const PACKET_BYTES: usize = 16 << 10;
/// Packets on their way in one direction.
const PACKETS_MAX: usize = 256;
/// So much waits in the kernel, so that a sender feels the bandwidth as it would on a line.
const WINDOW_BYTES: u32 = 256 << 10;
/// A timer that wakes so late costs no bandwidth.
const LATE_MAX: Duration = Duration::from_millis(20);

/// What each connection is like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// In each direction.
    pub latency: Duration,
    /// In each direction; none for as fast as it goes.
    pub bytes_per_second: Option<u64>,
    pub gate: Gate,
}

/// What becomes of a connection in mid-body.
#[derive(Clone, Copy, Debug, Default)]
pub enum Gate {
    #[default]
    Open,
    /// It waits until so many connections are in mid-body at the same moment.
    Meeting(usize),
    /// The first one hangs, read by nobody, until [`Network::release`].
    Hanging,
}

/// A running network; it ends with the runtime.
pub struct Network {
    pub address: SocketAddr,
    arrived: Arc<watch::Sender<usize>>,
    released: Arc<watch::Sender<bool>>,
}

impl Network {
    /// On a free port of loopback, within a runtime.
    pub fn start(registry: SocketAddr, shape: Shape) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(WINDOW_BYTES)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(128)?;
        let network = Self { address: listener.local_addr()?, arrived: Arc::default(), released: Arc::default() };
        let (arrived, released) = (network.arrived.clone(), network.released.clone());
        tokio::spawn(accept(listener, registry, Line { shape, arrived, released }));
        Ok(network)
    }

    /// Connections that came to the middle of a body so far.
    pub fn arrived(&self) -> usize {
        *self.arrived.borrow()
    }

    /// Returns once so many did.
    pub async fn until_arrived(&self, connections: usize) {
        self.arrived.subscribe().wait_for(|arrived| *arrived >= connections).await.expect("the sender is here");
    }

    /// Lets go of the connection that hangs.
    pub fn release(&self) {
        self.released.send_replace(true);
    }
}

/// What a connection needs to know.
#[derive(Clone)]
struct Line {
    shape: Shape,
    arrived: Arc<watch::Sender<usize>>,
    released: Arc<watch::Sender<bool>>,
}

impl Line {
    /// A connection came to the middle of a body: returns when it may go on.
    async fn pass(&self) {
        let mut nth = 0;
        self.arrived.send_modify(|arrived| {
            *arrived += 1;
            nth = *arrived;
        });
        // Neither channel closes: its sender is here.
        match self.shape.gate {
            Gate::Meeting(connections) => {
                let _ = self.arrived.subscribe().wait_for(|arrived| *arrived >= connections).await;
            }
            Gate::Hanging if nth == 1 => {
                let _ = self.released.subscribe().wait_for(|released| *released).await;
            }
            Gate::Open | Gate::Hanging => {}
        }
    }
}

async fn accept(listener: TcpListener, registry: SocketAddr, line: Line) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(connect(client, registry, line.clone()));
    }
}

/// Errors end a connection, as they do in life.
async fn connect(client: TcpStream, registry: SocketAddr, line: Line) -> io::Result<()> {
    // A handshake goes there and back.
    sleep(2 * line.shape.latency).await;
    let registry = TcpStream::connect(registry).await?;
    client.set_nodelay(true)?;
    registry.set_nodelay(true)?;
    let ((client_reads, client_writes), (registry_reads, registry_writes)) =
        (client.into_split(), registry.into_split());
    let up = carry(client_reads, registry_writes, &line, BODY_BYTES);
    let down = carry(registry_reads, client_writes, &line, usize::MAX);
    tokio::try_join!(up, down).map(drop)
}

/// One direction. The gate is after `gate_bytes`.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: &Line, gate_bytes: usize) -> io::Result<()> {
    let (sender, mut packets) = mpsc::channel::<(Instant, Vec<u8>)>(PACKETS_MAX);
    let receive = async move {
        let (mut free_at, mut carried) = (Instant::now(), 0_usize);
        loop {
            let mut packet = Vec::with_capacity(PACKET_BYTES);
            if from.read_buf(&mut packet).await? == 0 {
                return Ok(());
            }
            let before = carried;
            carried = carried.saturating_add(packet.len());
            if before < gate_bytes && carried >= gate_bytes {
                line.pass().await;
            }
            if let Some(bytes_per_second) = line.shape.bytes_per_second {
                let now = Instant::now();
                if free_at + LATE_MAX < now {
                    free_at = now;
                }
                free_at +=
                    Duration::from_secs(packet.len() as u64) / u32::try_from(bytes_per_second).unwrap_or(u32::MAX);
                sleep_until(free_at).await;
            }
            if sender.send((Instant::now() + line.shape.latency, packet)).await.is_err() {
                return Ok(());
            }
        }
    };
    let deliver = async move {
        while let Some((due, packet)) = packets.recv().await {
            sleep_until(due).await;
            to.write_all(&packet).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(receive, deliver).map(drop)
}
