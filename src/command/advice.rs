//! The next command to try, as it has to be typed.

use crate::app::Sources;
use crate::cli;
use crate::cluster::api::{ApiError, ErrorKind};
use crate::config::{ALL, ConfigError};
use crate::ports::{SourceError, SourceErrorReason};

/// What no observed cluster answered; its message names each.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoneAnswered(pub(super) String);

/// Why nothing could be read: a single failure is the whole answer, with what its kind advises.
pub(super) fn none_answered(mut failures: Vec<anyhow::Error>) -> anyhow::Error {
    let all: Vec<String> = failures.iter().map(|error| format!("{error:#}")).collect();
    failures.pop().filter(|_| all.len() == 1).unwrap_or_else(|| NoneAnswered(all.join("\n")).into())
}

/// A Secret that no cluster has, as it was named.
#[derive(Debug, thiserror::Error)]
#[error("no cluster has the Secret {0}; name it NAMESPACE/NAME, or the namespace with --namespace")]
pub(super) struct NoSuchSecret(pub(super) String);

/// `meshcert WORDS`, with the flags as they were given: it looks where this command looked.
pub(super) fn meshcert(sources: &Sources, words: &str) -> String {
    let mut command = format!("{} {words}", cli::program());
    for namespace in &sources.namespaces {
        command = format!("{command} -n {}", quoted(namespace));
    }
    let config = sources.config.as_ref().map(|path| path.display().to_string());
    with_flag(&mut command, "config", config.as_deref());
    with_way(command, sources)
}

/// `kubectl WORDS`, for the same cluster.
pub(super) fn kubectl(sources: &Sources, words: &str) -> String {
    with_way(format!("kubectl {words}"), sources)
}

/// A command that helps on after an error; `None` where the error says all there is to say.
pub fn next_command(error: &anyhow::Error, sources: &Sources) -> Option<String> {
    let contexts = || {
        let all = Sources { context: None, ..sources.clone() };
        Some(format!("{}, and choose one with --context", kubectl(&all, "config get-contexts")))
    };
    let namespace = match &sources.namespaces[..] {
        [one] if one != ALL => quoted(one),
        _ => "NAMESPACE".to_owned(),
    };
    let rights = || Some(kubectl(sources, &format!("auth can-i --list --namespace {namespace}")));
    error.chain().find_map(|cause| {
        if let Some(ConfigError::Invalid { .. }) = cause.downcast_ref() {
            return Some(format!("{} config schema", cli::program()));
        }
        if cause.is::<NoneAnswered>() {
            return contexts();
        }
        if let Some(NoSuchSecret(secret)) = cause.downcast_ref() {
            let namespace = secret.split_once('/').map_or(namespace.clone(), |(namespace, _)| quoted(namespace));
            return Some(kubectl(sources, &format!("get secrets --namespace {namespace}")));
        }
        if let Some(SourceError { reason, .. }) = cause.downcast_ref() {
            return match reason {
                SourceErrorReason::Kubeconfig => contexts(),
                SourceErrorReason::Forbidden => rights(),
                _ => None,
            };
        }
        let ApiError { kind, message } = cause.downcast_ref()?;
        match kind {
            // An object that is not there is `None`, no error: the kind itself is unknown.
            ErrorKind::NotFound if message.contains("/certificaterenewals") => {
                Some(format!("{} crd | {}", cli::program(), kubectl(sources, "apply -f -")))
            }
            ErrorKind::Forbidden => rights(),
            ErrorKind::Unavailable => {
                Some(format!("{}, or another cluster with --context", kubectl(sources, "get --raw /readyz")))
            }
            _ => None,
        }
    })
}

/// With the flags that meshcert and kubectl have in common.
fn with_way(mut command: String, sources: &Sources) -> String {
    let kubeconfig = sources.kubeconfig.as_ref().map(|path| path.display().to_string());
    with_flag(&mut command, "kubeconfig", kubeconfig.as_deref());
    with_flag(&mut command, "context", sources.context.as_deref());
    command
}

fn with_flag(command: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        command.push_str(&format!(" --{name} {}", quoted(value)));
    }
}

/// As one word of a shell.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_carries_the_flags_as_one_word_each() {
        let sources = Sources {
            config: Some("/etc/my mesh.yaml".into()),
            kubeconfig: Some("/tmp/it's".into()),
            context: Some("kind-a@b".to_owned()),
            namespaces: vec!["*".to_owned()],
        };
        let way = "--kubeconfig '/tmp/it'\\''s' --context kind-a@b";
        assert_eq!(meshcert(&sources, "status"), format!("meshcert status -n '*' --config '/etc/my mesh.yaml' {way}"));
        assert_eq!(kubectl(&sources, "get crn"), format!("kubectl get crn {way}"));
        assert_eq!(meshcert(&Sources::default(), "status"), "meshcert status");
    }
}
