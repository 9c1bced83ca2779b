//! `ping`: ICMP echo (RFC 792, RFC 4443).
//!
//! All probes of a family share one socket: of the kernel's own ICMP kind where `net.ipv4.ping_group_range` allows it,
//! else a raw one, for which one must be root. An answer is known by a serial number and a cookie that only we can make,
//! both in its payload, and by who sends it; the sequence number alone could be guessed.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{OnceCell, oneshot};
use tokio::time::Instant;

use super::{Failure, Fault, by};
use crate::wire::checksum;

/// Bytes of the ICMP header, which a serial number and a cookie follow.
const HEADER: usize = 8;
const LENGTH: usize = HEADER + 16;

/// Room for the answers that come between two looks; what the kernel gives for less is enough for 270.
const RECEIVE_BUFFER: usize = 4 << 20;

#[derive(Default)]
pub struct Pinger {
    asked: Arc<Asked>,
    v4: OnceCell<UdpSocket>,
    v6: OnceCell<UdpSocket>,
}

/// The questions without an answer yet.
#[derive(Default)]
struct Asked {
    waiting: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    serial: AtomicU64,
    /// Keyed by the system's randomness.
    cookie: RandomState,
}

/// A question that is forgotten when nobody waits any more.
struct Question<'a> {
    asked: &'a Asked,
    serial: u64,
}

impl Pinger {
    pub async fn ask(&self, address: IpAddr, deadline: Instant) -> Result<(), Fault> {
        let socket = self.socket(address).await?;
        let (answered, answer) = oneshot::channel();
        let question = Question { asked: &self.asked, serial: self.asked.serial.fetch_add(1, Ordering::Relaxed) };
        self.asked.waiting().insert(question.serial, answered);
        let exchange = async {
            socket.send_to(&self.asked.request(address, question.serial), SocketAddr::new(address, 0)).await?;
            answer.await.map_err(io::Error::other)
        };
        by(deadline, Failure::NoAnswer, exchange).await
    }

    /// The family's socket; made when it is first needed, and tried again where that failed.
    async fn socket(&self, address: IpAddr) -> io::Result<&UdpSocket> {
        let cell = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        cell.get_or_try_init(async || {
            let socket = open(address)?;
            let listening = UdpSocket::from_std(socket.try_clone()?)?;
            tokio::spawn(listen(self.asked.clone(), listening));
            UdpSocket::from_std(socket)
        })
        .await
    }
}

/// The standard library's type for it does nothing that is only of UDP.
fn open(address: IpAddr) -> io::Result<std::net::UdpSocket> {
    let (domain, protocol) =
        if address.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let of_kind = |kind| Socket::new(domain, kind, Some(protocol));
    let socket = of_kind(Type::DGRAM).or_else(|_| of_kind(Type::RAW))?;
    socket.set_nonblocking(true)?;
    // As much of it as the kernel allows.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    Ok(OwnedFd::from(socket).into())
}

async fn listen(asked: Arc<Asked>, socket: UdpSocket) {
    let mut buffer = [0; 256];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => asked.answered(&buffer[..length], from.ip()),
            // Nothing known; but it must not spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

impl Asked {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An echo request. The kernel computes the checksum of ICMPv6, and on an ICMP socket sets the identifier.
    fn request(&self, to: IpAddr, serial: u64) -> [u8; LENGTH] {
        let cookie = self.cookie.hash_one((to, serial));
        let mut packet = [0; LENGTH];
        packet[0] = if to.is_ipv4() { 8 } else { 128 };
        packet[4..6].copy_from_slice(&(self.cookie.hash_one(()) as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&(serial as u16).to_be_bytes());
        packet[8..16].copy_from_slice(&serial.to_be_bytes());
        packet[16..24].copy_from_slice(&cookie.to_be_bytes());
        if to.is_ipv4() {
            let sum = !checksum::sum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    /// Something came; if it is the answer to a question, whoever asked is told.
    fn answered(&self, packet: &[u8], from: IpAddr) {
        // A raw socket of IPv4 gives the IP header, too. (No ICMP answer begins with a 4 in its upper half.)
        let packet = match packet.first() {
            Some(first) if from.is_ipv4() && first >> 4 == 4 => packet.get(usize::from(first & 0xf) * 4..),
            _ => Some(packet),
        };
        let Some(packet) = packet.filter(|packet| packet.len() >= LENGTH) else { return };
        let is_reply = packet[..2] == [if from.is_ipv4() { 0 } else { 129 }, 0];
        let word = |at| u64::from_be_bytes(std::array::from_fn(|byte| packet[at + byte]));
        let (serial, cookie) = (word(HEADER), word(HEADER + 8));
        if !is_reply || cookie != self.cookie.hash_one((from, serial)) {
            return;
        }
        if let Some(sender) = self.waiting().remove(&serial) {
            let _ = sender.send(());
        }
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.asked.waiting().remove(&self.serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn is_taken(forge: impl FnOnce(&mut [u8; LENGTH]), from: IpAddr) -> bool {
        let asked = Asked::default();
        let (sender, mut answer) = oneshot::channel();
        asked.waiting().insert(5, sender);
        let mut packet = asked.request(BACKEND, 5);
        packet[0] = 0;
        forge(&mut packet);
        asked.answered(&packet, from);
        answer.try_recv().is_ok()
    }

    #[test]
    fn only_the_backends_own_answer_is_taken() {
        assert!(is_taken(|_| (), BACKEND));
        assert!(!is_taken(|_| (), OTHER), "from another address");
        assert!(!is_taken(|packet| packet[0] = 8, BACKEND), "a request");
        assert!(!is_taken(|packet| packet[15] += 1, BACKEND), "another serial number");
        for byte in 16..24 {
            assert!(!is_taken(|packet| packet[byte] ^= 1, BACKEND), "another cookie");
        }
    }

    #[test]
    fn junk_of_any_length_is_passed_over() {
        let asked = Asked::default();
        for length in 0..=LENGTH + 60 {
            for first in [0, 0x40, 0x45, 0x4f, 129, 0xff] {
                let mut packet = vec![0; length];
                packet.iter_mut().take(1).for_each(|byte| *byte = first);
                asked.answered(&packet, BACKEND);
                asked.answered(&packet, "2001:db8::1".parse().unwrap());
            }
        }
    }

    #[test]
    fn the_sum_over_a_request_is_all_ones() {
        assert_eq!(checksum::sum(&Asked::default().request(BACKEND, 77)), 0xffff);
    }
}
