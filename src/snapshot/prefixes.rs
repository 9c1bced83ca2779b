//! What holds for prefixes of addresses, of both families: the longest that an address is in counts.

use std::net::IpAddr;

use ipnet::IpNet;

/// Values by prefix, flattened to disjoint intervals; a lookup is a binary search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefixes<T> {
    v4: Intervals<u32>,
    v6: Intervals<u128>,
    values: Box<[T]>,
}

impl<T> Prefixes<T> {
    /// Of two entries with one prefix the last counts.
    pub fn new(entries: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let (mut v4, mut v6, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for ((prefix, value), number) in entries.into_iter().zip(0..) {
            match prefix {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits(), number)),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits(), number)),
            }
            values.push(value);
        }
        Self { v4: Intervals::new(v4), v6: Intervals::new(v6), values: values.into() }
    }

    #[inline]
    pub fn get(&self, address: IpAddr) -> Option<&T> {
        let value = match address {
            IpAddr::V4(address) => self.v4.get(address.to_bits()),
            IpAddr::V6(address) => self.v6.get(address.to_bits()),
        };
        self.values.get(value as usize)
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.values.iter()
    }
}

/// An address as a number.
trait Bits: Copy + Ord + std::fmt::Debug {
    const FIRST: Self;
    fn next(self) -> Option<Self>;
}

impl Bits for u32 {
    const FIRST: Self = 0;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Bits for u128 {
    const FIRST: Self = 0;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// The value of an interval in no prefix.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Intervals<B> {
    /// First address of each interval; the first is 0.
    starts: Box<[B]>,
    /// The value of each interval, or [`NONE`].
    values: Box<[u32]>,
}

impl<B: Bits> Intervals<B> {
    /// Of prefixes as first address, last address, value.
    fn new(mut prefixes: Vec<(B, B, u32)>) -> Self {
        // Of those that begin alike the widest first, of equal ones the last written last.
        prefixes.sort_by_key(|&(first, last, _)| (first, std::cmp::Reverse(last)));
        let mut intervals = vec![(B::FIRST, NONE)];
        let mut begin = |start: B, value: u32| match intervals.last_mut() {
            Some(last) if last.0 == start => last.1 = value,
            _ => intervals.push((start, value)),
        };
        // The prefixes that the sweep is inside of: last address and value of each, innermost last.
        let mut inside: Vec<(B, u32)> = Vec::new();
        let leave = |inside: &mut Vec<(B, u32)>, until: Option<B>, begin: &mut dyn FnMut(B, u32)| {
            while let Some(&(last, _)) = inside.last()
                && until.is_none_or(|until| last < until)
            {
                inside.pop();
                if let Some(next) = last.next() {
                    begin(next, inside.last().map_or(NONE, |&(_, value)| value));
                }
            }
        };
        for (first, last, value) in prefixes {
            leave(&mut inside, Some(first), &mut begin);
            begin(first, value);
            inside.push((last, value));
        }
        leave(&mut inside, None, &mut begin);
        let (starts, values): (Vec<_>, Vec<_>) = intervals.into_iter().unzip();
        Self { starts: starts.into(), values: values.into() }
    }

    #[inline]
    fn get(&self, address: B) -> u32 {
        // The first interval begins at 0, so there is always one at or before the address.
        let behind = self.starts.partition_point(|&start| start <= address);
        self.values[behind - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn families_do_not_mix() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let prefixes = Prefixes::new([(net("0.0.0.0/0"), 4), (net("::/0"), 6), (net("::/96"), 96)]);
        let get = |text: &str| prefixes.get(text.parse().unwrap()).copied();
        assert_eq!([get("1.2.3.4"), get("2001:db8::"), get("::1.2.3.4")], [Some(4), Some(6), Some(96)]);
        assert_eq!(Prefixes::<u8>::new([]).get("1.2.3.4".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn a_lookup_is_the_longest_prefix(nets in proptest::collection::vec((any::<bool>(), any::<u8>(), 0u8..=128), 0..40), probes: [u32; 8]) {
            // Addresses from a small set, so that prefixes nest.
            let nets: HashMap<IpNet, usize> = nets.iter().enumerate().map(|(k, &(is_v4, bits, length))| {
                let low = u32::from(bits) << 24 | u32::from(bits >> 4);
                let address: IpAddr = if is_v4 { Ipv4Addr::from_bits(low).into() } else { Ipv6Addr::from_bits(u128::from(low) << 96 | u128::from(low)).into() };
                let length = if is_v4 { length % 33 } else { length };
                (IpNet::new(address, length).unwrap().trunc(), k)
            }).collect();
            let prefixes = Prefixes::new(nets.clone());
            let edges = nets.keys().flat_map(|net| [net.network(), net.broadcast()]).flat_map(|edge| match edge {
                IpAddr::V4(at) => [at, at.to_bits().wrapping_add(1).into(), at.to_bits().wrapping_sub(1).into()].map(IpAddr::from),
                IpAddr::V6(at) => [at, at.to_bits().wrapping_add(1).into(), at.to_bits().wrapping_sub(1).into()].map(IpAddr::from),
            });
            for to in edges.chain(probes.map(|bits| Ipv4Addr::from_bits(bits).into())) {
                let longest = nets.iter().filter(|(net, _)| net.contains(&to)).max_by_key(|(net, _)| net.prefix_len());
                prop_assert_eq!(prefixes.get(to), longest.map(|(_, value)| value), "{}", to);
            }
        }
    }
}
