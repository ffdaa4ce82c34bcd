//! A certificate and its key, from files.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem},
};

/// The longest file, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// Why TLS cannot be served with these files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is of no use.
    #[error("cannot use {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: PemError,
    },
    /// They do not go together, or are of a kind that is not known.
    #[error("the certificate {} and the key {} cannot be used: {}", certificate.display(), key.display(), words(error))]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong with them.
        error: rustls::Error,
    },
    /// There is no randomness, mostly.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[source] rustls::Error),
}

/// What is wrong with a PEM file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is far too long.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// Something in it cannot be read.
    #[error("it is not PEM: {}", pem_words(.0))]
    Pem(pem::Error),
    /// It holds something else.
    #[error("it holds no {0} in PEM form")]
    None(&'static str),
}

/// What a server needs to speak TLS 1.2 and 1.3, with HTTP/1.1 in it, from PEM files: its certificate, with those that
/// lead to a root behind it, and its key.
///
/// # Errors
/// Which file is of no use, and why.
pub fn server(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let file = |path: &Path, error| TlsError::File { path: path.to_owned(), error };
    let chain = chain(certificate).map_err(|error| file(certificate, error))?;
    let secret = secret(key).map_err(|error| file(key, error))?;
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| TlsError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            error,
        })?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Clients come back: what they bring with them spares both sides the certificate, and us the memory.
    server.ticketer = ring::Ticketer::new().map_err(TlsError::Setup)?;
    Ok(Arc::new(server))
}

fn pem_words(error: &pem::Error) -> String {
    match error {
        // Its own words give the bytes as numbers.
        pem::Error::MissingSectionEnd { .. } => "it ends in the middle of a section".to_owned(),
        error => error.to_string(),
    }
}

fn words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => "the key is not the certificate's".to_owned(),
        error => error.to_string(),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    use pem::PemObject as _;
    let certificates = CertificateDer::pem_slice_iter(&bytes(path)?).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(PemError::Pem)?;
    if certificates.is_empty() { Err(PemError::None("certificate")) } else { Ok(certificates) }
}

fn secret(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    use pem::PemObject as _;
    PrivateKeyDer::from_pem_slice(&bytes(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => PemError::None("private key"),
        error => PemError::Pem(error),
    })
}

fn bytes(path: &Path) -> Result<Vec<u8>, PemError> {
    let mut bytes = Vec::new();
    // A pipe would be waited for.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no ordinary file").into());
    }
    let read = File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if read as u64 > LONGEST { Err(PemError::TooLong) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_and_its_key_are_read_and_anything_else_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let made = || rcgen::generate_simple_self_signed(["t".to_owned()]).expect("a certificate");
        let (one, other) = (made(), made());
        let certificate = write("certificate.pem", &one.cert.pem());
        let key = write("key.pem", &one.signing_key.serialize_pem());
        let foreign = write("foreign.pem", &other.signing_key.serialize_pem());
        let torn = write("torn.pem", &one.cert.pem()[..100]);
        let empty = write("empty.pem", "");
        assert!(server(&certificate, &key).is_ok());
        for (certificate, key, words) in [
            (&certificate, &foreign, "the key is not the certificate's"),
            (&torn, &key, "torn.pem"),
            (&empty, &key, "holds no certificate"),
            (&key, &key, "holds no certificate"),
            (&certificate, &certificate, "holds no private key"),
            (&certificate, &folder.path().join("none.pem"), "none.pem"),
        ] {
            let error = server(certificate, key).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("PRIVATE"), "{error}");
        }
    }
}
