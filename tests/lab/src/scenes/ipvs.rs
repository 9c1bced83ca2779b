//! The kernel's own load balancer, IPVS, and penstock make the same of the same packets.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::{Scene, require};
use crate::capture::Capture;
use crate::frames::{self, Tunnelled};
use crate::lab::{Lab, VIP};
use crate::process::output;
use crate::say::Story;
use crate::site::{Kernel, TO_SITE};
use crate::sixth::{self, Sixth};
use crate::wait::until;

pub const SCENE: Scene =
    Scene { title: "ipvs: the kernel's own load balancer puts the same bytes into its tunnels", play };

/// Of nobody: all that matters of it is what is sent there.
const BACKENDS: [&str; 2] = ["10.2.0.200", "fd00:2::200"];
const BACKEND_MAC: &str = "02:00:00:00:00:aa";
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// To the backend of the VIP's own family, and to that of the other.
const TCP: [u16; 2] = [80, 81];
const UDP: u16 = 53;
const CLIENTS: u8 = 12;

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    if !Sixth::is_known() {
        story.skip("ipvs: this kernel has no IPv6");
        return Ok(());
    }
    lab.speak_ipv6()?;
    let played = compare(lab, story);
    lab.speak_ipv4_only();
    played
}

fn compare(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let director = lab.site()?.server("director", Kernel::WithTunnels)?;
    if director.run("ipvsadm --list").is_err() {
        story.skip("ipvs: the kernel that has tunnels lacks it");
        return Ok(());
    }
    let services = services();
    director.run(&format!("ip address add {VIP}/32 dev lo"))?;
    director.run(&format!("ip address add {}/128 dev lo", sixth::VIP))?;
    for backend in BACKENDS {
        director.run(&format!("ip neighbour add {backend} lladdr {BACKEND_MAC} dev eth0"))?;
    }
    for (vip, protocol, port, backend) in &services {
        let (flag, vip) = (if *protocol == "tcp" { "-t" } else { "-u" }, bracketed(vip, *port));
        director.run(&format!("ipvsadm -A {flag} {vip} -s rr"))?;
        director.run(&format!("ipvsadm -a {flag} {vip} -r {} -i", bracketed(backend, *port)))?;
    }

    let mac = director.run("cat /sys/class/net/eth0/address")?.trim().to_owned();
    let to = octets(&mac).context("a MAC address")?;
    let mut sent = Vec::new();
    for (vip, client) in [(VIP, "198.51.100."), (sixth::VIP, "2001:db8:c::")] {
        let clients: Vec<IpAddr> =
            (1..=CLIENTS).map(|number| Ok(format!("{client}{}", 100 + number).parse()?)).collect::<Result<_>>()?;
        sent.extend(frames::of_clients(SENDER, to, &clients, vip.parse()?, &TCP, UDP)?);
    }
    let capture = lab.directory().join("ipvs-sent.pcap");
    frames::write(&capture, &sent)?;

    let mut by_kernel = Vec::new();
    story.claim(&format!("IPVS tunnels all {} packets of {} clients", sent.len(), 2 * CLIENTS), || {
        let filter = format!("ether src {mac} and ether dst {BACKEND_MAC}");
        let at_site = Capture::whole(&lab.router, TO_SITE, &filter, lab.directory().join("ipvs-kernel.pcap"))?;
        let mut send = lab.router.command("tcpreplay");
        output(send.args(["--quiet", "--pps=500", "--intf1", TO_SITE]).arg(&capture))?;
        let mut caught = Vec::new();
        let all = until("as many packets behind IPVS as before it", Duration::from_secs(10), || {
            caught = frames::read(at_site.file())?;
            Ok((caught.len() >= sent.len()).then_some(()))
        });
        require(all.is_ok() && caught.len() == sent.len(), || format!("{} came out", caught.len()))?;
        by_kernel =
            caught.iter().map(|frame| Tunnelled::parse(frame).context("a tunnelled packet")).collect::<Result<_>>()?;
        Ok(format!("{} packets came out, by {}", caught.len(), director.run("uname -sr")?.trim()))
    })?;
    story.claim("penstock puts the same bytes into the same tunnels, but that the TTL inside stays", || {
        let mut ours = replay(lab, &services, &mac)?;
        require(ours.len() == sent.len(), || format!("{} of {} came out", ours.len(), sent.len()))?;
        // IPVS routes the inner packet, and takes one from its TTL; penstock leaves it as it came.
        ours = ours.into_iter().map(Tunnelled::one_hop_on).collect();
        let mut theirs = std::mem::take(&mut by_kernel);
        ours.sort();
        theirs.sort();
        if let Some((ours, theirs)) = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs) {
            anyhow::bail!("the first that differs:\npenstock {ours:02x?}\nIPVS     {theirs:02x?}");
        }
        let bytes: usize = ours.iter().map(|packet| packet.inner.len()).sum();
        Ok(format!("{} packets, {bytes} bytes inside, in all four pairs of families", ours.len()))
    })
}

/// VIP, protocol, port, and the backend that takes it.
fn services() -> Vec<(&'static str, &'static str, u16, &'static str)> {
    let [four, six] = BACKENDS;
    let of = |vip, own, other| [(vip, "tcp", TCP[0], own), (vip, "tcp", TCP[1], other), (vip, "udp", UDP, own)];
    [of(VIP, four, six), of(sixth::VIP, six, four)].concat()
}

/// What `penstock replay` makes of the capture, on a port with that MAC address.
fn replay(lab: &Lab, services: &[(&str, &str, u16, &str)], mac: &str) -> Result<Vec<Tunnelled>> {
    let one = |(vip, protocol, port, backend): &(&str, &str, u16, &str)| {
        json!({"name": format!("{vip} {protocol} {port}"), "vip": vip, "port": port, "protocol": protocol, "forwarding": "ipip",
               "backends": [{"address": backend}]})
    };
    let definitions = json!({"services": services.iter().map(one).collect::<Vec<_>>()});
    let file = |name: &str| lab.directory().join(format!("ipvs-{name}"));
    std::fs::write(file("services.json"), definitions.to_string())?;
    let neighbors = BACKENDS
        .map(|address| format!("[[neighbor]]\naddress = \"{address}\"\nmac = \"{BACKEND_MAC}\"\nport = \"wan0\"\n"));
    let configuration = format!(
        "[dpdk]\nlcores = [1]\n[[port]]\nname = \"wan0\"\ndevice = \"net_null0\"\nmac = \"{mac}\"\n\
         [encap]\nipv4_source = \"10.2.0.1\"\nipv6_source = \"fd00:2::1\"\n[hash]\nseed = \"cGVuc3RvY2sgbGFiIDAwMQ==\"\n{}",
        neighbors.concat()
    );
    std::fs::write(file("penstock.toml"), configuration)?;
    let [configuration, services, sent, made] =
        ["penstock.toml", "services.json", "sent.pcap", "penstock.pcap"].map(|name| file(name).display().to_string());
    lab.node.replay(&["--config", &configuration, "--services", &services, "--in", &sent, "--out", &made])?;
    frames::read(made.as_ref())?.iter().map(|frame| Tunnelled::parse(frame).context("a tunnelled packet")).collect()
}

/// An address and port as ipvsadm wants them.
fn bracketed(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn octets(mac: &str) -> Option<[u8; 6]> {
    let octets: Option<Vec<u8>> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets?.try_into().ok()
}
