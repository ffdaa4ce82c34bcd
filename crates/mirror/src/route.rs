//! Which registry, repository and thing a request means.

use hash::{Digest, DigestError};
use origin::{Listing, ReferenceError, Repository, Target, is_registry};
use percent_encoding::percent_decode_str;

/// Longest path, as it comes: registry, name and digest have bounds far below.
const PATH_LIMIT: usize = 4096;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: is this a registry?
    Ping,
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest(Repository, Target),
    /// `/v2/NAME/blobs/DIGEST`
    Blob(Repository, Digest),
    /// `/v2/NAME/blobs/uploads/`, or an upload by its id.
    Upload(Repository, Option<String>),
    /// Tags, referrers, catalog.
    Listing(Listing),
}

/// A request's meaning, and how its registry was named, for the answer to say it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// What is asked for.
    pub route: Route,
    /// The value of `ns`, as it came, if that named the registry.
    pub namespace: Option<String>,
    /// The path's first word, as it came, if that named the registry.
    pub prefix: Option<String>,
    /// The query without `ns`.
    pub query: Option<String>,
}

/// Why a path means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Not a path of the distribution API.
    #[error("no such path in the registry API")]
    Unknown,
    /// A registry, repository or tag outside the grammar.
    #[error(transparent)]
    Name(ReferenceError),
    /// A digest outside the grammar.
    #[error(transparent)]
    Digest(DigestError),
}

/// Reads a request's path and query. The registry is named by `ns`, else by the path's first word if that looks like
/// one (it has a dot or colon, or is `localhost`, and something follows), else it is `default_registry`.
///
/// Repository names hold slashes, so the path is read from its right end.
pub fn parse_route(path: &str, query: Option<&str>, default_registry: &str) -> Result<Routed, RouteError> {
    if path.len() > PATH_LIMIT {
        return Err(RouteError::Unknown);
    }
    let (namespace, query) = split_query(query);
    let path = percent_decode_str(path).decode_utf8().map_err(|_| RouteError::Unknown)?;
    let routed = |route, prefix| Routed { route, namespace: namespace.clone(), prefix, query: query.clone() };
    let rest = match path.strip_prefix("/v2") {
        Some("" | "/") => return Ok(routed(Route::Ping, None)),
        Some(rest) => rest.strip_prefix('/').ok_or(RouteError::Unknown)?,
        None => return Err(RouteError::Unknown),
    };
    let (registry, rest, prefix) = match (&namespace, rest.split_once('/')) {
        (Some(namespace), _) => (namespace.as_str(), rest, None),
        // `/v2/a.b/manifests/x` is repository `a.b` of the default registry: a registry has a repository after it.
        (None, Some((first, rest)))
            if is_registry(first) && (rest == "_catalog" || names_something(rest)) =>
        {
            (first, rest, Some(first.to_owned()))
        }
        _ => (default_registry, rest, None),
    };
    let repository = |name: &str| Repository::new(registry, name).map_err(RouteError::Name);
    if rest == "_catalog" {
        // Any repository will do to bring the registry's name into its one form.
        let registry = repository("a/a")?.registry().to_owned();
        return Ok(routed(Route::Listing(Listing::Catalog(registry)), prefix));
    }
    let (name, kind, last) = split_right(rest).ok_or(RouteError::Unknown)?;
    // The spec has lower-case digits only, and a registry would refuse others.
    if last.starts_with("sha256:") && last.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(RouteError::Digest(DigestError::Malformed(last.chars().take(80).collect())));
    }
    let digest = || last.parse::<Digest>().map_err(RouteError::Digest);
    let route = match (kind, last) {
        ("manifests", target) => Route::Manifest(repository(name)?, target.parse().map_err(target_error)?),
        ("blobs", _) => Route::Blob(repository(name)?, digest()?),
        ("uploads", id) if let Some(name) = name.strip_suffix("/blobs") => {
            Route::Upload(repository(name)?, Some(id.to_owned()).filter(|id| !id.is_empty()))
        }
        ("tags", "list") => Route::Listing(Listing::Tags(repository(name)?)),
        ("referrers", _) => Route::Listing(Listing::Referrers(repository(name)?, digest()?)),
        _ => return Err(RouteError::Unknown),
    };
    Ok(routed(route, prefix))
}

fn target_error(error: ReferenceError) -> RouteError {
    match error {
        ReferenceError::Digest(error) => RouteError::Digest(error),
        error => RouteError::Name(error),
    }
}

/// `NAME/KIND/LAST`
fn split_right(rest: &str) -> Option<(&str, &str, &str)> {
    let (rest, last) = rest.rsplit_once('/')?;
    let (name, kind) = rest.rsplit_once('/')?;
    Some((name, kind, last))
}

fn names_something(rest: &str) -> bool {
    split_right(rest).is_some()
}

/// The value of `ns`, and the query without it.
fn split_query(query: Option<&str>) -> (Option<String>, Option<String>) {
    let mut namespace = None;
    let mut rest = String::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.strip_prefix("ns=") {
            Some(value) => {
                // What is not UTF-8 becomes a character that no registry's name has, and is refused as such.
                namespace = Some(percent_decode_str(value).decode_utf8_lossy().into_owned());
            }
            None => {
                if !rest.is_empty() {
                    rest.push('&');
                }
                rest.push_str(pair);
            }
        }
    }
    (namespace, (!rest.is_empty()).then_some(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(path: &str, query: &str) -> Result<Routed, RouteError> {
        parse_route(path, Some(query).filter(|q| !q.is_empty()), "docker.io")
    }

    fn repository(path: &str, query: &str) -> String {
        match route(path, query).unwrap().route {
            Route::Manifest(repository, _) | Route::Blob(repository, _) => repository.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_registry_is_named_by_ns_then_by_path_then_by_default() {
        assert_eq!(repository("/v2/library/busybox/manifests/1", ""), "docker.io/library/busybox");
        assert_eq!(repository("/v2/busybox/manifests/1", ""), "docker.io/library/busybox");
        assert_eq!(repository("/v2/quay.io/org/app/manifests/1", ""), "quay.io/org/app");
        assert_eq!(repository("/v2/localhost:5000/app/manifests/1", ""), "localhost:5000/app");
        assert_eq!(repository("/v2/localhost%3A5000/app/manifests/1", ""), "localhost:5000/app");
        assert_eq!(repository("/v2/localhost/app/manifests/1", ""), "localhost/app");
        assert_eq!(repository("/v2/org/app/manifests/1", "ns=localhost%3A5000"), "localhost:5000/org/app");
        assert_eq!(repository("/v2/my.org/app/manifests/1", "ns=docker.io"), "docker.io/my.org/app");
        assert_eq!(repository("/v2/a.b/manifests/1", ""), "docker.io/library/a.b");
        assert_eq!(repository("/v2/docker.io/busybox/manifests/1", ""), "docker.io/library/busybox");
    }

    #[test]
    fn how_the_registry_was_named_and_the_rest_of_the_query_are_kept() {
        let routed = route("/v2/org/app/tags/list", "n=5&ns=quay.io&last=a%20b").unwrap();
        assert_eq!(routed.namespace.as_deref(), Some("quay.io"));
        assert_eq!(routed.prefix, None);
        assert_eq!(routed.query.as_deref(), Some("n=5&last=a%20b"));
        let routed = route("/v2/quay.io/org/app/tags/list", "").unwrap();
        assert_eq!((routed.namespace, routed.prefix, routed.query), (None, Some("quay.io".into()), None));
    }

    #[test]
    fn every_route_is_found_even_in_repositories_named_like_one() {
        let digest = Digest::of(b"x");
        assert_eq!(route("/v2", "").unwrap().route, Route::Ping);
        assert_eq!(route("/v2/", "ns=quay.io").unwrap().route, Route::Ping);
        assert_eq!(repository(&format!("/v2/a/blobs/tags/blobs/{digest}"), ""), "docker.io/a/blobs/tags");
        let upload = |path: &str| match route(path, "").unwrap().route {
            Route::Upload(repository, id) => (repository.to_string(), id),
            other => panic!("{other:?}"),
        };
        assert_eq!(upload("/v2/a/b/blobs/uploads/"), ("docker.io/a/b".into(), None));
        assert_eq!(upload("/v2/quay.io/a/blobs/uploads/x-1"), ("quay.io/a".into(), Some("x-1".into())));
        let listing = |path: &str| match route(path, "").unwrap().route {
            Route::Listing(listing) => (listing.registry().to_owned(), listing.path()),
            other => panic!("{other:?}"),
        };
        assert_eq!(listing("/v2/_catalog"), ("docker.io".into(), "/v2/_catalog".into()));
        assert_eq!(listing("/v2/quay.io/_catalog"), ("quay.io".into(), "/v2/_catalog".into()));
        assert_eq!(listing("/v2/a/b/tags/list").1, "/v2/a/b/tags/list");
        assert_eq!(listing(&format!("/v2/a/b/referrers/{digest}")).1, format!("/v2/a/b/referrers/{digest}"));
    }

    #[test]
    fn what_is_outside_the_api_or_the_grammar_is_told_apart() {
        for path in [
            "",
            "/",
            "/v1/",
            "/v2x",
            "/v2/a",
            "/v2/a/manifests",
            "/v2/a/tags/other",
            "/v2/a/uploads/x",
            "/v2/%ff/manifests/1",
        ] {
            assert_eq!(route(path, "").unwrap_err(), RouteError::Unknown, "{path}");
        }
        for path in [
            "/v2/a/../b/manifests/1",
            "/v2/A/manifests/1",
            "/v2//manifests/1",
            "/v2/a%2f..%2fb/manifests/1",
            "/v2/a/manifests/-x",
        ] {
            assert!(matches!(route(path, "").unwrap_err(), RouteError::Name(_)), "{path}");
        }
        assert!(matches!(route("/v2/a/manifests/1", "ns=a%20b"), Err(RouteError::Name(_))));
        assert!(matches!(route("/v2/a/manifests/1", "ns="), Err(RouteError::Name(_))));
        assert!(matches!(route("/v2/a/blobs/sha256:00", ""), Err(RouteError::Digest(_))));
        assert!(matches!(
            route("/v2/a/blobs/sha512:00", ""),
            Err(RouteError::Digest(DigestError::Algorithm(_)))
        ));
    }

    proptest! {
        #[test]
        fn any_path_is_refused_or_names_a_checked_repository(
            path in "\\PC{0,60}|/v2/[a-z.:%0-9/]{0,40}/(manifests|blobs|tags)/[a-z0-9:.]{0,20}",
            query in "\\PC{0,30}|ns=[a-z.:%0-9]{0,20}",
        ) {
            if let Ok(routed) = parse_route(&path, Some(&query), "docker.io")
                && let Route::Manifest(repository, _) | Route::Blob(repository, _) = routed.route
            {
                prop_assert!(!repository.name().contains("..") && !repository.name().contains("//"));
                let again = Repository::new(repository.registry(), repository.name());
                prop_assert_eq!(again.unwrap(), repository);
            }
        }
    }
}
