//! HTTP clients: one for the system's certificates, one for each CA file besides.

use std::{net::SocketAddr, path::Path, sync::Arc};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::{Patience, address::is_public};

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

/// Which addresses names may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Any.
    Anywhere,
    /// Those of the public internet.
    Public,
}

/// Resolves names as the system does, and passes over addresses that are not public. What a name leads to is looked at
/// when the connection is made, so that it cannot lead elsewhere between a look and its use.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let all = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = all.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(NOT_PUBLIC.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Why an address is refused.
pub(crate) const NOT_PUBLIC: &str = "its address is this host's own or not of the public internet: list the registry \
    under [[origin.upstreams]], or start the node with --upstream";

/// A client that trusts the system's certificates and those in `ca`. It follows no redirect, keeps no cookie, uses no
/// proxy and undoes no `Content-Encoding`: all of that is decided elsewhere, or not wanted.
///
/// The TLS provider is given here, so the caller need not install one for the process.
pub(crate) fn client(
    ca: Option<&Path>,
    reach: Reach,
    patience: &Patience,
) -> Result<reqwest::Client, String> {
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
    let builder = reqwest::Client::builder();
    let builder = match reach {
        Reach::Anywhere => builder,
        Reach::Public => builder.dns_resolver(Arc::new(PublicOnly)),
    };
    builder
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(patience.connect)
        .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| format!("the HTTP client cannot be set up: {e}"))
}
