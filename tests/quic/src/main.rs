//! A QUIC server whose connection IDs name it to a load balancer, and a client that moves in mid-connection; both quinn.
//!
//! ```text
//! penstock-lab-quic certificate DIRECTORY
//! penstock-lab-quic server DIRECTORY NAME ADDRESS CONFIG_ID SERVER_ID
//! penstock-lab-quic client DIRECTORY SERVER LOCAL…    one request from each local address in turn, on one connection
//! ```

mod client;
mod connection_id;
mod server;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

/// The name in the certificate.
const HOST: &str = "quic.test";
const CERTIFICATE: &str = "certificate.der";
const KEY: &str = "key.der";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-lab-quic: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match *words {
        ["certificate", directory] => certificate(Path::new(directory)),
        ["server", directory, name, address, config_id, server_id] => {
            let ids = connection_id::Ids::new(config_id.parse()?, server_id)?;
            runtime.block_on(server::serve(Path::new(directory), name, address.parse()?, ids))
        }
        ["client", directory, server, ref locals @ ..] => {
            let locals =
                locals.iter().map(|local| local.parse().context("a local address")).collect::<Result<Vec<_>>>()?;
            runtime.block_on(client::move_about(Path::new(directory), server.parse()?, &locals))
        }
        _ => bail!("certificate, server or client? See the head of tests/quic/src/main.rs"),
    }
}

/// One certificate and key for all servers, as a fleet has them.
fn certificate(directory: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec![HOST.into()])?;
    std::fs::write(directory.join(CERTIFICATE), made.cert.der())?;
    std::fs::write(directory.join(KEY), made.signing_key.serialize_der())?;
    Ok(())
}
