//! Several ranges of a blob in one answer: `multipart/byteranges` (RFC 9110 section 14.6).

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hash::Digest;
use origin::Home;

use crate::{Asker, BlobStream, ByteRange, Content, ContentError, Span};

/// What stands between the parts.
pub(crate) struct Parts {
    boundary: String,
    media_type: String,
    size: u64,
    spans: Vec<Span>,
}

/// A piece of the body on its way: text, or bytes of the blob.
enum Piece {
    Text(Bytes),
    Span(Span),
}

impl Parts {
    /// Parts of a blob of `size` bytes.
    pub(crate) fn new(media_type: &str, size: u64, spans: Vec<Span>) -> Self {
        // A blob that holds it by chance would have to know it before it was made.
        let boundary = format!("{:032x}", rand::random::<u128>());
        Self { boundary, media_type: media_type.to_owned(), size, spans }
    }

    pub(crate) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// Of the whole body, in bytes.
    pub(crate) fn length(&self) -> u64 {
        let parts = self.spans.iter().map(|span| self.head(span).len() as u64 + span.length + 2);
        parts.sum::<u64>() + self.end().len() as u64
    }

    /// The body: each part is asked of the content when its turn comes.
    pub(crate) fn body<C: Content>(
        self,
        content: Arc<C>,
        home: Home,
        digest: Digest,
        asker: Asker,
    ) -> BlobStream {
        let mut pieces = VecDeque::new();
        for span in &self.spans {
            pieces.extend([
                Piece::Text(self.head(span).into()),
                Piece::Span(*span),
                Piece::Text(Bytes::from_static(b"\r\n")),
            ]);
        }
        pieces.push_back(Piece::Text(self.end().into()));
        let bodies = stream::unfold(pieces, move |mut pieces| {
            let (content, home, asker) = (content.clone(), home.clone(), asker.clone());
            async move {
                let body: BlobStream = match pieces.pop_front()? {
                    Piece::Text(text) => stream::iter([Ok(text)]).boxed(),
                    Piece::Span(span) => match part(&*content, &home, &digest, &asker, span).await {
                        Ok(body) => body,
                        Err(error) => stream::iter([Err(error)]).boxed(),
                    },
                };
                Some((body, pieces))
            }
        });
        bodies.flatten().boxed()
    }

    fn head(&self, span: &Span) -> String {
        let (first, last) = (span.offset, span.offset + (span.length - 1));
        format!(
            "--{}\r\nContent-Type: {}\r\nContent-Range: bytes {first}-{last}/{}\r\n\r\n",
            self.boundary, self.media_type, self.size
        )
    }

    fn end(&self) -> String {
        format!("--{}--\r\n", self.boundary)
    }
}

async fn part<C: Content>(
    content: &C,
    home: &Home,
    digest: &Digest,
    asker: &Asker,
    span: Span,
) -> Result<BlobStream, ContentError> {
    let range = ByteRange::Between(span.offset, span.offset + (span.length - 1));
    let blob = content.blob(home, digest, asker, Some(range)).await?;
    if blob.span != span {
        return Err(ContentError::Internal(format!("{:?} where {span:?} was asked for", blob.span)));
    }
    Ok(blob.body)
}
