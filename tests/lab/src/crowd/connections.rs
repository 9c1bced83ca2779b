//! The crowd itself, inside the client's namespace: one thread, a task for each connection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{ANSWER_WITHIN, LATE, Progress, Trouble, Window};

/// Short connections that may be under way at once, for an outage not to use up ports and descriptors.
const SHORT_AT_ONCE: usize = 4000;

/// Of the clients.
const PORTS: Range<usize> = 10_000..60_000;

const ASK: &[u8] = b"GET /crowd HTTP/1.1\r\nHost: crowd\r\n\r\n";
const ASK_ONCE: &[u8] = b"GET /crowd HTTP/1.1\r\nHost: crowd\r\nConnection: close\r\n\r\n";

/// Until stdin is closed.
pub fn run(clients: Vec<IpAddr>, services: Vec<SocketAddr>, seats: usize, pause: Duration, rate: u32) -> Result<()> {
    let (sender, mut commands) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines().map_while(Result::ok);
        let _ = lines.map(|line| sender.send(line)).find(Result::is_err);
    });
    let crowd = Rc::new(Crowd { clients, seats: RefCell::new(vec![Seat::default(); seats]), ..Crowd::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        for seat in 0..seats {
            let server = services[seat % services.len()];
            // Spread over two pauses, so that neither the connections nor their requests come all at once.
            let begin = pause * 2 * seat as u32 / seats as u32;
            spawn_local(crowd.clone().occupy(seat, server, begin, pause));
        }
        spawn_local(crowd.clone().stream(services, rate));
        while let Some(command) = commands.recv().await {
            println!("{}", crowd.obey(&command)?);
        }
        Ok(())
    })
}

#[derive(Default)]
struct Crowd {
    /// The addresses that connections are made from.
    clients: Vec<IpAddr>,
    /// Connections made so far.
    made: Cell<usize>,
    seats: RefCell<Vec<Seat>>,
    window: RefCell<Window>,
    /// By backend, since the last "count".
    flows: RefCell<BTreeMap<String, u64>>,
    /// How often "count" was said.
    epoch: Cell<u64>,
    short_under_way: Cell<usize>,
}

/// The place of a long-lived connection, taken by another when one ends.
#[derive(Clone, Default)]
struct Seat {
    /// `None`: none is open.
    backend: Option<String>,
    /// Since the last "count".
    rounds: u32,
    is_told_to_leave: bool,
}

impl Crowd {
    fn obey(&self, command: &str) -> Result<String> {
        Ok(match command.split_once(' ').unwrap_or((command, "")) {
            ("window", _) => {
                let window = Window { open: self.open(), ..self.window.take() };
                serde_json::to_string(&window)?
            }
            ("count", _) => {
                self.epoch.set(self.epoch.get() + 1);
                self.flows.borrow_mut().clear();
                self.seats.borrow_mut().iter_mut().for_each(|seat| seat.rounds = 0);
                "null".into()
            }
            ("progress", _) => {
                let rounds = self.seats.borrow().iter().map(|seat| seat.rounds).min().unwrap_or(0);
                serde_json::to_string(&Progress { rounds, open: self.open(), flows: self.flows.borrow().clone() })?
            }
            ("leave", backend) => {
                let mut seats = self.seats.borrow_mut();
                let on_it = seats.iter_mut().filter(|seat| seat.backend.as_deref() == Some(backend));
                on_it.for_each(|seat| seat.is_told_to_leave = true);
                "null".into()
            }
            _ => bail!("the crowd knows no \"{command}\""),
        })
    }

    fn open(&self) -> BTreeMap<String, usize> {
        let mut open = BTreeMap::new();
        for backend in self.seats.borrow().iter().filter_map(|seat| seat.backend.clone()) {
            *open.entry(backend).or_default() += 1;
        }
        open
    }

    /// One long-lived connection after the other.
    async fn occupy(self: Rc<Self>, seat: usize, server: SocketAddr, begin: Duration, pause: Duration) {
        sleep(begin).await;
        loop {
            match self.first(server, ASK).await {
                Ok((connection, backend)) => {
                    self.seats.borrow_mut()[seat].backend = Some(backend.clone());
                    self.go_on(seat, connection, &backend, pause).await;
                    let seat = &mut self.seats.borrow_mut()[seat];
                    (seat.backend, seat.is_told_to_leave) = (None, false);
                }
                Err(trouble) => {
                    self.window.borrow_mut().failed.push(trouble);
                    sleep(pause / 5).await;
                }
            }
        }
    }

    /// Asks again and again, until the connection ends in whatever way.
    async fn go_on(&self, seat: usize, mut connection: Connection, backend: &str, pause: Duration) {
        loop {
            sleep(pause).await;
            if self.seats.borrow()[seat].is_told_to_leave {
                self.window.borrow_mut().closed += 1;
                return;
            }
            let (epoch, begun) = (self.epoch.get(), Instant::now());
            let answer = connection.ask(ASK).await;
            let mut window = self.window.borrow_mut();
            match answer {
                Ok(name) if name == backend => {
                    window.answers += 1;
                    window.slowest = window.slowest.max(begun.elapsed());
                    if epoch == self.epoch.get() {
                        self.seats.borrow_mut()[seat].rounds += 1;
                    }
                }
                Ok(other) => {
                    let what = format!("{other} answered");
                    return window.moved.push(connection.trouble(Some(backend), what));
                }
                Err(error) => return window.broken.push(connection.trouble(Some(backend), format!("{error:#}"))),
            }
        }
    }

    /// Short connections, to one service after the other.
    async fn stream(self: Rc<Self>, services: Vec<SocketAddr>, rate: u32) {
        let mut beat = interval(Duration::from_secs(1) / rate);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for &server in services.iter().cycle() {
            beat.tick().await;
            if self.short_under_way.get() < SHORT_AT_ONCE {
                self.short_under_way.set(self.short_under_way.get() + 1);
                spawn_local(self.clone().short(server));
            }
        }
    }

    async fn short(self: Rc<Self>, server: SocketAddr) {
        let begun = Instant::now();
        let outcome = self.first(server, ASK_ONCE).await;
        self.short_under_way.set(self.short_under_way.get() - 1);
        let mut window = self.window.borrow_mut();
        window.short += 1;
        match outcome {
            Ok(_) => {
                window.late += u64::from(begun.elapsed() > LATE);
                window.slowest = window.slowest.max(begun.elapsed());
            }
            Err(trouble) => window.failed.push(trouble),
        }
    }

    /// With an address and a port that no connection had before, until all have had one: a load balancer that remembers who was where sends
    /// the same pair there again, whatever the weights are now. (Linux takes the same port again after a minute or so.)
    fn socket(&self) -> (SocketAddr, TcpSocket) {
        loop {
            let made = self.made.replace(self.made.get() + 1);
            let address = self.clients[made % self.clients.len()];
            let port = PORTS.start + made / self.clients.len() % PORTS.len();
            let client = SocketAddr::new(address, port as u16);
            let socket = TcpSocket::new_v4().expect("so many files are allowed");
            // A long-lived connection may still be there.
            if socket.bind(client).is_ok() {
                return (client, socket);
            }
        }
    }

    /// A new connection, and who answers on it.
    async fn first(&self, server: SocketAddr, request: &[u8]) -> Result<(Connection, String), Trouble> {
        let epoch = self.epoch.get();
        let begun = SystemTime::now();
        let (client, socket) = self.socket();
        let trouble = |what| Trouble { client, server, begun, backend: None, what };
        let stream = match timeout(ANSWER_WITHIN, socket.connect(server)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(trouble(format!("connect: {error}"))),
            Err(_) => return Err(trouble(format!("connect: nothing within {ANSWER_WITHIN:?}"))),
        };
        let mut connection = Connection { stream, client, server, begun, unread: Vec::new() };
        match connection.ask(request).await {
            Ok(backend) => {
                if epoch == self.epoch.get() {
                    *self.flows.borrow_mut().entry(backend.clone()).or_default() += 1;
                }
                Ok((connection, backend))
            }
            Err(error) => Err(connection.trouble(None, format!("{error:#}"))),
        }
    }
}

struct Connection {
    stream: TcpStream,
    client: SocketAddr,
    server: SocketAddr,
    begun: SystemTime,
    unread: Vec<u8>,
}

impl Connection {
    /// Asks, and gives the name of who answers.
    async fn ask(&mut self, request: &[u8]) -> Result<String> {
        let answer = async {
            self.stream.write_all(request).await.context("send")?;
            loop {
                if let Some((name, length)) = answer(&self.unread)? {
                    self.unread.drain(..length);
                    return Ok(name);
                }
                if self.stream.read_buf(&mut self.unread).await.context("receive")? == 0 {
                    bail!("closed by the server");
                }
            }
        };
        timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| bail!("no answer within {ANSWER_WITHIN:?}"))
    }

    fn trouble(&self, backend: Option<&str>, what: String) -> Trouble {
        let Self { client, server, begun, .. } = *self;
        Trouble { client, server, begun, backend: backend.map(str::to_owned), what }
    }
}

/// The body of a response, and the length of all; `None`: there is more to come.
fn answer(bytes: &[u8]) -> Result<Option<(String, usize)>> {
    let text = std::str::from_utf8(bytes).context("an answer that is not text")?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("answered {:?}", head.lines().next().unwrap_or_default());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).context("no length")?;
    let length: usize = length.parse().with_context(|| format!("length {length}"))?;
    Ok(body.get(..length).map(|body| (body.trim().to_owned(), head.len() + 4 + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbackend1\n";
        assert_eq!(answer(text).unwrap(), Some(("backend1".to_owned(), text.len())));
        assert_eq!(answer(&text[..text.len() - 1]).unwrap(), None);
        assert_eq!(answer(b"HTTP/1.1 200").unwrap(), None);
        assert!(answer(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").is_err());
    }
}
