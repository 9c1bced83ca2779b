//! The way of checks that go through a service: kernel sockets whose packets the lcores send.
//!
//! The kernel of this machine is good for TCP and its timers, and for nothing else here. It would route a VIP by whatever the operator
//! has: by another interface, nowhere (a routing daemon's blackhole), or to itself; it would take the answers, which come from the VIP,
//! for forged ones (`rp_filter`), and its firewall has a word in all of that. So probes have a network [`Namespace`] of their own with
//! one device, whose packets come to `punt` and nowhere else.
//!
//! Each probe under way has a source port of its own, by which its packets are known on both ways: the map is an array. It is
//! written here and read by `punt`, under a lock that is held for a copy; no lcore knows it, as the backend's name travels with the packet.

mod namespace;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::pipeline::probe::Passage;
use crate::service::Ports;
use namespace::Namespace;

/// How long the namespace is not tried again that could not be made.
const AGAIN: Duration = Duration::from_secs(10);

/// The way, which is opened by the first who goes it.
pub struct Through {
    ipv4_source: Option<Ipv4Addr>,
    ipv6_source: Option<Ipv6Addr>,
    ports: Ports,
    /// A permit for each port that is free.
    room: Semaphore,
    passages: Mutex<Passages>,
    namespace: OnceLock<Namespace>,
    /// When it could not be made, and why.
    failed: Mutex<Option<(Instant, i32)>>,
}

/// The probes under way.
struct Passages {
    /// By port, with the own address. That of a probe which has ended stays until its port is taken again: its last packet, a reset, may
    /// come later.
    by_port: Box<[Option<(IpAddr, Passage)>]>,
    /// Ports that are free, the longest first.
    free: VecDeque<u16>,
}

/// A probe's way, as long as it is asked.
pub struct Passing<'a> {
    through: &'a Through,
    namespace: &'a Namespace,
    own: SocketAddr,
    _room: SemaphorePermit<'a>,
}

impl Through {
    /// By addresses of the node's own, and these ports, as many as probes may be under way.
    pub fn new(ipv4_source: Option<Ipv4Addr>, ipv6_source: Option<Ipv6Addr>, ports: Ports) -> Self {
        let by_port = (0..ports.count()).map(|_| None).collect();
        Self {
            ipv4_source,
            ipv6_source,
            ports,
            room: Semaphore::new(ports.count()),
            passages: Mutex::new(Passages { by_port, free: (ports.first..=ports.last).collect() }),
            namespace: OnceLock::new(),
            failed: Mutex::new(None),
        }
    }

    /// How many probes may be under way.
    pub fn ports(&self) -> usize {
        self.ports.count()
    }

    /// Takes a port, once there is one, for a probe that goes this way.
    pub async fn enter(&self, passage: Passage) -> io::Result<Passing<'_>> {
        let own = match passage.vip {
            SocketAddr::V4(_) => self.ipv4_source.map(IpAddr::from),
            SocketAddr::V6(_) => self.ipv6_source.map(IpAddr::from),
        };
        let own = own.ok_or(Errno::ADDRNOTAVAIL)?;
        let namespace = self.namespace()?;
        let room = self.room.acquire().await.map_err(io::Error::other)?;
        let mut passages = self.passages();
        let port = passages.free.pop_front().ok_or(Errno::AGAIN)?;
        passages.by_port[usize::from(port - self.ports.first)] = Some((own, passage));
        drop(passages);
        Ok(Passing { through: self, namespace, own: SocketAddr::new(own, port), _room: room })
    }

    fn namespace(&self) -> io::Result<&Namespace> {
        if let Some(namespace) = self.namespace.get() {
            return Ok(namespace);
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, errno)) = *failed
            && at.elapsed() < AGAIN
        {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let sources = [self.ipv4_source.map(IpAddr::from), self.ipv6_source.map(IpAddr::from)];
        match Namespace::open(sources.into_iter().flatten().collect()) {
            Ok(namespace) => Ok(self.namespace.get_or_init(|| namespace)),
            Err(error) => {
                if failed.is_none() {
                    tracing::warn!("health checks through services: no network namespace for them: {error}; told once");
                }
                *failed = Some((Instant::now(), error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())));
                Err(error)
            }
        }
    }

    fn passages(&self) -> MutexGuard<'_, Passages> {
        self.passages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `punt` asks; none of it waits.
impl Through {
    /// Whether anything went this way yet.
    pub fn is_open(&self) -> bool {
        self.namespace.get().is_some()
    }

    /// Takes an IP packet that the kernel sends, cut to the buffer's length; `None` where there is none.
    pub fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        self.namespace.get()?.read(buffer)
    }

    /// Gives an IP packet to the kernel; whether it took it.
    pub fn write(&self, packet: &[u8]) -> bool {
        self.namespace.get().is_some_and(|namespace| namespace.write(packet))
    }

    /// The way of the probe that has this address and port.
    pub fn passage(&self, own: SocketAddr) -> Option<Passage> {
        let place = usize::from(own.port().checked_sub(self.ports.first)?);
        // Most that asks is somebody else's, and waits for nobody.
        let is_own = match own.ip() {
            IpAddr::V4(v4) => self.ipv4_source == Some(v4),
            IpAddr::V6(v6) => self.ipv6_source == Some(v6),
        };
        if !is_own || place >= self.ports.count() {
            return None;
        }
        let (address, passage) = (*self.passages().by_port.get(place)?)?;
        (address == own.ip()).then_some(passage)
    }
}

impl Passing<'_> {
    /// A socket that packets leave this way, from the probe's own address and port.
    pub fn tcp(&self) -> io::Result<TcpSocket> {
        self.namespace.within(|| {
            let socket = if self.own.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Whoever had the port before may be on its way out.
            socket.set_reuseaddr(true)?;
            socket.bind(self.own)?;
            Ok(socket)
        })
    }

    pub fn udp(&self) -> io::Result<UdpSocket> {
        let socket = self.namespace.within(|| std::net::UdpSocket::bind(self.own))?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.through.passages().free.push_back(self.own.port());
    }
}

#[cfg(test)]
mod tests;
