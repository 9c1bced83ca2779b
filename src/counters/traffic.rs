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

/// On cache lines of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Chunk([Cell; CHUNK]);

/// The cells of one lcore, as they were when a snapshot was made.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<[Arc<Chunk>]>);

impl Traffic {
    #[inline]
    pub fn cell(&self, id: TrafficId) -> &Cell {
        self.cells().at(id)
    }

    /// To look at many.
    #[inline(always)]
    pub fn cells(&self) -> Cells<'_> {
        Cells(&self.0)
    }
}

/// The cells of a [`Traffic`].
#[derive(Debug, Clone, Copy)]
pub struct Cells<'a>(&'a [Arc<Chunk>]);

impl<'a> Cells<'a> {
    #[inline(always)]
    pub fn at(self, id: TrafficId) -> &'a Cell {
        let id = id.0 as usize;
        &self.0[id / CHUNK].0[id % CHUNK]
    }
}

/// One counted pair: a backend of a service.
pub type Key = (Arc<str>, SocketAddr);

/// Gives out [`TrafficId`]s and sums cells over lcores. On the control side only. Who has an id is known to whoever asked for it.
#[derive(Debug)]
pub struct Registry {
    lcores: Vec<Traffic>,
    /// Pairs that are in no new snapshot, though lcores may still count them.
    left: HashMap<Key, TrafficId>,
    /// Ids whose pair is gone, with what their cells held then: a cell is never reset, as its lcore may still write.
    free: Vec<TrafficId>,
    base: Vec<(u64, u64)>,
}

impl Registry {
    /// In a pair, in place of a backend: what the service had no room to remember.
    pub const REFUSED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

    pub fn new(lcores: usize) -> Self {
        let lcores = vec![Traffic::default(); lcores];
        let mut registry = Self { lcores, left: HashMap::new(), free: Vec::new(), base: Vec::new() };
        let first = registry.grow();
        debug_assert_eq!(first, TrafficId::NONE);
        registry
    }

    /// An id for a pair that has none: its own again where it had left, else a new one. `backend`: its address, with the port that it is sent
    /// to.
    pub fn id(&mut self, service: &Arc<str>, backend: SocketAddr) -> TrafficId {
        if let Some(id) = self.left.remove(&(service.clone(), backend)) {
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| self.grow());
        self.base[id.0 as usize] = self.sum(id);
        id
    }

    /// Takes a pair's id back.
    pub fn leave(&mut self, service: &Arc<str>, backend: SocketAddr, id: TrafficId) {
        self.left.insert((service.clone(), backend), id);
    }

    /// The pairs that have left and are not back.
    pub fn left(&self) -> impl Iterator<Item = (&Key, TrafficId)> {
        self.left.iter().map(|(pair, &id)| (pair, id))
    }

    /// Forgets them, and gives the packets and bytes of backends among them over all lcores. Call it only when no snapshot that has any of
    /// them is in use any more.
    pub fn forget_left(&mut self) -> Vec<(Key, u64, u64)> {
        let mut gone = Vec::new();
        for (pair, id) in std::mem::take(&mut self.left) {
            self.free.push(id);
            if pair.1 != Self::REFUSED {
                let (packets, bytes) = self.total(id);
                gone.push((pair, packets, bytes));
            }
        }
        gone
    }

    /// The cells of one lcore, for a snapshot.
    pub fn traffic(&self, lcore: usize) -> Traffic {
        self.lcores[lcore].clone()
    }

    /// Packets and bytes over all lcores, since the id was given to its pair.
    pub fn total(&self, id: TrafficId) -> (u64, u64) {
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
                let more = Arc::new(Chunk(std::array::from_fn(|_| Cell::default())));
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
        assert_eq!(registry.total(id), (7, 100));

        registry.leave(&web, address(1), id);
        assert_eq!(registry.left().collect::<Vec<_>>(), [(&(web.clone(), address(1)), id)]);
        assert_eq!(registry.id(&web, address(1)), id, "it is back");
        assert_eq!(registry.forget_left(), []);
        registry.leave(&web, address(1), id);
        assert_ne!(registry.id(&web, address(2)), id, "others may still count by it");
        assert_eq!(registry.forget_left(), [((web.clone(), address(1)), 7, 100)]);
        assert_eq!((registry.id(&web, address(3)), registry.total(id)), (id, (0, 0)));
    }

    /// What one lcore writes lies on no cache line that another one writes, or anybody else.
    #[test]
    fn lcores_share_no_line() {
        const LINE: usize = 64;
        let mut registry = Registry::new(3);
        let ids: Vec<_> = (0..600).map(|k| registry.id(&format!("s{k}").into(), address(1))).collect();
        let lines = |lcore: usize| {
            let traffic = registry.traffic(lcore);
            let of = |&id: &TrafficId| std::ptr::from_ref(traffic.cell(id)) as usize / LINE;
            std::iter::once(&TrafficId::NONE).chain(&ids).map(of).collect::<std::collections::HashSet<usize>>()
        };
        let each = [lines(0), lines(1), lines(2)];
        assert!(each[0].is_disjoint(&each[1]) && each[0].is_disjoint(&each[2]) && each[1].is_disjoint(&each[2]));
        // Nor one with what counts who refers to them.
        assert_eq!(
            [align_of::<Chunk>(), align_of::<super::super::PortBlock>(), align_of::<super::super::LoopBlock>()],
            [LINE; 3]
        );
    }

    #[test]
    fn more_pairs_than_a_chunk_holds() {
        let mut registry = Registry::new(1);
        let ids: Vec<_> = (0..600).map(|k| registry.id(&format!("s{k}").into(), address(1))).collect();
        let traffic = registry.traffic(0);
        for (count, &id) in ids.iter().enumerate() {
            traffic.cell(id).packets.add(count as u64);
        }
        assert!(ids.iter().zip(0..).all(|(&id, count)| registry.total(id) == (count, 0)));
    }
}
