//! What a Cilium node does with the packets of `geneve` and `dnat-dsr`, written from the public formats.
//!
//! ```text
//! load balancer -> [ Geneve, or an option ] -> node: takes that off, remembers (client -> backend) = VIP:port
//!                                              -> backend, which sees the client and its own address
//! backend -> node: gives the reply the VIP and port as its source -> client
//! ```
//!
//! It runs in a backend's namespace and has all packets of the backend's pods through one tun device: those that the fabric sends
//! to them or to the node's tunnel address, and those that they send. The pods stand behind it in namespaces of their own.

mod geneve;
mod option;
pub mod packet;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use tun_rs::{DeviceBuilder, Layer};

pub use option::Order;
use packet::Ip;

/// What became of a packet, for the log that the scenes read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Taken out of Geneve, or freed of its option; it is for this client, and named that VIP and port.
    Told { client: SocketAddr, frontend: SocketAddr },
    /// To a pod, and it told nothing: a later packet of a flow.
    Plain,
    /// From a pod, with the VIP's address and port now.
    Reply,
}

/// A flow as the pod sees it: protocol, client, pod.
type Flow = (u8, SocketAddr, SocketAddr);

pub struct Receiver {
    order: Order,
    /// Where the node takes tunnels.
    endpoints: BTreeSet<IpAddr>,
    pods: BTreeSet<IpAddr>,
    remembered: HashMap<Flow, SocketAddr>,
}

impl Receiver {
    pub fn new(
        order: Order,
        endpoints: impl IntoIterator<Item = IpAddr>,
        pods: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let (endpoints, pods) = (endpoints.into_iter().collect(), pods.into_iter().collect());
        Self { order, endpoints, pods, remembered: HashMap::new() }
    }

    /// What goes on instead of a packet.
    pub fn take(&mut self, packet: &[u8]) -> Result<(Vec<u8>, Fate)> {
        let ip = Ip::read_tunnel(packet)?;
        if self.endpoints.contains(&ip.destination) {
            ensure!(ip.ports(packet).is_some_and(|ports| ports.1 == geneve::PORT), "no Geneve to the tunnel's address");
            let unwrapped = geneve::unwrap(packet, &ip)?;
            return self.told(unwrapped.packet, unwrapped.frontend);
        }
        let ip = Ip::read(packet)?;
        if self.pods.contains(&ip.destination) {
            return match option::take(packet, &ip, self.order)? {
                Some((packet, frontend)) => self.told(packet, frontend),
                None => Ok((packet.to_vec(), Fate::Plain)),
            };
        }
        ensure!(self.pods.contains(&ip.source), "{} is no pod", ip.source);
        self.reply(packet, &ip)
    }

    fn told(&mut self, packet: Vec<u8>, frontend: SocketAddr) -> Result<(Vec<u8>, Fate)> {
        // It was sound with the option, and must be without: the backend's address is under its checksum.
        let ip = Ip::read(&packet)?;
        ensure!(self.pods.contains(&ip.destination), "{} is no pod", ip.destination);
        let (from, to) = ip.ports(&packet).context("a VIP and port for a packet that has no ports")?;
        let client = (ip.source, from).into();
        self.remembered.insert((ip.protocol, client, (ip.destination, to).into()), frontend);
        Ok((packet, Fate::Told { client, frontend }))
    }

    fn reply(&self, packet: &[u8], ip: &Ip) -> Result<(Vec<u8>, Fate)> {
        let Some((from, to)) = ip.ports(packet).filter(|_| !ip.is_fragment) else {
            bail!("protocol {} from a pod, or a fragment: not for a receiver so small", ip.protocol);
        };
        let flow = (ip.protocol, (ip.destination, to).into(), (ip.source, from).into());
        let Some(frontend) = self.remembered.get(&flow) else {
            bail!("nothing is remembered of {} -> {}", flow.1, flow.2);
        };
        let mut packet = packet.to_vec();
        packet::set_source(&mut packet, ip, frontend.ip(), frontend.port());
        Ok((packet, Fate::Reply))
    }
}

/// Serves a tun device that is made for it, until killed: `DEVICE network|host ENDPOINT,… POD,…`.
pub fn serve(device: &str, order: &str, endpoints: &str, pods: &str) -> Result<()> {
    let order = match order {
        "network" => Order::Network,
        "host" => Order::Host,
        _ => bail!("{order}: network or host?"),
    };
    let addresses = |text: &str| text.split(',').map(|address| Ok(address.parse()?)).collect::<Result<Vec<IpAddr>>>();
    let mut receiver = Receiver::new(order, addresses(endpoints)?, addresses(pods)?);
    let builder = DeviceBuilder::new().name(device).layer(Layer::L3).mtu(MTU);
    let device = builder.build_sync().context("a tun device")?;
    println!("ready");
    let mut buffer = vec![0; 65536];
    loop {
        let length = device.recv(&mut buffer)?;
        let packet = &buffer[..length];
        // The node's kernel looks for neighbours on this device, as on every other.
        if packet[0] >> 4 == 6 && packet.get(24) == Some(&0xff) {
            continue;
        }
        match receiver.take(packet) {
            Ok((packet, fate)) => {
                if let Fate::Told { client, frontend } = fate {
                    println!("told {client} {frontend}");
                }
                device.send(&packet).with_context(|| format!("a packet of {} bytes", packet.len()))?;
            }
            Err(refusal) => println!("refused {refusal:#}"),
        }
    }
}

/// As the fabric's.
const MTU: u16 = crate::lab::FABRIC_MTU;

#[cfg(test)]
mod tests {
    use super::packet::tests::hex;
    use super::*;

    fn receiver() -> Receiver {
        Receiver::new(Order::Network, ["10.1.1.2".parse().unwrap()], ["10.2.1.2".parse().unwrap()])
    }

    /// SYN of 192.168.0.7:40000 to the pod's port 8081, for 172.16.10.2:80.
    const SYN: &str = "
        4700 0030 0001 4000 3f06 1da9 c0a8 0007 0a02 0102  9a 08 0050 ac10 0a02
        9c40 1f91 0000 0001 0000 0000 5002 ffff 285d 0000
    ";
    /// Its answer, as the pod sends it, and as the client must get it.
    const ANSWER: &str = "
        4500 0028 0002 4000 4006 6f1b 0a02 0102 c0a8 0007
        1f91 9c40 0000 0007 0000 0002 5012 ffff 2845 0000
    ";
    const ANSWER_OF_THE_VIP: &str = "
        4500 0028 0002 4000 4006 c40c ac10 0a02 c0a8 0007
        0050 9c40 0000 0007 0000 0002 5012 ffff 9c77 0000
    ";

    #[test]
    fn a_reply_carries_the_vip_that_the_option_told() {
        let mut receiver = receiver();
        let unknown = receiver.take(&hex(ANSWER)).unwrap_err();
        assert_eq!(format!("{unknown:#}"), "nothing is remembered of 192.168.0.7:40000 -> 10.2.1.2:8081");

        let (client, frontend) = ("192.168.0.7:40000".parse().unwrap(), "172.16.10.2:80".parse().unwrap());
        assert_eq!(receiver.take(&hex(SYN)).unwrap().1, Fate::Told { client, frontend });
        assert_eq!(receiver.take(&hex(ANSWER)).unwrap(), (hex(ANSWER_OF_THE_VIP), Fate::Reply));
    }
}
