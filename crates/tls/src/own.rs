//! A certificate made here.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate made here, and the authority that clients are to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// Its key's, which only the owner can read.
    pub key: PathBuf,
    /// The authority's certificate, in PEM. Its key was thrown away when it had signed this one.
    pub authority: String,
}

/// Why none could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnError {
    /// A file.
    #[error("cannot make a certificate: {}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// A name that cannot stand in a certificate, mostly.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// The certificate in `folder`; at the first time one is made, for `names` (host names and IP addresses), with an
/// authority of its own. Both do not run out. To have them made anew, remove the folder.
///
/// # Errors
/// What could not be made, and why.
pub fn own(folder: &Path, names: &[String]) -> Result<Own, OwnError> {
    let path = |name: &str| folder.join(name);
    let (certificate, key, authority) = (path("certificate.pem"), path("key.pem"), path("ca.pem"));
    match fs::read_to_string(&authority) {
        Ok(authority) => return Ok(Own { certificate, key, authority }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(OwnError::File { path: authority, error }),
    }
    let (leaf, leaf_key, pem) = make(names)?;
    fs::create_dir_all(folder).map_err(|error| OwnError::File { path: folder.to_owned(), error })?;
    // The authority last: where it is, the others are.
    for (path, text, mode) in
        [(&key, &leaf_key, 0o600), (&certificate, &leaf, 0o644), (&authority, &pem, 0o644)]
    {
        write(path, text, mode).map_err(|error| OwnError::File { path: path.clone(), error })?;
    }
    Ok(Own { certificate, key, authority: pem })
}

/// A certificate, its key, and the certificate of the authority, in PEM.
fn make(names: &[String]) -> Result<(String, String, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Longshore mirror authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_key = KeyPair::generate()?;
    let authority = params.self_signed(&authority_key)?;
    let issuer = Issuer::new(params, authority_key);
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "Longshore mirror");
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((certificate.pem(), key.serialize_pem(), authority.pem()))
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_and_its_key_is_the_owners() {
        let folder = tempfile::tempdir().expect("temp");
        let folder = folder.path().join("tls");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = own(&folder, &names).expect("made");
        assert_eq!(own(&folder, &names).expect("read"), made);
        assert!(crate::server(&made.certificate, &made.key).is_ok());
        let mode = fs::metadata(&made.key).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
        assert!(made.authority.starts_with("-----BEGIN CERTIFICATE-----"));
    }

    #[test]
    fn what_was_broken_off_is_made_anew() {
        let folder = tempfile::tempdir().expect("temp");
        fs::write(folder.path().join("key.pem"), "half").expect("written");
        let made = own(folder.path(), &["a.test".to_owned()]).expect("made");
        assert!(crate::server(&made.certificate, &made.key).is_ok());
    }
}
