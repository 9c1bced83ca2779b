//! Forwarding modes: what is done to a packet once its backend is chosen. One file a mode.
//!
//! A mode is a plain struct made by `prepare` (control side, before any packet: all that can be known is worked out) and
//! used by `apply` (lcore: straight-line, infallible but for refusals). To add one: its file, one line in the list below.

mod dnat;
mod ipip;

use std::net::Ipv4Addr;

use crate::counters::Reason;
use crate::service::{Backend, Forwarding, Service};
use crate::wire::{Frame, Mac, ethernet};

pub use dnat::Reply;

/// Index of a port in the configuration's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIndex(pub u8);

/// Where a packet leaves to: the Ethernet addresses, the port and its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The port's own address.
    pub source: Mac,
    pub destination: Mac,
    pub port: PortIndex,
    /// Largest IP packet that leaves by the port, bytes.
    pub mtu: u16,
}

/// All that is known of a backend before any packet comes.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub service: &'a Service,
    pub backend: &'a Backend,
    pub next_hop: &'a NextHop,
    /// The outer source of tunnels.
    pub ipv4_source: Ipv4Addr,
}

/// What parsing found out about the packet in a frame: IPv4 right behind an untagged Ethernet header, lengths checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Bytes of the IP header, options included.
    pub header: u8,
    /// Bytes of header and payload, padding excluded.
    pub total: u16,
    /// Of the payload: TCP or UDP, its fixed header checked.
    pub protocol: u8,
}

impl Packet {
    /// Bytes of the frame to send where the packet has not grown: nothing behind it, but padding up to the least that a
    /// station may send stays.
    #[inline]
    pub fn sent_length<F: Frame>(&self, frame: &F) -> usize {
        (ethernet::HEADER + usize::from(self.total)).max(ethernet::MINIMUM).min(frame.bytes().len())
    }
}

/// The identifications that one lcore gives to outer headers which may be fragmented (RFC 6864, section 4.3).
#[derive(Debug, Default)]
pub struct Identification(u16);

impl Identification {
    #[inline]
    fn next(&mut self) -> u16 {
        self.0 = self.0.wrapping_add(1);
        self.0
    }
}

/// The interface between the pipeline and a mode.
trait Mode: Sized {
    /// Bytes that a packet grows by.
    const OVERHEAD: u16;

    fn prepare(context: &Context) -> Self;

    /// Turns the frame into what is to be sent, and says by which port.
    fn apply<F: Frame>(&self, frame: &mut F, packet: Packet, id: &mut Identification) -> Result<PortIndex, Reason>;
}

macro_rules! modes {
    ($($name:ident: $of:path,)*) => {
        /// A backend, made ready for its packets.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Prepared {
            $($name($of),)*
        }

        impl Prepared {
            pub fn new(context: &Context) -> Self {
                match context.service.forwarding {
                    $(Forwarding::$name => Self::$name(Mode::prepare(context)),)*
                }
            }

            /// Turns the frame into what is to be sent, and says by which port. On a refusal the frame is as it was.
            #[inline]
            pub fn apply<F: Frame>(
                &self, frame: &mut F, packet: Packet, id: &mut Identification,
            ) -> Result<PortIndex, Reason> {
                match self {
                    $(Self::$name(mode) => mode.apply(frame, packet, id),)*
                }
            }
        }

        /// Bytes that a packet grows by.
        pub const fn overhead(forwarding: Forwarding) -> u16 {
            match forwarding {
                $(Forwarding::$name => <$of as Mode>::OVERHEAD,)*
            }
        }
    };
}

modes! {
    Ipip: ipip::Ipip,
    Dnat: dnat::Dnat,
}
