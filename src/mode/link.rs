//! The Ethernet header of what is sent, and the tag of a next hop behind a VLAN (IEEE 802.1Q).

use crate::counters::Reason;
use crate::wire::{Frame, Mac, ethernet};

use super::Packet;

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
    /// The VLAN (1 to 4094) that it is in.
    pub vlan: Option<u16>,
}

impl NextHop {
    /// Finishes a frame that carries an untagged Ethernet header for this hop's VLAN. Whether the headroom sufficed.
    pub fn tag<F: Frame>(&self, frame: &mut F, priority: u8) -> bool {
        self.vlan.is_none_or(|vlan| tag(frame, vlan, priority))
    }
}

/// What is sent into a VLAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged<M> {
    pub inner: M,
    pub vlan: u16,
}

impl<M> Tagged<M> {
    /// Does what `inner` does, and puts the tag in. Its priority is that of the tag that the packet came with (IEEE 802.1Q).
    #[inline]
    pub fn apply<F: Frame>(
        &self,
        frame: &mut F,
        packet: &Packet,
        inner: impl FnOnce(&M, &mut F) -> Result<PortIndex, Reason>,
    ) -> Result<PortIndex, Reason> {
        let port = inner(&self.inner, frame)?;
        // The headroom holds the longest header of any mode and a tag.
        if tag(frame, self.vlan, packet.priority) { Ok(port) } else { Err(Reason::Malformed) }
    }
}

/// Puts a tag behind the addresses.
fn tag<F: Frame>(frame: &mut F, vlan: u16, priority: u8) -> bool {
    let length = frame.bytes().len();
    let Some(bytes) = frame.reshape(ethernet::TAG, length) else { return false };
    let Some(head) = bytes.first_chunk_mut::<{ ethernet::HEADER + ethernet::TAG }>() else { return false };
    head.copy_within(ethernet::TAG..ethernet::TAG + 12, 0);
    head[12..14].copy_from_slice(&ethernet::VLAN.to_be_bytes());
    head[14..16].copy_from_slice(&(u16::from(priority) << 13 | vlan).to_be_bytes());
    true
}

/// Takes the tags off a frame whose Ethernet header, with them, is `length` bytes. Whether it has so many.
pub fn strip_tags<F: Frame>(frame: &mut F, length: usize) -> bool {
    let tags = length - ethernet::HEADER;
    if tags == 0 {
        return true;
    }
    let Some(head) = frame.bytes_mut().get_mut(..length) else { return false };
    head.copy_within(..12, tags);
    frame.strip(tags)
}
