//! Stations that packets should have gone to at once, had their MAC addresses been known: clients on a connected network. (Next
//! hops of backends and routes are known to be wanted before any packet comes.)

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;

/// Addresses on their way from the lcores to the control side. Bounded: what finds no room is asked for by its next packet.
#[derive(Debug)]
pub struct Asked {
    addresses: ArrayQueue<IpAddr>,
    /// Hashes of what is under way, each in the place that it says: however many packets a station has, it takes one place in the
    /// queue, and leaves the others theirs. (Two of one place take turns.)
    under_way: [AtomicU64; ROOM],
}

const ROOM: usize = 256;

impl Default for Asked {
    fn default() -> Self {
        Self { addresses: ArrayQueue::new(ROOM), under_way: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Asked {
    /// Called by any lcore, off the straight path: allocates nothing and waits for nobody.
    #[cold]
    pub fn ask(&self, address: IpAddr) {
        let mut hasher = DefaultHasher::new();
        address.hash(&mut hasher);
        let hash = hasher.finish() | 1 << 63; // never 0
        if self.under_way[hash as usize % ROOM].swap(hash, Ordering::Relaxed) != hash {
            let _ = self.addresses.push(address);
        }
    }

    /// Takes out what was asked for.
    pub fn take(&self) -> impl Iterator<Item = IpAddr> {
        // First, so that nobody is thought to be under way who has been taken out.
        self.under_way.iter().for_each(|hash| hash.store(0, Ordering::Relaxed));
        std::iter::from_fn(|| self.addresses.pop()).take(ROOM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(k: usize) -> IpAddr {
        IpAddr::from([10, 0, (k / 256) as u8, (k % 256) as u8])
    }

    #[test]
    fn what_is_asked_for_comes_out_once_and_the_rest_is_lost() {
        let asked = Asked::default();
        (0..2 * ROOM).for_each(|k| asked.ask(address(k)));
        assert!(asked.take().eq((0..ROOM).map(address)));
        assert_eq!(asked.take().next(), None);
    }

    #[test]
    fn one_station_however_many_packets_leaves_room_for_others() {
        let asked = Asked::default();
        for _ in 0..2 {
            (0..2 * ROOM).for_each(|_| asked.ask(address(1)));
            asked.ask(address(2));
            assert!(asked.take().eq([1, 2].map(address)));
        }
    }
}
