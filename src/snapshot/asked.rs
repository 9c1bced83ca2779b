//! Stations that packets should have gone to at once, had their MAC addresses been known: clients on a connected network. (Next
//! hops of backends and routes are known to be wanted before any packet comes.)

use std::net::IpAddr;

use crossbeam_queue::ArrayQueue;

/// Addresses on their way from the lcores to the control side. Bounded: what finds no room is asked for by its next packet.
#[derive(Debug)]
pub struct Asked(ArrayQueue<IpAddr>);

const ROOM: usize = 256;

impl Default for Asked {
    fn default() -> Self {
        Self(ArrayQueue::new(ROOM))
    }
}

impl Asked {
    /// Called by any lcore, off the straight path: allocates nothing and waits for nobody.
    #[cold]
    pub fn ask(&self, address: IpAddr) {
        let _ = self.0.push(address);
    }

    /// Takes out what was asked for.
    pub fn take(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::from_fn(|| self.0.pop()).take(ROOM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_comes_out_once_and_the_rest_is_lost() {
        let asked = Asked::default();
        let address = |k: usize| IpAddr::from([10, 0, (k / 256) as u8, (k % 256) as u8]);
        (0..2 * ROOM).for_each(|k| asked.ask(address(k)));
        assert!(asked.take().eq((0..ROOM).map(address)));
        assert_eq!(asked.take().next(), None);
    }
}
