//! Answers that are passed through as they are: tags, referrers, catalog.

use bytes::Bytes;
use hash::Digest;
use http::Method;

use crate::{
    Origin, OriginError, Place, Repository,
    client::Ask,
    manifest::{accept_headers, media_type, pull_scope},
};

/// Largest listing that is passed through.
const LISTING_LIMIT: usize = 16 * 1024 * 1024;

/// What a registry can be asked besides manifests and blobs (OCI distribution spec, end-8, end-12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// The tags of a repository.
    Tags(Repository),
    /// The manifests that refer to one.
    Referrers(Repository, Digest),
    /// The repositories of a registry, by its name.
    Catalog(String),
}

/// A registry's listing, as it came.
#[derive(Debug, Clone)]
pub struct ListingAnswer {
    /// The body.
    pub bytes: Bytes,
    /// `Content-Type` without parameters.
    pub media_type: String,
    /// `Link`: where the next page is, as the registry says it.
    pub link: Option<String>,
    /// `OCI-Filters-Applied`.
    pub filters: Option<String>,
}

impl Listing {
    /// The path at the registry, from `/v2/`.
    pub fn path(&self) -> String {
        match self {
            Self::Tags(repository) => format!("/v2/{}/tags/list", repository.name()),
            Self::Referrers(repository, digest) => format!("/v2/{}/referrers/{digest}", repository.name()),
            Self::Catalog(_) => "/v2/_catalog".to_owned(),
        }
    }

    /// The registry that is meant.
    pub fn registry(&self) -> &str {
        match self {
            Self::Tags(repository) | Self::Referrers(repository, _) => repository.registry(),
            Self::Catalog(registry) => registry,
        }
    }

    /// What is asked: the registry, and the repository if one is meant.
    pub fn place(&self) -> Place {
        let repository = self.repository().map(|repository| repository.name().to_owned());
        Place { registry: self.registry().to_owned(), repository }
    }

    /// The repository that is meant, if one is.
    pub fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Tags(repository) | Self::Referrers(repository, _) => Some(repository),
            Self::Catalog(_) => None,
        }
    }
}

impl Origin {
    /// Asks for a listing with the client's own query and `Accept`, and gives the answer as it is.
    pub async fn listing(
        &self,
        listing: &Listing,
        query: Option<&str>,
        accept: &[String],
    ) -> Result<ListingAnswer, OriginError> {
        let path = listing.path();
        let (what, scope) = match listing {
            Listing::Tags(repository) => ("list of tags".to_owned(), pull_scope(repository.name())),
            Listing::Referrers(repository, digest) => {
                (format!("list of referrers to {digest}"), pull_scope(repository.name()))
            }
            Listing::Catalog(_) => ("catalog".to_owned(), "registry:catalog:*".to_owned()),
        };
        let ask = Ask {
            place: listing.place(),
            what,
            method: Method::GET,
            path: &path,
            query,
            headers: accept_headers(accept),
            scope,
        };
        let (headers, bytes) = self.document(&ask, LISTING_LIMIT).await?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let media_type = media_type(&headers).unwrap_or_else(|| "application/json".to_owned());
        let (link, filters) = (text("link"), text("oci-filters-applied"));
        Ok(ListingAnswer { bytes, media_type, link, filters })
    }
}
