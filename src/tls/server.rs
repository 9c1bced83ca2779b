//! The server's side: a certificate of its own, and callers who prove theirs.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, server};

use super::{Error, Peer, files, names, provider, reason};
use crate::config::ApiTls;

/// An encrypted connection from a caller who proved who they are.
pub type Accepted = server::TlsStream<TcpStream>;

/// Makes TLS of TCP connections, by the files as they are at that moment.
#[derive(Debug)]
pub struct Server {
    files: ApiTls,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    made: Option<Made>,
    /// What is wrong with the files of now.
    fault: Option<String>,
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
        let this = Self { files, state: Mutex::default() };
        this.config()?;
        Ok(this)
    }

    /// The handshake; gives the DNS names of the caller's certificate, too.
    pub async fn accept(&self, stream: TcpStream) -> Result<(Accepted, Vec<String>), Error> {
        let acceptor = TlsAcceptor::from(self.config()?);
        let stream = acceptor.accept(stream).await.map_err(|error| Error::Handshake(reason(&error, Peer::Caller)))?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let names = certificates.first().map(names::dns_names).unwrap_or_default();
        Ok((stream, names))
    }

    /// By the files as they are now. While a new file cannot be used, the old one serves on, and the log says so once.
    fn config(&self) -> Result<Arc<ServerConfig>, Error> {
        let (config, news) = self.look()?;
        if let Some(fault) = news {
            tracing::warn!("api: {fault}; the certificates of before are used on");
        }
        Ok(config)
    }

    /// The configuration, and what is wrong with the files where that was not known yet.
    fn look(&self) -> Result<(Arc<ServerConfig>, Option<String>), Error> {
        let ApiTls { identity, ca, .. } = &self.files;
        let read = || Ok::<_, Error>([files::read(&identity.cert)?, files::read(&identity.key)?, files::read(ca)?]);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { made, fault } = &mut *state;
        let fresh = read().and_then(|of| match made {
            Some(made) if made.of == of => Ok(made.config.clone()),
            _ => {
                let config = Arc::new(self.make(&of)?);
                *made = Some(Made { of, config: config.clone() });
                Ok(config)
            }
        });
        match (fresh, made) {
            (Ok(config), _) => {
                *fault = None;
                Ok((config, None))
            }
            (Err(error), Some(made)) => {
                let text = error.to_string();
                let is_new = fault.as_ref() != Some(&text);
                *fault = Some(text.clone());
                Ok((made.config.clone(), is_new.then_some(text)))
            }
            (Err(error), None) => Err(error),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::config::Identity;
    use crate::tls::authority::Authority;

    #[test]
    fn a_file_that_cannot_be_used_is_said_once_and_the_old_one_serves_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let authority = Authority::new();
        let renew = || {
            let (cert, key) = authority.issue("node.example");
            fs::write(path("cert"), cert).unwrap();
            fs::write(path("key"), key).unwrap();
        };
        fs::write(path("ca"), &authority.pem).unwrap();
        renew();
        let identity = Identity { cert: path("cert"), key: path("key") };
        let server = Server::new(ApiTls { identity, ca: path("ca"), roles: BTreeMap::default() }).unwrap();
        let first = server.config().unwrap();
        for rubbish in ["rubbish", "-----BEGIN CERTIFICATE-----"] {
            fs::write(path("cert"), rubbish).unwrap();
            let (config, news) = server.look().unwrap();
            assert!(Arc::ptr_eq(&config, &first));
            assert!(news.is_some_and(|fault| fault.starts_with(&path("cert").display().to_string())));
            assert_eq!(server.look().unwrap().1, None);
        }
        renew();
        assert!(!Arc::ptr_eq(&server.config().unwrap(), &first));
        fs::write(path("cert"), "rubbish").unwrap();
        assert!(server.look().unwrap().1.is_some(), "what was mended may break again");
    }

    #[tokio::test]
    async fn a_caller_whose_certificate_is_refused_is_not_told_of_as_a_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (authority, stranger) = (Authority::new(), Authority::new());
        fs::write(path("ca"), &authority.pem).unwrap();
        for (name, (cert, key)) in
            [("node", authority.issue("127.0.0.1")), ("caller", stranger.issue("caller.example"))]
        {
            fs::write(path(name), cert).unwrap();
            fs::write(path(name).with_extension("key"), key).unwrap();
        }
        let identity = |name: &str| Identity { cert: path(name), key: path(name).with_extension("key") };
        let server =
            Server::new(ApiTls { identity: identity("node"), ca: path("ca"), roles: BTreeMap::default() }).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let tls = crate::config::Tls { ca: Some(path("ca")), identity: Some(identity("caller")) };
        let mut client = crate::tls::Client::new(tls, "h2");
        let accepting = async { server.accept(listener.accept().await.unwrap().0).await };
        let (accepted, _) = tokio::join!(accepting, client.connect("127.0.0.1", stream));
        let why = accepted.unwrap_err().to_string();
        assert!(why.starts_with("TLS: the caller's certificate is not signed"), "{why}");
    }
}
