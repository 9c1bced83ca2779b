//! Forwarding modes: what is done to a packet once its backend is chosen. One file a mode.
//!
//! A mode is a plain struct made by `prepare` (control side, before any packet: all that can be known is worked out) and
//! used by `apply` (lcore: straight-line, infallible but for refusals). To add one: its file, one line in the list below.
//!
//! What modes share stands beside them: `outer` (the outer IP header of tunnels), `udp_tunnel`, [`rewrite`] (an address and
//! port put in place of others), [`link`] (the Ethernet header).

mod dnat;
mod dnat_dsr;
mod dscp;
mod geneve;
mod gre;
mod gue;
mod ipip;
mod l2dsr;
pub mod link;
mod outer;
pub mod rewrite;
pub mod snat;
mod udp_tunnel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::counters::Reason;
use crate::flow::{Begun, Clients, Flows, Nat, Seconds};
use crate::service::{Backend, Forwarding, Service};
use crate::wire::{Frame, ethernet, ipv4, ipv6};

pub use dnat::Reply;
pub use link::{NextHop, PortIndex};
use outer::Outer;

/// The outer header of a packet that goes straight: IPIP over IPv4 in an untagged frame.
pub type StraightV4 = outer::OuterV4<{ outer::TAIL_V4 }>;
/// What a packet got that went straight, for those behind it that are alike.
pub type AgainV4 = outer::Again<{ outer::TAIL_V4 }>;

/// The same over IPv6.
pub type StraightV6 = outer::OuterV6<{ outer::TAIL_V6 }>;

/// What the node puts into outer headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encap {
    /// Outer sources; definitions with tunnels are refused where there is none of the backend's family.
    pub ipv4_source: Option<Ipv4Addr>,
    pub ipv6_source: Option<Ipv6Addr>,
    /// Where the outer source is spread by flow instead.
    pub rss_source_v4: Option<Ipv4Net>,
    pub rss_source_v6: Option<Ipv6Net>,
}

/// All that is known of a backend before any packet comes.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub service: &'a Service,
    pub backend: &'a Backend,
    pub next_hop: &'a NextHop,
    pub encap: &'a Encap,
}

/// What a tunnel's packets look like from outside, to know them again in what the fabric says of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// The outer destination.
    pub endpoint: IpAddr,
    /// The outer protocol number; of UDP, with its destination port.
    pub protocol: u8,
    pub port: Option<u16>,
    /// Bytes between the outer IP header and the inner packet.
    pub between: u16,
    /// Where among them stand the address and port that the inner packet's destination had, where it was changed.
    pub vip_at: Option<u16>,
}

/// What a packet carries behind its IP headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// TCP or UDP with its fixed header whole: all of it, or the first fragment.
    Tcp,
    Udp,
    /// A later fragment of either.
    LaterFragment,
    /// An ICMP or ICMPv6 error that quotes a TCP or UDP packet of the flow.
    Error,
}

/// What parsing found out about the packet in a frame: IP right behind an untagged Ethernet header, lengths checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Bytes of the IP header, options or extension headers included.
    pub header: u16,
    /// Bytes of headers and payload, padding excluded; what is longer than this can say fits no port.
    pub total: u16,
    pub content: Content,
    /// The flow's port at the VIP.
    pub port: u16,
    /// The priority (PCP) of the tag that it came with, 0 to 7.
    pub priority: u8,
}

impl Packet {
    /// Bytes of the frame to send where the packet has not grown: nothing behind it, but padding up to the least that a
    /// station may send stays.
    #[inline]
    pub fn sent_length<F: Frame>(&self, frame: &F) -> usize {
        (ethernet::HEADER + usize::from(self.total)).max(ethernet::MINIMUM).min(frame.bytes().len())
    }
}

/// What one lcore's modes keep from packet to packet.
#[derive(Debug)]
pub struct State {
    id: Identification,
    /// The translations of `snat`.
    pub nat: Nat,
    /// Where flows went.
    pub flows: Flows,
    /// Where clients went: one for all lcores.
    pub clients: Option<Arc<Clients>>,
    /// The flows that `dnat-dsr` has seen begin.
    pub begun: Begun,
    /// The second of the burst.
    pub now: Seconds,
}

impl State {
    pub fn new(nat: Nat, flows: Flows, begun: Begun) -> Self {
        Self { id: Identification::default(), nat, flows, clients: None, begun, now: Seconds(0) }
    }
}

/// The identifications that one lcore gives to outer headers which may be fragmented (RFC 6864, section 4.3).
#[derive(Debug, Default)]
struct Identification(u16);

impl Identification {
    #[inline]
    fn next(&mut self) -> u16 {
        self.0 = self.0.wrapping_add(1);
        self.0
    }
}

/// The interface between the pipeline and a mode.
trait Mode: Sized {
    /// Bytes that a packet of `service` grows by, at most, on its way to `backend`.
    fn overhead(service: &Service, backend: &Backend) -> u16;

    /// The outer header, in modes that have one.
    fn tunnel(_: &Service, _: &Backend) -> Option<Tunnel> {
        None
    }

    fn prepare(context: &Context) -> Self;

    /// Turns the frame into what is to be sent, and says by which port. `hash` is that of the client's address and port, or the
    /// number of the flow's translation. On a refusal the frame is as it was.
    fn apply<F: Frame>(
        &self,
        frame: &mut F,
        packet: &Packet,
        hash: u64,
        state: &mut State,
    ) -> Result<PortIndex, Reason>;
}

/// As [`Mode::apply`], out of line: one place for all who do it once.
#[inline(never)]
fn apply_one<M: Mode, F: Frame>(
    mode: &M,
    frame: &mut F,
    packet: &Packet,
    hash: u64,
    state: &mut State,
) -> Result<PortIndex, Reason> {
    mode.apply(frame, packet, hash, state)
}

/// For what is larger than most.
impl<M: Mode> Mode for Box<M> {
    fn overhead(service: &Service, backend: &Backend) -> u16 {
        M::overhead(service, backend)
    }

    fn tunnel(service: &Service, backend: &Backend) -> Option<Tunnel> {
        M::tunnel(service, backend)
    }

    fn prepare(context: &Context) -> Self {
        Self::new(M::prepare(context))
    }

    #[inline(always)]
    fn apply<F: Frame>(
        &self,
        frame: &mut F,
        packet: &Packet,
        hash: u64,
        state: &mut State,
    ) -> Result<PortIndex, Reason> {
        M::apply(self, frame, packet, hash, state)
    }
}

macro_rules! modes {
    ($($name:ident: $of:ty,)*) => {
        /// A backend, made ready for its packets.
        ///
        /// (Its tag stands by itself, which makes the look at it short.)
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Prepared {
            /// `ipip` of IPv4 in IPv4 with one source: what most packets are, and in loops of its own in the pipeline.
            Straight(StraightV4),
            /// The same of IPv6 in IPv6.
            StraightV6(Box<StraightV6>),
            $($name($of),)*
            /// Nothing can be sent there, and why.
            Refuses(Reason),
            /// Any of them, towards a next hop behind a VLAN tag.
            Tagged(Box<link::Tagged<Prepared>>),
        }

        impl Prepared {
            pub fn new(context: &Context) -> Self {
                let prepared = match context.service.forwarding {
                    $(Forwarding::$name => Self::$name(Mode::prepare(context)),)*
                };
                prepared.towards(context.next_hop)
            }

            /// The same for what the node itself asks a backend by way of its service. That comes from an address of the node's own and
            /// a port that no flow has: so `snat` leaves its source alone, and needs no translation for it.
            pub fn of_probe(context: &Context) -> Self {
                match context.service.forwarding {
                    Forwarding::Snat => Self::Dnat(Mode::prepare(context)).towards(context.next_hop),
                    _ => Self::new(context),
                }
            }

            fn towards(self, next_hop: &NextHop) -> Self {
                match next_hop.vlan {
                    None => match self {
                        Self::Ipip(ipip::Ipip(Outer::V4InV4(outer))) => Self::Straight(outer),
                        Self::Ipip(ipip::Ipip(Outer::V6InV6(outer))) => Self::StraightV6(outer),
                        other => other,
                    },
                    Some(vlan) => Self::Tagged(Box::new(link::Tagged { inner: self, vlan })),
                }
            }

            /// What turns a frame into what is to be sent by [`Prepared::straight_port`], where it is [`Prepared::Straight`] and the packet
            /// fits; else [`Prepared::apply`] says what is to be done.
            #[inline(always)]
            pub fn straight(&self) -> Option<&StraightV4> {
                match self {
                    Self::Straight(outer) => Some(outer),
                    _ => None,
                }
            }

            /// The same where it is [`Prepared::StraightV6`].
            #[inline(always)]
            pub fn straight_v6(&self) -> Option<&StraightV6> {
                match self {
                    Self::StraightV6(outer) => Some(outer),
                    _ => None,
                }
            }

            /// What sends a plain TCP segment over IPv4 by its flow's translation, where it is [`Prepared::Snat`].
            #[inline(always)]
            pub fn translates(&self) -> Option<&snat::Snat> {
                match self {
                    Self::Snat(snat) => Some(snat),
                    _ => None,
                }
            }

            /// By which port packets go that one of these sends; `None`: there is more to be done.
            #[inline(always)]
            pub fn straight_port(&self) -> Option<PortIndex> {
                match self {
                    Self::Straight(outer) => Some(outer.port()),
                    Self::StraightV6(outer) => Some(outer.port()),
                    Self::Snat(snat) => Some(snat.port()),
                    _ => None,
                }
            }

            /// Turns the frame into what is to be sent, and says by which port. `hash` is that of the client's address and
            /// port. On a refusal the frame is as it was.
            #[inline(always)]
            pub fn apply<F: Frame>(
                &self, frame: &mut F, packet: &Packet, hash: u64, state: &mut State,
            ) -> Result<PortIndex, Reason> {
                match self {
                    Self::Straight(outer) => outer.wrap_v4(frame, packet.total, state),
                    Self::StraightV6(outer) => outer.wrap_v6(frame, packet.total, hash),
                    $(Self::$name(mode) => apply_one(mode, frame, packet, hash, state),)*
                    Self::Refuses(reason) => Err(*reason),
                    Self::Tagged(tagged) => tagged.apply(frame, packet, |inner, frame| {
                        inner.apply(frame, packet, hash, state)
                    }),
                }
            }

            /// The same of packets that come one behind the other, each with a backend of its own: of the first, and of those behind it that go by
            /// the same mode, in a loop of its own. `told` gets what becomes of each by its place; gives how many there were.
            #[inline(always)]
            pub fn apply_run<'a, F: Frame>(
                frames: &mut [F],
                of: impl Fn(usize) -> (&'a Self, Packet, u64),
                state: &mut State,
                mut told: impl FnMut(usize, Result<PortIndex, Reason>),
            ) -> usize {
                let Some(first) = frames.first_mut() else { return 0 };
                let (mode, packet, hash) = of(0);
                match mode {
                    $(Self::$name(_) => {
                        for (at, frame) in frames.iter_mut().enumerate() {
                            let (Self::$name(mode), packet, hash) = of(at) else { return at };
                            told(at, mode.apply(frame, &packet, hash, state));
                        }
                        frames.len()
                    })*
                    _ => {
                        told(0, mode.apply(first, &packet, hash, state));
                        1
                    }
                }
            }
        }

        /// Bytes that a packet of `service` grows by, at most, on its way to `backend`.
        pub fn overhead(service: &Service, backend: &Backend) -> u16 {
            match service.forwarding {
                $(Forwarding::$name => <$of as Mode>::overhead(service, backend),)*
            }
        }

        /// The outer header, in modes that have one.
        pub fn tunnel(service: &Service, backend: &Backend) -> Option<Tunnel> {
            match service.forwarding {
                $(Forwarding::$name => <$of as Mode>::tunnel(service, backend),)*
            }
        }
    };
}

modes! {
    Ipip: ipip::Ipip,
    Gre: gre::Gre,
    Gue: gue::Gue,
    Geneve: Box<geneve::Geneve>,
    Dscp: dscp::Dscp,
    L2dsr: l2dsr::L2dsr,
    Dnat: dnat::Dnat,
    DnatDsr: dnat_dsr::DnatDsr,
    Snat: snat::Snat,
}

/// Bytes of an IP header of the address's family.
fn ip_header(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => ipv4::HEADER as u16,
        IpAddr::V6(_) => ipv6::HEADER as u16,
    }
}
