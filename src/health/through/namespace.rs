//! A network namespace with one device (network_namespaces(7)): what is sent in there comes out by a TUN, and what the TUN is given
//! comes in.
//!
//! It has no name, and goes with the process.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::pipeline::probe::MTU;

/// The namespace of whoever opens it.
const HERE: &str = "/proc/thread-self/ns/net";

/// Packets that may wait to be taken: as many probes as may be under way can begin at once.
const WAITING: u32 = 8192;

pub struct Namespace {
    home: File,
    inside: File,
    device: SyncDevice,
}

impl Namespace {
    /// Makes one in which these addresses are the node's own, and everything else is reached by the device.
    pub fn open(own: Vec<IpAddr>) -> io::Result<Self> {
        let home = File::open(HERE)?;
        // By a thread that ends: it does not come back from there.
        let make = move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let inside = File::open(HERE)?;
            let device = DeviceBuilder::new().name("probes").layer(Layer::L3);
            let device = device.with(|options| _ = options.packet_information(false)).build_sync()?;
            device.set_nonblocking(true)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(route(device.if_index()?, own))?;
            Ok((inside, device))
        };
        let thread = std::thread::Builder::new().name("probes".to_owned()).spawn(make)?;
        let made: io::Result<_> = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (inside, device) = made?;
        Ok(Self { home, inside, device })
    }

    /// Does something in there that is done at once, like making a socket, which then stays there.
    pub fn within<T>(&self, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        setns(&self.inside, CloneFlags::CLONE_NEWNET)?;
        let made = make();
        // It may do what it did a moment ago, and the descriptor is held open.
        setns(&self.home, CloneFlags::CLONE_NEWNET).expect("a thread may go back to where it came from");
        made
    }

    /// Takes a packet that is sent in there, cut to the buffer's length; `None` where there is none.
    pub fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        self.device.recv(buffer).ok().filter(|&length| length > 0)
    }

    /// Gives a packet to whoever it is for in there; whether the kernel took it.
    pub fn write(&self, packet: &[u8]) -> bool {
        self.device.send(packet).is_ok_and(|written| written == packet.len())
    }
}

/// Brings the device up; gives it addresses, and routes to everywhere.
async fn route(device: u32, own: Vec<IpAddr>) -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let link = LinkUnspec::new_with_index(device).mtu(MTU as u32).txqueuelen(WAITING).up().build();
    handle.link().set(link).execute().await.map_err(refused)?;
    for address in own {
        match (address, reach(&handle, device, address).await) {
            (_, Ok(())) => {}
            // A kernel may lack it. Then no socket gets the address, which says so by itself.
            (IpAddr::V6(_), Err(error)) => tracing::warn!("health checks through services: no IPv6: {error}"),
            (IpAddr::V4(_), Err(error)) => return Err(error),
        }
    }
    Ok(())
}

async fn reach(handle: &Handle, device: u32, own: IpAddr) -> io::Result<()> {
    let route = match own {
        IpAddr::V4(_) => {
            RouteMessageBuilder::<Ipv4Addr>::new().output_interface(device).scope(RouteScope::Link).build()
        }
        IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().output_interface(device).build(),
    };
    let length = if own.is_ipv4() { 32 } else { 128 };
    handle.address().add(device, own, length).execute().await.map_err(refused)?;
    handle.route().add(route).execute().await.map_err(refused)
}

fn refused(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
