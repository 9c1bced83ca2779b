//! What is asked for, checked by the rules that service definitions are checked by.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::json;

use super::{Args, Own};
use crate::mode;
use crate::service::{self, Forwarding, Problem, Service};
use crate::wire::{ipv4, ipv6, tcp};

/// Addresses that stand for a server's own as long as only its family matters.
const SOME: [&str; 4] = ["203.0.113.254", "198.51.100.254", "2001:db8::fffe", "2001:db8:ffff::fffe"];

pub(super) struct Asked {
    pub mode: Forwarding,
    /// In order, each once.
    pub vips: Vec<IpNet>,
    /// One for each VIP.
    services: Vec<Arc<Service>>,
    pub backend: Option<IpAddr>,
    pub device: String,
    pub ports: Vec<u16>,
    mtu: u16,
    client_mtu: u16,
    /// The command as it was given, but for its defaults.
    pub command: String,
}

impl Asked {
    /// Or what is wrong, one error a line, by the names of the flags.
    pub fn new(args: &Args) -> Result<Self, String> {
        let mut vips = args.vips.clone();
        vips.sort();
        vips.dedup();
        if args.mode == Forwarding::Dscp.name() {
            names_one_vip(&vips)?;
        }
        let port = args.ports.first().copied().unwrap_or(80);
        let services: Vec<_> = (vips.iter().enumerate())
            .map(|(number, vip)| {
                let some = || SOME.iter().find(|some| is_apart(some, vip, &vips)).unwrap_or(&SOME[0]).to_string();
                let backend = args.backend.map_or_else(some, |backend| backend.to_string());
                let mut service = json!({
                    "name": number.to_string(), "vip": text(vip), "port": port, "protocol": "tcp", "forwarding": args.mode,
                    "backends": [{"address": backend}],
                });
                if let Some(dscp) = args.dscp {
                    service["dscp"] = dscp.into();
                }
                for (key, value) in [("variant", args.gue_variant.map(u16::from)), ("port", args.gue_port)] {
                    if let Some(value) = value {
                        service["gue"][key] = value.into();
                    }
                }
                service
            })
            .collect();
        let document = json!({ "services": services }).to_string();
        let (definitions, _) = service::native(document, "", None).map_err(|errors| by_flags(&errors.0))?;
        let services = definitions.services;
        let mode = services[0].forwarding;
        let is_fit = |letter: char| letter.is_ascii_alphanumeric() || "._:-".contains(letter);
        if !(1..16).contains(&args.device.len()) || !args.device.chars().all(is_fit) {
            return Err(format!("--device: {:?} is not the name of a network device", args.device));
        }
        let asked = Self {
            mode,
            vips,
            services,
            backend: args.backend,
            device: args.device.clone(),
            ports: args.ports.clone(),
            mtu: args.mtu,
            client_mtu: args.client_mtu,
            command: command(args),
        };
        if let Some(least) =
            asked.services.iter().map(|service| asked.headers(service) + 1).max().filter(|least| asked.mtu < *least)
        {
            return Err(format!(
                "--mtu: {} leaves no room for a segment; {:?} needs {least} at least",
                asked.mtu,
                mode.name()
            ));
        }
        Ok(asked)
    }

    /// The families that the VIPs have; IPv4 first.
    pub fn families(&self) -> impl Iterator<Item = bool> {
        [true, false].into_iter().filter(|is_v4| self.of(*is_v4).is_some())
    }

    /// The server's own address for VIPs of a family.
    pub fn own(&self, is_v4: bool) -> Own {
        self.backend.map_or(Own::OfDevice { is_v4 }, Own::Named)
    }

    /// The details of `gue`.
    pub fn gue(&self) -> service::Gue {
        self.services[0].gue
    }

    /// The code point of `dscp`.
    pub fn dscp(&self) -> u8 {
        self.services[0].dscp.unwrap_or(0)
    }

    /// Bytes that packets to VIPs of a family grow by, at most.
    pub fn overhead(&self, is_v4: bool) -> u16 {
        self.of(is_v4).map_or(0, grown)
    }

    /// The largest segment of clients of a family that reaches the server, where theirs may be larger.
    pub fn segment(&self, is_v4: bool) -> Option<u16> {
        let service = self.of(is_v4)?;
        (self.client_mtu.saturating_add(grown(service)) > self.mtu).then(|| self.mtu - self.headers(service))
    }

    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Bytes around a segment's data on their way to the server, options aside.
    fn headers(&self, service: &Service) -> u16 {
        let ip = if service.vip.addr().is_ipv4() { ipv4::HEADER } else { ipv6::HEADER };
        grown(service) + (ip + tcp::HEADER) as u16
    }

    fn of(&self, is_v4: bool) -> Option<&Service> {
        self.services.iter().map(|service| &**service).find(|service| service.vip.addr().is_ipv4() == is_v4)
    }
}

/// A code point says which VIP of a family is meant, nothing more.
fn names_one_vip(vips: &[IpNet]) -> Result<(), String> {
    if let Some(prefix) = vips.iter().find(|vip| vip.prefix_len() != vip.max_prefix_len()) {
        return Err(format!("--vip: {prefix} is a prefix, and a code point of \"dscp\" names one address"));
    }
    let is_v4 = |vip: &IpNet| vip.addr().is_ipv4();
    match vips.windows(2).find(|pair| is_v4(&pair[0]) == is_v4(&pair[1])) {
        Some([one, other]) => Err(format!(
            "--vip: {} and {} cannot share a code point of \"dscp\"; print a recipe for each, with its own --dscp",
            one.addr(),
            other.addr()
        )),
        _ => Ok(()),
    }
}

fn grown(service: &Service) -> u16 {
    service.backends.iter().map(|backend| mode::overhead(service, backend)).max().unwrap_or(0)
}

/// Whether an address can stand for a server's own: of the VIP's family, and none of the VIPs.
fn is_apart(some: &str, vip: &IpNet, vips: &[IpNet]) -> bool {
    let some: IpAddr = some.parse().expect("an address");
    some.is_ipv4() == vip.addr().is_ipv4() && !vips.iter().any(|vip| vip.contains(&some))
}

/// A VIP as it is written in definitions.
pub(super) fn text(vip: &IpNet) -> String {
    if vip.prefix_len() == vip.max_prefix_len() { vip.addr().to_string() } else { vip.to_string() }
}

/// The errors of the definitions that the flags were made into, by the names of the flags; each once.
fn by_flags(errors: &[Problem]) -> String {
    let mut lines: Vec<String> = (errors.iter())
        .map(|Problem { path, reason, .. }| {
            let flag = match path.split_once("].").map_or("", |(_, key)| key) {
                "dscp" => "--dscp",
                "gue" => "--gue-variant, --gue-port",
                "gue.variant" => "--gue-variant",
                "gue.port" => "--gue-port",
                "vip" => "--vip",
                "port" => "--port",
                key if key.starts_with("backends") => "--backend",
                _ => path,
            };
            format!("{flag}: {reason}")
        })
        .collect();
    lines.dedup();
    lines.join("\n")
}

fn command(args: &Args) -> String {
    let mut words = vec![format!("penstock backend recipe --mode {}", args.mode)];
    let mut add = |flag: &str, value: Option<String>| words.extend(value.map(|value| format!("{flag} {value}")));
    args.vips.iter().for_each(|vip| add("--vip", Some(text(vip))));
    add("--backend", args.backend.map(|address| address.to_string()));
    add("--device", Some(args.device.clone()).filter(|device| device != "eth0"));
    add("--dscp", args.dscp.map(|code| code.to_string()));
    args.ports.iter().for_each(|port| add("--port", Some(port.to_string())));
    add("--gue-variant", args.gue_variant.map(|variant| variant.to_string()));
    add("--gue-port", args.gue_port.map(|port| port.to_string()));
    add("--mtu", Some(args.mtu).filter(|mtu| *mtu != 1500).map(|mtu| mtu.to_string()));
    add("--client-mtu", Some(args.client_mtu).filter(|mtu| *mtu != 1500).map(|mtu| mtu.to_string()));
    add("--format", (args.format == super::Format::Networkd).then(|| "networkd".to_owned()));
    words.join(" ")
}
