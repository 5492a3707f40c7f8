//! Response bodies that point into the cache instead of copying it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;

use crate::metrics::LiveTail;
use crate::metrics::exposition::ObjectPart;

/// The body of `/metrics`.
#[derive(Debug)]
pub(super) struct Scrape {
    source: Source,
    tail: Option<Bytes>,
    remaining: u64,
}

#[derive(Debug)]
enum Source {
    /// The cached bytes as they are.
    Whole(Option<Bytes>),
    /// Text that is inflated segment by segment while it is sent: it is never in memory as a whole.
    Inflating { objects: Arc<ObjectPart>, next: usize },
}

impl Scrape {
    pub(super) fn gzip(objects: &ObjectPart, tail: LiveTail) -> Self {
        let whole = objects.gzip.clone();
        let remaining = (whole.len() + tail.gzip.len()) as u64;
        Self { source: Source::Whole(Some(whole)), tail: Some(tail.gzip), remaining }
    }

    pub(super) fn identity(objects: Arc<ObjectPart>, tail: LiveTail) -> Self {
        let remaining = objects.len + tail.text.len() as u64;
        Self { source: Source::Inflating { objects, next: 0 }, tail: Some(tail.text), remaining }
    }

    fn next(&mut self) -> Option<Bytes> {
        let piece = match &mut self.source {
            Source::Whole(whole) => whole.take(),
            Source::Inflating { objects, next } => {
                // Small segments go together: a system call costs more than a copy.
                let mut piece = Vec::new();
                while piece.len() < CHUNK
                    && let Some(segment) = objects.segments.get(*next)
                {
                    piece.append(&mut segment.inflate());
                    *next += 1;
                }
                (!piece.is_empty()).then(|| piece.into())
            }
        };
        piece.or_else(|| self.tail.take())
    }
}

impl Body for Scrape {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.next();
        if let Some(piece) = &piece {
            self.remaining = self.remaining.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.tail.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

const CHUNK: usize = 64 << 10;
