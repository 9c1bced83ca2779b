//! UDP queries and a server that echoes them, run inside the lab's namespaces by the lab's own binary.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;
use crate::process::Process;
use crate::receiver::packet::{Ip, UDP, fill_header_checksum};
use crate::wait::PATIENCE;

/// In which order the fragments of a query are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As the kernel sends them: from the first on.
    Forward,
    /// The last first, by a raw socket.
    Reverse,
}

/// Starts [`echo`] in a namespace.
pub fn serve(namespace: &Namespace, address: SocketAddr, directory: &Path) -> Result<Process> {
    let log = directory.join(format!("echo-{}-{}.log", namespace.name(), address.to_string().replace(':', "-")));
    let _ = std::fs::remove_file(&log);
    let mut command = namespace.helper(std::env::current_exe()?);
    let mut echo = Process::start(command.args(["echo", &address.to_string()]), &log)?;
    echo.until_it_says("ready", PATIENCE)?;
    Ok(echo)
}

/// Answers every datagram to an address with its own bytes, until killed.
pub fn echo(address: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| address.to_string())?;
    println!("ready");
    let mut buffer = vec![0; 65536];
    loop {
        let (length, client) = socket.recv_from(&mut buffer)?;
        println!("{length} bytes of {client}");
        socket.send_to(&buffer[..length], client)?;
    }
}

/// Sends one query of so many bytes, and tells whether its echo came; an echo of other bytes, or from elsewhere, is none.
pub fn ask(server: SocketAddr, client: IpAddr, bytes: usize, order: Order, patience: Duration) -> Result<()> {
    let socket = UdpSocket::bind((client, 0))?;
    // The kernel lets in only what comes from the VIP and its port.
    socket.connect(server)?;
    socket.set_read_timeout(Some(patience))?;
    let query: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    match order {
        Order::Forward => drop(socket.send(&query)?),
        Order::Reverse => {
            let domain = Domain::for_address(server);
            // 255, "raw": what is sent has its own IP header.
            let raw = Socket::new(domain, Type::RAW, Some(Protocol::from(255))).context("a raw socket")?;
            for fragment in fragments(socket.local_addr()?, server, &query).iter().rev() {
                // IPv6 wants no port beside the address.
                raw.send_to(fragment, &SocketAddr::new(server.ip(), 0).into())?;
            }
        }
    }
    let mut answer = vec![0; 65536];
    match socket.recv(&mut answer) {
        Ok(length) => {
            ensure!(answer[..length] == query, "an answer of {length} other bytes");
            println!("answered {length}");
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => println!("unanswered"),
        Err(error) => bail!("no answer: {error}"),
    }
    Ok(())
}

/// Bytes of a datagram in each fragment but the last: as many as an MTU of 1500 takes over both families, a multiple of eight.
const PART: usize = 1440;

/// The IP packets that carry a datagram, from the first on.
fn fragments(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<Vec<u8>> {
    let length = (8 + data.len()) as u16;
    let mut udp = [from.port(), to.port(), length, 0].iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    udp.extend(data);
    let whole =
        Ip { source: from.ip(), destination: to.ip(), protocol: UDP, payload: 0, is_first: true, is_fragment: false };
    let sum = whole.sum(&udp);
    udp[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());

    // Each query has its own port, so its own identification, too.
    let identification = from.port();
    let last = (udp.len() - 1) / PART;
    let one = |(number, part): (usize, &[u8])| match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let offset = (number * PART / 8) as u16 | if number < last { 0x2000 } else { 0 };
            let total = (20 + part.len()) as u16;
            let words = [0x4500, total, identification, offset, 64 << 8 | u16::from(UDP), 0];
            let mut packet: Vec<u8> = words.iter().flat_map(|word: &u16| word.to_be_bytes()).collect();
            packet.extend(source.octets());
            packet.extend(destination.octets());
            fill_header_checksum(&mut packet);
            packet.extend(part);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let offset = (number * PART) as u16 | u16::from(number < last);
            let length = (8 + part.len()) as u16;
            // After the IPv6 header the fragment header, 44 (RFC 8200, 4.5).
            let mut packet = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[44, 64]].concat();
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend([UDP, 0]);
            packet.extend(offset.to_be_bytes());
            packet.extend(u32::from(identification).to_be_bytes());
            packet.extend(part);
            packet
        }
        _ => unreachable!("a socket is of one family"),
    };
    udp.chunks(PART).enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_of_4000_bytes_goes_in_three_fragments() {
        for (from, to, header) in [("10.0.0.1:7", "10.0.0.2:8", 20), ("[fd00::1]:7", "[fd00::2]:8", 48)] {
            let query = vec![b'q'; 4000];
            let sent = fragments(from.parse().unwrap(), to.parse().unwrap(), &query);
            let lengths: Vec<usize> = sent.iter().map(|fragment| fragment.len() - header).collect();
            assert_eq!(lengths, [1440, 1440, 1128]);
            let read: Vec<Ip> = sent.iter().map(|fragment| Ip::read(fragment).unwrap()).collect();
            assert!(read.iter().all(|ip| ip.is_fragment && ip.protocol == UDP && ip.payload == header));
            assert_eq!(read.iter().map(|ip| ip.is_first).collect::<Vec<_>>(), [true, false, false]);
            let udp = sent.iter().flat_map(|fragment| &fragment[header..]).copied().collect::<Vec<u8>>();
            assert_eq!((Ip { payload: 0, ..read[0] }.sum(&udp), &udp[8..]), (0, &query[..]));
        }
    }
}
