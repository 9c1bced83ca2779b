//! Steady traffic, run inside the client's namespace by the lab's own binary; it ends when its stdin closes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Tally {
    requests: u64,
    repeated: u64,
    failures: Vec<String>,
    served: BTreeMap<String, u64>,
}

impl Tally {
    fn tell(&self) {
        println!("requests {}\nrepeated {}\nfailed {}", self.requests, self.repeated, self.failures.len());
        self.served.iter().for_each(|(backend, count)| println!("served {backend} {count}"));
        self.failures.iter().take(10).for_each(|failure| println!("failure {failure}"));
    }
}

/// HTTP requests by `workers` at once, each on a connection of its own, with a pause after each.
pub fn load(address: SocketAddr, workers: usize, pause: Duration) -> Result<()> {
    let stop = stop_with_stdin();
    let tally = Arc::new(Mutex::new(Tally::default()));
    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let (stop, tally) = (stop.clone(), tally.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let first = request(address);
                    let repeated = first.is_err();
                    let outcome = first.or_else(|broken| request(address).with_context(|| format!("{broken:#}, then")));
                    let mut tally = tally.lock().expect("no worker panics");
                    tally.requests += 1;
                    match outcome {
                        Ok(backend) => {
                            tally.repeated += u64::from(repeated);
                            *tally.served.entry(backend).or_default() += 1;
                        }
                        Err(error) => tally.failures.push(format!("{error:#}")),
                    }
                    drop(tally);
                    std::thread::sleep(pause);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no worker panics"));

    tally.lock().expect("no worker panics").tell();
    Ok(())
}

/// So many HTTP requests by `workers` at once, each on a connection of its own; what fails is not repeated.
pub fn churn(address: SocketAddr, connections: u64, workers: usize) -> Result<()> {
    let (left, tally) = (AtomicU64::new(connections), Mutex::new(Tally::default()));
    let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while take() {
                    let outcome = request(address);
                    let mut tally = tally.lock().expect("no worker panics");
                    tally.requests += 1;
                    match outcome {
                        Ok(backend) => *tally.served.entry(backend).or_default() += 1,
                        Err(error) => tally.failures.push(format!("{error:#}")),
                    }
                }
            });
        }
    });
    tally.into_inner().expect("no worker panics").tell();
    Ok(())
}

/// One request, and the connection left open; says the answer, and both ends of the connection.
pub fn hold(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).context("send")?;
    let mut said = Vec::new();
    // The body is a line, and the head ends by an empty one.
    while !said.ends_with(b"\n") || said.ends_with(b"\r\n") {
        let mut part = [0; 1024];
        let count = stream.read(&mut part).context("receive")?;
        if count == 0 {
            bail!("closed after {:?}", String::from_utf8_lossy(&said));
        }
        said.extend_from_slice(&part[..count]);
    }
    let said = String::from_utf8_lossy(&said);
    let body = said.trim_end().lines().last().unwrap_or_default();
    println!("{body} {} {}\nheld", stream.local_addr()?, stream.peer_addr()?);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}

/// One datagram after the other from one port.
pub fn beat(address: SocketAddr, pause: Duration) -> Result<()> {
    let stop = stop_with_stdin();
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // Nobody listens there, so an ICMP error may come back; the beat goes on.
        let _ = socket.send(b"penstock");
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Asks once and gives the backend's name.
fn request(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).context("send")?;
    let mut said = String::new();
    stream.read_to_string(&mut said).context("receive")?;
    if !said.starts_with("HTTP/1.1 200 ") {
        bail!("answered {:?}", said.lines().next().unwrap_or_default());
    }
    let body = said.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(body.split_whitespace().next().context("an empty answer")?.to_string())
}

fn stop_with_stdin() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        flag.store(true, Ordering::Relaxed);
    });
    stop
}
