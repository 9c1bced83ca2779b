//! `penstock drain` and `penstock undrain`: a backend out of the way, and back.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde_json::json;
use tonic::Code;

use super::table::grouped;
use super::{Failure, Live, Node, ask, print_json};
use crate::cli::say;
use crate::proto::{DrainRequest, ListBackendsRequest, UndrainRequest};

/// Give a backend no new flow, until it is undrained; its flows stay
///
/// It lasts whatever the feed says, and over restarts. Exit code 0: it drains; with --wait: none of its flows is left that this
/// node knows of, as where it is taken out of the definitions meanwhile.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    whom: Whom,
    /// Return when none of its flows is left that this node knows of
    #[arg(long)]
    wait: bool,
    /// With --wait: give up after so many seconds (exit code 1); the backend drains on
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    timeout: Option<u64>,
}

/// Give a drained backend new flows again
#[derive(Debug, clap::Args)]
pub struct UndrainArgs {
    #[command(flatten)]
    whom: Whom,
}

#[derive(Debug, clap::Args)]
struct Whom {
    /// The backend: an address, perhaps with a port
    #[arg(value_name = "BACKEND")]
    backend: String,
    /// Only in this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    #[command(flatten)]
    live: Live,
}

/// How often the flows that are left are asked for.
const PERIOD: Duration = Duration::from_millis(500);

pub fn run(args: &Args) -> Result<(), Failure> {
    let Args { whom: Whom { backend, service, live }, wait, timeout } = args;
    ask(live, async |node| {
        let request = DrainRequest { backend: backend.clone(), service: service.clone() };
        let services = node.call(node.backends().drain(request)).await?.services;
        if !live.json {
            let mut out = io::stdout().lock();
            writeln!(out, "{backend} drains in {}", listed(&services))?;
        }
        let left = if *wait { Some(wait_for(&node, backend, service, *timeout).await?) } else { None };
        if live.json {
            print_json(&json!({"backend": backend, "services": services, "flows": left}))?;
        }
        Ok(())
    })
}

pub fn undrain(args: &UndrainArgs) -> Result<(), Failure> {
    let Whom { backend, service, live } = &args.whom;
    ask(live, async |node| {
        let request = UndrainRequest { backend: backend.clone(), service: service.clone() };
        let services = node.call(node.backends().undrain(request)).await?.services;
        if live.json {
            print_json(&json!({"backend": backend, "services": services}))?;
        } else {
            writeln!(io::stdout().lock(), "{backend} takes new flows again in {}", listed(&services))?;
        }
        Ok(())
    })
}

fn listed(services: &[String]) -> String {
    match services {
        [] => "no service".to_owned(),
        [one] => one.clone(),
        several if several.len() <= 5 => several.join(", "),
        several => format!("{} and {} more services", several[..4].join(", "), several.len() - 4),
    }
}

/// Until no flow is left; says how many are, as they go.
async fn wait_for(node: &Node, backend: &str, service: &Option<String>, timeout: Option<u64>) -> Result<u64, Failure> {
    let deadline = timeout.map(|seconds| std::time::Instant::now() + Duration::from_secs(seconds));
    let mut said = String::new();
    loop {
        let request = ListBackendsRequest { service: service.clone(), backend: Some(backend.to_owned()) };
        let list = match node.backends().list(request).await {
            Ok(list) => list.into_inner().backends,
            Err(status) if status.code() == Code::NotFound => {
                say(format_args!("{backend} is gone: {}; what it had is chosen anew", status.message()));
                return Ok(0);
            }
            Err(status) => return Err(node.failure(&status)),
        };
        let (flows, unsettled) = list
            .iter()
            .fold((0, 0), |sum, backend| (sum.0 + backend.flows, sum.1 + u64::from(backend.unsettled_slots)));
        let text = match (flows, unsettled) {
            (0, 0) if list.iter().any(|backend| !backend.flows_known) => {
                "unknown how many flows are left: they are being counted".to_owned()
            }
            (0, 0) => {
                if io::stderr().is_terminal() || !said.is_empty() {
                    say("no flow is left that this node knows of");
                }
                return Ok(0);
            }
            (flows, 0) => format!("{} flows are left", grouped(flows)),
            (flows, slots) => format!(
                "unknown how many flows are left: {} are remembered, and {} slots are not at rest",
                grouped(flows),
                grouped(slots)
            ),
        };
        if text != said {
            say(&text);
            said = text;
        }
        if deadline.is_some_and(|deadline| std::time::Instant::now() >= deadline) {
            return Err(Failure::Failed(format!("gave up waiting: {said}; {backend} drains on")));
        }
        tokio::time::sleep(PERIOD).await;
    }
}
