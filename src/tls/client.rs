//! The client's side: whom it trusts, and as whom it comes.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::{TlsConnector, client};

use super::{Error, Peer, files, provider, reason};
use crate::config::Tls;

/// An encrypted connection to a server that proved its name.
pub type Stream = client::TlsStream<TcpStream>;

/// Makes TLS of TCP connections, by the files as they are at that moment.
pub struct Client {
    files: Tls,
    /// The protocol spoken above, by its name in ALPN (RFC 7301).
    protocol: &'static str,
    made: Option<Made>,
}

/// A configuration, and the bytes of the files it was made of.
struct Made {
    of: Contents,
    config: Arc<ClientConfig>,
}

#[derive(PartialEq, Eq)]
struct Contents {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl Client {
    pub fn new(files: Tls, protocol: &'static str) -> Self {
        Self { files, protocol, made: None }
    }

    /// The handshake with the server `host`, a name or an address.
    pub async fn connect(&mut self, host: &str, stream: TcpStream) -> Result<Stream, Error> {
        let connector = TlsConnector::from(self.config()?);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::Name(host.to_owned()))?;
        connector.connect(name, stream).await.map_err(|error| Error::Handshake(reason(&error, Peer::Server)))
    }

    /// The configuration by the files as they are now; the same one (with its sessions to resume) while they are. The system's authorities
    /// are read when it is made.
    pub fn config(&mut self) -> Result<Arc<ClientConfig>, Error> {
        let identity = self.files.identity.as_ref();
        let of = Contents {
            ca: self.files.ca.as_deref().map(files::read).transpose()?,
            cert: identity.map(|identity| files::read(&identity.cert)).transpose()?,
            key: identity.map(|identity| files::read(&identity.key)).transpose()?,
        };
        if let Some(made) = self.made.as_ref().filter(|made| made.of == of) {
            return Ok(made.config.clone());
        }
        let config = Arc::new(self.make(&of)?);
        self.made = Some(Made { of, config: config.clone() });
        Ok(config)
    }

    fn make(&self, of: &Contents) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(Error::Versions)?
            .with_root_certificates(self.roots(of)?);
        let mut config = match (&self.files.identity, &of.cert, &of.key) {
            (Some(identity), Some(cert), Some(key)) => {
                let chain = files::certificates(&identity.cert, cert)?;
                let key = files::key(&identity.key, key)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    let (cert, key) = (identity.cert.clone(), identity.key.clone());
                    Error::Identity { cert, key, error }
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![self.protocol.into()];
        Ok(config)
    }

    fn roots(&self, of: &Contents) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        if let (Some(path), Some(ca)) = (&self.files.ca, &of.ca) {
            for certificate in files::certificates(path, ca)? {
                roots.add(certificate).map_err(|error| Error::Certificate { path: path.clone(), error })?;
            }
            return Ok(roots);
        }
        let system = rustls_native_certs::load_native_certs();
        // Some of a system's certificates are always too odd for somebody; the rest serve.
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            let why = system.errors.first().map_or_else(|| "there is none".to_owned(), ToString::to_string);
            return Err(Error::NoRoots(why));
        }
        Ok(roots)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::config::Identity;
    use crate::tls::authority::Authority;

    /// A directory with `ca`, `cert` and `key` in it, and a client of these.
    fn scene() -> (tempfile::TempDir, Client) {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (cert, key) = authority.issue("feed.example");
        let path = |name: &str| -> PathBuf { directory.path().join(name) };
        for (name, text) in [("ca", &authority.pem), ("cert", &cert), ("key", &key)] {
            fs::write(path(name), text).unwrap();
        }
        let identity = Some(Identity { cert: path("cert"), key: path("key") });
        let client = Client::new(Tls { ca: Some(path("ca")), identity }, "http/1.1");
        (directory, client)
    }

    #[test]
    fn a_configuration_is_made_anew_only_when_a_file_differs() {
        let (directory, mut client) = scene();
        let first = client.config().unwrap();
        assert!(Arc::ptr_eq(&first, &client.config().unwrap()));
        fs::write(directory.path().join("ca"), Authority::new().pem).unwrap();
        assert!(!Arc::ptr_eq(&first, &client.config().unwrap()));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let another = Authority::new().issue("feed.example").1;
        for (name, text, expected) in [
            ("ca", "", "ca: no certificate in it"),
            ("cert", "no PEM at all", "cert: no certificate in it"),
            ("key", "-----BEGIN PRIVATE KEY-----\nAAAA", "key: not PEM: a section does not end"),
            ("key", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "key: no private key in it"),
            (
                "ca",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "ca: a certificate in it cannot be used",
            ),
            ("key", another.as_str(), "do not make an identity: keys may not be consistent"),
        ] {
            let (directory, mut client) = scene();
            fs::write(directory.path().join(name), text).unwrap();
            let said = client.config().unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
            assert!(said.contains(&directory.path().display().to_string()), "{said}");
        }
    }

    #[test]
    fn a_file_that_is_gone_is_an_error_until_it_is_back() {
        let (directory, mut client) = scene();
        let (ca, aside) = (directory.path().join("ca"), directory.path().join("aside"));
        fs::rename(&ca, &aside).unwrap();
        assert!(matches!(client.config(), Err(Error::Unreadable { path, .. }) if path == ca));
        fs::rename(&aside, &ca).unwrap();
        assert!(client.config().is_ok());
    }
}
