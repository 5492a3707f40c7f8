//! The lines of a watch, as they arrive.

use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::timeout;

use crate::cluster::connect::chain;
use crate::cluster::feed::HELD_BACK;
use crate::cluster::request::{Asked, CUT, SMALLER};
use crate::ports::{SourceError, SourceErrorReason};

/// A watch on which nothing arrives for this long is cut from this side: the API server sends a bookmark about every minute.
const WATCH_IDLE: Duration = Duration::from_secs(150);
/// A line longer than this is no object.
const LONGEST_LINE: usize = 8 << 20;

/// A watch's body, cut into lines.
pub(super) struct Lines {
    body: Body,
    /// What has arrived and was not passed on yet.
    rest: Bytes,
    /// The beginning of a line that has not arrived whole.
    begun: Vec<u8>,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self { body, rest: Bytes::new(), begun: Vec::new() }
    }

    /// The next line; `None` where the watch has ended.
    pub(super) async fn next(&mut self, asked: &Asked<'_>) -> Result<Option<Vec<u8>>, SourceError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.rest) {
                self.begun.extend_from_slice(&self.rest[..end]);
                self.rest.advance(end + 1);
                return Ok(Some(std::mem::take(&mut self.begun)));
            }
            self.begun.extend_from_slice(&self.rest);
            self.rest.clear();
            if self.begun.len() > LONGEST_LINE {
                let message = format!("{asked}: an event is larger than {} MiB; {SMALLER}", LONGEST_LINE >> 20);
                return Err(SourceError { reason: SourceErrorReason::TooLarge, message });
            }
            match timeout(WATCH_IDLE, self.body.frame()).await {
                Err(_) => {
                    let message = format!("{asked}: nothing arrived for {} s, {HELD_BACK}", WATCH_IDLE.as_secs());
                    return Err(SourceError { reason: SourceErrorReason::Timeout, message });
                }
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => self.rest = frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) => {
                    return Err(SourceError {
                        reason: SourceErrorReason::Unreachable,
                        message: format!("{asked}: the connection broke off: {}; {CUT}", chain(&error)),
                    });
                }
            }
        }
    }
}
