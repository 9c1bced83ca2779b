//! `dnat-dsr`: as `dnat`, and the backend's node is told the VIP, so that it answers the client itself (Cilium's DSR with "opt"
//! dispatch).
//!
//! ```text
//! client:port -> VIP:port  becomes  client:port -> backend:port, with VIP:port in an option
//! ```
//!
//! Every TCP SYN and every UDP packet carries the option; the node remembers it for the flow. With `"tracking": "full"` every packet
//! does of a flow that this lcore has not seen begin on its way to this backend. IPv4: an option `9a 08 port VIP`,
//! first in the header. IPv6: a destination option `nh 02 1b 14 VIP port 0000`, behind a hop-by-hop header where there is one. In
//! network byte order; `"byte_order": "host"` for releases that swap it (IPv6: the port only). TTL - 1;
//! checksums are patched (RFC 1624). Costs 8 bytes of MTU, IPv6 24. Refuses the last hop (`ttl_exceeded`), what exceeds the port's MTU
//! with the option (`too_big`), and an IPv4 header that has no room for it (`no_room_for_option`). Options: RFC 791, section 3.1, and
//! RFC 8200, section 4.6; what is in them: Cilium's `bpf/lib/nodeport.h`.

use std::net::IpAddr;
use std::ops::Range;

use super::rewrite::{Rewrite, Side, Way};
use super::{Content, Context, Mode, Packet, PortIndex, State};
use crate::counters::Reason;
use crate::flow::{Begun, Mark};
use crate::service::{Backend, ByteOrder, Service, Tracking};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::{Frame, be16, checksum, ethernet, ipv6, tcp};

/// Bytes of the option.
const OPTION_V4: usize = 8;
const OPTION_V6: usize = 24;

/// The option's type, without and with what IPv6 says of unknown ones.
const TYPE_V4: u8 = 0x9a;
const TYPE_V6: u8 = 0x1b;

/// The longest IPv4 header.
const MOST: usize = 60;

/// The way to a backend, and how its node is told the VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnatDsr {
    rewrite: Rewrite,
    way: Way,
    byte_order: ByteOrder,
    /// Tells this backend's flows from those of others, where flows are remembered.
    remembers: Option<u64>,
}

impl Mode for DnatDsr {
    fn overhead(service: &Service, _: &Backend) -> u16 {
        if service.vip.addr().is_ipv4() { OPTION_V4 as u16 } else { OPTION_V6 as u16 }
    }

    fn prepare(context: &Context) -> Self {
        let (service, backend) = (context.service, context.backend);
        let (vip, port) = (service.vip.addr(), service.ports.single());
        let rewrite = Rewrite::new((vip, port), (backend.address, backend.port.or(port)), 1);
        let remembers = (service.tracking == Tracking::Full).then(|| number(backend.address, backend.port));
        let (rewrite, way) = (rewrite.for_all_of(service.vip), context.next_hop.into());
        Self { rewrite, way, byte_order: service.byte_order, remembers }
    }

    #[inline(always)]
    fn apply<F: Frame>(&self, frame: &mut F, packet: &Packet, _: u64, state: &mut State) -> Result<PortIndex, Reason> {
        match &self.rewrite {
            Rewrite::V4(_) => self.apply_v4(frame, packet, &mut state.begun)?,
            Rewrite::V6(_) => self.apply_v6(frame, packet, &mut state.begun)?,
        }
        Ok(self.way.port)
    }
}

impl DnatDsr {
    fn apply_v4<F: Frame>(&self, frame: &mut F, packet: &Packet, begun: &mut Begun) -> Result<(), Reason> {
        let tells = self.tells(frame, packet, ipv4::field::SOURCE..ipv4::HEADER, begun);
        if tells == Tells::Nothing {
            let ip = self.way.route(frame, packet, ipv4::field::TTL)?;
            return self.rewrite.apply(ip, packet, Side::Destination);
        }
        self.way.check(frame, packet, OPTION_V4, ipv4::field::TTL)?;
        if usize::from(packet.header) + OPTION_V4 > MOST {
            return Err(Reason::NoRoomForOption);
        }
        let ip = self.way.insert(frame, packet, ipv4::HEADER, OPTION_V4)?;
        let IpAddr::V4(vip) = Ipv4::of(ip).ok_or(Reason::Malformed)?.destination().into() else {
            return Err(Reason::Malformed);
        };
        let (mut address, mut port) = (vip.octets(), packet.port.to_be_bytes());
        if self.byte_order == ByteOrder::Host {
            address.reverse();
            port.reverse();
        }
        let option = [&[TYPE_V4, OPTION_V4 as u8], &port, &address[..]].into_iter().flatten();
        ip[ipv4::HEADER..].iter_mut().zip(option).for_each(|(place, &byte)| *place = byte);

        let header = usize::from(packet.header) + OPTION_V4;
        ip[0] += (OPTION_V4 / 4) as u8;
        let total = be16(ip, ipv4::field::TOTAL_LENGTH) + OPTION_V4 as u16;
        ip[ipv4::field::TOTAL_LENGTH..][..2].copy_from_slice(&total.to_be_bytes());
        ip[ipv4::field::CHECKSUM..][..2].fill(0);
        let sum = !checksum::sum(ip.get(..header).ok_or(Reason::Malformed)?);
        ip[ipv4::field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
        self.rewrite.apply(ip, &Packet { header: header as u16, ..*packet }, Side::Destination)?;
        tells.note(begun);
        Ok(())
    }

    fn apply_v6<F: Frame>(&self, frame: &mut F, packet: &Packet, begun: &mut Begun) -> Result<(), Reason> {
        let tells = self.tells(frame, packet, ipv6::field::SOURCE..ipv6::HEADER, begun);
        if tells == Tells::Nothing {
            let ip = self.way.route(frame, packet, ipv6::field::HOP_LIMIT)?;
            return self.rewrite.apply(ip, packet, Side::Destination);
        }
        self.way.check(frame, packet, OPTION_V6, ipv6::field::HOP_LIMIT)?;
        let bytes = frame.bytes().get(ethernet::HEADER..).ok_or(Reason::Malformed)?;
        let upper = ipv6::upper(bytes)?;
        let ip = self.way.insert(frame, packet, upper.after_hop_by_hop, OPTION_V6)?;
        let mut vip = [0; 16];
        vip.copy_from_slice(&ip[ipv6::field::DESTINATION..][..16]);
        let mut port = packet.port.to_be_bytes();
        if self.byte_order == ByteOrder::Host {
            port.reverse();
        }
        let next = std::mem::replace(&mut ip[upper.next_header_at], ipv6::extension::DESTINATION_OPTIONS);
        // The length is in words of eight bytes, less one; the option's data are 20 bytes.
        let head = [next, (OPTION_V6 / 8 - 1) as u8, TYPE_V6, 20];
        let option = [&head[..], &vip, &port, &[0, 0]].into_iter().flatten();
        let place = ip.get_mut(upper.after_hop_by_hop..).ok_or(Reason::Malformed)?;
        place.iter_mut().zip(option).for_each(|(place, &byte)| *place = byte);
        let payload = be16(ip, ipv6::field::PAYLOAD_LENGTH) + OPTION_V6 as u16;
        ip[ipv6::field::PAYLOAD_LENGTH..][..2].copy_from_slice(&payload.to_be_bytes());
        self.rewrite.apply(ip, &Packet { header: packet.header + OPTION_V6 as u16, ..*packet }, Side::Destination)?;
        tells.note(begun);
        Ok(())
    }

    /// Whether the packet tells the node of the VIP: all of UDP does, and of TCP what opens a flow, or belongs to one that was not
    /// seen to be opened. `addresses`: where they lie in the IP header.
    fn tells<F: Frame>(&self, frame: &F, packet: &Packet, addresses: Range<usize>, begun: &Begun) -> Tells {
        match packet.content {
            Content::Udp => return Tells::Vip,
            Content::LaterFragment | Content::Error => return Tells::Nothing,
            Content::Tcp => {}
        }
        let Some(ip) = frame.bytes().get(ethernet::HEADER..) else { return Tells::Nothing };
        let Some(tcp) = ip.get(usize::from(packet.header)..).and_then(|tcp| tcp.first_chunk::<{ tcp::HEADER }>())
        else {
            return Tells::Nothing;
        };
        let opens = tcp[tcp::FLAGS] & (tcp::SYN | tcp::ACK) == tcp::SYN;
        let Some(backend) = self.remembers else { return if opens { Tells::Vip } else { Tells::Nothing } };
        let flow = begun.mark(ip.get(addresses).unwrap_or_default(), [tcp[0], tcp[1], tcp[2], tcp[3]], backend);
        match opens {
            true => Tells::VipAndBegins(flow),
            false if begun.contains(flow) => Tells::Nothing,
            false => Tells::Vip,
        }
    }
}

/// What a packet tells the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tells {
    Nothing,
    Vip,
    /// And then the node knows this flow.
    VipAndBegins(Mark),
}

impl Tells {
    /// The packet goes.
    fn note(self, begun: &mut Begun) {
        if let Self::VipAndBegins(flow) = self {
            begun.insert(flow);
        }
    }
}

/// An address and port as one number, the same for few.
fn number(address: IpAddr, port: Option<u16>) -> u64 {
    let address = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    (address as u64) ^ (address >> 64) as u64 ^ u64::from(port.unwrap_or(0)) << 48
}
