//! The client: one connection, and a request from one local address after the other.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::CertificateDer;
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, TokioRuntime};

use crate::{CERTIFICATE, HOST};

/// For each answer; a packet that is lost is sent again well within it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints `LOCAL answered SERVER-NAME SEEN-FROM` or `LOCAL unanswered` for each address, and ends with the first that is not answered.
pub async fn move_about(directory: &Path, server: SocketAddr, locals: &[SocketAddr]) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(directory.join(CERTIFICATE))?))?;
    let (first, others) = locals.split_first().context("no local address")?;
    let mut endpoint = Endpoint::new(EndpointConfig::default(), None, bind(first)?, Arc::new(TokioRuntime))?;
    endpoint.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots))?);
    let connection = endpoint.connect(server, HOST)?.await.context("connect")?;
    if !asked(&connection, first).await {
        return Ok(());
    }
    for local in others {
        endpoint.rebind(bind(local)?)?;
        if !asked(&connection, local).await {
            return Ok(());
        }
    }
    connection.close(0u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok(())
}

fn bind(local: &SocketAddr) -> Result<UdpSocket> {
    UdpSocket::bind(local).with_context(|| local.to_string())
}

/// Whether a request on the connection was answered, which it prints.
async fn asked(connection: &Connection, local: &SocketAddr) -> bool {
    match tokio::time::timeout(PATIENCE, ask(connection)).await {
        Ok(Ok(answer)) => println!("{local} answered {answer}"),
        Ok(Err(error)) => {
            println!("{local} unanswered: {error:#}");
            return false;
        }
        Err(_) => {
            println!("{local} unanswered: nothing came within {PATIENCE:?}");
            return false;
        }
    }
    true
}

async fn ask(connection: &Connection) -> Result<String> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(b"who?").await?;
    send.finish()?;
    Ok(String::from_utf8(receive.read_to_end(1024).await?)?)
}
