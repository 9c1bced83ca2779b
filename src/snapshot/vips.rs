//! Which service a packet is for. The longest prefix that its destination is in counts; of that VIP's services first the one on
//! exactly its port, then the one on a range around it, then the one on all ports. There is no falling back to a shorter prefix.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{BitAnd, BitXor, Not};
use std::sync::Arc;

use ipnet::IpNet;

use super::compile::Key;
use super::index::Index;
use super::prefixes::Prefixes;
use super::{Found, ServiceIndex};
use crate::service::{Ports, Protocol};

/// VIPs and their services. A copy costs little, and shares what does not change.
#[derive(Debug, Clone)]
pub struct Vips {
    /// Services on one port of one address: as [`Found::to_bits`].
    exact: Index,
    /// VIPs of one address.
    single: Index,
    /// What hardly any address but VIPs of its family passes, as long as none of them is a prefix: the source of every packet is asked for.
    filter_v4: Filter,
    filter_v6: Filter,
    /// The same, faster where a burst of sources is asked for, and tells less.
    common_v4: Common<u32>,
    common_v6: Common<u128>,
    /// VIPs that are prefixes.
    prefixes: Arc<Prefixes<u32>>,
    vips: Vec<Arc<Vip>>,
    /// Numbers that no VIP has.
    free: Vec<u32>,
}

/// The services of one VIP.
#[derive(Debug, Clone)]
struct Vip {
    vip: IpNet,
    tcp: Services,
    udp: Services,
}

/// Of one VIP and protocol, by port.
#[derive(Debug, Clone, Default)]
struct Services {
    /// By first and last port.
    services: BTreeMap<(u16, u16), Found>,
    /// Disjoint intervals: the first port of each, and its service. Without any there is no service.
    intervals: Vec<(u16, Option<Found>)>,
    /// The service, where one has all ports and no other has any.
    all: Option<ServiceIndex>,
}

impl Services {
    /// Lays them over each other.
    fn lay(&mut self) {
        let ports = |&(first, last): &(u16, u16)| Ports { first, last };
        let mut entries: Vec<(Ports, Found)> = self.services.iter().map(|(key, &found)| (ports(key), found)).collect();
        self.all = match entries.as_slice() {
            [(Ports::ALL, found)] => Some(found.service),
            _ => None,
        };
        self.intervals.clear();
        if entries.is_empty() {
            return;
        }
        let intervals = &mut self.intervals;
        intervals.push((0, None));
        // The narrowest last, which is laid over the others.
        entries.sort_by_key(|(ports, _)| std::cmp::Reverse(ports.last - ports.first));
        for (ports, found) in entries {
            let at =
                |intervals: &[(u16, Option<Found>)], port| intervals.partition_point(|&(start, _)| start <= port) - 1;
            let (from, to) = (at(intervals, ports.first), at(intervals, ports.last));
            let (before, after) = (intervals[from], intervals[to].1);
            let mut laid = Vec::new();
            if before.0 < ports.first {
                laid.push(before);
            }
            laid.push((ports.first, Some(found)));
            let end = intervals.get(to + 1).map_or(u32::from(u16::MAX) + 1, |next| u32::from(next.0));
            if u32::from(ports.last) + 1 < end {
                laid.push((ports.last + 1, after));
            }
            intervals.splice(from..=to, laid);
        }
    }

    fn get(&self, port: u16) -> Option<Found> {
        let behind = self.intervals.partition_point(|&(start, _)| start <= port);
        self.intervals.get(behind.checked_sub(1)?)?.1
    }
}

/// What the addresses of all VIPs of a family have in common, as little-endian words: an address that differs in one of these bits is no VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Common<W> {
    value: W,
    bits: W,
}

/// What an address is, as a word.
pub trait Word: Copy + Default + Eq + BitAnd<Output = Self> + BitXor<Output = Self> + Not<Output = Self> {}
impl Word for u32 {}
impl Word for u64 {}
impl Word for u128 {}

impl<W: Word> Common<W> {
    /// Of VIPs and their masks. (Without VIPs nobody is one; but who asks need not rely on that.)
    pub(crate) fn of(vips: impl Iterator<Item = [W; 2]>) -> Self {
        let common = vips.map(|[value, bits]| Self { value, bits });
        common
            .reduce(|all, vip| Self { bits: all.bits & vip.bits & !(all.value ^ vip.value), ..all })
            .unwrap_or_default()
    }

    /// Whether an address may be a VIP, as far as this tells.
    #[inline(always)]
    pub fn may_be(self, address: W) -> bool {
        (address ^ self.value) & self.bits == W::default()
    }
}

impl Common<u128> {
    /// What the lower halves have in common, and the upper ones: an address may be a VIP where both may be a VIP's.
    #[inline(always)]
    pub fn halves(self) -> [Common<u64>; 2] {
        [0, 64].map(|shift| Common { value: (self.value >> shift) as u64, bits: (self.bits >> shift) as u64 })
    }
}

impl<W: Word> Default for Common<W> {
    fn default() -> Self {
        Self { value: W::default(), bits: W::default() }
    }
}

/// Addresses by a bit each, of which there are many more than addresses.
#[derive(Debug, Clone)]
struct Filter {
    words: Arc<[u64]>,
    /// What is left of a hash in front of its word's number.
    shift: u32,
}

impl Filter {
    const BITS: usize = 16;
    const LEAST: usize = 16;

    /// One that all of these pass: all addresses, where one is a prefix.
    fn of(vips: &[IpNet]) -> Self {
        if !vips.iter().all(|&vip| is_single(vip)) {
            return Self::open();
        }
        let words = (vips.len() * Self::BITS / 64).next_power_of_two().max(Self::LEAST);
        let (mut bits, shift) = (vec![0; words], 64 - words.trailing_zeros());
        for vip in vips {
            let hash = match vip.addr() {
                IpAddr::V4(vip) => Self::hash(vip),
                IpAddr::V6(vip) => Self::hash_v6(vip),
            };
            bits[(hash >> shift) as usize] |= 1 << ((hash >> 32) % 64);
        }
        Self { words: bits.into(), shift }
    }

    /// One that all pass.
    fn open() -> Self {
        Self { words: [u64::MAX; Self::LEAST].into(), shift: 64 - Self::LEAST.trailing_zeros() }
    }

    /// Spread over the upper half (Knuth, TAOCP 6.4).
    #[inline(always)]
    fn hash(address: Ipv4Addr) -> u64 {
        u64::from(u32::from_le_bytes(address.octets())).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[inline(always)]
    fn hash_v6(address: Ipv6Addr) -> u64 {
        let bits = address.to_bits();
        let upper = ((bits >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
        (upper ^ bits as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Whether there may be an address of this hash.
    #[inline(always)]
    fn passes(&self, hash: u64) -> bool {
        self.words.get((hash >> self.shift) as usize).is_some_and(|word| word >> ((hash >> 32) % 64) & 1 != 0)
    }
}

impl Default for Vips {
    fn default() -> Self {
        Self {
            exact: Index::new([]),
            single: Index::new([]),
            filter_v4: Filter::of(&[]),
            filter_v6: Filter::of(&[]),
            common_v4: Common::default(),
            common_v6: Common::default(),
            prefixes: Arc::new(Prefixes::new([])),
            vips: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl Vips {
    /// Puts services in, or takes them out.
    pub fn change(&mut self, changes: impl IntoIterator<Item = (Key, Option<Found>)>) {
        let mut numbers: HashMap<IpNet, u32> = HashMap::new();
        let mut prefixes: HashMap<IpNet, u32> = self.prefix_vips().collect();
        let had = prefixes.len();
        let mut others = HashSet::new();
        for (Key { vip, ports, protocol }, found) in changes {
            let known = || if is_single(vip) { self.single.get(vip.addr(), 0, 0) } else { prefixes.get(&vip).copied() };
            let number = match numbers.get(&vip).copied().or_else(known) {
                Some(number) => number,
                None if found.is_none() => continue,
                None => self.add(vip),
            };
            if !is_single(vip) && prefixes.insert(vip, number).is_none() {
                others.insert(vip);
            }
            numbers.insert(vip, number);
            let vip = Arc::make_mut(&mut self.vips[number as usize]);
            let services = if protocol == Protocol::Udp { &mut vip.udp } else { &mut vip.tcp };
            match found {
                Some(found) => _ = services.services.insert((ports.first, ports.last), found),
                None => _ = services.services.remove(&(ports.first, ports.last)),
            }
            if let (true, Some(port)) = (is_single(vip.vip), ports.single()) {
                let key = (vip.vip.addr(), port, protocol.number());
                match found {
                    Some(found) => self.exact.insert(key, found.to_bits()),
                    None => self.exact.remove(key),
                }
            }
        }
        for (&net, &number) in &numbers {
            let vip = Arc::make_mut(&mut self.vips[number as usize]);
            vip.tcp.lay();
            vip.udp.lay();
            if vip.tcp.services.is_empty() && vip.udp.services.is_empty() {
                self.free.push(number);
                match is_single(net) {
                    true => self.single.remove((net.addr(), 0, 0)),
                    false => _ = prefixes.remove(&net),
                }
            }
        }
        if !others.is_empty() || prefixes.len() != had {
            self.prefixes = Arc::new(Prefixes::new(prefixes));
        }
        let is_live = |vip: &Vip| !vip.tcp.services.is_empty() || !vip.udp.services.is_empty();
        let live: Vec<IpNet> = self.vips.iter().filter(|vip| is_live(vip)).map(|vip| vip.vip).collect();
        self.common_v4 = Common::of(live.iter().filter_map(|&vip| match vip {
            IpNet::V4(vip) => Some([vip.network(), vip.netmask()].map(|word| u32::from_le_bytes(word.octets()))),
            IpNet::V6(_) => None,
        }));
        self.common_v6 = Common::of(live.iter().filter_map(|&vip| match vip {
            IpNet::V6(vip) => Some([vip.network(), vip.netmask()].map(|word| u128::from_le_bytes(word.octets()))),
            IpNet::V4(_) => None,
        }));
        let (v4, v6) = live.iter().partition::<Vec<IpNet>, _>(|vip| vip.addr().is_ipv4());
        (self.filter_v4, self.filter_v6) = (Filter::of(&v4), Filter::of(&v6));
    }

    /// A VIP without services yet; its number.
    fn add(&mut self, vip: IpNet) -> u32 {
        let empty = Arc::new(Vip { vip, tcp: Services::default(), udp: Services::default() });
        let number = match self.free.pop() {
            Some(number) => {
                self.vips[number as usize] = empty;
                number
            }
            None => {
                self.vips.push(empty);
                self.vips.len() as u32 - 1
            }
        };
        if is_single(vip) {
            self.single.insert((vip.addr(), 0, 0), number);
        }
        number
    }

    /// The VIPs that are prefixes, with their numbers.
    fn prefix_vips(&self) -> impl Iterator<Item = (IpNet, u32)> {
        self.prefixes.values().map(|&number| (self.vips[number as usize].vip, number))
    }

    /// The service on exactly this address and port; there may be others for them.
    #[inline(always)]
    pub fn exact_v4(&self, address: Ipv4Addr, port: u16, protocol: u8) -> Option<Found> {
        self.exact.get_v4(address, port, protocol).map(Found::from_bits)
    }

    pub fn exact_v6(&self, address: Ipv6Addr, port: u16, protocol: u8) -> Option<Found> {
        self.exact.get(address.into(), port, protocol).map(Found::from_bits)
    }

    pub fn service(&self, address: IpAddr, port: u16, protocol: u8) -> Option<Found> {
        if let Some(found) = self.exact.get(address, port, protocol) {
            return Some(Found::from_bits(found));
        }
        self.services(address, protocol)?.get(port)
    }

    /// The service of whatever port, where it is one for all of them.
    pub fn service_of_all_ports(&self, address: IpAddr, protocol: u8) -> Option<ServiceIndex> {
        self.services(address, protocol)?.all
    }

    #[inline(always)]
    pub fn contains_v4(&self, address: Ipv4Addr) -> bool {
        self.filter_v4.passes(Filter::hash(address)) && self.contains(address.into())
    }

    /// What VIPs over IPv4 have in common.
    #[inline(always)]
    pub fn common_v4(&self) -> Common<u32> {
        self.common_v4
    }

    /// The same over IPv6.
    #[inline(always)]
    pub fn common_v6(&self) -> Common<u128> {
        self.common_v6
    }

    #[inline(always)]
    pub fn contains_v6(&self, address: Ipv6Addr) -> bool {
        self.filter_v6.passes(Filter::hash_v6(address)) && self.contains(address.into())
    }

    #[inline(never)]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.vip(address).is_some()
    }

    fn vip(&self, address: IpAddr) -> Option<&Vip> {
        let number = self.single.get(address, 0, 0).or_else(|| self.prefixes.get(address).copied())?;
        self.vips.get(number as usize).map(AsRef::as_ref)
    }

    fn services(&self, address: IpAddr, protocol: u8) -> Option<&Services> {
        let vip = self.vip(address)?;
        match protocol {
            _ if protocol == Protocol::Tcp.number() => Some(&vip.tcp),
            _ if protocol == Protocol::Udp.number() => Some(&vip.udp),
            _ => None,
        }
    }
}

fn is_single(vip: IpNet) -> bool {
    vip.prefix_len() == vip.max_prefix_len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(service: u32) -> Found {
        Found { service: ServiceIndex(service), is_plain: true }
    }

    fn six(bits: u8) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, bits.into())
    }

    fn key(vip: u8, port: u8, is_udp: bool) -> Key {
        let (length, bits) =
            [(32, 0), (32, 1), (32, 9), (24, 0), (16, 0), (128, 1), (128, 9), (120, 0)][usize::from(vip)];
        let ports = [Ports::one(80), Ports::one(443), Ports { first: 80, last: 90 }, Ports::ALL][usize::from(port)];
        let address = if length > 32 { six(bits).into() } else { IpAddr::from([192, 0, 2, bits]) };
        let vip = IpNet::new(address, length).unwrap().trunc();
        Key { vip, ports, protocol: if is_udp { Protocol::Udp } else { Protocol::Tcp } }
    }

    proptest! {
        #[test]
        fn what_changed_is_as_if_it_had_always_been_so(
            steps in proptest::collection::vec(
                proptest::collection::vec((0u8..8, 0u8..4, any::<bool>(), proptest::option::of(0u32..100)), 0..6), 0..20),
        ) {
            let mut vips = Vips::default();
            let mut map: HashMap<Key, Found> = HashMap::new();
            for step in steps {
                let changes: HashMap<Key, Option<Found>> =
                    step.into_iter().map(|(vip, port, is_udp, service)| (key(vip, port, is_udp), service.map(found))).collect();
                for (&key, &change) in &changes {
                    match change {
                        Some(found) => _ = map.insert(key, found),
                        None => _ = map.remove(&key),
                    }
                }
                let before = vips.clone();
                vips.change(changes);
                drop(before);
                let mut fresh = Vips::default();
                fresh.change(map.iter().map(|(&key, &found)| (key, Some(found))));
                for address in [1, 9, 77].map(six) {
                    prop_assert_eq!(vips.contains_v6(address), vips.contains(address.into()));
                    prop_assert_eq!(vips.contains_v6(address), fresh.contains_v6(address));
                    let word = u128::from_le_bytes(address.octets());
                    prop_assert!(vips.common_v6().may_be(word) || !vips.contains_v6(address));
                    prop_assert_eq!(vips.common_v6().bits, fresh.common_v6().bits);
                    prop_assert_eq!(vips.exact_v6(address, 80, 6), fresh.exact_v6(address, 80, 6));
                    prop_assert_eq!(vips.service(address.into(), 85, 17), fresh.service(address.into(), 85, 17));
                }
                for address in [[192, 0, 2, 0], [192, 0, 2, 1], [192, 0, 2, 9], [192, 0, 2, 77], [192, 0, 3, 1], [10, 0, 0, 1]] {
                    let address = Ipv4Addr::from(address);
                    prop_assert_eq!(vips.contains(address.into()), fresh.contains(address.into()));
                    prop_assert_eq!(vips.contains_v4(address), fresh.contains_v4(address));
                    prop_assert_eq!(vips.contains_v4(address), vips.contains(address.into()));
                    let word = u32::from_le_bytes(address.octets());
                    prop_assert!(vips.common_v4().may_be(word) || !vips.contains(address.into()));
                    prop_assert_eq!(vips.common_v4().bits, fresh.common_v4().bits);
                    for protocol in [6, 17] {
                        prop_assert_eq!(vips.service_of_all_ports(address.into(), protocol), fresh.service_of_all_ports(address.into(), protocol));
                        for port in [79, 80, 81, 90, 91, 443] {
                            prop_assert_eq!(vips.service(address.into(), port, protocol), fresh.service(address.into(), port, protocol));
                            prop_assert_eq!(vips.exact_v4(address, port, protocol), fresh.exact_v4(address, port, protocol));
                        }
                    }
                }
            }
        }

        #[test]
        fn the_exact_port_then_the_range_then_all(
            exact in proptest::collection::btree_set(0u16..40, 0..6), cuts in proptest::collection::btree_set(1u16..40, 0..8),
            has_all: bool, last: bool,
        ) {
            let mut entries: Vec<(Ports, Found)> = Vec::new();
            let top = |port: u16| if last { u16::MAX - port } else { port };
            for &port in &exact { entries.push((Ports { first: top(port), last: top(port) }, found(u32::from(port)))); }
            let cuts: Vec<u16> = cuts.into_iter().collect();
            for pair in cuts.chunks_exact(2) {
                let (one, other) = (top(pair[0]), top(pair[1]));
                entries.push((Ports { first: one.min(other), last: one.max(other) }, found(100 + u32::from(pair[0]))));
            }
            if has_all { entries.push((Ports::ALL, found(1000))); }
            let obvious = |port: u16| {
                let covering = entries.iter().filter(|(ports, _)| (ports.first..=ports.last).contains(&port));
                covering.min_by_key(|(ports, _)| ports.last - ports.first).map(|(_, found)| *found)
            };
            let mut services = Services::default();
            services.services.extend(entries.iter().map(|&(ports, found)| ((ports.first, ports.last), found)));
            services.lay();
            for port in (0..50).chain(u16::MAX - 50..=u16::MAX) {
                prop_assert_eq!(services.get(port), obvious(port), "{}", port);
            }
            prop_assert_eq!(services.all.is_some(), has_all && entries.len() == 1);
        }
    }
}
