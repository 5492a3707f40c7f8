//! What the embedded API answers when it refuses: a `Status` with the reason and code of the real API server.

use http::StatusCode;
use serde_json::{Value, json};

use crate::demo::store::Key;

/// A refusal.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Failure {
    pub(super) fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    pub(super) fn not_found((resource, _, name): &Key) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{} {name:?} not found", plural(resource)))
    }

    pub(super) fn already_exists((resource, _, name): &Key) -> Self {
        Self::new(StatusCode::CONFLICT, "AlreadyExists", format!("{} {name:?} already exists", plural(resource)))
    }

    pub(super) fn conflict((resource, _, name): &Key) -> Self {
        let message = "the object has been modified; please apply your changes to the latest version and try again";
        Self::new(
            StatusCode::CONFLICT,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {name:?}: {message}", plural(resource)),
        )
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// A version that is not yet reached.
    pub(super) fn too_new(version: u64, now: u64) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            format!("Too large resource version: {version}, current: {now}"),
        )
    }

    /// A version that is no longer, or not yet, known.
    pub(super) fn gone() -> Self {
        Self::new(StatusCode::GONE, "Expired", "too old resource version: the change history has moved on")
    }

    pub(super) fn body(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        })
    }
}

fn plural(resource: &str) -> &str {
    resource.rsplit('/').next().unwrap_or(resource)
}
