//! The tunnels to each endpoint, to know them again in what the fabric says of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use super::index;
use crate::mode::Tunnel;

/// So many parts that changing one of them costs little, however many endpoints there are.
const PARTS: usize = 256;

/// Each kind of tunnel to each endpoint once, with how many backends have it; sorted by endpoint. Plain, so that a copy is cheap.
type Part = Vec<(Tunnel, u32)>;

/// Snapshots share the parts that did not change between them.
#[derive(Debug, Clone)]
pub struct Tunnels(Box<[Arc<Part>]>);

impl Default for Tunnels {
    fn default() -> Self {
        Self((0..PARTS).map(|_| Arc::default()).collect())
    }
}

impl Tunnels {
    /// The tunnels to this endpoint.
    pub fn to(&self, endpoint: IpAddr) -> impl Iterator<Item = &Tunnel> {
        let part = &self.0[part(endpoint)];
        part[places(part, endpoint)].iter().map(|(tunnel, _)| tunnel)
    }

    /// Backends had the `old` ones, and have the `new` ones. The parts of those that stay are as they were.
    pub fn replace(&mut self, old: &[Tunnel], new: &[Tunnel]) {
        let mut changes: HashMap<&Tunnel, isize> = HashMap::new();
        old.iter().for_each(|tunnel| *changes.entry(tunnel).or_default() -= 1);
        new.iter().for_each(|tunnel| *changes.entry(tunnel).or_default() += 1);
        for (tunnel, change) in changes {
            (change..0).for_each(|_| self.remove(tunnel));
            (0..change).for_each(|_| self.add(tunnel));
        }
    }

    /// One more backend has it.
    fn add(&mut self, tunnel: &Tunnel) {
        let part = Arc::make_mut(&mut self.0[part(tunnel.endpoint)]);
        let places = places(part, tunnel.endpoint);
        match part[places.clone()].iter_mut().find(|(other, _)| other == tunnel) {
            Some((_, count)) => *count += 1,
            None => part.insert(places.end, (*tunnel, 1)),
        }
    }

    /// One less has it.
    fn remove(&mut self, tunnel: &Tunnel) {
        let part = Arc::make_mut(&mut self.0[part(tunnel.endpoint)]);
        let mut places = places(part, tunnel.endpoint);
        if let Some(place) = places.find(|&place| part[place].0 == *tunnel) {
            part[place].1 -= 1;
            if part[place].1 == 0 {
                part.remove(place);
            }
        }
    }
}

/// Where the tunnels to an endpoint are, or would be.
fn places(part: &Part, endpoint: IpAddr) -> Range<usize> {
    let first = part.partition_point(|(tunnel, _)| tunnel.endpoint < endpoint);
    first..first + part[first..].iter().take_while(|(tunnel, _)| tunnel.endpoint == endpoint).count()
}

fn part(endpoint: IpAddr) -> usize {
    index::scatter(endpoint) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_there_as_long_as_a_backend_has_it() {
        let tunnel = |port| Tunnel { endpoint: [10, 0, 0, 1].into(), protocol: 17, port, between: 8, vip_at: None };
        let (one, other) = (tunnel(Some(6080)), tunnel(Some(6081)));
        let mut tunnels = Tunnels::default();
        let to = |tunnels: &Tunnels| tunnels.to(one.endpoint).copied().collect::<Vec<_>>();
        tunnels.add(&one);
        tunnels.add(&one);
        tunnels.add(&other);
        let before = tunnels.clone();
        tunnels.remove(&one);
        assert_eq!(to(&tunnels), [one, other]);
        tunnels.remove(&one);
        assert_eq!((to(&tunnels), to(&before)), (vec![other], vec![one, other]));
        tunnels.remove(&other);
        assert!(to(&tunnels).is_empty() && tunnels.0.iter().all(|part| part.is_empty()));
    }
}
