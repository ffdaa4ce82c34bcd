//! Blobs: a body that outlives broken connections.

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hash::Digest;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Response;
use tokio::time::{sleep, timeout};

use crate::{
    Origin, OriginError, Patience, Repository,
    client::{Ask, reason},
    manifest::{accept_headers, content_length, pull_scope},
    web::FileOpener,
};

/// Headway that gives a body its full number of attempts back.
const HEADWAY: u64 = 64 * 1024;

/// The bytes of a blob from some offset to its end.
///
/// When the connection breaks or falls silent, the next read takes the blob up again at the byte that was reached.
/// The bytes are as the registry gave them: whoever takes them must hash them.
#[derive(Debug)]
pub struct BlobBody {
    opener: Opener,
    size: Option<u64>,
    start: u64,
    offset: u64,
    part: Part,
    /// Failures since the last headway, and where that was.
    failures: u32,
    headway: u64,
}

/// What is opened again where it breaks.
#[derive(Debug)]
pub(crate) enum Opener {
    Blob { origin: Origin, repository: Repository, digest: Digest },
    File(Box<FileOpener>),
}

/// Where the next bytes come from.
#[derive(Debug)]
pub(crate) enum Part {
    /// This answer, after dropping `skip` bytes that were not asked for.
    Open {
        response: Response,
        skip: u64,
    },
    /// A new request: the last answer broke.
    Broken,
    Ended,
}

/// What an answer says about itself.
pub(crate) struct Opened {
    pub(crate) size: Option<u64>,
    pub(crate) part: Part,
    pub(crate) headers: HeaderMap,
}

impl Origin {
    /// Gets a blob from byte `from` on. A registry that ignores the range is listened to from the start, and what is
    /// before `from` dropped.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: u64,
    ) -> Result<BlobBody, OriginError> {
        let opened = self.open_blob(repository, digest, from, None).await?;
        let opener = Opener::Blob { origin: self.clone(), repository: repository.clone(), digest: *digest };
        Ok(BlobBody::new(opener, from, opened))
    }

    /// The size of a blob in bytes: by HEAD, or where the storage refuses that, by asking for its first byte.
    pub async fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<u64, OriginError> {
        let path = blob_path(repository, digest);
        let mut ask = ask(repository, digest, &path, Method::HEAD);
        match self.send(&ask, &[]).await {
            Ok(response) => {
                if let Some(size) = content_length(response.headers()) {
                    return Ok(size);
                }
            }
            // Signed storage URLs are often good for GET only.
            Err(OriginError::Denied { .. } | OriginError::Unexpected { .. }) => {}
            Err(error) => return Err(error),
        }
        ask.method = Method::GET;
        ask.headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let response = self.send(&ask, &[StatusCode::RANGE_NOT_SATISFIABLE]).await?;
        let size = match response.status() {
            StatusCode::PARTIAL_CONTENT => content_range(&response).and_then(|range| range.size),
            StatusCode::RANGE_NOT_SATISFIABLE => unsatisfied_size(&response),
            _ => content_length(response.headers()),
        };
        size.ok_or_else(|| ask.invalid("it does not say the blob's size".into()))
    }

    async fn open_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: u64,
        known: Option<u64>,
    ) -> Result<Opened, OriginError> {
        let path = blob_path(repository, digest);
        let mut ask = ask(repository, digest, &path, Method::GET);
        if from > 0 {
            ask.range_from(from)?;
        }
        let response = self.send(&ask, &[StatusCode::RANGE_NOT_SATISFIABLE]).await?;
        opened(&ask, response, from, known)
    }
}

impl Ask<'_> {
    /// Asks for the bytes from here on.
    pub(crate) fn range_from(&mut self, from: u64) -> Result<(), OriginError> {
        let range =
            HeaderValue::from_str(&format!("bytes={from}-")).map_err(|e| self.invalid(e.to_string()))?;
        self.headers.insert(header::RANGE, range);
        Ok(())
    }
}

/// What an answer to a question for the bytes from `from` on holds; `known` is the size that was said before.
pub(crate) fn opened(
    ask: &Ask<'_>,
    response: Response,
    from: u64,
    known: Option<u64>,
) -> Result<Opened, OriginError> {
    let headers = response.headers().clone();
    let (size, part) = match response.status() {
        StatusCode::OK => {
            let size = content_length(response.headers());
            if size.is_some_and(|size| from > size) {
                return Err(ask.invalid(format!("it ends before byte {from}")));
            }
            (size, Part::Open { response, skip: from })
        }
        StatusCode::PARTIAL_CONTENT if from > 0 => {
            let range = content_range(&response)
                .ok_or_else(|| ask.invalid("a partial answer without a Content-Range".into()))?;
            if range.first != from || range.size.is_some_and(|size| range.last >= size) {
                let asked = format!("asked for bytes {from}-, got {}-{}", range.first, range.last);
                return Err(ask.invalid(asked));
            }
            (range.size, Part::Open { response, skip: 0 })
        }
        // Nothing is left after the last byte: that is an empty rest, not an error.
        StatusCode::RANGE_NOT_SATISFIABLE if from > 0 && unsatisfied_size(&response) == Some(from) => {
            (Some(from), Part::Ended)
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            return Err(ask.invalid(format!("it has no byte {from}")));
        }
        status => return Err(ask.invalid(format!("status {} for a blob", status.as_u16()))),
    };
    if let (Some(before), Some(now)) = (known, size)
        && before != now
    {
        return Err(ask.invalid(format!("its size was {before} bytes and is {now} now")));
    }
    Ok(Opened { size, part, headers })
}

impl Opener {
    async fn open(&mut self, from: u64, known: Option<u64>) -> Result<Opened, OriginError> {
        match self {
            Self::Blob { origin, repository, digest } => {
                origin.open_blob(repository, digest, from, known).await
            }
            Self::File(file) => file.open(from, known).await,
        }
    }

    fn origin(&self) -> &Origin {
        match self {
            Self::Blob { origin, .. } => origin,
            Self::File(file) => file.origin(),
        }
    }

    fn patience(&self) -> &Patience {
        match self {
            Self::Blob { origin, .. } => origin.patience(),
            Self::File(file) => file.patience(),
        }
    }

    fn invalid(&self, reason: String) -> OriginError {
        match self {
            Self::Blob { repository, digest, .. } => ask(repository, digest, "", Method::GET).invalid(reason),
            Self::File(file) => file.ask().invalid(reason),
        }
    }

    fn unreachable(&self, url: &url::Url, reason: &str) -> OriginError {
        match self {
            Self::Blob { repository, digest, .. } => {
                let ask = ask(repository, digest, "", Method::GET);
                ask.unreachable(url, format!("blob {digest} {reason}"))
            }
            Self::File(file) => file.ask().unreachable(url, format!("{} {reason}", file.url.path())),
        }
    }
}

impl BlobBody {
    pub(crate) fn new(opener: Opener, from: u64, opened: Opened) -> Self {
        let Opened { size, part, .. } = opened;
        Self { opener, size, start: from, offset: from, part, failures: 0, headway: from }
    }

    /// The size of the whole blob in bytes, if the registry said it.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Where the body began: the `from` that was asked for.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Where the next chunk begins in the blob.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes, or none at the end. After an error the body stays at its error.
    ///
    /// Dropping the future loses nothing but the chunk that was on its way.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, OriginError> {
        loop {
            let (response, skip) = match &mut self.part {
                Part::Ended => return Ok(None),
                Part::Broken => {
                    let opened = self.opener.open(self.offset, self.size).await?;
                    self.size = self.size.or(opened.size);
                    self.part = opened.part;
                    continue;
                }
                Part::Open { response, skip } => (response, skip),
            };
            let idle = self.opener.patience().idle;
            let why = match timeout(idle, response.chunk()).await {
                Ok(Ok(Some(mut chunk))) => {
                    self.opener.origin().count(chunk.len());
                    let drop = (*skip).min(chunk.len() as u64);
                    *skip -= drop;
                    let chunk = chunk.split_off(drop as usize);
                    if chunk.is_empty() {
                        continue;
                    }
                    return self.take(chunk).map(Some);
                }
                Ok(Ok(None)) => {
                    if self.size.is_none_or(|size| self.offset >= size) && *skip == 0 {
                        self.part = Part::Ended;
                        return Ok(None);
                    }
                    "the body ended early".to_owned()
                }
                Ok(Err(error)) => reason(&error),
                Err(_) => format!("silent for {} s", idle.as_secs_f32()),
            };
            let url = response.url().clone();
            self.part = Part::Broken;
            self.count_failure(&url, why).await?;
        }
    }

    /// The body as a stream, which ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, OriginError>> + Send {
        stream::try_unfold(
            self,
            |mut body| async move { Ok(body.next_chunk().await?.map(|chunk| (chunk, body))) },
        )
    }

    fn take(&mut self, chunk: Bytes) -> Result<Bytes, OriginError> {
        self.offset += chunk.len() as u64;
        if let Some(size) = self.size.filter(|size| self.offset > *size) {
            self.part = Part::Broken;
            return Err(self.opener.invalid(format!("its body goes on after byte {size}")));
        }
        if self.offset - self.headway >= HEADWAY {
            self.headway = self.offset;
            self.failures = 0;
        }
        Ok(chunk)
    }

    async fn count_failure(&mut self, url: &url::Url, why: String) -> Result<(), OriginError> {
        self.failures += 1;
        let patience = *self.opener.patience();
        if self.failures >= patience.attempts {
            return Err(self.opener.unreachable(url, &format!("broke at byte {}: {why}", self.offset)));
        }
        tracing::debug!(host = url.host_str(), path = url.path(), offset = self.offset, %why, "taking up a broken body");
        sleep(patience.backoff_before(self.failures)).await;
        Ok(())
    }
}

fn blob_path(repository: &Repository, digest: &Digest) -> String {
    format!("/v2/{}/blobs/{digest}", repository.name())
}

fn ask<'a>(repository: &Repository, digest: &Digest, path: &'a str, method: Method) -> Ask<'a> {
    Ask {
        place: repository.into(),
        what: format!("blob {digest}"),
        method,
        path,
        query: None,
        headers: accept_headers(&[]),
        scope: pull_scope(repository.name()),
    }
}

/// `bytes first-last/size`; the size may be `*`.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    size: Option<u64>,
}

fn content_range(response: &Response) -> Option<ContentRange> {
    parse_content_range(response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?)
}

fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (span, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let size = if size == "*" { None } else { Some(number(size)?) };
    (first <= last).then_some(ContentRange { first, last, size })
}

/// `bytes */size` of a 416.
fn unsatisfied_size(response: &Response) -> Option<u64> {
    let text = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    number(text.trim().strip_prefix("bytes */")?)
}

fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(
            parse_content_range("bytes 2-9/10"),
            Some(ContentRange { first: 2, last: 9, size: Some(10) })
        );
        assert_eq!(parse_content_range("bytes 2-9/*"), Some(ContentRange { first: 2, last: 9, size: None }));
        for bad in [
            "",
            "bytes",
            "bytes 9-2/10",
            "bytes +1-2/3",
            "bytes 1-2",
            "items 1-2/3",
            "bytes -2/3",
            "bytes 1-/3",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_content_range_is_refused_or_ordered(text in "\\PC{0,40}|bytes [0-9*/-]{0,40}") {
            if let Some(range) = parse_content_range(&text) {
                prop_assert!(range.first <= range.last);
            }
        }
    }
}
