//! How well a source can be read.

use std::collections::BTreeMap;

use crate::ports::{SourceError, SourceErrorReason};
use crate::time::UnixTime;

/// The health of one source.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    /// Listed once, the last contact was good, and all that is there is held.
    pub(super) up: bool,
    /// A full list has been completed: what is shown is all of it, and nothing that was handed on.
    pub(super) listed: bool,
    /// A request has failed.
    pub(super) failed: bool,
    /// More was there than is held: no answer makes it up again before a list that fits.
    pub(super) overflowed: bool,
    pub(super) last_success: Option<UnixTime>,
    /// Certificate Secrets held.
    pub(super) objects: u64,
    pub(super) resyncs: u64,
    pub(super) errors: BTreeMap<SourceErrorReason, u64>,
    /// What failed last, while the source is down.
    pub(super) message: Option<String>,
}

impl Health {
    /// Of a source that goes on where this one's was, in another way: what was known is, and whether it can be read that way is not.
    pub(super) fn handed_on(&self) -> Self {
        let Self { last_success, objects, resyncs, ref errors, .. } = *self;
        Self { last_success, objects, resyncs, errors: errors.clone(), ..Self::default() }
    }

    /// The source answered.
    pub(super) fn succeed(&mut self, now: UnixTime) {
        self.last_success = Some(now);
        if !self.overflowed {
            self.up = self.listed;
            self.message = None;
        }
    }

    /// A full list is complete.
    pub(super) fn list_finished(&mut self, now: UnixTime) {
        self.resyncs += u64::from(self.listed);
        self.listed = true;
        self.succeed(now);
    }

    /// A request failed.
    pub(super) fn fail(&mut self, error: &SourceError) {
        self.count(error);
        self.up = false;
        self.failed = true;
        self.message = Some(error.message.clone());
    }

    /// A failure that is no outage: a watch only has to start again.
    pub(super) fn count(&mut self, error: &SourceError) {
        *self.errors.entry(error.reason).or_default() += 1;
    }
}
