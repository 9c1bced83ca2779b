//! PEM files (RFC 7468).

use std::path::Path;

use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Error;

pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::Unreadable { path: path.to_owned(), error })
}

/// The certificates of a file that was read, at least one.
pub fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match all {
        Ok(certificates) if certificates.is_empty() => Err(Error::Empty { path: path.to_owned(), what: "certificate" }),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(not_pem(path, &error)),
    }
}

/// The first private key of a file that was read.
pub fn key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => Error::Empty { path: path.to_owned(), what: "private key" },
        error => not_pem(path, &error),
    })
}

/// The bytes of a key are nobody's business, so nothing of the file is shown.
fn not_pem(path: &Path, error: &pem::Error) -> Error {
    let error = match error {
        pem::Error::MissingSectionEnd { .. } => "a section does not end".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a section does not begin well".to_owned(),
        pem::Error::Base64Decode(_) => "a section is not base64".to_owned(),
        _ => "it cannot be understood".to_owned(),
    };
    Error::NotPem { path: path.to_owned(), error }
}
