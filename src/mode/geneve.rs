//! `geneve`: an Ethernet frame in Geneve (RFC 8926), with the VIP in Cilium's DSR option.
//!
//! ```text
//! before                                          Ethernet | IP client -> VIP:port     | TCP or UDP | payload
//! after  Ethernet | IP us -> node | UDP | Geneve | Ethernet | IP client -> backend:port | TCP or UDP | payload
//! ```
//!
//! The receiver is a Cilium node (`tunnel_endpoint`; by default the backend's own address): it hands the inner packet to the
//! backend, and gives replies the VIP's address and port that the option names. The inner destination becomes the backend's, its
//! TTL stays. The option is critical: class 0x014b, type 0x81 with the critical bit in it, then VIP, port and two bytes of zero.
//! Costs 62 bytes of MTU (IPv6 VIP: 74), 20 more over IPv6. Refuses what exceeds the port's MTU once it has grown (`too_big`).

use std::net::IpAddr;
use std::ops::Range;

use super::outer::{Outer, OuterV4, TAIL_V4, TAIL_V6};
use super::rewrite::{Change, Rewrite, Side, V4};
use super::{Context, Mode, Packet, PortIndex, State, Tunnel, ip_header, udp_tunnel};
use crate::counters::Reason;
use crate::service::{Backend, Service};
use crate::wire::ipv4::{self, protocol};
use crate::wire::{Frame, ethernet, ipv6, udp};

/// Bytes of the fixed header, and of the option's own.
const GENEVE: usize = 8;
const OPTION: usize = 4;
/// Where the option's data begin behind the outer IP header.
const OPTION_DATA: usize = udp::HEADER + GENEVE + OPTION;
/// Bytes of them: VIP, port, zeros.
const DATA_V4: usize = 8;
const DATA_V6: usize = 20;

/// Bytes between the outer IP header and the inner one.
const MORE_V4: usize = udp::HEADER + GENEVE + OPTION + DATA_V4 + ethernet::HEADER;
const MORE_V6: usize = udp::HEADER + GENEVE + OPTION + DATA_V6 + ethernet::HEADER;

/// "Transparent Ethernet bridging": an Ethernet frame follows.
const ETHERNET: u16 = 0x6558;

/// By what most packets are, and all the others.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(align(64))]
pub enum Geneve {
    /// IPv4 in IPv4 from one VIP and port, without a checksum: within two cache lines, and the compiler knows all the offsets.
    Straight {
        outer: OuterV4<{ TAIL_V4 + MORE_V4 }>,
        change: Change<V4>,
    },
    Any(Box<Any>),
}

const _: () = assert!(size_of::<Geneve>() == 128);

/// Any other: IPv6 inside or outside, several VIPs or ports, a source of the flow's own, or a UDP checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Any {
    outer: Header,
    rewrite: Rewrite,
    /// Whether the VIP or the port is not the same for all packets.
    varies: bool,
    has_checksum: bool,
}

/// By the VIP's family.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Header {
    V4(Outer<{ TAIL_V4 + MORE_V4 }, { TAIL_V6 + MORE_V4 }>),
    V6(Outer<{ TAIL_V4 + MORE_V6 }, { TAIL_V6 + MORE_V6 }>),
}

impl Mode for Geneve {
    fn overhead(service: &Service, backend: &Backend) -> u16 {
        ip_header(backend.tunnel_endpoint()) + between(service)
    }

    fn tunnel(service: &Service, backend: &Backend) -> Option<Tunnel> {
        let (endpoint, port) = (backend.tunnel_endpoint(), Some(service.geneve.port));
        let (between, vip_at) = (between(service), Some(OPTION_DATA as u16));
        Some(Tunnel { endpoint, protocol: protocol::UDP, port, between, vip_at })
    }

    fn prepare(context: &Context) -> Self {
        let (service, backend) = (context.service, context.backend);
        let (to, vip, port) = (backend.tunnel_endpoint(), service.vip.addr(), service.ports.single());
        let tail = tail(service, vip, port);
        let outer = match vip {
            IpAddr::V4(_) => Header::V4(Outer::new(context, to, protocol::UDP, &tail)),
            IpAddr::V6(_) => Header::V6(Outer::new(context, to, protocol::UDP, &tail)),
        };
        let rewrite = Rewrite::new((vip, port), (backend.address, backend.port.or(port)), 0);
        // An error's quote stays as it is: the node that the option is for translates no quotes.
        let rewrite = rewrite.for_all_of(service.vip).keeping_quotes();
        let varies = service.vip.prefix_len() < service.vip.max_prefix_len() || port.is_none();
        match (outer, rewrite) {
            (Header::V4(Outer::V4InV4(outer)), Rewrite::V4(change)) if !varies && !service.udp_checksum => {
                Self::Straight { outer, change }
            }
            (outer, rewrite) => Self::Any(Box::new(Any { outer, rewrite, varies, has_checksum: service.udp_checksum })),
        }
    }

    #[inline(always)]
    fn apply<F: Frame>(
        &self,
        frame: &mut F,
        packet: &Packet,
        hash: u64,
        state: &mut State,
    ) -> Result<PortIndex, Reason> {
        match self {
            Self::Straight { outer, change } => outer.wrap_v4_with(frame, packet.total, state, |frame, at| {
                let inner = frame.get_mut(at + MORE_V4..).unwrap_or_default();
                let _ = change.apply(inner, packet, Side::Destination, None);
                udp_tunnel::finish(frame, at, hash, false);
            }),
            Self::Any(any) => any.apply(frame, packet, hash, state),
        }
    }
}

impl Any {
    #[inline(never)]
    fn apply<F: Frame>(
        &self,
        frame: &mut F,
        packet: &Packet,
        hash: u64,
        state: &mut State,
    ) -> Result<PortIndex, Reason> {
        match &self.outer {
            Header::V4(outer) => {
                outer.wrap(frame, packet.total, hash, state, |frame, at| self.finish(frame, at, MORE_V4, packet, hash))
            }
            Header::V6(outer) => {
                outer.wrap(frame, packet.total, hash, state, |frame, at| self.finish(frame, at, MORE_V6, packet, hash))
            }
        }
    }

    #[inline(always)]
    fn finish(&self, frame: &mut [u8], at: usize, more: usize, packet: &Packet, hash: u64) {
        if self.varies {
            let destination = match self.outer {
                Header::V4(_) => ipv4::field::DESTINATION..ipv4::HEADER,
                Header::V6(_) => ipv6::field::DESTINATION..ipv6::HEADER,
            };
            put_vip(frame, at + OPTION_DATA, at + more, destination, packet.port);
        }
        let inner = &mut frame[at + more..];
        // It fails only where a header is shorter than parsing has found it.
        let _ = self.rewrite.apply(inner, packet, Side::Destination);
        udp_tunnel::finish(frame, at, hash, self.has_checksum);
    }
}

/// Puts the VIP and port that the packet has into the option.
#[inline(never)]
fn put_vip(frame: &mut [u8], option_at: usize, inner_at: usize, destination: Range<usize>, port: u16) {
    let (head, inner) = frame.split_at_mut(inner_at);
    if let Some(vip) = inner.get(destination)
        && let Some(option) = head.get_mut(option_at..)
    {
        option[..vip.len()].copy_from_slice(vip);
        option[vip.len()..][..2].copy_from_slice(&port.to_be_bytes());
    }
}

/// Bytes between the outer IP header and the inner one.
fn between(service: &Service) -> u16 {
    let more = if service.vip.addr().is_ipv4() { MORE_V4 } else { MORE_V6 };
    more as u16
}

/// UDP, Geneve, its option with the VIP and port, and the inner Ethernet header.
fn tail(service: &Service, vip: IpAddr, port: Option<u16>) -> Vec<u8> {
    const OPTION_CLASS: [u8; 2] = [0x01, 0x4b];
    const OPTION_TYPE: u8 = 0x81;
    const CRITICAL: u8 = 0x40;
    let details = &service.geneve;
    let (address, ether_type) = match vip {
        IpAddr::V4(vip) => (vip.octets().to_vec(), ethernet::IPV4),
        IpAddr::V6(vip) => (vip.octets().to_vec(), ethernet::IPV6),
    };
    let data = [&address[..], &port.unwrap_or(0).to_be_bytes(), &[0, 0]].concat();
    // Lengths are in words of four bytes.
    let words = (data.len() / 4) as u8;
    let [protocol_high, protocol_low] = ETHERNET.to_be_bytes();
    let [_, vni @ ..] = details.vni.to_be_bytes();
    [
        &udp_tunnel::header(details.port)[..],
        &[words + 1, CRITICAL, protocol_high, protocol_low],
        &vni,
        &[0],
        &OPTION_CLASS,
        &[OPTION_TYPE, words],
        &data,
        &ethernet::header(details.inner_destination, details.inner_source, ether_type),
    ]
    .concat()
}
