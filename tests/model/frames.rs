//! The frames of clients: small, and right where somebody looks.

use std::net::IpAddr;

use super::support::packets::{Header, Packet, ROUTER, error, fragments, frame};
use super::support::{TCP, UDP};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Syn,
    Data,
    Fin,
    Rst,
    Error,
    First(u8),
    Later(u8),
}

#[derive(Debug, Clone, Copy)]
pub struct Ends {
    pub client: (IpAddr, u16),
    pub vip: (IpAddr, u16),
    pub is_tcp: bool,
}

/// `id`: of the datagram, where it is fragmented.
pub fn made(ends: &Ends, kind: Kind, id: u16) -> Vec<u8> {
    let Ends { client, vip, is_tcp } = *ends;
    let packet = || Packet {
        from: client,
        to: vip,
        udp: !is_tcp,
        tos: 0,
        ttl: 60,
        id,
        df: false,
        payload: vec![b'x'; 32],
        summed: false,
        options: 0,
    };
    match kind {
        Kind::Error => {
            let answer = Packet { from: vip, to: client, payload: vec![], ..packet() };
            // As little of it as is enough.
            let (router, kept) = if client.0.is_ipv4() { (ROUTER[0], 28) } else { (ROUTER[1], 48) };
            frame(&error(router, vip.0, 60, 0, &answer, kept), &[], 0)
        }
        Kind::First(_) => frame(&fragments(&packet(), 24, id)[0], &[], 0),
        Kind::Later(_) => frame(&fragments(&packet(), 24, id)[1], &[], 0),
        _ => {
            let mut segment = [client.1.to_be_bytes(), vip.1.to_be_bytes()].concat();
            let flags = match kind {
                Kind::Syn => 0x02,
                Kind::Fin => 0x11,
                Kind::Rst => 0x04,
                _ => 0x18,
            };
            match is_tcp {
                true => segment.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x50, flags, 0x72, 0x10, 0, 0, 0, 0]),
                false => segment.extend([0, 9, 0, 0, b'?']),
            }
            let header = Header { tos: 0, ttl: 60, id: 7, df: true, options: 0 };
            frame(&header.before(client.0, vip.0, if is_tcp { TCP } else { UDP }, &segment), &[], 0)
        }
    }
}

/// Where a forwarded frame goes: its outer destination.
pub fn outer_destination(frame: &[u8]) -> IpAddr {
    let packet = &frame[14..];
    match packet[0] >> 4 {
        4 => IpAddr::from(*packet[16..].first_chunk::<4>().unwrap()),
        _ => IpAddr::from(*packet[24..].first_chunk::<16>().unwrap()),
    }
}
