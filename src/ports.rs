//! What the shell needs from the outside world.

use crate::secret::{RawSecret, SecretRef};
use crate::time::UnixTime;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> UnixTime;
}

/// One step of following a cluster's Secrets.
pub enum SecretEvent {
    /// A full list begins; what was known stays valid until it ends.
    ListStarted,
    /// The wanted Secrets of a page of the full list.
    Page(Vec<RawSecret>),
    /// The full list is complete: what it did not hold is gone.
    ListFinished,
    /// A Secret was added or changed; `None` for one that is not (or no longer) read.
    Applied(SecretRef, Option<RawSecret>),
    /// A Secret was deleted.
    Deleted(SecretRef),
    /// The watch is alive (an event or bookmark arrived).
    Alive,
    /// A request failed; it is tried again.
    Failed(SourceError),
}

/// Why a source could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// The stable code.
    pub reason: SourceErrorReason,
    /// What failed and what to do, without secrets.
    pub message: String,
}

/// Label values of `meshcert_source_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceErrorReason {
    /// The API could not be reached, or TLS failed.
    Unreachable,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 410, or a watch that must start again.
    Gone,
    /// 429.
    Throttled,
    /// 5xx.
    Server,
    /// The answer could not be understood.
    Decode,
    /// No answer in time.
    Timeout,
    /// The kubeconfig cannot be used.
    Kubeconfig,
    /// The cluster holds more than is allowed.
    TooLarge,
}

impl SourceErrorReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Unreachable,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Gone,
        Self::Throttled,
        Self::Server,
        Self::Decode,
        Self::Timeout,
        Self::Kubeconfig,
        Self::TooLarge,
    ];

    /// The label value of `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Gone => "gone",
            Self::Throttled => "throttled",
            Self::Server => "server",
            Self::Decode => "decode",
            Self::Timeout => "timeout",
            Self::Kubeconfig => "kubeconfig",
            Self::TooLarge => "too_large",
        }
    }
}
