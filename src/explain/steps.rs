//! What was found, in words: a line a step of the packet's way.

use std::net::{IpAddr, SocketAddr};

use super::Asked;
use super::packet::headers;
use crate::pipeline::{By, Choice, Chosen, Explanation, Matched, Verdict};
use crate::service::{Forwarding, Hash, Service, State};
use crate::snapshot::{Fabric, PortIndex, Way};

/// A step's name, and what it found and why.
pub type Step = (&'static str, String);

pub fn steps<'a>(
    asked: &Asked,
    found: &Explanation,
    fabric: &Fabric,
    name: &impl Fn(PortIndex) -> &'a str,
    port: &str,
    frame: &[u8],
) -> Vec<Step> {
    let mut steps = vec![(
        "packet",
        format!("{} {} -> {}, received on {port}", asked.protocol.name(), asked.source, asked.destination),
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
        steps.extend(choice_steps(asked, service, choice));
        steps.push(("mode", mode(service, choice.goes.as_ref())));
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

pub fn is_sent(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Forward(_) | Verdict::Answer(_) | Verdict::Reject(_))
}

fn choice_steps(asked: &Asked, service: &Service, choice: &Choice) -> Vec<Step> {
    let backend = |chosen: &Chosen| format!("{}, weight {}", chosen.endpoint, chosen.weight);
    let (name, hash) = (service.hash.name(), choice.hash);
    let of = match service.hash {
        Hash::SourceIp => asked.source.ip().to_string(),
        _ => asked.source.to_string(),
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
            Some(now) => {
                let drawn = if now == owner { "" } else { ", drawn for the slot in the owner's place" };
                let rest = match &choice.base {
                    None => "now and base are equal: the slot is at rest".to_owned(),
                    Some(base) => format!("flows that nobody remembers are still with {} (base)", base.endpoint),
                };
                format!("{}{drawn}; {rest}", backend(now))
            }
        },
    ));
    match (&choice.goes, choice.by) {
        (Some(goes), By::Flow) => {
            steps.push(("flow", format!("it is remembered, and {} keeps it: it goes there", goes.endpoint)));
        }
        (Some(goes), By::Client) => {
            steps.push(("client", format!("it was with {} within the affinity timeout: it goes there", goes.endpoint)));
        }
        _ => {}
    }
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
    name: &impl Fn(PortIndex) -> &'a str,
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
