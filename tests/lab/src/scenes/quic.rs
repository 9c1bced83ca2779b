//! QUIC: a connection stays on its server while its client moves, because its connection IDs name the server.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Scene, require};
use crate::capture::Capture;
use crate::lab::{CLIENT, Lab, TO_NODE, VIP, backend_address, two_backends};
use crate::process::{Process, output};
use crate::say::Story;
use crate::sixth::{CLIENT as CLIENT6, Sixth, VIP as VIP6, backend_address as address6};
use crate::wait::PATIENCE;

pub const SCENE: Scene = Scene { title: "QUIC: a client that moves stays on its server", play };

const PORT: u16 = 443;
/// Where `dnat` sends.
const DNAT_TO: u16 = 4433;
const CONFIG_ID: u8 = 2;
/// From where the client asks, on one connection: other ports of its address, and other addresses.
const MOVES: usize = 8;
/// The client's addresses beside its own.
const OTHERS: [&str; 2] = ["198.51.100.11", "198.51.100.12"];
const OTHERS6: [&str; 2] = ["2001:db8:c::11", "2001:db8:c::12"];

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    if Sixth::is_known() {
        lab.speak_ipv6()?;
    } else {
        story.skip("QUIC over IPv6: this kernel has none");
    }
    let played = connections(lab, story, Sixth::is_known());
    lab.speak_ipv4_only();
    played?;
    lab.node.publish(&two_backends("after QUIC")).map(drop)
}

fn connections(lab: &Lab, story: &mut Story, has_ipv6: bool) -> Result<()> {
    let peer = peer()?;
    output(Command::new(&peer).arg("certificate").arg(lab.directory()))?;
    let _moves = Moves::prepare(lab, has_ipv6)?;
    let _servers = servers(lab, &peer, has_ipv6)?;
    let mut ways = vec![("ipip, IPv4", "ipip", VIP), ("dnat, IPv4", "dnat", VIP)];
    if has_ipv6 {
        ways.push(("dnat, IPv6", "dnat", VIP6));
    }
    for (told, forwarding, vip) in ways {
        let connection = Connection { lab, peer: &peer, told, forwarding, vip };
        connection.breaks(story)?;
        connection.stays(story)?;
    }
    Ok(())
}

/// A service, and one client's connection to it.
struct Connection<'a> {
    lab: &'a Lab,
    peer: &'a Path,
    told: &'a str,
    forwarding: &'a str,
    vip: &'a str,
}

/// What the client heard.
#[derive(Default)]
struct Heard {
    answers: Vec<Answer>,
    /// What it said when no answer came.
    end: Option<String>,
}

/// What it heard from one of its addresses: the server's name, and from where that saw it.
struct Answer {
    local: String,
    server: String,
    seen: String,
}

impl Connection<'_> {
    /// By addresses and ports alone the first move that meets another server is the last.
    fn breaks(&self, story: &mut Story) -> Result<()> {
        story.claim(&format!("{}: with \"five-tuple\" the connection breaks when the client moves", self.told), || {
            self.publish("five-tuple")?;
            let wire =
                self.lab.capture_at_router(TO_NODE, &format!("quic-{}", self.name("five-tuple")), "ip or ip6")?;
            let said = self.move_about()?;
            let Heard { answers, end: Some(end) } = Heard::parse(&said)? else { bail!("it did not:\n{said}") };
            let got = self.got(&wire)?;
            require(got.len() > 1, || format!("its packets went to one server alone: {got:?}"))?;
            Ok(format!("{} answers, then {end}\npackets to: {}", answers.len(), got.join(", ")))
        })
    }

    fn stays(&self, story: &mut Story) -> Result<()> {
        story.claim(&format!("{}: with \"quic-cid\" it stays, through {MOVES} addresses and ports", self.told), || {
            self.publish("quic-cid")?;
            let wire = self.lab.capture_at_router(TO_NODE, &format!("quic-{}", self.name("quic-cid")), "ip or ip6")?;
            let said = self.move_about()?;
            let Heard { answers, end } = Heard::parse(&said)?;
            require(end.is_none() && answers.len() == MOVES, || format!("it broke:\n{said}"))?;
            let servers: BTreeSet<&String> = answers.iter().map(|answer| &answer.server).collect();
            require(servers.len() == 1, || format!("servers: {servers:?}"))?;
            require(answers.iter().all(|answer| answer.local == answer.seen), || format!("seen elsewhere:\n{said}"))?;
            let got = self.got(&wire)?;
            require(got.len() == 1, || format!("its packets went to several servers: {got:?}"))?;
            let from: Vec<&str> = answers.iter().map(|answer| answer.seen.as_str()).collect();
            let server = servers.first().map_or("", |server| server.as_str());
            Ok(format!("{server} saw the client at\n{}\npackets to: {}", from.join(" "), got.join(", ")))
        })
    }

    fn publish(&self, hash: &str) -> Result<()> {
        let version = format!("QUIC, {}, {hash}", self.told);
        let address = if self.vip == VIP { backend_address } else { address6 };
        let backend = |number: usize| -> Value {
            let mut backend = json!({"address": address(number), "server_id": server_id(number)});
            if self.forwarding == "dnat" {
                backend["port"] = json!(DNAT_TO);
            }
            if hash != "quic-cid" {
                backend.as_object_mut().expect("an object").remove("server_id");
            }
            backend
        };
        let mut service = json!({
            "name": "quic", "vip": self.vip, "port": PORT, "protocol": "udp", "forwarding": self.forwarding, "hash": hash,
            "backends": (1..=self.lab.backends.len()).map(backend).collect::<Vec<_>>(),
        });
        if hash == "quic-cid" {
            service["quic"] = json!({"config_id": CONFIG_ID, "server_id_length": server_id(1).len() / 2});
        }
        self.lab.node.publish(&json!({"version": version, "services": [service]}))?;
        self.lab.node.until_resolved()
    }

    /// What the client said.
    fn move_about(&self) -> Result<String> {
        let server = SocketAddr::new(self.vip.parse()?, PORT);
        let mut client = self.lab.client.namespace.command(self.peer);
        client.arg("client").arg(self.lab.directory()).arg(server.to_string());
        output(client.args(Moves::locals(self.vip).iter().map(SocketAddr::to_string)))
    }

    /// The backends that the client's datagrams left for, with their numbers.
    ///
    /// The counters of the backends will not do: when the client has left an address, what is still under way to that comes
    /// back as an ICMP error, which no connection ID leads to its server.
    fn got(&self, wire: &Capture) -> Result<Vec<String>> {
        let mut got = Vec::new();
        for (number, backend) in (1..).zip(&self.lab.backends) {
            let filter = match (self.forwarding, self.vip) {
                // The protocol of the packet inside.
                ("ipip", _) => format!("ip proto 4 and dst {} and ip[29] = 17", backend.address),
                (_, VIP) => format!("udp and src net 198.51.100.0/24 and dst {}", backend.address),
                _ => format!("udp and src net 2001:db8:c::/64 and dst {}", address6(number)),
            };
            match wire.count(&filter)? {
                0 => {}
                count => got.push(format!("{} {count}", backend.name)),
            }
        }
        Ok(got)
    }

    /// For a file.
    fn name(&self, hash: &str) -> String {
        format!("{}-{hash}", self.told.replace(", ", "-"))
    }
}

impl Heard {
    fn parse(said: &str) -> Result<Self> {
        let mut heard = Self::default();
        for line in said.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [local, "answered", server, seen] => {
                    let [local, server, seen] = [local, server, seen].map(String::from);
                    heard.answers.push(Answer { local, server, seen });
                }
                [_, "unanswered:", ..] => heard.end = Some(line.to_string()),
                _ => bail!("the client said: {line}"),
            }
        }
        Ok(heard)
    }
}

/// More addresses for the client, as long as this lives.
struct Moves<'a>(&'a Lab);

impl<'a> Moves<'a> {
    fn prepare(lab: &'a Lab, has_ipv6: bool) -> Result<Self> {
        let this = Self(lab);
        for other in OTHERS {
            lab.client.namespace.ip(&format!("address add {other}/24 dev eth0"))?;
        }
        for other in OTHERS6.iter().filter(|_| has_ipv6) {
            lab.client.namespace.ip(&format!("address add {other}/64 dev eth0 nodad"))?;
        }
        Ok(this)
    }

    /// The client's way: from one to the next both address and port are others, or the port alone.
    fn locals(vip: &str) -> Vec<SocketAddr> {
        let [one, two] = if vip == VIP { OTHERS } else { OTHERS6 };
        let own = if vip == VIP { CLIENT } else { CLIENT6 };
        let addresses = [own, own, one, two, two, one, own, two];
        let local = |(address, port): (&str, u16)| SocketAddr::new(address.parse().expect("an address"), port);
        addresses[..MOVES].iter().copied().zip(50_001..).map(local).collect()
    }
}

impl Drop for Moves<'_> {
    fn drop(&mut self) {
        for other in OTHERS {
            let _ = self.0.client.namespace.ip(&format!("address del {other}/24 dev eth0"));
        }
    }
}

/// A server on each backend for each way in.
fn servers(lab: &Lab, peer: &Path, has_ipv6: bool) -> Result<Vec<Process>> {
    let mut servers = Vec::new();
    for (number, backend) in (1..).zip(&lab.backends) {
        let mut addresses = vec![
            SocketAddr::new(VIP.parse()?, PORT),
            (backend_address(number).parse::<std::net::IpAddr>()?, DNAT_TO).into(),
        ];
        if has_ipv6 {
            addresses.push(SocketAddr::new(address6(number).parse()?, DNAT_TO));
        }
        for address in addresses {
            let log =
                lab.directory().join(format!("quic-{}-{}.log", backend.name, address.to_string().replace(':', "-")));
            let mut command = backend.namespace.helper(peer);
            command.arg("server").arg(lab.directory()).args([&backend.name, &address.to_string()]);
            let mut server = Process::start(command.args([&CONFIG_ID.to_string(), &server_id(number)]), &log)?;
            server.until_it_says("ready", PATIENCE)?;
            servers.push(server);
        }
    }
    Ok(servers)
}

/// In hex.
fn server_id(number: usize) -> String {
    format!("5e{number:04x}")
}

/// The helper of `tests/quic`, built beside the lab's own binary; it is a crate of its own so that the demo does not wait for it.
fn peer() -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("penstock-lab-quic");
    beside.exists().then_some(beside.clone()).with_context(|| {
        format!("{} is not there: cargo build --release --package penstock-lab-quic", beside.display())
    })
}
