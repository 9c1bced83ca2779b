//! Opens the ports of the configuration and starts them, with one queue for each lcore.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk::port::{Info, PortError};
use dpdk::{Eal, Errno, Mempool, Port, Queue};

use crate::config;
use crate::flow::Dealing;
use crate::telemetry::PortCounts;
use crate::wire::Mac;

/// Why a port cannot be used. Every message begins with the port that the configuration names.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("port {name:?}: {reason}")]
    Device { name: String, reason: PortError },
    #[error("port {name:?}: mac {mac} is refused by the device: {reason}")]
    Mac { name: String, mac: Mac, reason: Errno },
}

/// A port that runs.
pub struct Opened {
    pub name: String,
    pub info: Info,
    /// The address that the pipeline takes and sends with.
    pub mac: Mac,
    /// Whether the device itself knows that address; else it takes all frames and the pipeline sorts.
    pub has_own_mac: bool,
    pub mtu: u16,
    pub lcores: usize,
    /// One for each lcore, in the lcores' order.
    pub queues: Vec<Queue>,
    /// For questions only; the port runs as long as this and its queues.
    pub port: Port,
}

impl Opened {
    pub fn open(eal: Eal, pool: Mempool, config: &config::Port, lcores: usize) -> Result<Self, Error> {
        let failed = |reason| Error::Device { name: config.name.clone(), reason };
        let queues = u16::try_from(lcores).unwrap_or(u16::MAX);
        let mut port = Port::open(eal, &config.device, queues).map_err(failed)?;
        let info = port.info().map_err(failed)?;

        let of_device = Mac(info.mac);
        let mac = config.mac.unwrap_or(of_device);
        let has_own_mac = match if mac == of_device { Ok(()) } else { port.set_mac(mac.0) } {
            Ok(()) => true,
            Err(Errno::NotSupported) => false,
            Err(reason) => return Err(Error::Mac { name: config.name.clone(), mac, reason }),
        };
        let settings = dpdk::port::Config {
            mtu: config.mtu,
            promiscuous: config.promiscuous || !has_own_mac,
            // The twin's: neighbour discovery, OSPF, VRRP. No service takes such frames.
            all_multicast: config.twin.is_some(),
            ..dpdk::port::Config::default()
        };
        let queues = port.start(&settings, pool).map_err(failed)?;
        Ok(Self { name: config.name.clone(), info, mac, has_own_mac, mtu: config.mtu, lcores, queues, port })
    }

    /// What the device counts.
    pub fn counts(&self) -> PortCounts {
        let stats = self.port.stats().unwrap_or_default();
        PortCounts {
            missed: stats.missed + stats.no_mbuf,
            received_bytes: stats.received_bytes,
            sent_packets: stats.sent_packets,
            sent_bytes: stats.sent_bytes,
            receive_errors: stats.receive_errors,
            send_errors: stats.send_errors,
            is_up: self.port.link().is_ok_and(|link| link.up),
        }
    }
}

/// Ports that run until they are closed, whoever still has this; of closed ones nothing is told.
#[derive(Clone)]
pub struct Ports(Arc<Mutex<Vec<Opened>>>);

impl Ports {
    pub fn new(opened: Vec<Opened>) -> Self {
        Self(Arc::new(Mutex::new(opened)))
    }

    /// What the devices count, in the configuration's order.
    pub fn counts(&self) -> Vec<PortCounts> {
        self.opened().iter().map(Opened::counts).collect()
    }

    /// Closes them, once no lcore has a queue any more.
    pub fn close(&self) {
        self.opened().clear();
    }

    fn opened(&self) -> MutexGuard<'_, Vec<Opened>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How all ports deal frames to the lcores, where they do so alike and it is known.
pub fn dealing(ports: &[Opened]) -> Option<Dealing> {
    let first = ports.first()?;
    let entries = first.port.table()?;
    ports.iter().all(|other| other.port.table() == Some(entries)).then(|| Dealing::evenly(entries, first.lcores))
}

/// One line for the log.
impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, info, mac, mtu, .. } = self;
        write!(f, "port {name}: {}, driver {}, MAC {mac}, MTU {mtu}", info.device, info.driver)?;
        if !self.has_own_mac {
            write!(f, " (the device keeps {}; penstock sorts the frames itself)", Mac(info.mac))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dpdk::eal;

    use super::*;

    #[test]
    fn ports_are_closed_though_somebody_asks_for_their_counts() {
        // EAL pins the thread that starts it.
        let start = || Eal::init(&eal::allowed_cpus()?[..1], ["--no-pci", "--no-huge", "--no-shconf", "-m", "64"]);
        let eal = std::thread::spawn(start).join().unwrap().unwrap_or_else(|error| panic!("{error}"));
        let pool = Mempool::new(eal, "closed", 1023, 2176).unwrap();
        let config = config::Port {
            name: "wan0".to_owned(),
            device: "net_null0".to_owned(),
            mtu: 1500,
            mac: None,
            addresses: Vec::new(),
            twin: None,
            promiscuous: false,
        };
        let open = || Opened::open(eal, pool, &config, 1);
        let ports = Ports::new(vec![open().unwrap()]);
        let scrape = ports.clone();
        assert_eq!(scrape.counts().len(), 1);
        assert!(open().is_err(), "it is open");
        ports.close();
        assert_eq!(scrape.counts().len(), 0);
        assert!(open().is_ok(), "it was not closed");
    }
}
