//! The bench's service on capsule's pipeline: TCP to one VIP, 100 backends, IPIP. README.md here says how it is built and compared.
//!
//! Prints the packets sent until then, once a second, as `1.000123 s, 12345678 packets`. With MEMPOOL_CACHE set, EAL gets to know
//! capsule's thread.

mod compat;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use capsule::batch::{Batch, Either, PacketTx, Pipeline, Poll};
use capsule::config::load_config;
use capsule::net::MacAddr;
use capsule::packets::ip::ProtocolNumber;
use capsule::packets::ip::v4::Ipv4;
use capsule::packets::{Ethernet, Packet, Tcp4};
use capsule::{Mbuf, PortQueue, Runtime};

/// As in the bench: perf/src/rig.rs and node.rs.
const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 80);
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const BACKENDS: usize = 100;
/// As many slots as Maglev's table has there. How they are filled is no matter to a packet.
const SLOTS: usize = 65_537;

static SENT: AtomicU64 = AtomicU64::new(0);

/// What the lcore needs to know of the service.
struct Service {
    vip: (Ipv4Addr, u16),
    backends: Vec<(Ipv4Addr, MacAddr)>,
    slots: Vec<u8>,
}

impl Service {
    fn new() -> Self {
        let backend = |host: usize| (Ipv4Addr::new(10, 1, 0, host as u8 + 1), MacAddr::new(2, 0, 0, 1, 0, host as u8));
        Self {
            vip: VIP,
            backends: (0..BACKENDS).map(backend).collect(),
            slots: (0..SLOTS).map(|slot| (slot % BACKENDS) as u8).collect(),
        }
    }

    /// The packet with an outer header in front; as it was, where it is not for the VIP.
    fn forward(&self, frame: Mbuf) -> Result<Either<Ipv4>> {
        let tcp = frame.parse::<Ethernet>()?.parse::<Ipv4>()?.parse::<Tcp4>()?;
        let (client, vip) = ((tcp.envelope().src(), tcp.src_port()), (tcp.envelope().dst(), tcp.dst_port()));
        if vip != self.vip {
            return Ok(Either::Drop(tcp.reset()));
        }
        let (address, mac) = self.backends[usize::from(self.slots[slot(client, vip)])];

        let inner = tcp.deparse();
        let length = inner.offset() + usize::from(inner.total_length());
        let mut ethernet = inner.deparse();
        // What pads the frame is not the packet's; capsule would take it into the outer header's length.
        if ethernet.len() > length {
            ethernet.mbuf_mut().truncate(length)?;
        }
        let own = ethernet.dst();
        ethernet.set_src(own);
        ethernet.set_dst(mac);
        let mut outer = ethernet.push::<Ipv4>()?;
        outer.set_protocol(ProtocolNumber::new(4));
        outer.set_dont_fragment();
        outer.set_src(SOURCE);
        outer.set_dst(address);
        outer.reconcile();
        Ok(Either::Keep(outer))
    }
}

/// By multiplication (Fibonacci hashing): the cheapest that spreads.
fn slot(client: (Ipv4Addr, u16), vip: (Ipv4Addr, u16)) -> usize {
    let word = |(address, port): (Ipv4Addr, u16)| u64::from(u32::from(address)) << 16 | u64::from(port);
    let hash = (word(client) ^ word(vip).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 32) as usize % SLOTS
}

/// Counts what the queue is given to send.
struct Counted(PortQueue);

impl PacketTx for Counted {
    fn transmit(&mut self, packets: Vec<Mbuf>) {
        // One lcore writes.
        SENT.store(SENT.load(Ordering::Relaxed) + packets.len() as u64, Ordering::Relaxed);
        PacketTx::transmit(&mut self.0, packets);
    }
}

/// Made on the thread that runs it.
fn pipeline(queue: PortQueue) -> impl Pipeline {
    if std::env::var_os("MEMPOOL_CACHE").is_some() {
        compat::register_thread();
    }
    let service = Service::new();
    Poll::new(queue.clone()).filter_map(move |frame| service.forward(frame)).send(Counted(queue))
}

fn main() -> Result<()> {
    let config = load_config()?;
    let port = config.ports.first().context("the file has no port")?.name.clone();
    ensure!(config.ports.iter().all(|port| !port.kni), "DPDK 22.11 of Debian has no KNI");
    let start = Instant::now();
    let print = move || println!("{:.6} s, {} packets", start.elapsed().as_secs_f64(), SENT.load(Ordering::Relaxed));
    Runtime::build(config.clone())?
        .add_pipeline_to_port(&port, pipeline)?
        .add_periodic_task_to_core(0, print, Duration::from_secs(1))?
        .execute()
}
