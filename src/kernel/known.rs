//! The kernel's tables as far as they concern the twins: read whole, then kept by its announcements.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::{Stream, StreamExt, pin_mut};
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteType,
};

use super::{Error, Facts};
use crate::snapshot::{Neighbor, PortIndex, Route};
use crate::wire::Mac;

/// Twins by the index of their link.
pub type Links = [(u32, PortIndex)];

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Known {
    addresses: BTreeSet<IpAddr>,
    neighbors: BTreeMap<(u32, IpAddr), Entry>,
    /// By prefix and metric: the first of a prefix is the one that the kernel takes.
    routes: BTreeMap<(IpNet, u32), Hop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    mac: Mac,
    port: PortIndex,
    /// Usable, but not confirmed lately (NUD_STALE).
    is_ageing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hop {
    link: u32,
    /// `None`: the addresses of the prefix are neighbours themselves.
    via: Option<IpAddr>,
}

impl Known {
    /// Reads all three tables.
    pub async fn read(handle: &Handle, links: &Links) -> Result<Self, Error> {
        let mut known = Self::default();
        each("addresses", handle.address().get().execute(), |address| known.add_address(&address, links)).await?;
        each("routes", handle.route().get(RouteMessage::default()).execute(), |route| known.add_route(&route, links))
            .await?;
        each("neighbours", handle.neighbours().get().execute(), |entry| known.add_neighbor(&entry, links)).await?;
        Ok(known)
    }

    /// Takes one announcement; `true` if only [`Known::read`] tells what it means.
    pub fn apply(&mut self, message: RouteNetlinkMessage, links: &Links) -> bool {
        let is_twin = |index| links.iter().any(|&(link, _)| link == index);
        match message {
            RouteNetlinkMessage::NewNeighbour(entry) => self.add_neighbor(&entry, links),
            RouteNetlinkMessage::DelNeighbour(entry) => {
                if let Some(address) = neighbor_address(&entry) {
                    self.neighbors.remove(&(entry.header.ifindex, address));
                }
            }
            RouteNetlinkMessage::NewRoute(route) => self.add_route(&route, links),
            RouteNetlinkMessage::DelRoute(route) => {
                if let Some((key, hop)) = parse_route(&route, links)
                    && self.routes.get(&key) == Some(&hop)
                {
                    self.routes.remove(&key);
                }
            }
            // Routes go silently with an address or a link: the kernel announces only their cause.
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                return is_twin(address.header.index);
            }
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                return is_twin(link.header.index);
            }
            _ => {}
        }
        false
    }

    pub fn facts(&self) -> Facts {
        let mut facts = Facts { addresses: self.addresses.iter().copied().collect(), ..Facts::default() };
        facts.neighbors.extend(self.neighbors.iter().map(|(&(_, address), entry)| Neighbor {
            address,
            mac: entry.mac,
            port: entry.port,
            // The twin is untagged; what is behind a tag stands in the configuration.
            vlan: None,
        }));
        let mut last = None;
        for (&(prefix, _), hop) in &self.routes {
            if last.replace(prefix) == Some(prefix) {
                continue; // a worse metric
            }
            facts.routes.push(Route { prefix, via: hop.via });
        }
        facts
    }

    /// The link on which `address` would be a neighbour.
    pub fn link_of(&self, address: IpAddr) -> Option<u32> {
        let on_link = self.routes.iter().filter(|((prefix, _), hop)| hop.via.is_none() && prefix.contains(&address));
        on_link.max_by_key(|((prefix, _), _)| prefix.prefix_len()).map(|(_, hop)| hop.link)
    }

    /// Neighbours that the kernel has not confirmed lately.
    pub fn ageing(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        self.neighbors.iter().filter(|(_, entry)| entry.is_ageing).map(|(&key, _)| key)
    }

    fn add_address(&mut self, message: &AddressMessage, links: &Links) {
        if port_of(links, message.header.index).is_none() {
            return;
        }
        // IFA_ADDRESS is the peer's on a point-to-point link; IFA_LOCAL, where there is one, is ours (IPv6 has none).
        let find = |is_local: bool| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) if is_local => Some(*address),
                AddressAttribute::Address(address) if !is_local => Some(*address),
                _ => None,
            })
        };
        self.addresses.extend(find(true).or_else(|| find(false)));
    }

    fn add_neighbor(&mut self, message: &NeighbourMessage, links: &Links) {
        let link = message.header.ifindex;
        let (Some(port), Some(address)) = (port_of(links, link), neighbor_address(message)) else { return };
        let mac = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
            _ => None,
        });
        match (mac, is_usable(message.header.state)) {
            (Some(mac), true) => {
                let is_ageing = message.header.state == NeighbourState::Stale;
                self.neighbors.insert((link, address), Entry { mac, port, is_ageing });
            }
            _ => {
                self.neighbors.remove(&(link, address));
            }
        }
    }

    fn add_route(&mut self, message: &RouteMessage, links: &Links) {
        if let Some((key, hop)) = parse_route(message, links) {
            self.routes.insert(key, hop);
        }
    }
}

/// Whether the kernel itself would send to a neighbour in this state (NUD_VALID without NUD_NOARP).
fn is_usable(state: NeighbourState) -> bool {
    use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
    matches!(state, Reachable | Stale | Delay | Probe | Permanent)
}

fn port_of(links: &Links, index: u32) -> Option<PortIndex> {
    links.iter().find(|&&(link, _)| link == index).map(|&(_, port)| port)
}

fn neighbor_address(message: &NeighbourMessage) -> Option<IpAddr> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    });
    address.filter(|address| !address.is_multicast())
}

/// A unicast route of the main table through a twin; of several paths the first through one.
fn parse_route(message: &RouteMessage, links: &Links) -> Option<((IpNet, u32), Hop)> {
    if message.header.kind != RouteType::Unicast || message.header.flags.contains(RouteFlags::Dead) {
        return None;
    }
    let mut table = u32::from(message.header.table);
    let (mut destination, mut metric, mut link, mut via) = (None, 0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::MultiPath(hops) => {
                let hop = hops.iter().find(|hop| {
                    port_of(links, hop.interface_index).is_some() && !hop.flags.contains(RouteNextHopFlags::Dead)
                })?;
                link = Some(hop.interface_index);
                via = hop.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Gateway(address) => ip(address),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let link = link?;
    port_of(links, link)?;
    let any = match message.header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet => IpAddr::from([0; 4]),
        rtnetlink::packet_route::AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let prefix = IpNet::new(destination.unwrap_or(any), message.header.destination_prefix_length).ok()?;
    Some(((prefix.trunc(), metric), Hop { link, via }))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Reads one table to its end.
async fn each<T>(
    what: &'static str,
    table: impl Stream<Item = Result<T, rtnetlink::Error>>,
    mut take: impl FnMut(T),
) -> Result<(), Error> {
    pin_mut!(table);
    while let Some(row) = table.next().await {
        take(row.map_err(|error| Error::List { what, reason: error.to_string() })?);
    }
    Ok(())
}
