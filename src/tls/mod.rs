//! TLS by rustls and ring: certificates and keys from PEM files.
//!
//! The files are read again for each connection, and what was made of them is made anew only where their bytes
//! differ: whoever replaces a certificate need tell nobody.

#[cfg(test)]
pub(crate) mod authority;
mod client;
mod expiry;
mod files;
#[cfg(feature = "api")]
mod names;
#[cfg(feature = "api")]
mod server;

use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::{self, CertificateError, crypto};

pub use client::{Client, Stream};
pub use expiry::expiry;
#[cfg(feature = "api")]
pub use server::{Accepted, Server};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}: not PEM: {error}", path.display())]
    NotPem { path: PathBuf, error: String },
    #[error("{}: no {what} in it", path.display())]
    Empty { path: PathBuf, what: &'static str },
    #[error("{}: a certificate in it cannot be used: {error}", path.display())]
    Certificate { path: PathBuf, error: rustls::Error },
    #[error("{}: no certificate that tells when it expires", path.display())]
    NoExpiry { path: PathBuf },
    #[error("{} and {} do not make an identity: {error}", cert.display(), key.display())]
    Identity { cert: PathBuf, key: PathBuf, error: rustls::Error },
    #[error("no certificate authority of the system can be read; name one by `ca`: {0}")]
    NoRoots(String),
    #[error("{}: callers cannot be checked by it: {error}", path.display())]
    Verifier { path: PathBuf, error: String },
    #[error(transparent)]
    Versions(rustls::Error),
    #[error("{0:?} is not a name that a certificate can be for")]
    Name(String),
    #[error("{0}")]
    Handshake(String),
}

/// By whose code all TLS is made.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

/// Who is on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Server,
    #[cfg(feature = "api")]
    Caller,
}

/// What was wrong, where it was TLS.
pub fn fault(error: &std::io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    // One within another is how it comes out of hyper.
    inner.downcast_ref().or_else(|| fault(inner.downcast_ref()?))
}

/// Why a handshake, or what followed it, failed; the same each time, so without rustls' clocks in it.
pub fn reason(error: &std::io::Error, peer: Peer) -> String {
    let fault = match fault(error) {
        Some(rustls::Error::InvalidCertificate(fault)) => fault,
        Some(other) => return format!("TLS: {other}"),
        None => return error.to_string(),
    };
    let fault = match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet".to_owned(),
        // The second: an authority of the same name, and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is not signed by an authority that is trusted here (`ca`)".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name".to_owned()
        }
        other => format!("is refused: {other}"),
    };
    let whose = match peer {
        Peer::Server => "server",
        #[cfg(feature = "api")]
        Peer::Caller => "caller",
    };
    format!("TLS: the {whose}'s certificate {fault}")
}
