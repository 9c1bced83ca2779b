//! Sets of IPv4 addresses, given as prefixes: which clients a service takes.

use std::net::Ipv4Addr;

use ipnet::IpNet;

/// Disjoint intervals, sorted; a lookup is a binary search.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Intervals(Box<[(u32, u32)]>);

impl Intervals {
    fn new(prefixes: &[IpNet]) -> Self {
        let mut intervals: Vec<(u32, u32)> = prefixes
            .iter()
            .filter_map(|prefix| match prefix {
                IpNet::V4(net) => Some((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(_) => None,
            })
            .collect();
        // Of those that begin alike the widest first.
        intervals.sort_unstable_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
        // Prefixes nest or are apart: what begins inside the last one ends inside it too.
        intervals.dedup_by(|next, last| next.0 <= last.1);
        Self(intervals.into())
    }

    fn contains(&self, address: u32) -> bool {
        let behind = self.0.partition_point(|&(start, _)| start <= address);
        behind > 0 && address <= self.0[behind - 1].1
    }
}

/// `source_ranges` and `deny_ranges` of a service that has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    allowed: Option<Intervals>,
    denied: Intervals,
}

impl Ranges {
    /// `None` where every client is taken.
    pub fn new(source_ranges: &[IpNet], deny_ranges: &[IpNet]) -> Option<Self> {
        let allowed = (!source_ranges.is_empty()).then(|| Intervals::new(source_ranges));
        let everyone = allowed.as_ref().is_none_or(|allowed| *allowed.0 == [(0, u32::MAX)]);
        (!everyone || !deny_ranges.is_empty()).then(|| Self { allowed, denied: Intervals::new(deny_ranges) })
    }

    /// Denial wins.
    pub fn accept(&self, client: Ipv4Addr) -> bool {
        let client = client.to_bits();
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(client)) && !self.denied.contains(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefixes(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn everyone_needs_no_test() {
        assert_eq!(Ranges::new(&[], &[]), None);
        assert_eq!(Ranges::new(&prefixes(&["10.0.0.0/8", "0.0.0.0/0"]), &[]), None);
    }

    #[test]
    fn denial_wins() {
        let ranges = Ranges::new(&prefixes(&["10.0.0.0/8"]), &prefixes(&["10.1.0.0/16"])).unwrap();
        let accepts = |address: &str| ranges.accept(address.parse().unwrap());
        assert_eq!(
            [accepts("10.0.255.255"), accepts("10.1.0.0"), accepts("10.2.0.0"), accepts("11.0.0.0")],
            [true, false, true, false]
        );
    }

    proptest! {
        #[test]
        fn membership_is_that_of_the_prefixes(nets in proptest::collection::vec((any::<u32>(), 0u8..=32), 0..20), near: u32, at in 0usize..20) {
            let nets: Vec<IpNet> = nets.into_iter().map(|(bits, length)| {
                ipnet::Ipv4Net::new(Ipv4Addr::from_bits(bits), length).unwrap().trunc().into()
            }).collect();
            let edge = nets.get(at).map_or(near, |net| match net.broadcast() { std::net::IpAddr::V4(a) => a.to_bits(), _ => 0 });
            for bits in [near, edge, edge.wrapping_add(1), edge.wrapping_sub(1)] {
                let address = Ipv4Addr::from_bits(bits);
                let obvious = nets.iter().any(|net| net.contains(&std::net::IpAddr::from(address)));
                prop_assert_eq!(Intervals::new(&nets).contains(bits), obvious);
            }
        }
    }
}
