//! The next command to try after an error.

use crate::cluster::api::{ApiError, ErrorKind};
use crate::config::ConfigError;
use crate::ports::{SourceError, SourceErrorReason};

/// What no observed cluster answered; its message names each.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoneAnswered(pub(super) String);

/// A command that helps on after an error; `None` where the error says all there is to say.
pub fn next_command(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        if let Some(ConfigError::Invalid { .. }) = cause.downcast_ref() {
            return Some("meshcert config schema");
        }
        if cause.is::<NoneAnswered>() {
            return Some("kubectl config get-contexts, and choose one with --context");
        }
        if let Some(SourceError { reason, .. }) = cause.downcast_ref() {
            return match reason {
                SourceErrorReason::Kubeconfig => Some("kubectl config get-contexts, and choose one with --context"),
                SourceErrorReason::Forbidden => Some("kubectl auth can-i --list --namespace NAMESPACE"),
                _ => None,
            };
        }
        let ApiError { kind, message } = cause.downcast_ref()?;
        match kind {
            // An object that is not there is `None`, no error: the kind itself is unknown.
            ErrorKind::NotFound if message.contains("/certificaterenewals") => {
                Some("meshcert crd | kubectl apply -f -")
            }
            ErrorKind::Forbidden => Some("kubectl auth can-i --list --namespace NAMESPACE"),
            ErrorKind::Unavailable => Some("kubectl get --raw /readyz, or another cluster with --context"),
            _ => None,
        }
    })
}
