//! `penstock explain`: which service, slot, backend and next hop a packet would get, and why.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde_json::json;

use super::{Failure, inputs, print_json, replay};
use crate::counters::Reason;
use crate::pipeline::{Choice, Chosen, Explanation, Matched, Verdict, explain};
use crate::replay::Buffer;
use crate::service::{Forwarding, Hash, Protocol, Service, State};
use crate::snapshot::{Compiler, Fabric, Millis, Way};
use crate::wire::ethernet::{self, Ethernet, Link};
use crate::wire::ipv4::{self, Ipv4, protocol};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{Frame, Mac, checksum, tcp, udp};

/// Say which service, backend and next hop a packet would get, and why
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The service definitions
    #[arg(long, value_name = "FILE")]
    pub services: PathBuf,
    /// The port that receives the packet; the first if not named
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// Where the packet comes from, like 198.51.100.7:40000 or [2001:db8::7]:40000
    #[arg(value_name = "SRC:SPORT")]
    pub source: SocketAddr,
    /// Where it is going, like 192.0.2.1:80
    #[arg(value_name = "DST:DPORT")]
    pub destination: SocketAddr,
    /// tcp or udp
    #[arg(value_parser = known_protocol)]
    pub protocol: Protocol,
    /// Print the result as one JSON document
    #[arg(long)]
    pub json: bool,
}

fn known_protocol(text: &str) -> Result<Protocol, String> {
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.name() == text).ok_or("tcp or udp".into())
}

pub fn run(args: &Args) -> Result<(), Failure> {
    if args.source.is_ipv4() != args.destination.is_ipv4() {
        let reason = format!("{} and {} are of different families", args.source, args.destination);
        return Err(Failure::BadInput(reason));
    }
    let loaded = inputs(&args.config, &args.services)?;
    let port = replay::port(&loaded.config, args.port.as_deref(), &args.config)?;
    let fabric = loaded.config.fabric();
    let mut environment = loaded.config.environment();
    environment.lcores = 1;
    let snapshot = Compiler::new(environment).compile(&loaded.definitions, &fabric, Millis(0));
    let mut frame = Buffer::new(&first_packet(args, fabric.ports[usize::from(port.0)].mac));
    let found = explain(&snapshot, Millis(0), port, &mut frame);
    let name = |port: crate::snapshot::PortIndex| loaded.config.ports[usize::from(port.0)].name.as_str();
    let steps = steps(args, &found, &fabric, &name, name(port), frame.bytes());
    if args.json {
        print_json(&document(&found, &name, &steps, frame.bytes()))?;
    } else {
        print(&steps)?;
    }
    Ok(())
}

/// The flow's first packet as a client would send it: a SYN, or an empty datagram.
fn first_packet(args: &Args, to: Mac) -> Vec<u8> {
    const SYN: u8 = 2;
    let (header, sum_at) = match args.protocol {
        Protocol::Tcp => (tcp::HEADER, tcp::CHECKSUM),
        Protocol::Udp => (udp::HEADER, udp::CHECKSUM),
    };
    let mut segment = vec![0; header];
    segment[..2].copy_from_slice(&args.source.port().to_be_bytes());
    segment[2..4].copy_from_slice(&args.destination.port().to_be_bytes());
    match args.protocol {
        Protocol::Tcp => segment[12..14].copy_from_slice(&[(tcp::HEADER as u8 / 4) << 4, SYN]),
        Protocol::Udp => segment[4..6].copy_from_slice(&(udp::HEADER as u16).to_be_bytes()),
    }
    let (ip, addresses, ether_type) = match (args.source.ip(), args.destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            use ipv4::field;
            let mut ip = vec![0; ipv4::HEADER];
            ip[0] = 0x45;
            ip[field::TOTAL_LENGTH..][..2].copy_from_slice(&((ipv4::HEADER + header) as u16).to_be_bytes());
            ip[field::FLAGS..][..2].copy_from_slice(&ipv4::DF.to_be_bytes());
            ip[field::TTL] = 64;
            ip[field::PROTOCOL] = args.protocol.number();
            ip[field::SOURCE..][..4].copy_from_slice(&from.octets());
            ip[field::DESTINATION..][..4].copy_from_slice(&to.octets());
            let sum = !checksum::sum(&ip);
            ip[field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
            (ip, field::SOURCE, ethernet::IPV4)
        }
        (from, to) => {
            use ipv6::field;
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            let mut ip = vec![0; ipv6::HEADER];
            ip[0] = 0x60;
            ip[field::PAYLOAD_LENGTH..][..2].copy_from_slice(&(header as u16).to_be_bytes());
            ip[field::NEXT_HEADER] = args.protocol.number();
            ip[field::HOP_LIMIT] = 64;
            ip[field::SOURCE..][..16].copy_from_slice(&octets(from));
            ip[field::DESTINATION..][..16].copy_from_slice(&octets(to));
            (ip, field::SOURCE, ethernet::IPV6)
        }
    };
    let pseudo = [&ip[addresses..], &[0, args.protocol.number()], &(header as u16).to_be_bytes(), &segment].concat();
    let sum = !checksum::sum(&pseudo);
    segment[sum_at..][..2].copy_from_slice(&sum.to_be_bytes());
    [&ethernet::header(to, Mac::default(), ether_type)[..], &ip, &segment].concat()
}

/// A step's name, and what it found and why.
type Step = (&'static str, String);

fn steps<'a>(
    args: &Args,
    found: &Explanation,
    fabric: &Fabric,
    name: &impl Fn(crate::snapshot::PortIndex) -> &'a str,
    port: &str,
    frame: &[u8],
) -> Vec<Step> {
    let mut steps = vec![(
        "packet",
        format!("{} {} -> {}, received on {port}", args.protocol.name(), args.source, args.destination),
    )];
    steps.push((
        "service",
        match &found.matched {
            Matched::Service(service) => {
                format!(
                    "{:?}: VIP {}, port {}, {}",
                    service.name,
                    service.vip_text(),
                    service.ports,
                    service.protocol.name()
                )
            }
            Matched::Reply(vip) => {
                format!("none; the source is an endpoint of {}, so this is a reply", SocketAddr::from(*vip))
            }
            Matched::Echo => "none needed: an echo request to a VIP".into(),
            Matched::Nobody => match found.verdict {
                Verdict::Punt => "none, and the destination is no VIP or the node's own: the kernel's".into(),
                _ => "none takes it".into(),
            },
        },
    ));
    if let (Some(choice), Matched::Service(service)) = (&found.choice, &found.matched) {
        steps.extend(choice_steps(args, service, choice));
        steps.push(("mode", mode(service, choice.now.as_ref())));
    }
    if let Some((to, way)) = &found.way {
        let needs_neighbor =
            matches!(&found.matched, Matched::Service(service) if service.forwarding.nature().needs_neighbor);
        steps.push(("next hop", next_hop(*to, way, needs_neighbor, fabric, name)));
    }
    steps.push((
        "verdict",
        match found.verdict {
            Verdict::Forward(port) => format!("forwarded by {}", name(port)),
            Verdict::Answer(port) => format!("answered by {}", name(port)),
            Verdict::Hold => "held until its first fragment comes".into(),
            Verdict::HandOver(lcore) => format!("handed to lcore {lcore}, which decides"),
            Verdict::Punt => "punted to the kernel twin".into(),
            Verdict::Reject(port) => format!("dropped, no_backend; the client is told so by {}", name(port)),
            Verdict::Drop(reason) => format!("dropped, {reason}: {}", reason.help()),
        },
    ));
    if is_sent(found.verdict) {
        steps.extend(headers(frame).into_iter().map(|header| ("header", header)));
    }
    steps
}

fn is_sent(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Forward(_) | Verdict::Answer(_) | Verdict::Reject(_))
}

fn choice_steps(args: &Args, service: &Service, choice: &Choice) -> Vec<Step> {
    let backend = |chosen: &Chosen| format!("{}, weight {}", chosen.endpoint, chosen.weight);
    let (name, hash) = (service.hash.name(), choice.hash);
    let of = match service.hash {
        Hash::SourceIp => args.source.ip().to_string(),
        _ => args.source.to_string(),
    };
    let mut steps = vec![("hash", format!("{name}: SipHash-1-3 of {of} under the seed is {hash:#018x}"))];
    let Some(owner) = &choice.owner else {
        steps.push(("slot", "none: no backend has any weight, so there is no table".into()));
        return steps;
    };
    steps.push(("slot", format!("{} of {}", choice.slot, choice.table_size)));
    steps.push((
        "owner",
        match owner.state {
            State::Active => format!("{}, by the table", backend(owner)),
            state => format!("{}, by the table; {}, so it takes nothing new", backend(owner), state.name()),
        },
    ));
    steps.push((
        "backend",
        match &choice.now {
            None => "none may take anything".into(),
            Some(now) if now == owner => format!("{}; now and base are equal: the slot is at rest", backend(now)),
            Some(now) => {
                format!("{}, drawn for the slot in the owner's place; now and base are equal: at rest", backend(now))
            }
        },
    ));
    steps
}

fn mode(service: &Service, chosen: Option<&Chosen>) -> String {
    match chosen.map_or(0, |chosen| chosen.overhead) {
        0 if service.forwarding == Forwarding::Snat => {
            "snat: the packet keeps its size; a source of its own, of which this is the first of the first lcore"
                .to_owned()
        }
        0 => format!("{}: the packet keeps its size", service.forwarding.name()),
        bytes => format!("{}: the packet grows by {bytes} bytes", service.forwarding.name()),
    }
}

fn next_hop<'a>(
    to: IpAddr,
    way: &Way,
    needs_neighbor: bool,
    fabric: &Fabric,
    name: &impl Fn(crate::snapshot::PortIndex) -> &'a str,
) -> String {
    let is_neighbor = fabric.neighbors.iter().any(|neighbor| neighbor.address == to);
    let route =
        fabric.routes.iter().filter(|route| route.prefix.contains(&to)).max_by_key(|route| route.prefix.prefix_len());
    let by = match route {
        _ if is_neighbor => format!("{to} is a neighbour itself"),
        Some(route) => match route.via {
            Some(via) => format!("route {} via {via}", route.prefix),
            None => format!("{} is connected", route.prefix),
        },
        None => format!("no route to {to}"),
    };
    match way {
        Way::Hop(_) if needs_neighbor && !is_neighbor => {
            format!("none: {to} is no neighbour, as this mode needs ({by})")
        }
        Way::Hop(hop) => format!("{} by port {} ({by})", hop.destination, name(hop.port)),
        Way::Ask(gateway) => format!("unknown: {gateway} has no neighbour entry ({by})"),
        Way::OnLink => format!("unknown: {to} has no neighbour entry ({by})"),
        Way::None => format!("unknown: {by}"),
    }
}

/// The headers of a frame that is sent, one line each, from the outside in.
fn headers(frame: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let (Some(ethernet), Some(link)) = (Ethernet::of(frame), Link::of(frame)) else { return lines };
    let tag = match frame.get(ethernet::HEADER..link.length) {
        Some([high, low, ..]) => format!("VLAN {}, ", u16::from_be_bytes([*high, *low]) & 0xfff),
        _ => String::new(),
    };
    lines.push(format!(
        "Ethernet {} -> {}, {tag}type {:#06x}",
        ethernet.source(),
        ethernet.destination(),
        link.ether_type
    ));
    let mut bytes = &frame[link.length..];
    while let Some((mut line, number, header)) = ip_header(bytes) {
        bytes = bytes.get(header..).unwrap_or_default();
        if let (protocol::TCP | protocol::UDP, Some(ports)) = (number, bytes.first_chunk::<4>()) {
            let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
            let _ = write!(line, "; ports {} -> {}", port(0), port(2));
        }
        lines.push(line);
        if !matches!(number, protocol::IPIP | protocol::IPV6) {
            break;
        }
    }
    lines
}

/// A line about an IP header, what follows it, and where.
fn ip_header(bytes: &[u8]) -> Option<(String, u8, usize)> {
    if bytes.first()? >> 4 == 6 {
        let ip = Ipv6::of(bytes)?;
        let upper = ipv6::upper(bytes).ok()?;
        let line = format!(
            "IPv6 {} -> {}, protocol {}, hop limit {}, traffic class {:#04x}, flow label {:#07x}, {} bytes",
            ip.source(),
            ip.destination(),
            upper.protocol,
            ip.hop_limit(),
            ip.traffic_class(),
            ip.flow_label(),
            ipv6::HEADER + usize::from(ip.payload_length()),
        );
        return Some((line, upper.protocol, upper.offset));
    }
    let ip = Ipv4::of(bytes)?;
    let lengths = ip.lengths(bytes.len()).ok()?;
    let df = if ip.dont_fragment() { ", DF" } else { "" };
    let line = format!(
        "IPv4 {} -> {}, protocol {}, TTL {}, ToS {:#04x}, id {}{df}, {} bytes",
        ip.source(),
        ip.destination(),
        ip.protocol(),
        ip.ttl(),
        ip.tos(),
        ip.identification(),
        ip.total_length(),
    );
    Some((line, ip.protocol(), lengths.header))
}

fn print(steps: &[Step]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, text) in steps {
        writeln!(out, "{name:<9} {text}")?;
    }
    out.flush()
}

fn document<'a>(
    found: &Explanation,
    name: &impl Fn(crate::snapshot::PortIndex) -> &'a str,
    steps: &[Step],
    frame: &[u8],
) -> serde_json::Value {
    let chosen = |chosen: &Chosen| {
        json!({
            "address": chosen.endpoint.ip().to_string(), "port": chosen.endpoint.port(),
            "weight": chosen.weight, "state": chosen.state.name(),
        })
    };
    let (verdict, port, reason) = match found.verdict {
        Verdict::Forward(port) => ("forwarded", Some(name(port)), None),
        Verdict::Answer(port) => ("answered", Some(name(port)), None),
        Verdict::Hold => ("held", None, None),
        Verdict::HandOver(_) => ("handed over", None, None),
        Verdict::Punt => ("punted", None, None),
        Verdict::Reject(port) => ("dropped", Some(name(port)), Some(Reason::NoBackend.name())),
        Verdict::Drop(reason) => ("dropped", None, Some(reason.name())),
    };
    let service = match &found.matched {
        Matched::Service(service) => Some(service),
        _ => None,
    };
    let next_hop = match &found.way {
        Some((_, Way::Hop(hop))) => json!({"mac": hop.destination.to_string(), "port": name(hop.port), "mtu": hop.mtu}),
        _ => serde_json::Value::Null,
    };
    let sent = is_sent(found.verdict);
    json!({
        "service": service.map(|service| &*service.name),
        "forwarding": service.map(|service| service.forwarding.name()),
        "hash": found.choice.as_ref().map(|choice| format!("{:#018x}", choice.hash)),
        "slot": found.choice.as_ref().filter(|choice| choice.owner.is_some()).map(|choice| choice.slot),
        "table_size": found.choice.as_ref().map(|choice| choice.table_size),
        "owner": found.choice.as_ref().and_then(|choice| choice.owner.as_ref()).map(chosen),
        "backend": found.choice.as_ref().and_then(|choice| choice.now.as_ref()).map(chosen),
        "next_hop": next_hop,
        "verdict": verdict,
        "port": port,
        "reason": reason,
        "headers": if sent { headers(frame) } else { Vec::new() },
        "why": steps.iter().map(|(name, text)| format!("{name}: {text}")).collect::<Vec<_>>(),
    })
}
