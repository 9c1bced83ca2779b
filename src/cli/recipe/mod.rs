//! `penstock backend recipe`: what a real server needs for a mode, as commands.
//!
//! A mode says what it needs in parts (its file); `shell` and `networkd` print those, each in its own way.

mod asked;
mod cilium;
mod dscp;
mod l2dsr;
mod nat;
mod networkd;
mod shell;
mod tunnel;

use std::io::{self, Write};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Failure;
use crate::service::Forwarding;
use asked::Asked;

/// Print what a real server needs to serve a VIP
///
/// The output is a script for sh, to be run as root on the server (or in its network namespace): it needs ip, sysctl and
/// nft, and may be run again. Modes that need nothing from the server's kernel say in comments what is needed elsewhere.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The service's forwarding mode
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(Forwarding::NAMES))]
    pub mode: String,
    /// A VIP that the server is to have: an address, or a prefix; may be given several times
    #[arg(long = "vip", value_name = "ADDRESS", required = true, value_parser = address_or_prefix)]
    pub vips: Vec<IpNet>,
    /// The server's own address, as the service definitions have it; by default the first of --device
    #[arg(long, value_name = "ADDRESS")]
    pub backend: Option<IpAddr>,
    /// The server's network device
    #[arg(long, default_value = "eth0")]
    pub device: String,
    /// The service's code point, for dscp
    #[arg(long, value_name = "1-63")]
    pub dscp: Option<u8>,
    /// A port of the service, to be named in what is told of it; may be given several times
    #[arg(long = "port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,
    /// The service's "gue": {"variant": …}
    #[arg(long, value_name = "0|1")]
    pub gue_variant: Option<u8>,
    /// The service's "gue": {"port": …}; by default 6080, and 9886 for variant 1
    #[arg(long, value_name = "PORT")]
    pub gue_port: Option<u16>,
    /// The largest packet that the network carries from the load balancer to the server, bytes
    #[arg(long, default_value_t = 1500, value_name = "BYTES")]
    pub mtu: u16,
    /// The largest packet that clients send, bytes
    #[arg(long, default_value_t = 1500, value_name = "BYTES")]
    pub client_mtu: u16,
    /// Commands, or files of systemd-networkd
    #[arg(long, value_enum, default_value_t = Format::Shell)]
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Shell,
    Networkd,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let asked = Asked::new(args).map_err(Failure::BadInput)?;
    let text = match args.format {
        Format::Shell => shell::script(&asked, &parts(&asked)),
        Format::Networkd => networkd::script(&asked, &parts(&asked)).map_err(Failure::BadInput)?,
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// What belongs together, and why it is needed.
struct Part {
    why: String,
    steps: Vec<Step>,
}

impl Part {
    fn new(why: impl Into<String>, steps: impl IntoIterator<Item = Step>) -> Self {
        Self { why: why.into(), steps: steps.into_iter().collect() }
    }
}

/// One thing to be done on the server.
enum Step {
    /// An address or prefix becomes the server's own, on its loopback.
    Vip(IpNet),
    /// A key of net.ipv4.conf.
    Sysctl { device: String, key: &'static str, value: u8 },
    /// A device that takes packets out of a tunnel; with an address of its own, where it needs one.
    Tunnel { device: &'static str, kind: tunnel::Kind, own: Own, address: Option<IpAddr> },
    /// A UDP port whose packets are GUE.
    Gue { port: u16, is_v4: bool },
    /// Packets of a code point to the server's own address become ones to the VIP.
    Restore { code: u8, own: Own, vip: IpAddr },
    /// The largest segment that the server lets its clients of one family send.
    SegmentSize { is_v4: bool, bytes: u16 },
}

/// The server's own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Named(IpAddr),
    /// The first of the device, of that family.
    OfDevice {
        is_v4: bool,
    },
}

/// Mode by mode.
fn parts(asked: &Asked) -> Vec<Part> {
    let own = match asked.mode {
        Forwarding::Ipip => tunnel::ipip(asked),
        Forwarding::Gre => tunnel::gre(asked),
        Forwarding::Gue => tunnel::gue(asked),
        Forwarding::Dscp => dscp::parts(asked),
        Forwarding::L2dsr => l2dsr::parts(),
        Forwarding::Dnat => return nat::dnat(),
        Forwarding::Snat => return nat::snat(),
        Forwarding::Geneve => return cilium::geneve(asked),
        Forwarding::DnatDsr => return cilium::option(asked),
    };
    [vec![vips(asked)], own, segment_sizes(asked), vec![listeners(asked)]].into_iter().flatten().collect()
}

/// The VIPs become the server's own.
fn vips(asked: &Asked) -> Part {
    let mut why = "The VIP is the server's own, on its loopback: replies carry it.".to_owned();
    let mut steps: Vec<Step> = asked.vips.iter().copied().map(Step::Vip).collect();
    if asked.families().any(|is_v4| is_v4) {
        why += "\narp_ignore, arp_announce: it must not answer ARP for it, nor ask in its name.";
        let quiet = [("arp_ignore", 1), ("arp_announce", 2)];
        steps.extend(quiet.map(|(key, value)| Step::Sysctl { device: asked.device.clone(), key, value }));
    }
    Part::new(why, steps)
}

/// Where full-size packets of clients would not fit any more once they have grown.
fn segment_sizes(asked: &Asked) -> Vec<Part> {
    let part = |is_v4: bool| {
        let (family, grow) = (if is_v4 { "IPv4" } else { "IPv6" }, asked.overhead(is_v4));
        let bytes = asked.segment(is_v4)?;
        let why = format!(
            "Clients' {family} packets grow by {grow} bytes on their way here, and {} bytes are all that the network carries. So the server lets\n\
             its clients send segments of at most {bytes} bytes. Its replies do not grow, and stay as they are.\n\
             (A route that a daemon learns, by router advertisements say, is set anew by it: advmss belongs into its configuration.)",
            asked.mtu()
        );
        Some(Part::new(why, [Step::SegmentSize { is_v4, bytes }]))
    };
    asked.families().filter_map(part).collect()
}

/// What is left for the server itself to do.
fn listeners(asked: &Asked) -> Part {
    let ports: Vec<String> = asked.ports.iter().map(u16::to_string).collect();
    let port = match &ports[..] {
        [] => "the service's port".to_owned(),
        [one] => format!("port {one}"),
        many => format!("ports {}", many.join(", ")),
    };
    let why = format!(
        "Now whatever listens on {port} of the VIP, or of all addresses, serves it. (One that answers UDP must do so from the address that\n\
         it was asked at.)"
    );
    Part::new(why, [])
}

fn address_or_prefix(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse());
    let net = net.map_err(|_| "neither an address nor a prefix")?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(format!("bits are set behind the prefix; {} would be one", net.trunc()))
    }
}
