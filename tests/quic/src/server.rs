//! The server: on each stream it says who it is, and from where the client's packets come at that moment.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::{Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};

use crate::connection_id::Ids;
use crate::{CERTIFICATE, KEY};

/// Serves until killed.
pub async fn serve(directory: &Path, name: &str, address: SocketAddr, ids: Ids) -> Result<()> {
    let certificate = CertificateDer::from(std::fs::read(directory.join(CERTIFICATE))?);
    let key = PrivatePkcs8KeyDer::from(std::fs::read(directory.join(KEY))?);
    let server = ServerConfig::with_single_cert(vec![certificate], key.into())?;
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(ids.clone()));
    let socket = UdpSocket::bind(address).with_context(|| address.to_string())?;
    let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))?;
    println!("ready");
    while let Some(incoming) = endpoint.accept().await {
        let name = name.to_string();
        tokio::spawn(async move {
            let ended = match incoming.await {
                Ok(connection) => answer(&name, &connection).await.err(),
                Err(error) => Some(error.into()),
            };
            if let Some(error) = ended {
                println!("{error:#}");
            }
        });
    }
    Ok(())
}

async fn answer(name: &str, connection: &Connection) -> Result<()> {
    println!("accepted {}", connection.remote_address());
    loop {
        let (mut send, mut receive) = connection.accept_bi().await?;
        receive.read_to_end(1024).await?;
        send.write_all(format!("{name} {}", connection.remote_address()).as_bytes()).await?;
        send.finish()?;
    }
}
