//! The mirror's certificate: given or made, and read anew when its files change.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mirror::Tls;
use tls::{OwnError, TlsError};
use tokio::{sync::watch, task::spawn_blocking, time::interval};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// How often it is looked whether the files have changed.
const LOOK: Duration = Duration::from_secs(10);

/// Why https cannot be served as configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// One without the other.
    #[error("`tls_certificate` and `tls_key` belong together: set both, or neither")]
    Half,
    /// A file of no use.
    #[error(transparent)]
    File(#[from] TlsError),
    /// None could be made.
    #[error(transparent)]
    Own(#[from] OwnError),
}

/// The files, which are looked at again, and what takes in what they hold.
pub(crate) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    server: watch::Sender<Arc<rustls::ServerConfig>>,
}

/// What the mirror is to speak https with, if the configuration says so. Reads, and may write, files: blocks.
pub(crate) fn open(config: &Config) -> Result<Option<(Tls, Files)>, CertificateError> {
    let mirror = &config.mirror;
    let (certificate, key, authority) = match (&mirror.tls_certificate, &mirror.tls_key, mirror.tls_own) {
        (Some(certificate), Some(key), _) => (certificate.clone(), key.clone(), None),
        (None, None, true) => {
            let own = tls::own(&config.data.join("tls"), &names(&mirror.listen))?;
            (own.certificate, own.key, Some(own.authority))
        }
        (None, None, false) => return Ok(None),
        _ => return Err(CertificateError::Half),
    };
    let (server, receiver) = watch::channel(tls::server(&certificate, &key)?);
    Ok(Some((Tls { server: receiver, authority }, Files { certificate, key, server })))
}

/// By what names the mirror may be called: this host's, and where it listens.
fn names(listen: &[SocketAddr]) -> Vec<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(listen.iter().map(|at| at.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    names.extend(Some(host).filter(|host| !host.is_empty() && host.is_ascii()));
    names.sort_unstable();
    names.dedup();
    names
}

/// Reads the files anew when they change. What cannot be used changes nothing.
pub(crate) async fn watch(files: Files, stop: CancellationToken) {
    let files = Arc::new(files);
    let mut known = files.changed();
    let mut ticks = interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = files.changed();
        if now == known {
            continue;
        }
        known = now;
        let reading = files.clone();
        match spawn_blocking(move || tls::server(&reading.certificate, &reading.key)).await {
            Ok(Ok(server)) => {
                tracing::info!(certificate = %files.certificate.display(), "the mirror's certificate is new");
                files.server.send_replace(server);
            }
            Ok(Err(error)) => tracing::error!(%error, "the mirror goes on with its old certificate"),
            // The node is ending.
            Err(_) => return,
        }
    }
}

impl Files {
    /// When each was changed last.
    fn changed(&self) -> [Option<SystemTime>; 2] {
        let time = |path: &Path| fs::metadata(path).and_then(|there| there.modified()).ok();
        [time(&self.certificate), time(&self.key)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_given_made_or_not_wanted_and_a_half_one_is_refused() {
        let folder = tempfile::tempdir().expect("temp");
        let mut config = Config { data: folder.path().to_owned(), ..Config::default() };
        assert!(open(&config).expect("read").is_none());
        config.mirror.tls_own = true;
        let (tls, files) = open(&config).expect("made").expect("wanted");
        assert!(tls.authority.is_some());
        config.mirror.tls_own = false;
        config.mirror.tls_certificate = Some(files.certificate);
        assert!(matches!(open(&config), Err(CertificateError::Half)));
        config.mirror.tls_key = Some(files.key);
        assert!(open(&config).expect("read").expect("given").0.authority.is_none());
    }
}
