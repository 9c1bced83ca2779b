//! Clients on a connected network whose MAC addresses the lcores ask for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How often the lcores' questions are looked at.
pub const PERIOD: Duration = Duration::from_millis(20);

/// An address is wanted for so long after the last packet to it: as long as the kernel itself tries.
const WANTED: Duration = Duration::from_secs(3);

/// Addresses that are wanted at once; what is more is left out, and its next packet asks again. The kernel bounds how fast they are
/// asked for.
const MOST: usize = 1024;

/// Who is asked for, and since when no more.
#[derive(Debug, Default)]
pub struct Clients(HashMap<IpAddr, Instant>);

impl Clients {
    /// Takes what was asked for at `now`, and forgets what nobody asked for lately. Whether that changes who is wanted.
    pub fn update(&mut self, asked: impl Iterator<Item = IpAddr>, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|_, last| now.duration_since(*last) < WANTED);
        let mut has_changed = self.0.len() != before;
        for address in asked {
            if self.0.len() < MOST || self.0.contains_key(&address) {
                has_changed |= self.0.insert(address, now).is_none();
            }
        }
        has_changed
    }

    pub fn wanted(&self) -> impl Iterator<Item = IpAddr> {
        self.0.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(k: usize) -> IpAddr {
        IpAddr::from([10, 0, (k / 256) as u8, (k % 256) as u8])
    }

    #[test]
    fn a_client_is_wanted_for_a_while_after_its_last_packet() {
        let (mut clients, start) = (Clients::default(), Instant::now());
        let mut at =
            |ms, asked: &[usize]| clients.update(asked.iter().map(|&k| address(k)), start + Duration::from_millis(ms));
        assert!(at(0, &[1]), "a new one");
        assert!(!at(2000, &[1]), "asked again");
        assert!(!at(4900, &[]), "still wanted");
        assert!(at(5000, &[]), "forgotten");
    }

    #[test]
    fn however_many_ask_the_memory_is_bounded() {
        let mut clients = Clients::default();
        clients.update((0..5 * MOST).map(address), Instant::now());
        assert_eq!(clients.wanted().count(), MOST);
    }
}
