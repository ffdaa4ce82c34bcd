//! Manifests and indexes by tag or digest.

use bytes::Bytes;
use hash::Digest;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;

use crate::{Origin, OriginError, Repository, Target, client::Ask};

/// The largest manifest that is taken; the spec asks for 4 MiB at least.
pub const MANIFEST_LIMIT: usize = 8 * 1024 * 1024;

/// How many `Accept` values are passed on.
const ACCEPT_LIMIT: usize = 64;

/// A manifest as it lies in the registry, to the byte.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The bytes the digest is of.
    pub bytes: Bytes,
    /// Its media type, without parameters.
    pub media_type: String,
    /// Computed over `bytes`; equal to what was asked for and to what the registry said, as far as either did.
    pub digest: Digest,
}

/// What a registry says about a manifest without giving it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// `Docker-Content-Digest`; registries may leave it out.
    pub digest: Option<Digest>,
    /// `Content-Type` without parameters.
    pub media_type: Option<String>,
    /// `Content-Length`, in bytes.
    pub size: Option<u64>,
}

impl Origin {
    /// Gets a manifest and checks it against its digest. `accept` are the client's own `Accept` values: registries
    /// answer 404 when none of them fits.
    pub async fn manifest(
        &self,
        repository: &Repository,
        target: &Target,
        accept: &[String],
    ) -> Result<Manifest, OriginError> {
        let path = format!("/v2/{}/manifests/{target}", repository.name());
        let ask = ask(repository, target, &path, Method::GET, accept);
        let (headers, bytes) = self.document(&ask, MANIFEST_LIMIT).await?;
        let declared = declared_digest(&headers).map_err(|e| ask.invalid(e))?;
        let media_type = media_type(&headers);
        let digest = Digest::of(&bytes);
        if let Target::Digest(asked) = target
            && *asked != digest
        {
            return Err(ask.invalid(format!("its bytes have the digest {digest}")));
        }
        if let Some(declared) = declared
            && declared != digest
        {
            return Err(ask.invalid(format!("it says {declared}, its bytes say {digest}")));
        }
        // Static file servers do not know the types; the manifest itself does.
        let media_type = media_type
            .filter(|name| !is_generic(name))
            .or_else(|| inner_media_type(&bytes))
            .ok_or_else(|| ask.invalid("it does not say what type the manifest is".into()))?;
        Ok(Manifest { bytes, media_type, digest })
    }

    /// Asks what a manifest is, by HEAD. Registries do not count this against a pull allowance.
    pub async fn head_manifest(
        &self,
        repository: &Repository,
        target: &Target,
        accept: &[String],
    ) -> Result<ManifestHead, OriginError> {
        let path = format!("/v2/{}/manifests/{target}", repository.name());
        let ask = ask(repository, target, &path, Method::HEAD, accept);
        let response = self.send(&ask, &[]).await?;
        let headers = response.headers();
        let digest = declared_digest(headers).map_err(|e| ask.invalid(e))?;
        if let (Target::Digest(asked), Some(declared)) = (target, digest)
            && *asked != declared
        {
            return Err(ask.invalid(format!("it says {declared}")));
        }
        let size = content_length(headers);
        Ok(ManifestHead { digest, media_type: media_type(headers), size })
    }
}

fn ask<'a>(
    repository: &Repository,
    target: &Target,
    path: &'a str,
    method: Method,
    accept: &[String],
) -> Ask<'a> {
    Ask {
        place: repository.into(),
        what: format!("manifest {target}"),
        method,
        path,
        query: None,
        headers: accept_headers(accept),
        scope: pull_scope(repository.name()),
    }
}

pub(crate) fn pull_scope(name: &str) -> String {
    format!("repository:{name}:pull")
}

/// One header line per value, and no encoding: the bytes must be those of the digest.
pub(crate) fn accept_headers(accept: &[String]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for value in accept.iter().take(ACCEPT_LIMIT).filter_map(|value| HeaderValue::from_str(value).ok()) {
        headers.append(header::ACCEPT, value);
    }
    if !headers.contains_key(header::ACCEPT) {
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    }
    headers
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let name = text.split(';').next().unwrap_or_default().trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The registry's own word, unless it is of an algorithm that cannot be compared.
fn declared_digest(headers: &HeaderMap) -> Result<Option<Digest>, String> {
    let Some(value) = headers.get("docker-content-digest") else { return Ok(None) };
    let text = value.to_str().map_err(|_| "its Docker-Content-Digest cannot be read")?.trim();
    match text.parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(hash::DigestError::Algorithm(_)) => Ok(None),
        Err(error) => Err(format!("its Docker-Content-Digest cannot be read: {error}")),
    }
}

fn is_generic(media_type: &str) -> bool {
    ["application/json", "application/octet-stream", "text/plain"]
        .iter()
        .any(|g| g.eq_ignore_ascii_case(media_type))
}

fn inner_media_type(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: String,
    }
    let name = serde_json::from_slice::<Typed>(bytes).ok()?.media_type;
    (name.contains('/') && name.len() <= 255 && HeaderValue::from_str(&name).is_ok()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generic_type_gives_way_to_the_manifests_own() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json; charset=utf-8".parse().unwrap());
        assert_eq!(media_type(&headers).as_deref(), Some("application/json"));
        assert!(is_generic("application/json"));
        assert_eq!(inner_media_type(br#"{"mediaType":"a/b","x":1}"#).as_deref(), Some("a/b"));
        assert_eq!(inner_media_type(br#"{"mediaType":"a/b\n"}"#), None);
        assert_eq!(inner_media_type(b"[1"), None);
    }

    #[test]
    fn other_digest_algorithms_are_passed_over_and_nonsense_is_not() {
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("docker-content-digest", text.parse().unwrap());
            declared_digest(&headers)
        };
        assert_eq!(with("sha512:00"), Ok(None));
        assert!(with("sha256:00").is_err());
        assert_eq!(with(&Digest::of(b"a").to_string()), Ok(Some(Digest::of(b"a"))));
    }
}
