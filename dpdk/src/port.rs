//! Ports: a device, its queues, its state.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dpdk_sys as sys;

use crate::batch::{BURST, Batch};
use crate::eal::Eal;
use crate::errno::{self, Errno};
use crate::mempool::Mempool;

/// Why a port cannot be used, or not so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// No driver takes it: there is none of that name, it dislikes the arguments, or the device behind it is missing.
    #[error("device {0:?} cannot be opened; DPDK's own message stands above")]
    Probe(String),
    /// The driver took the device and made no port of its name.
    #[error("device {0:?} has no port of that name; is it a NIC, bound to vfio-pci?")]
    NoPort(String),
    /// Two handles to one device.
    #[error("device {0:?} is open already")]
    Open(String),
    /// A device string is a C string with a name before the first comma.
    #[error(
        "{0:?} is no device: expected a PCI address like 0000:03:00.0, or a virtual device like net_af_packet0,iface=eth0"
    )]
    Name(String),
    /// Each lcore needs a queue of its own.
    #[error("device {device:?} has {has} queues, and {wanted} lcores need one each; use fewer lcores")]
    Queues {
        /// As in [`Port::open`].
        device: String,
        /// How many were asked for.
        wanted: u16,
        /// How many there are.
        has: u16,
    },
    /// Outside what the driver takes.
    #[error("device {device:?} cannot have an MTU of {wanted}; its driver takes {least} to {most}")]
    Mtu {
        /// As in [`Port::open`].
        device: String,
        /// What was asked for.
        wanted: u16,
        /// The smallest.
        least: u16,
        /// The largest.
        most: u16,
    },
    /// It runs, and its queues are in use.
    #[error("device {0:?} runs already")]
    Runs(String),
    /// Anything else.
    #[error("device {device:?}: {step}: {reason}")]
    Step {
        /// As in [`Port::open`].
        device: String,
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        reason: Errno,
    },
}

/// How a port is to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Largest IP packet, bytes. Set on the device where its driver can; net_af_packet has it set on the kernel's interface
    /// up to 1500, a larger one must be there before.
    pub mtu: u16,
    /// Takes frames for other stations too.
    pub promiscuous: bool,
    /// Takes the frames of all groups, by which neighbours are discovered and routers speak to each other.
    pub all_multicast: bool,
    /// Slots of a receive and a transmit queue; drivers round it to what they can.
    pub descriptors: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self { mtu: 1500, promiscuous: false, all_multicast: false, descriptors: 1024 }
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// As in [`Port::open`].
    pub device: String,
    /// The driver's name.
    pub driver: String,
    /// The address that it has now.
    pub mac: [u8; 6],
    /// Queue pairs that it can have.
    pub max_queues: u16,
    /// The NUMA node it is attached to, if it tells.
    pub socket: Option<u32>,
}

/// The state of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// Megabits a second; `None`: the driver does not tell.
    pub speed_mbps: Option<u32>,
}

/// What the device counted since it started. Frames and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Received and handed to a queue.
    pub received_packets: u64,
    /// Bytes of these.
    pub received_bytes: u64,
    /// Sent.
    pub sent_packets: u64,
    /// Bytes of these.
    pub sent_bytes: u64,
    /// Lost because no lcore fetched them in time (`imissed`).
    pub missed: u64,
    /// Received damaged (`ierrors`).
    pub receive_errors: u64,
    /// Lost because the mempool was empty (`rx_nombuf`).
    pub no_mbuf: u64,
    /// Could not be sent (`oerrors`).
    pub send_errors: u64,
}

/// An open device: its control side. [`Port::start`] gives the queues.
///
/// Send, not Sync: DPDK wants a port's control calls one at a time; keep it in a Mutex to share it. It stops and closes when
/// this and all its queues are dropped.
#[derive(Debug)]
pub struct Port {
    device: Arc<Device>,
    _one_at_a_time: PhantomData<std::cell::Cell<()>>,
}

/// A receive and a transmit queue of a running port, for one thread.
///
/// Send, but neither Sync nor Clone: drivers keep the state of a queue without a lock. The port runs as long as one of its
/// queues exists.
#[derive(Debug)]
pub struct Queue {
    port: u16,
    queue: u16,
    _runs: Arc<Device>,
    _one_thread: PhantomData<std::cell::Cell<()>>,
}

/// The device itself; stops and closes with its last user.
#[derive(Debug)]
struct Device {
    name: String,
    id: u16,
    queues: u16,
    /// Opened by us, so that closing it is more than closing the port.
    hot_plugged: bool,
    /// Whether it was started, and not stopped since.
    runs: AtomicBool,
    /// See [`Port::table`]; 0 where that is `None`.
    table: AtomicU16,
}

/// Ids of the ports that have a [`Device`].
static OPEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Hashes for RSS (`RTE_ETH_RSS_*`): addresses and ports of TCP and UDP, addresses alone of everything else, of IPv4 (bits
/// 2, 3, 4, 5, 7) and IPv6 (8, 9, 10, 11, 13).
const RSS_TYPES: u64 = 0b10_1111_1011_1100;

/// The key of the Toeplitz hash: the one of Microsoft's RSS specification, so that its test vectors hold, and the same on
/// all ports; the last 12 bytes are for devices that want 52.
pub static RSS_KEY: [u8; 52] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa, 0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d,
];

impl Port {
    /// Opens `device`: a PCI address, or the name of a virtual device with its arguments (`net_af_packet0,iface=eth0`). What
    /// EAL has not found at its start is plugged in now. It will have `queues` queues, one for each lcore;
    /// net_af_packet, which must know in advance, is told (`qpairs`) unless the arguments do.
    pub fn open(_: Eal, device: &str, queues: u16) -> Result<Self, PortError> {
        let name = device.split(',').next().filter(|name| !name.is_empty());
        let name = name.and_then(|name| CString::new(name).ok()).ok_or_else(|| PortError::Name(device.to_owned()))?;
        let arguments = CString::new(with_queues(device, queues)).map_err(|_| PortError::Name(device.to_owned()))?;

        // Held throughout, so that of two who open one device one is refused.
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let found = find(&name);
        let hot_plugged = found.is_none();
        if hot_plugged {
            // SAFETY: EAL runs; a C string that DPDK copies.
            errno::check(unsafe { sys::rte_dev_probe(arguments.as_ptr()) })
                .map_err(|_| PortError::Probe(device.to_owned()))?;
        }
        let id = found.or_else(|| find(&name)).ok_or_else(|| PortError::NoPort(device.to_owned()))?;
        if !open.insert(id) {
            return Err(PortError::Open(device.to_owned()));
        }
        let device = Arc::new(Device {
            name: device.to_owned(),
            id,
            queues,
            hot_plugged,
            runs: AtomicBool::new(false),
            table: AtomicU16::new(0),
        });
        Ok(Self { device, _one_at_a_time: PhantomData })
    }

    /// What the device is.
    pub fn info(&self) -> Result<Info, PortError> {
        let info = self.device.info()?;
        let mut mac = sys::rte_ether_addr::default();
        // SAFETY: an open port, and room for the answer.
        self.device.step("reading its MAC", unsafe { sys::rte_eth_macaddr_get(self.device.id, &raw mut mac) })?;
        // SAFETY: an open port.
        let socket = unsafe { sys::rte_eth_dev_socket_id(self.device.id) };
        Ok(Info {
            device: self.device.name.clone(),
            // SAFETY: the driver's name is a static C string of the driver.
            driver: unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned(),
            mac: mac.addr_bytes,
            max_queues: info.max_rx_queues.min(info.max_tx_queues),
            socket: u32::try_from(socket).ok(),
        })
    }

    /// Configures the port and starts it; gives a queue for each lcore. Receive buffers come from `pool`.
    ///
    /// Where the device can, frames are dealt to the queues by one RSS key and an even table, so that a flow's frames
    /// arrive by one queue.
    pub fn start(&mut self, config: &Config, pool: Mempool) -> Result<Vec<Queue>, PortError> {
        let device = &self.device;
        if Arc::strong_count(device) > 1 {
            return Err(PortError::Runs(device.name.clone()));
        }
        let (id, info) = (device.id, device.info()?);
        let has = info.max_rx_queues.min(info.max_tx_queues);
        let queues = device.queues;
        if has < queues {
            return Err(PortError::Queues { device: device.name.clone(), wanted: queues, has });
        }
        let most = most_mtu(&info);
        if !(info.min_mtu..=most).contains(&config.mtu) {
            let (device, wanted, least) = (device.name.clone(), config.mtu, info.min_mtu);
            return Err(PortError::Mtu { device, wanted, least, most });
        }
        let conf = eth_conf(config, queues, &info, pool);
        device.stop()?;
        // SAFETY: an open port that is not running (no queue exists); DPDK copies the configuration and the RSS key.
        device.step("configuring", unsafe { sys::rte_eth_dev_configure(id, queues, queues, &raw const conf) })?;
        if conf.rxmode.mtu == u32::from(config.mtu) {
            // SAFETY: an open, configured port. Virtual drivers without the call keep the MTU that their device has.
            match errno::check(unsafe { sys::rte_eth_dev_set_mtu(id, config.mtu) }) {
                Ok(_) | Err(Errno::NotSupported) => {}
                Err(reason) => return Err(device.error("setting its MTU", reason)),
            }
        }
        let (mut rx, mut tx) = (config.descriptors, config.descriptors);
        // SAFETY: an open port, and two numbers to adjust.
        device.step("sizing its queues", unsafe {
            sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx, &raw mut tx)
        })?;
        // SAFETY: an open port.
        let socket = unsafe { sys::rte_eth_dev_socket_id(id) } as u32;
        for queue in 0..queues {
            // SAFETY: a configured, stopped port; null: the driver's defaults; the pool lives for ever.
            device.step("setting up a receive queue", unsafe {
                sys::rte_eth_rx_queue_setup(id, queue, rx, socket, std::ptr::null(), pool.as_ptr())
            })?;
            // SAFETY: as above.
            device.step("setting up a transmit queue", unsafe {
                sys::rte_eth_tx_queue_setup(id, queue, tx, socket, std::ptr::null())
            })?;
        }
        // SAFETY: a port with all its queues set up.
        device.step("starting", unsafe { sys::rte_eth_dev_start(id) })?;
        device.runs.store(true, Ordering::Relaxed);
        let is_dealt_so = device.deal_evenly(queues, info.reta_size)? && hashes_as_told(&info);
        device.table.store(if is_dealt_so { info.reta_size } else { 0 }, Ordering::Relaxed);
        self.set_promiscuous(config.promiscuous)?;
        if config.all_multicast {
            self.take_all_multicast()?;
        }

        let queue = |queue| Queue { port: id, queue, _runs: self.device.clone(), _one_thread: PhantomData };
        Ok((0..queues).map(queue).collect())
    }

    /// Entries of the table by which the device deals frames to its queues, which take turns in it, where that is known: the Toeplitz
    /// hash under [`RSS_KEY`] of addresses, and of the ports of TCP and UDP where they are there. `None` before it is started, where
    /// there is one queue, or where the device cannot be told.
    pub fn table(&self) -> Option<u16> {
        Some(self.device.table.load(Ordering::Relaxed)).filter(|&entries| entries != 0)
    }

    /// Gives the device another MAC; [`Errno::NotSupported`] where its driver cannot.
    pub fn set_mac(&mut self, mac: [u8; 6]) -> Result<(), Errno> {
        let mut mac = sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: an open port; DPDK copies the address.
        errno::check(unsafe { sys::rte_eth_dev_default_mac_addr_set(self.device.id, &raw mut mac) }).map(drop)
    }

    /// Takes frames for other stations too, or no longer. A driver that cannot tell them apart takes all.
    pub fn set_promiscuous(&mut self, on: bool) -> Result<(), PortError> {
        let id = self.device.id;
        // SAFETY: an open port.
        let code =
            unsafe { if on { sys::rte_eth_promiscuous_enable(id) } else { sys::rte_eth_promiscuous_disable(id) } };
        match errno::check(code) {
            Ok(_) | Err(Errno::NotSupported) => Ok(()),
            Err(reason) => Err(self.device.error("setting promiscuous mode", reason)),
        }
    }

    /// A driver that cannot tell groups apart takes all.
    fn take_all_multicast(&mut self) -> Result<(), PortError> {
        // SAFETY: an open port.
        match errno::check(unsafe { sys::rte_eth_allmulticast_enable(self.device.id) }) {
            Ok(_) | Err(Errno::NotSupported) => Ok(()),
            Err(reason) => Err(self.device.error("taking all multicast", reason)),
        }
    }

    /// The state of the wire, as the driver knows it; does not wait.
    pub fn link(&self) -> Result<Link, PortError> {
        let mut link = sys::rte_eth_link::default();
        // SAFETY: an open port, and room for the answer.
        self.device.step("reading its link", unsafe { sys::rte_eth_link_get_nowait(self.device.id, &raw mut link) })?;
        let speed_mbps = Some(link.link_speed).filter(|&speed| speed != 0 && speed != u32::MAX);
        Ok(Link { up: link.link_status() == 1, speed_mbps })
    }

    /// What the device counted. May be asked while lcores poll.
    pub fn stats(&self) -> Result<Stats, PortError> {
        let mut stats = sys::rte_eth_stats::default();
        // SAFETY: an open port, and room for the answer.
        self.device.step("reading its counters", unsafe { sys::rte_eth_stats_get(self.device.id, &raw mut stats) })?;
        Ok(Stats {
            received_packets: stats.ipackets,
            received_bytes: stats.ibytes,
            sent_packets: stats.opackets,
            sent_bytes: stats.obytes,
            missed: stats.imissed,
            receive_errors: stats.ierrors,
            no_mbuf: stats.rx_nombuf,
            send_errors: stats.oerrors,
        })
    }
}

impl Queue {
    /// Fills the rest of `batch` with frames that have arrived; how many came. Best called with an empty one: some drivers
    /// only ever fetch several at once.
    #[inline(always)]
    pub fn receive(&mut self, batch: &mut Batch) -> usize {
        let held = batch.len();
        // SAFETY: a running port (this handle keeps it so), a queue of it that this thread alone uses, and room for
        // BURST - held pointers. The driver gives that many mbufs at most, and has no use for them any more.
        unsafe {
            let room = (BURST - held) as u16;
            let count = usize::from(sys::shim_rx_burst(self.port, self.queue, batch.spare_ptr(), room));
            batch.set_len(held + count);
            count
        }
    }

    /// Sends the whole batch and frees what the device has no room for; how many these were.
    #[inline(always)]
    pub fn send(&mut self, batch: &mut Batch) -> usize {
        // SAFETY: a running port (this handle keeps it so) and a queue of it that this thread alone uses. The driver takes
        // `n` ≤ count mbufs from the front and frees them when they are sent.
        unsafe {
            batch.hand_over(|mbufs, count| usize::from(sys::shim_tx_burst(self.port, self.queue, mbufs, count as u16)))
        }
    }

    /// Its number, from 0, among the port's queues.
    pub fn index(&self) -> u16 {
        self.queue
    }
}

impl Device {
    fn info(&self) -> Result<sys::rte_eth_dev_info, PortError> {
        let mut info = sys::rte_eth_dev_info::default();
        // SAFETY: an open port, and room for the answer.
        self.step("asking what it can", unsafe { sys::rte_eth_dev_info_get(self.id, &raw mut info) })?;
        Ok(info)
    }

    /// Fills RSS's indirection table with the queues in turn, where there is one. Whether it did.
    fn deal_evenly(&self, queues: u16, table_size: u16) -> Result<bool, PortError> {
        const GROUP: u16 = 64;
        if queues < 2 || table_size == 0 {
            return Ok(false);
        }
        let mut table = vec![sys::rte_eth_rss_reta_entry64::default(); usize::from(table_size.div_ceil(GROUP))];
        for slot in 0..table_size {
            let group = &mut table[usize::from(slot / GROUP)];
            group.mask |= 1 << (slot % GROUP);
            group.reta[usize::from(slot % GROUP)] = slot % queues;
        }
        // SAFETY: a running port; the table has `table_size` entries in groups of 64.
        match errno::check(unsafe { sys::rte_eth_dev_rss_reta_update(self.id, table.as_mut_ptr(), table_size) }) {
            Ok(_) => Ok(true),
            Err(Errno::NotSupported) => Ok(false),
            Err(reason) => Err(self.error("setting its RSS table", reason)),
        }
    }

    /// Call it only when no queue is in use.
    fn stop(&self) -> Result<(), PortError> {
        if !self.runs.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        // SAFETY: an open port that runs.
        self.step("stopping", unsafe { sys::rte_eth_dev_stop(self.id) })
    }

    fn step(&self, step: &'static str, code: i32) -> Result<(), PortError> {
        errno::check(code).map(drop).map_err(|reason| self.error(step, reason))
    }

    fn error(&self, step: &'static str, reason: Errno) -> PortError {
        PortError::Step { device: self.name.clone(), step, reason }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let info = self.info();
        let _ = self.stop();
        // SAFETY: an open port that nobody uses any more: the last handle, queues included, goes. The bus keeps its device
        // beyond the port's end, until it is removed. Failures leave nothing to do.
        unsafe {
            sys::rte_eth_dev_close(self.id);
            if let (true, Ok(info)) = (self.hot_plugged, info) {
                sys::rte_dev_remove(info.device);
            }
        }
        open.remove(&self.id);
    }
}

/// The port of a device that EAL knows.
fn find(name: &CStr) -> Option<u16> {
    let mut id = 0;
    // SAFETY: EAL runs; a C string, and room for the answer.
    (unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) } == 0).then_some(id)
}

/// Ethernet header and frame check sequence, bytes.
const OVERHEAD: u32 = 18;

/// A limit that no driver has: it says nothing about MTUs, and 1518 as the longest frame (net_af_packet, whatever its rings hold).
fn knows_no_mtu(info: &sys::rte_eth_dev_info) -> bool {
    info.max_mtu == u16::MAX && info.max_rx_pktlen <= 1518
}

/// The largest MTU that the driver takes.
fn most_mtu(info: &sys::rte_eth_dev_info) -> u16 {
    let by_frame = u16::try_from(info.max_rx_pktlen.saturating_sub(OVERHEAD)).unwrap_or(u16::MAX);
    if knows_no_mtu(info) || info.max_mtu < u16::MAX { info.max_mtu } else { by_frame }
}

/// `device`, for net_af_packet with as many queue pairs as there are to be.
fn with_queues(device: &str, queues: u16) -> String {
    let needed = device.starts_with("net_af_packet") && queues > 1 && !device.contains(",qpairs=");
    if needed { format!("{device},qpairs={queues}") } else { device.to_owned() }
}

/// DPDK's own configuration.
fn eth_conf(config: &Config, queues: u16, info: &sys::rte_eth_dev_info, pool: Mempool) -> sys::rte_eth_conf {
    const SCATTER: u64 = 1 << 13; // RTE_ETH_RX_OFFLOAD_SCATTER
    const MULTI_SEGMENT: u64 = 1 << 15; // RTE_ETH_TX_OFFLOAD_MULTI_SEGS

    let mut conf = sys::rte_eth_conf::default();
    conf.rxmode.mtu = u32::from(config.mtu);
    if knows_no_mtu(info) {
        // ethdev would refuse what the driver can do.
        conf.rxmode.mtu = conf.rxmode.mtu.min(info.max_rx_pktlen - OVERHEAD);
    }
    let room = usize::from(pool.data_room()).saturating_sub(Mempool::HEADROOM);
    if usize::from(config.mtu) + OVERHEAD as usize > room {
        conf.rxmode.offloads |= info.rx_offload_capa & SCATTER;
        conf.txmode.offloads |= info.tx_offload_capa & MULTI_SEGMENT;
    }
    let types = info.flow_type_rss_offloads & RSS_TYPES;
    if queues > 1 && types != 0 {
        conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = types;
        if takes_key(info) {
            // DPDK only reads it, though its type does not say so.
            conf.rx_adv_conf.rss_conf.rss_key = RSS_KEY.as_ptr().cast_mut();
            conf.rx_adv_conf.rss_conf.rss_key_len = info.hash_key_size;
        }
    }
    conf
}

fn takes_key(info: &sys::rte_eth_dev_info) -> bool {
    (1..=RSS_KEY.len()).contains(&usize::from(info.hash_key_size))
}

/// Whether the device hashes all that it is asked to, under the key that it is given.
fn hashes_as_told(info: &sys::rte_eth_dev_info) -> bool {
    takes_key(info) && info.flow_type_rss_offloads & RSS_TYPES == RSS_TYPES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_deals_as_told_where_it_takes_the_key_and_hashes_all() {
        let info = |flow_type_rss_offloads, hash_key_size| sys::rte_eth_dev_info {
            flow_type_rss_offloads,
            hash_key_size,
            ..Default::default()
        };
        assert!(hashes_as_told(&info(RSS_TYPES, 40)) && hashes_as_told(&info(u64::MAX, 52)));
        // As net_null, and as NICs that leave out the ports of UDP.
        assert!(!hashes_as_told(&info(u64::MAX, 0)) && !hashes_as_told(&info(RSS_TYPES & !(1 << 5), 40)));
    }

    #[test]
    fn af_packet_learns_how_many_queues_it_needs() {
        assert_eq!(with_queues("net_af_packet0,iface=eth0", 2), "net_af_packet0,iface=eth0,qpairs=2");
        for kept in [("net_af_packet0,iface=eth0", 1), ("net_af_packet0,iface=eth0,qpairs=4", 2), ("0000:03:00.0", 2)] {
            assert_eq!(with_queues(kept.0, kept.1), kept.0);
        }
    }
}
