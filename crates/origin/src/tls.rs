//! HTTP clients: one for the system's certificates, one for each CA file besides.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::Patience;

/// Whether the TLS handshake failed since what came was no TLS at all: the server speaks plain HTTP on that port.
pub(crate) fn is_plain_http(error: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(mut cause) = source {
        // An `io::Error` hides what it wraps, and gives that one's causes as its own.
        while let Some(wrapped) = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            cause = wrapped;
        }
        let tls = cause.downcast_ref::<rustls::Error>();
        if let Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) = tls {
            return true;
        }
        source = cause.source();
    }
    false
}

/// A client that trusts the system's certificates and those in `ca`. It follows no redirect, keeps no cookie, uses no
/// proxy and undoes no `Content-Encoding`: all of that is decided elsewhere, or not wanted.
///
/// The TLS provider is given here, so the caller need not install one for the process.
pub(crate) fn client(ca: Option<&Path>, patience: &Patience) -> Result<reqwest::Client, String> {
    let mut roots = RootCertStore::empty();
    // A host without system certificates may still use http, or a CA file: it fails when a certificate is needed.
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "a system certificate file was passed over");
    }
    let (_, ignored) = roots.add_parsable_certificates(system.certs);
    if ignored > 0 {
        tracing::debug!(ignored, "system certificates were passed over");
    }
    if let Some(file) = ca {
        let name = file.display();
        let certificates =
            CertificateDer::pem_file_iter(file).map_err(|e| format!("CA file {name} cannot be read: {e}"))?;
        let before = roots.len();
        for certificate in certificates {
            let certificate = certificate.map_err(|e| format!("CA file {name} is not PEM: {e}"))?;
            roots.add(certificate).map_err(|e| format!("CA file {name} holds a bad certificate: {e}"))?;
        }
        if roots.len() == before {
            return Err(format!("CA file {name} holds no certificate"));
        }
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(patience.connect)
        .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| format!("the HTTP client cannot be set up: {e}"))
}
