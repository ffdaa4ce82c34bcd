//! Bodies: bytes at hand, or a blob as it comes.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hash::Digest;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::{BlobStream, activity::Busy};

/// Set when a body cannot be finished. The connection sends what it still holds and ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut(Arc<AtomicBool>);

impl Cut {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The body of an answer.
///
/// It never gives an error: hyper would drop what it has buffered and the client would lose verified bytes. Instead
/// it sets its [`Cut`] and falls silent, and the connection does the rest.
pub(crate) enum Body {
    Bytes(Bytes),
    Blob(Box<Blob>),
}

pub(crate) struct Blob {
    /// For the log.
    what: String,
    stream: BlobStream,
    /// Bytes still owed; none where the end is not known before it comes.
    left: Option<u64>,
    cut: Cut,
    stall: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    busy: Option<Busy>,
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::Bytes(Bytes::new())
    }

    /// `length` bytes from `stream`, cut short when it fails, ends early, goes on too long, or gives nothing for
    /// `stall`.
    pub(crate) fn blob(digest: Digest, stream: BlobStream, length: u64, stall: Duration, cut: Cut) -> Self {
        Self::stream(format!("blob {digest}"), stream, Some(length), stall, cut)
    }

    /// The same for anything, whose length need not be known: then it is cut only when it fails or stalls.
    pub(crate) fn stream(
        what: String,
        stream: BlobStream,
        length: Option<u64>,
        stall: Duration,
        cut: Cut,
    ) -> Self {
        let timer = Box::pin(sleep(stall));
        let (left, waiting, busy) = (length, false, None);
        Self::Blob(Box::new(Blob { what, stream, left, cut, stall, timer, waiting, busy }))
    }
}

impl Blob {
    /// As long as the body lasts, somebody is busy.
    pub(crate) fn keep(&mut self, busy: Busy) {
        self.busy = Some(busy);
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.left == Some(0) {
            return Poll::Ready(None);
        }
        if self.cut.is_set() {
            return Poll::Pending;
        }
        loop {
            let why = match self.stream.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    self.waiting = false;
                    match self.left.map(|left| left.checked_sub(chunk.len() as u64)) {
                        _ if chunk.is_empty() => continue,
                        None => return Poll::Ready(Some(chunk)),
                        Some(Some(left)) => {
                            self.left = Some(left);
                            return Poll::Ready(Some(chunk));
                        }
                        Some(None) => "more bytes came than were announced".to_owned(),
                    }
                }
                Poll::Ready(Some(Err(error))) => error.to_string(),
                Poll::Ready(None) if self.left.is_none() => {
                    self.left = Some(0);
                    return Poll::Ready(None);
                }
                Poll::Ready(None) => "the bytes ended early".to_owned(),
                Poll::Pending => {
                    if !self.waiting {
                        self.waiting = true;
                        let until = Instant::now() + self.stall;
                        self.timer.as_mut().reset(until);
                    }
                    match self.timer.as_mut().poll(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(()) => format!("no byte came within {} s", self.stall.as_secs_f32()),
                    }
                }
            };
            tracing::warn!(what = self.what, left = self.left, %why, "an answer was cut short");
            self.cut.set();
            return Poll::Pending;
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = match self.get_mut() {
            Self::Bytes(bytes) if bytes.is_empty() => None,
            Self::Bytes(bytes) => Some(std::mem::take(bytes)),
            Self::Blob(blob) => match blob.poll_chunk(cx) {
                Poll::Ready(chunk) => chunk,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Blob(blob) => blob.left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Blob(blob) => blob.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
