//! One GET with a deadline, and what its failures mean.

use std::time::Duration;

use http::header::ACCEPT;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;

use crate::cluster::connect::chain;
use crate::cluster::decode::protobuf;
use crate::ports::{SourceError, SourceErrorReason};

/// An answer larger than this is given up. Of a list two pages are in memory, and what was read from two others: four of them, where the chart allows 128 MiB. Ten Secrets of
/// the largest size that Kubernetes allows stay below it.
const LARGEST_ANSWER: usize = 16 << 20;

/// The remedies for an answer that is too large, and for a connection that ends within one.
pub(super) const SMALLER: &str = "narrow what is asked for, or make the object smaller that is so large";
pub(super) const CUT: &str = "look for what cuts it: a proxy on the way, or the API server's end";

/// What custom resources and the lines of a watch are read in.
pub(super) const JSON: &str = "application/json";

/// What is asked, for messages: verb, resource, namespace.
pub(super) struct Asked<'a> {
    pub(super) verb: &'static str,
    pub(super) resource: Resource,
    pub(super) namespace: Option<&'a str>,
}

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Secrets,
    /// Those that announce clusters.
    ClusterSecrets,
    Renewals,
}

/// The parts of a `Status` that matter.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
}

/// Sends a GET and returns its body's beginning once the status is good.
pub(super) async fn open(
    client: &Client,
    uri: &str,
    accept: &'static str,
    asked: &Asked<'_>,
    deadline: Duration,
) -> Result<Body, SourceError> {
    let request = Request::get(uri).header(ACCEPT, accept).body(Body::empty()).map_err(|error| SourceError {
        reason: SourceErrorReason::Decode,
        message: format!("the request {uri} cannot be made: {error}"),
    })?;
    let response = match tokio::time::timeout(deadline, client.send(request)).await {
        Err(_) => return Err(too_slow(asked, deadline)),
        Ok(Err(error)) => return Err(unreachable(asked, &error)),
        Ok(Ok(response)) => response,
    };
    let status = response.status();
    if status.is_success() {
        return Ok(response.into_body());
    }
    // What comes with a refusal is a sentence; more is not worth waiting for.
    let sentence = Limited::new(response.into_body(), 64 << 10).collect();
    let bytes = match tokio::time::timeout(deadline, sentence).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Default::default(),
    };
    let message = protobuf::status_message(&bytes)
        .or_else(|| serde_json::from_slice::<Status>(&bytes).ok().map(|status| status.message))
        .unwrap_or_default();
    Err(refused(asked, status, &message))
}

/// Sends a GET and collects its whole body, in the room of `buffer`: pages of megabytes that come and go leave holes in the heap.
pub(super) async fn get(
    client: &Client,
    uri: &str,
    asked: &Asked<'_>,
    deadline: Duration,
    buffer: Vec<u8>,
) -> Result<Vec<u8>, SourceError> {
    let body = open(client, uri, asked.resource.accept(), asked, deadline).await?;
    match tokio::time::timeout(deadline, collect(Limited::new(body, LARGEST_ANSWER), buffer)).await {
        Err(_) => Err(too_slow(asked, deadline)),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(SourceError {
            reason: SourceErrorReason::TooLarge,
            message: format!("{asked}: the answer is larger than {} MiB; {SMALLER}", LARGEST_ANSWER >> 20),
        }),
        Ok(Err(error)) => Err(SourceError {
            reason: SourceErrorReason::Unreachable,
            message: format!("{asked}: the connection broke off: {}; {CUT}", chain(&*error)),
        }),
    }
}

async fn collect(
    mut body: Limited<Body>,
    mut buffer: Vec<u8>,
) -> Result<Vec<u8>, <Limited<Body> as http_body::Body>::Error> {
    buffer.clear();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            buffer.extend_from_slice(&data);
        }
    }
    Ok(buffer)
}

/// The error that a refusal by the API server stands for.
pub(super) fn refused(asked: &Asked<'_>, status: StatusCode, message: &str) -> SourceError {
    let (reason, remedy) = match status {
        StatusCode::UNAUTHORIZED => (SourceErrorReason::Unauthorized, "; the credentials are not accepted, renew them"),
        StatusCode::FORBIDDEN => (SourceErrorReason::Forbidden, asked.resource.grant()),
        StatusCode::NOT_FOUND => (SourceErrorReason::Server, asked.resource.introduce()),
        StatusCode::GONE => (SourceErrorReason::Gone, "; it is listed anew by itself"),
        StatusCode::TOO_MANY_REQUESTS => (
            SourceErrorReason::Throttled,
            "; lighten its load, or give meshcert's requests a higher priority (FlowSchema)",
        ),
        StatusCode::GATEWAY_TIMEOUT => (SourceErrorReason::Timeout, "; look at the API server's load, and at its log"),
        status if status.is_server_error() => (SourceErrorReason::Server, "; look at the API server's log"),
        _ => (SourceErrorReason::Server, ""),
    };
    let said = if message.is_empty() { String::new() } else { format!(": {message}") };
    SourceError { reason, message: format!("{asked}: the API server answered {status}{said}{remedy}") }
}

fn too_slow(asked: &Asked<'_>, deadline: Duration) -> SourceError {
    SourceError {
        reason: SourceErrorReason::Timeout,
        message: format!(
            "{asked}: no answer within {} s; look at the API server's load, and for a proxy on the way that holds answers back",
            deadline.as_secs()
        ),
    }
}

fn unreachable(asked: &Asked<'_>, error: &kube::Error) -> SourceError {
    SourceError {
        reason: SourceErrorReason::Unreachable,
        message: format!(
            "{asked}: the API server cannot be reached: {}; look at its address in the kubeconfig, the network policies and the credentials",
            chain(error)
        ),
    }
}

impl Resource {
    fn as_str(self) -> &'static str {
        match self {
            Self::Secrets => "secrets",
            Self::ClusterSecrets => "cluster Secrets",
            Self::Renewals => "certificaterenewals",
        }
    }

    /// In which forms a list of it is read.
    fn accept(self) -> &'static str {
        match self {
            Self::Secrets => protobuf::ACCEPT,
            Self::ClusterSecrets | Self::Renewals => JSON,
        }
    }

    /// The remedy where it may not be read.
    fn grant(self) -> &'static str {
        match self {
            Self::Secrets => "; grant the verbs list and watch on secrets there (a Role is enough)",
            Self::ClusterSecrets => "; grant the verb list on secrets there (a Role is enough)",
            Self::Renewals => {
                "; grant the verbs list and watch on certificaterenewals.meshcert.dev there (a Role is enough)"
            }
        }
    }

    /// The remedy where the cluster does not know it.
    fn introduce(self) -> &'static str {
        match self {
            Self::Secrets | Self::ClusterSecrets => "",
            Self::Renewals => "; the cluster does not know the kind: meshcert crd | kubectl apply -f -",
        }
    }
}

/// `list secrets in namespace istio-system`.
impl std::fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let resource = self.resource.as_str();
        match self.namespace {
            Some(namespace) => write!(f, "{} {resource} in namespace {namespace}", self.verb),
            None => write!(f, "{} {resource} in all namespaces", self.verb),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_a_server_says_what_to_do() {
        let asked = Asked { verb: "list", resource: Resource::Secrets, namespace: Some("ns") };
        for (code, reason, remedy) in [
            (401, SourceErrorReason::Unauthorized, "renew them"),
            (403, SourceErrorReason::Forbidden, "grant the verbs list and watch on secrets there (a Role is enough)"),
            (410, SourceErrorReason::Gone, "it is listed anew by itself"),
            (429, SourceErrorReason::Throttled, "give meshcert's requests a higher priority (FlowSchema)"),
            (500, SourceErrorReason::Server, "look at the API server's log"),
            (503, SourceErrorReason::Server, "look at the API server's log"),
            (504, SourceErrorReason::Timeout, "look at the API server's load, and at its log"),
        ] {
            let SourceError { reason: told, message } = refused(&asked, StatusCode::from_u16(code).unwrap(), "why");
            assert!(told == reason && message.contains(": why; ") && message.ends_with(remedy), "{message}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_failure_on_the_way_says_where_to_look() {
        let asked = Asked { verb: "list", resource: Resource::Secrets, namespace: None };
        let client = Client::new(
            tower::service_fn(async |request: Request<Body>| match request.uri().path() {
                "/slow" => std::future::pending().await,
                "/large" => Ok(http::Response::new(Body::from(vec![b' '; LARGEST_ANSWER + 1]))),
                _ => Err(std::io::Error::other("no route")),
            }),
            "ns",
        );
        for (path, reason, words) in [
            ("/slow", SourceErrorReason::Timeout, "no answer within 60 s; look at the API server's load"),
            ("/large", SourceErrorReason::TooLarge, "larger than 16 MiB; narrow what is asked for"),
            ("/", SourceErrorReason::Unreachable, "no route; look at its address in the kubeconfig"),
        ] {
            let got = get(&client, path, &asked, Duration::from_secs(60), Vec::new()).await;
            let SourceError { reason: told, message } = got.unwrap_err();
            assert!(told == reason && message.contains(words), "{message}");
        }
    }
}
