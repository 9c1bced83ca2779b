//! Packets and bytes of each backend of each service, by lcore.
//!
//! The control side gives each (service, backend) a [`TrafficId`]; an lcore adds to its own cell of that number. Cells
//! live in chunks that never move, so counts go on over any number of snapshots, and an lcore never allocates.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::Counter;

/// Packets and bytes (of IP, as the client sent them) of one backend of one service on one lcore.
#[derive(Debug, Default)]
pub struct Cell {
    pub packets: Counter,
    pub bytes: Counter,
}

/// Names a cell: the same number on every lcore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrafficId(u32);

impl TrafficId {
    /// The cell that always is, and that nothing is counted in.
    pub const NONE: Self = Self(0);
}

const CHUNK: usize = 256;
type Chunk = Arc<[Cell; CHUNK]>;

/// The cells of one lcore, as they were when a snapshot was made.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<[Chunk]>);

impl Traffic {
    #[inline]
    pub fn cell(&self, id: TrafficId) -> &Cell {
        let id = id.0 as usize;
        &self.0[id / CHUNK][id % CHUNK]
    }
}

/// One counted pair: a backend of a service.
pub type Key = (Arc<str>, SocketAddr);

/// Gives out [`TrafficId`]s and sums cells over lcores. On the control side only.
#[derive(Debug)]
pub struct Registry {
    lcores: Vec<Traffic>,
    ids: HashMap<Key, TrafficId>,
    /// Ids whose pair is gone, with what their cells held then: a cell is never reset, as its lcore may still write.
    free: Vec<TrafficId>,
    base: Vec<(u64, u64)>,
}

impl Registry {
    /// In a pair, in place of a backend: what the service had no room to remember.
    pub const REFUSED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

    pub fn new(lcores: usize) -> Self {
        let lcores = vec![Traffic::default(); lcores];
        let mut registry = Self { lcores, ids: HashMap::new(), free: Vec::new(), base: Vec::new() };
        let first = registry.grow();
        debug_assert_eq!(first, TrafficId::NONE);
        registry
    }

    /// The id of a pair; a new one where the pair is new. `backend`: its address, with the port that it is sent to.
    pub fn id(&mut self, service: &Arc<str>, backend: SocketAddr) -> TrafficId {
        if let Some(&id) = self.ids.get(&(service.clone(), backend)) {
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| self.grow());
        self.base[id.0 as usize] = self.sum(id);
        self.ids.insert((service.clone(), backend), id);
        id
    }

    /// Forgets a pair, and gives its packets and bytes over all lcores. Call it only when no snapshot that has the pair is in use any more.
    pub fn forget(&mut self, pair: &Key) -> Option<(u64, u64)> {
        let id = self.ids.remove(pair)?;
        self.free.push(id);
        Some(self.total(id))
    }

    /// The cells of one lcore, for a snapshot.
    pub fn traffic(&self, lcore: usize) -> Traffic {
        self.lcores[lcore].clone()
    }

    /// The id by which it is counted what a service had no room to remember.
    pub fn refused(&mut self, service: &Arc<str>) -> TrafficId {
        self.id(service, Self::REFUSED)
    }

    /// Every service that [`Registry::refused`] was asked of, with its packets over all lcores.
    pub fn all_refused(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        let refused = self.ids.iter().filter(|(key, _)| key.1 == Self::REFUSED);
        refused.map(|((service, _), &id)| (service, self.total(id).0))
    }

    /// Every pair with its packets and bytes over all lcores, in no order.
    pub fn totals(&self) -> impl Iterator<Item = (&Key, u64, u64)> {
        self.ids.iter().filter(|(key, _)| key.1 != Self::REFUSED).map(|(key, &id)| {
            let (packets, bytes) = self.total(id);
            (key, packets, bytes)
        })
    }

    /// Since the id was given to its pair.
    fn total(&self, id: TrafficId) -> (u64, u64) {
        let ((packets, bytes), (old_packets, old_bytes)) = (self.sum(id), self.base[id.0 as usize]);
        (packets - old_packets, bytes - old_bytes)
    }

    fn sum(&self, id: TrafficId) -> (u64, u64) {
        self.lcores
            .iter()
            .map(|lcore| lcore.cell(id))
            .fold((0, 0), |(packets, bytes), cell| (packets + cell.packets.get(), bytes + cell.bytes.get()))
    }

    fn grow(&mut self) -> TrafficId {
        let id = self.base.len();
        if id.is_multiple_of(CHUNK) {
            for lcore in &mut self.lcores {
                let more: Chunk = Arc::new(std::array::from_fn(|_| Cell::default()));
                lcore.0 = lcore.0.iter().cloned().chain([more]).collect();
            }
        }
        self.base.push((0, 0));
        TrafficId(u32::try_from(id).expect("fewer than 2^32 backends"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    #[test]
    fn counts_go_on_over_snapshots_and_start_anew_for_a_new_pair() {
        let mut registry = Registry::new(2);
        let web: Arc<str> = "web".into();
        let id = registry.id(&web, address(1));
        let (one, two) = (registry.traffic(0), registry.traffic(1));
        one.cell(id).packets.add(3);
        two.cell(id).packets.add(4);
        two.cell(id).bytes.add(100);
        assert_eq!(registry.id(&web, address(1)), id);
        assert_eq!(registry.totals().map(|(_, packets, bytes)| (packets, bytes)).collect::<Vec<_>>(), [(7, 100)]);

        assert_eq!(registry.forget(&(web.clone(), address(1))), Some((7, 100)));
        assert_eq!(registry.forget(&(web.clone(), address(1))), None);
        assert_eq!(registry.id(&web, address(2)), id);
        assert_eq!(registry.totals().map(|(key, packets, _)| (key.1, packets)).collect::<Vec<_>>(), [(address(2), 0)]);
    }

    #[test]
    fn more_pairs_than_a_chunk_holds() {
        let mut registry = Registry::new(1);
        let services: Vec<Arc<str>> = (0..600).map(|k| format!("s{k}").into()).collect();
        let ids: Vec<_> = services.iter().map(|service| registry.id(service, address(1))).collect();
        let traffic = registry.traffic(0);
        for (count, &id) in ids.iter().enumerate() {
            traffic.cell(id).packets.add(count as u64);
        }
        for (key, packets, _) in registry.totals() {
            assert_eq!(key.0.as_ref(), format!("s{packets}"));
        }
    }
}
