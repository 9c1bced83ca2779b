//! `penstock explain`: which service, slot, backend and next hop a packet would get, and why.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Failure, inputs, print_json, replay};
use crate::explain::{self, Asked, Explained};
use crate::service::Protocol;
use crate::snapshot::{Compiler, Millis};

/// Say which service, backend and next hop a packet would get, and why
///
/// Of a running node, or with --config and --services of documents alone.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's configuration; without it, a running node is asked
    #[arg(long, value_name = "FILE", requires = "services")]
    pub config: Option<PathBuf>,
    /// The service definitions
    #[arg(long, value_name = "FILE", requires = "config")]
    pub services: Option<PathBuf>,
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
    #[cfg(feature = "api")]
    #[command(flatten)]
    pub live: super::live::Live,
    /// Print the result as one JSON document
    #[cfg(not(feature = "api"))]
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
    let (Some(config), Some(services)) = (&args.config, &args.services) else { return live(args) };
    let loaded = inputs(config, services)?;
    let port = replay::port(&loaded.config, args.port.as_deref(), config)?;
    let fabric = loaded.config.fabric();
    let mut environment = loaded.config.environment();
    environment.lcores = 1;
    let snapshot = Compiler::new(environment).compile(&loaded.definitions, &fabric, Millis(0));
    let names: Vec<&str> = loaded.config.ports.iter().map(|port| port.name.as_str()).collect();
    let asked = Asked { source: args.source, destination: args.destination, protocol: args.protocol };
    let explained = explain::explain(&asked, &snapshot, Millis(0), port, &fabric, &names, explain::Memory::default());
    if is_json(args) {
        print_json(&explained.to_json())?;
    } else {
        print(&explained)?;
    }
    Ok(())
}

#[cfg(feature = "api")]
fn live(args: &Args) -> Result<(), Failure> {
    let request = crate::proto::ExplainRequest {
        source: args.source.to_string(),
        destination: args.destination.to_string(),
        protocol: args.protocol.name().to_owned(),
        port: args.port.clone(),
    };
    super::live::explain::run(&args.live, request)
}

#[cfg(not(feature = "api"))]
fn live(_: &Args) -> Result<(), Failure> {
    Err(Failure::BadInput("name --config and --services: this build talks to no node".to_owned()))
}

#[cfg(feature = "api")]
fn is_json(args: &Args) -> bool {
    args.live.json
}

#[cfg(not(feature = "api"))]
fn is_json(args: &Args) -> bool {
    args.json
}

fn print(explained: &Explained) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, text) in explained.steps() {
        writeln!(out, "{name:<9} {text}")?;
    }
    out.flush()
}
