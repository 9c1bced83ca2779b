//! `https`: the same through TLS.
//!
//! Certificates are not verified: the question is whether the server works, it is asked by an address, which has no name
//! to verify, and nothing secret is sent. Whoever could answer in a backend's place gets the clients' packets as well.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::{Failure, Fault, To, by, tcp};
use crate::health::probe::Question;
use crate::tls;

pub struct Client(TlsConnector);

impl Client {
    pub fn new() -> Self {
        let provider = tls::provider();
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        // Each probe asks for everything that a new client does.
        config.resumption = Resumption::disabled();
        Self(TlsConnector::from(Arc::new(config)))
    }

    pub async fn connect(
        &self,
        question: &Question,
        to: &To<'_>,
        deadline: Instant,
    ) -> Result<TlsStream<TcpStream>, Fault> {
        let stream = tcp::connect(to, deadline).await?;
        // The last message of the handshake and the request are written one after the other.
        stream.set_nodelay(true)?;
        by(deadline, Failure::NoAnswer, self.0.connect(name(question, to.address), stream)).await
    }
}

/// What SNI says: the host, where that is a name.
fn name(question: &Question, address: SocketAddr) -> ServerName<'static> {
    let host = question.host.as_deref().map(|host| {
        let port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        host.rsplit_once(':').filter(|(_, end)| port(end)).map_or(host, |(name, _)| name)
    });
    let named = host.and_then(|host| ServerName::try_from(host.to_owned()).ok());
    named.unwrap_or_else(|| ServerName::IpAddress(address.ip().into()))
}

/// What was wrong, where it was TLS.
pub fn failure(error: &std::io::Error) -> Option<Failure> {
    Some(Failure::Tls(tls::fault(error)?.to_string().into()))
}

/// Takes any certificate.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::CheckKind;

    #[test]
    fn sni_is_the_host_where_that_is_a_name() {
        let named = |host: Option<&str>| {
            let host = host.map(Into::into);
            let question = Question { kind: CheckKind::Https, path: "/".into(), host, expect_status: 200 };
            name(&question, "192.0.2.1:443".parse().unwrap()).to_str().into_owned()
        };
        assert_eq!(named(Some("a.example")), "a.example");
        assert_eq!(named(Some("a.example:8443")), "a.example");
        assert_eq!(named(None), "192.0.2.1");
        assert_eq!(named(Some("no name!")), "192.0.2.1");
    }
}
