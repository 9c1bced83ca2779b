//! The server's side: a certificate of its own, and callers who prove theirs.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, server};

use super::{Error, files, names, provider, reason};
use crate::config::ApiTls;

/// An encrypted connection from a caller who proved who they are.
pub type Accepted = server::TlsStream<TcpStream>;

/// Makes TLS of TCP connections, by the files as they are at that moment.
#[derive(Debug)]
pub struct Server {
    files: ApiTls,
    made: Mutex<Option<Made>>,
}

/// A configuration, and the bytes of the files it was made of.
#[derive(Debug)]
struct Made {
    of: [Vec<u8>; 3],
    config: Arc<ServerConfig>,
}

impl Server {
    /// Reads the files once, so that what is wrong with them is known from the start.
    pub fn new(files: ApiTls) -> Result<Self, Error> {
        let this = Self { files, made: Mutex::default() };
        this.config()?;
        Ok(this)
    }

    /// The handshake; gives the DNS names of the caller's certificate, too.
    pub async fn accept(&self, stream: TcpStream) -> Result<(Accepted, Vec<String>), Error> {
        let acceptor = TlsAcceptor::from(self.config()?);
        let stream = acceptor.accept(stream).await.map_err(|error| Error::Handshake(reason(&error)))?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let names = certificates.first().map(names::dns_names).unwrap_or_default();
        Ok((stream, names))
    }

    /// By the files as they are now. While a new file cannot be used, the old one serves on.
    fn config(&self) -> Result<Arc<ServerConfig>, Error> {
        let ApiTls { identity, ca, .. } = &self.files;
        let read = || Ok([files::read(&identity.cert)?, files::read(&identity.key)?, files::read(ca)?]);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = read().and_then(|of| match &*made {
            Some(made) if made.of == of => Ok(None),
            _ => self.make(&of).map(|config| Some(Made { of, config: Arc::new(config) })),
        });
        match (fresh, &*made) {
            (Ok(Some(fresh)), _) => {
                let config = fresh.config.clone();
                *made = Some(fresh);
                Ok(config)
            }
            (Ok(None), Some(made)) => Ok(made.config.clone()),
            (Err(error), Some(made)) => {
                tracing::warn!("api: {error}; the certificates of before are used on");
                Ok(made.config.clone())
            }
            (Err(error), None) => Err(error),
            (Ok(None), None) => unreachable!("nothing made is nothing known"),
        }
    }

    fn make(&self, [cert, key, ca]: &[Vec<u8>; 3]) -> Result<ServerConfig, Error> {
        let ApiTls { identity, ca: ca_path, .. } = &self.files;
        let roots = Arc::new(roots(ca_path, ca)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| Error::Verifier { path: ca_path.clone(), error: error.to_string() })?;
        let chain = files::certificates(&identity.cert, cert)?;
        // Said now rather than to each caller.
        if let Some(first) = chain.first() {
            ParsedCertificate::try_from(first)
                .map_err(|error| Error::Certificate { path: identity.cert.clone(), error })?;
        }
        let key = files::key(&identity.key, key)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(Error::Versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| Error::Identity { cert: identity.cert.clone(), key: identity.key.clone(), error })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn roots(path: &Path, ca: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in files::certificates(path, ca)? {
        roots.add(certificate).map_err(|error| Error::Certificate { path: path.to_owned(), error })?;
    }
    Ok(roots)
}
