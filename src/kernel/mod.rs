//! What the kernel knows of the fabric, through netlink (rtnetlink(7)).
//!
//! Each DPDK port may have a *twin* in the kernel, a tap that `punt` fills: there the kernel keeps the node's addresses,
//! resolves neighbours by ARP and ND, and a routing daemon writes its routes. This room puts the twin in order, follows
//! its addresses, neighbours and routes, and has the kernel resolve next hops that somebody waits for. What is known is
//! handed on whole ([`Facts`]), never as a difference, so a lost message can do no lasting harm.

mod ask;
mod known;
mod twin;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::{mpsc, watch};

use crate::snapshot::{Neighbor, PortIndex, Route};
use crate::wire::Mac;
use ask::Asks;
use known::Known;

/// A kernel link that mirrors a DPDK port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// The link's name.
    pub name: String,
    pub port: PortIndex,
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

/// All that the kernel knows through the twins at one moment, in a fixed order: equal knowledge gives equal facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub addresses: Vec<IpAddr>,
    /// Only neighbours whose MAC can be used.
    pub neighbors: Vec<Neighbor>,
    /// Of each prefix the one that the kernel would take.
    pub routes: Vec<Route>,
}

/// Why the kernel could not be set up or followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    #[error("the twin {name:?} is no link of this network namespace")]
    NoTwin { name: String },
    #[error("the twin {name:?}: cannot set {what}: {reason}")]
    Set { name: String, what: String, reason: String },
    #[error("the kernel refused to list its {what}: {reason}")]
    List { what: &'static str, reason: String },
}

/// How often next hops that are still wanted are asked for, and ageing neighbours refreshed.
const TICK: Duration = Duration::from_millis(100);

/// A pause before a netlink connection that cannot be made is tried again.
const RECONNECT: Duration = Duration::from_secs(1);

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];

/// The kernel, followed by a task of the current runtime for as long as this lives.
pub struct Kernel {
    facts: watch::Receiver<Facts>,
    wanted: mpsc::UnboundedSender<Vec<IpAddr>>,
}

impl Kernel {
    /// Puts the twins in order (MAC, MTU, up), reads everything once and follows it from there.
    pub async fn start(twins: &[Twin]) -> Result<Self, Error> {
        let requests = requests()?;
        let mut links = Vec::new();
        for twin in twins {
            links.push((twin::prepare(&requests, twin).await?, twin.port));
        }
        let events = Events::new()?;
        let known = Known::read(&requests, &links).await?;
        let (publish, facts) = watch::channel(known.facts());
        let (wanted, receiver) = mpsc::unbounded_channel();
        tokio::spawn(follow(Follower { links, requests, known, publish, asks: Asks::default() }, events, receiver));
        Ok(Self { facts, wanted })
    }

    /// What is known now; [`watch::Receiver::changed`] tells when it is no longer.
    pub fn facts(&self) -> watch::Receiver<Facts> {
        self.facts.clone()
    }

    /// Says which next hops somebody waits for; they replace those of the call before.
    pub fn want(&self, addresses: Vec<IpAddr>) {
        // Fails only when the task is gone, at the end of the runtime.
        let _ = self.wanted.send(addresses);
    }
}

fn requests() -> Result<Handle, Error> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The kernel's announcements, on a socket of their own: a flood of them cannot cost the answer to a request.
struct Events(futures_util::stream::BoxStream<'static, RouteEvent>);

enum RouteEvent {
    Message(RouteNetlinkMessage),
    /// The socket's buffer was full: announcements were lost (ENOBUFS).
    Overrun,
}

impl Events {
    fn new() -> Result<Self, Error> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
        tokio::spawn(connection);
        let events = messages.filter_map(async |(message, _)| match message.payload {
            NetlinkPayload::InnerMessage(message) => Some(RouteEvent::Message(message)),
            NetlinkPayload::Overrun(_) => Some(RouteEvent::Overrun),
            _ => None,
        });
        Ok(Self(events.boxed()))
    }
}

/// What an announcement asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    /// Nothing more.
    Taken,
    /// Only reading everything again tells what it means.
    Stale,
    /// Announcements were lost. What still waits in the socket is older than anything read from now on, and nothing
    /// would correct it: that socket must go.
    Broken,
}

struct Follower {
    /// Index of each twin's link, and its port.
    links: Vec<(u32, PortIndex)>,
    requests: Handle,
    known: Known,
    publish: watch::Sender<Facts>,
    asks: Asks,
}

/// Follows the kernel until nobody listens.
async fn follow(mut this: Follower, mut events: Events, mut wanted: mpsc::UnboundedReceiver<Vec<IpAddr>>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.0.next() => {
                let mut news = this.take(event);
                // What else has come already belongs to the same publication.
                while news != News::Broken
                    && let Some(event) = events.0.next().now_or_never()
                {
                    news = news.max(this.take(event));
                }
                if news == News::Broken {
                    events = this.connect_again().await;
                }
                if news != News::Taken {
                    this.read_again().await;
                }
                this.tell();
            }
            addresses = wanted.recv() => match addresses {
                Some(addresses) => {
                    this.asks.want(addresses);
                    this.ask().await;
                }
                None => return,
            },
            _ = tick.tick() => this.ask().await,
        }
    }
}

impl Follower {
    /// Takes one announcement; `None`: the connection has ended.
    fn take(&mut self, event: Option<RouteEvent>) -> News {
        match event {
            Some(RouteEvent::Message(message)) => {
                if self.known.apply(message, &self.links) {
                    News::Stale
                } else {
                    News::Taken
                }
            }
            Some(RouteEvent::Overrun) => {
                tracing::warn!("netlink: announcements were lost, reading everything again");
                News::Broken
            }
            None => {
                tracing::warn!("netlink: the connection ended, making a new one");
                News::Broken
            }
        }
    }

    async fn connect_again(&mut self) -> Events {
        loop {
            match (requests(), Events::new()) {
                (Ok(requests), Ok(events)) => {
                    self.requests = requests;
                    return events;
                }
                (Err(error), _) | (_, Err(error)) => tracing::error!("{error}"),
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn read_again(&mut self) {
        match Known::read(&self.requests, &self.links).await {
            Ok(known) => self.known = known,
            // What was known stays; the next announcement tries again.
            Err(error) => tracing::error!("netlink: {error}"),
        }
    }

    /// Publishes what is known, if it is news.
    fn tell(&self) {
        let facts = self.known.facts();
        self.publish.send_if_modified(|old| {
            let is_new = *old != facts;
            *old = facts;
            is_new
        });
    }

    /// Has the kernel resolve what is wanted, and look again after neighbours that it has not heard from for a while:
    /// packets do not pass through the kernel, so it would never notice by itself that a neighbour is gone.
    async fn ask(&mut self) {
        let due = self.asks.due(Instant::now(), |address| self.known.link_of(address), self.known.ageing());
        for (link, address) in due {
            let request = self.requests.neighbours().add(link, address).replace();
            let request = request.state(NeighbourState::None).flags(NeighbourFlags::Use);
            if let Err(error) = request.execute().await {
                tracing::debug!("netlink: asking for {address}: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use ipnet::IpNet;

    use super::*;

    /// Runs the test named `test` again, in a network namespace of its own; `true` in there.
    fn in_a_namespace(test: &str) -> bool {
        if std::env::var_os("PENSTOCK_IN_A_NAMESPACE").is_some() {
            return true;
        }
        let this = std::env::current_exe().unwrap();
        let test = format!("kernel::tests::{test}");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net"]).arg(this).args(["--exact", &test, "--nocapture"]);
        let status = command.env("PENSTOCK_IN_A_NAMESPACE", "1").status().unwrap();
        assert!(status.success(), "see above");
        false
    }

    /// `ip` with these arguments, which must succeed; gives what it prints.
    fn ip(arguments: &str) -> String {
        let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn make_twin() -> Twin {
        ip("link set lo up");
        ip("link add wan0 type veth peer name far");
        ip("link set far up");
        Twin { name: "wan0".to_owned(), port: PortIndex(3), mac: MAC, mtu: 1450 }
    }

    /// Waits until the facts are as `is_right` wants them, and says how long it took.
    async fn until(facts: &mut watch::Receiver<Facts>, what: &str, is_right: impl FnMut(&Facts) -> bool) -> Duration {
        let start = Instant::now();
        let result = tokio::time::timeout(Duration::from_secs(3), facts.wait_for(is_right)).await.map(|_| ());
        if result.is_err() {
            panic!("not {what}: {:?}", *facts.borrow());
        }
        start.elapsed()
    }

    fn mac_of(facts: &Facts, address: &str) -> Option<Mac> {
        facts.neighbors.iter().find(|known| known.address.to_string() == address).map(|known| known.mac)
    }

    #[tokio::test]
    async fn what_is_known_follows_the_kernel() {
        if !in_a_namespace("what_is_known_follows_the_kernel") {
            return;
        }
        let twin = make_twin();
        ip("address add 10.0.0.1/24 dev wan0");
        let kernel = Kernel::start(&[twin]).await.unwrap();
        let link = ip("link show wan0");
        assert!(link.contains("02:00:00:00:00:01") && link.contains("mtu 1450") && link.contains("UP"), "{link}");

        let mut facts = kernel.facts();
        let via = |facts: &Facts, prefix: &str| {
            let prefix: IpNet = prefix.parse().unwrap();
            let route = facts.routes.iter().find(|route| route.prefix == prefix)?;
            Some(route.via.map_or_else(|| "on link".to_owned(), |via| via.to_string()))
        };
        until(&mut facts, "on link", |facts| via(facts, "10.0.0.0/24").as_deref() == Some("on link")).await;
        ip("address add 10.0.1.1/24 dev wan0");
        ip("address add 192.0.2.7/32 dev lo");
        until(&mut facts, "two addresses", |facts| facts.addresses.len() >= 2).await;
        assert!(!facts.borrow().addresses.contains(&IpAddr::from([192, 0, 2, 7])), "an address of another link");

        ip("neighbor replace 10.0.0.254 lladdr 02:00:00:00:00:fe nud reachable dev wan0");
        until(&mut facts, "a neighbour", |facts| mac_of(facts, "10.0.0.254") == Some(Mac([2, 0, 0, 0, 0, 0xfe]))).await;
        ip("neighbor replace 10.0.0.254 lladdr 02:00:00:00:00:ff nud stale dev wan0");
        let took =
            until(&mut facts, "a new MAC", |facts| mac_of(facts, "10.0.0.254") == Some(Mac([2, 0, 0, 0, 0, 0xff])))
                .await;
        assert!(took < Duration::from_millis(50), "a new MAC took {took:?}");
        ip("neighbor replace 10.0.0.254 nud failed dev wan0");
        until(&mut facts, "without a failed neighbour", |facts| mac_of(facts, "10.0.0.254").is_none()).await;
        ip("neighbor replace 10.0.0.253 lladdr 02:00:00:00:00:fd nud permanent dev wan0");
        until(&mut facts, "a permanent one", |facts| mac_of(facts, "10.0.0.253").is_some()).await;
        ip("neighbor del 10.0.0.253 dev wan0");
        until(&mut facts, "without a deleted one", |facts| mac_of(facts, "10.0.0.253").is_none()).await;

        ip("route add default via 10.0.0.254 metric 10");
        ip("route add default via 10.0.0.253 metric 20");
        until(&mut facts, "a default route", |facts| via(facts, "0.0.0.0/0").as_deref() == Some("10.0.0.254")).await;
        ip("route del default metric 10");
        until(&mut facts, "by the next metric", |facts| via(facts, "0.0.0.0/0").as_deref() == Some("10.0.0.253")).await;
        ip("route replace default via 10.0.0.252 metric 20");
        until(&mut facts, "replaced", |facts| via(facts, "0.0.0.0/0").as_deref() == Some("10.0.0.252")).await;
        ip("route add 10.9.0.0/16 nexthop via 10.0.0.7 nexthop via 10.0.0.8");
        until(&mut facts, "multipath", |facts| via(facts, "10.9.0.0/16").as_deref() == Some("10.0.0.7")).await;
        ip("route add 10.8.0.0/16 via 10.0.0.7 table 100");
        ip("address del 10.0.1.1/24 dev wan0");
        until(&mut facts, "without its prefix", |facts| via(facts, "10.0.1.0/24").is_none()).await;
        assert_eq!(via(&facts.borrow(), "10.8.0.0/16"), None, "a route of another table");
        ip("link set wan0 down");
        until(&mut facts, "without routes", |facts| facts.routes.is_empty() && via(facts, "10.9.0.0/16").is_none())
            .await;
    }

    #[tokio::test]
    async fn a_wanted_next_hop_is_asked_for() {
        if !in_a_namespace("a_wanted_next_hop_is_asked_for") {
            return;
        }
        let twin = make_twin();
        ip("address add 10.0.0.1/24 dev wan0");
        let kernel = Kernel::start(&[twin]).await.unwrap();
        kernel.want(vec![IpAddr::from([10, 0, 0, 77]), IpAddr::from([10, 7, 0, 77])]);
        let deadline = Instant::now() + Duration::from_secs(1);
        while !ip("neighbor show dev wan0").contains("10.0.0.77") {
            assert!(Instant::now() < deadline, "the kernel was never asked");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!ip("neighbor show dev wan0").contains("10.7.0.77"), "an address of no link");
    }

    #[tokio::test]
    async fn lost_announcements_are_made_up_for() {
        if !in_a_namespace("lost_announcements_are_made_up_for") {
            return;
        }
        let twin = make_twin();
        ip("address add 10.0.0.1/16 dev wan0");
        let kernel = Kernel::start(&[twin]).await.unwrap();
        let mut batch = tempfile::NamedTempFile::new().unwrap();
        for round in 0..20 {
            for k in 0..200 {
                use std::io::Write;
                let entry = format!("10.0.7.{k} lladdr 02:00:00:00:{round:02x}:{k:02x} nud reachable dev wan0");
                writeln!(batch, "neighbor replace {entry}").unwrap();
            }
        }
        // This blocks the only thread of the runtime, so that nobody reads the announcements meanwhile.
        ip(&format!("-batch {}", batch.path().display()));
        let mut facts = kernel.facts();
        let took = until(&mut facts, "all of the last round", |facts| {
            (0..200).all(|k| mac_of(facts, &format!("10.0.7.{k}")) == Some(Mac([2, 0, 0, 0, 19, k])))
        })
        .await;
        // Timers of the kernel's own would bring some of it after a while.
        assert!(took < Duration::from_millis(500), "it took {took:?}");
    }

    #[tokio::test]
    async fn a_twin_that_is_not_there_is_named() {
        let twin = Twin { name: "penstock-none".to_owned(), port: PortIndex(0), mac: MAC, mtu: 1500 };
        let error = Kernel::start(&[twin]).await.err().unwrap();
        assert_eq!(error.to_string(), r#"the twin "penstock-none" is no link of this network namespace"#);
    }
}
