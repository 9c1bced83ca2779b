//! Health checks that go through services: from their sockets to an lcore, and back.

use std::net::SocketAddr;
use std::sync::Arc;

use dpdk::Eal;
use dpdk::ring::{self, Consumer, RingError};

use super::RING;
use crate::config::Config;
use crate::health::Through;
use crate::pipeline::probe::Passage;
use crate::punt::{Door, ProbeCounts, Probes};

/// The way that they go; `None`: no port has a twin, by which answers would come back.
pub fn way(config: &Config) -> Option<Arc<Through>> {
    let health = &config.health;
    let has_twin = config.ports.iter().any(|port| port.twin.is_some());
    has_twin.then(|| Arc::new(Through::new(health.ipv4_source, health.ipv6_source, health.ports)))
}

/// Their end at the punt thread, and that at an lcore.
pub fn wire(eal: Eal, through: Arc<Through>) -> Result<(Probes, Consumer), RingError> {
    let (to_lcore, consumer) = ring::single(eal, RING)?;
    Ok((Probes { door: Box::new(ToSockets(through)), to_lcore, counts: Arc::new(ProbeCounts::default()) }, consumer))
}

struct ToSockets(Arc<Through>);

impl Door for ToSockets {
    fn is_open(&self) -> bool {
        self.0.is_open()
    }

    fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        self.0.read(buffer)
    }

    fn write(&self, packet: &[u8]) -> bool {
        self.0.write(packet)
    }

    fn passage(&self, own: SocketAddr) -> Option<Passage> {
        self.0.passage(own)
    }
}
