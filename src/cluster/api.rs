//! JSON requests to a Kubernetes API, each with a deadline; what is sent and received is wiped afterwards, for it may hold keys.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cluster::connect::chain;
use crate::name::Encoded;
use crate::time::UnixTime;

/// Longer than any single object takes.
const DEADLINE: Duration = Duration::from_secs(10);
/// No page comes near it.
const LARGEST_ANSWER: usize = 64 << 20;
/// Items per page: a renewal takes some twenty kilobytes, a copy of a mesh's certificates as many.
const PAGE: usize = 250;
/// Pages of one list: more than a namespace can hold.
const MOST_PAGES: usize = 2000;

/// What 401 means, with its remedy.
pub(super) const UNKNOWN: &str = "the API server does not know this identity, renew the kubeconfig";
/// Objects as they are.
pub(super) const WHOLE: &str = "application/json";
/// Their metadata alone.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// A Kubernetes API.
#[derive(Clone)]
pub struct Api {
    client: Client,
    deadline: Duration,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// What was asked and what was answered, without content.
    pub message: String,
}

/// Kinds of failures that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 404.
    NotFound,
    /// 409: it changed meanwhile, or exists already.
    Conflict,
    /// 403.
    Forbidden,
    /// 400, 422, and what an admission webhook denies.
    Invalid,
    /// Everything that may pass: no answer, 429, 5xx, and 401 until the credentials are renewed, which no right replaces.
    Unavailable,
}

/// A page of a list, whose items are read one by one.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(rename = "continue", default)]
    next: String,
}

impl Api {
    /// On a client.
    pub fn new(client: Client) -> Self {
        Self { client, deadline: DEADLINE }
    }

    /// The same, that waits this long for an answer.
    #[must_use]
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The client, for what is no exchange of JSON, or goes on and on.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// An object; `None` where there is none.
    ///
    /// # Errors
    /// The request failed.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ApiError> {
        match self.send(Method::GET, path, None).await {
            Ok((bytes, _)) => decode(path, &bytes).map(Some),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The items of a list; of each only what `T` holds.
    ///
    /// # Errors
    /// A request failed; 404 means that the kind is not known.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ApiError> {
        self.list_with(path, WHOLE, |item| decode(path, item.get().as_bytes())).await?.into_iter().collect()
    }

    /// The metadata of the items of a list: what is not sent needs no room, and no key travels for nothing.
    ///
    /// # Errors
    /// As [`Api::list`].
    pub(super) async fn list_metadata<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ApiError> {
        self.list_with(path, METADATA, |item| decode(path, item.get().as_bytes())).await?.into_iter().collect()
    }

    /// What is made of the items of a list, page by page.
    ///
    /// # Errors
    /// A request failed; 404 means that the kind is not known.
    pub(super) async fn list_with<T>(
        &self,
        path: &str,
        accept: &'static str,
        read: impl Fn(&RawValue) -> T,
    ) -> Result<Vec<T>, ApiError> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let (mut all, mut next) = (Vec::new(), String::new());
        for _ in 0..MOST_PAGES {
            let token = if next.is_empty() { String::new() } else { format!("&continue={}", Encoded(&next)) };
            let page = format!("{path}{joint}limit={PAGE}{token}");
            let (bytes, _) = self.send_for(accept, Method::GET, &page, None).await?;
            let Page { metadata, items } = decode(path, &bytes)?;
            all.extend(items.into_iter().flatten().map(&read));
            next = metadata.next;
            if next.is_empty() {
                return Ok(all);
            }
        }
        Err(unavailable(&Asked(&Method::GET, path), "the list does not end"))
    }

    /// Creates an object.
    ///
    /// # Errors
    /// The request failed; [`ErrorKind::Conflict`] where it exists.
    pub async fn create(&self, path: &str, object: &impl Serialize) -> Result<Value, ApiError> {
        let (bytes, _) = self.send(Method::POST, path, Some(("application/json", object_bytes(path, object)?))).await?;
        decode(path, &bytes)
    }

    /// Replaces an object or its subresource.
    ///
    /// # Errors
    /// The request failed; [`ErrorKind::Conflict`] where it has changed.
    pub async fn replace(&self, path: &str, object: &impl Serialize) -> Result<Value, ApiError> {
        let (bytes, _) = self.send(Method::PUT, path, Some(("application/json", object_bytes(path, object)?))).await?;
        decode(path, &bytes)
    }

    /// Changes parts of an object (RFC 7396); with a `resourceVersion` in the patch, only that version.
    ///
    /// # Errors
    /// The request failed.
    pub async fn merge(&self, path: &str, patch: &impl Serialize) -> Result<(), ApiError> {
        let body = object_bytes(path, patch)?;
        self.send(Method::PATCH, path, Some(("application/merge-patch+json", body))).await.map(drop)
    }

    /// Tries whether an object could be changed so: rights and admission are asked, and nothing is stored.
    ///
    /// # Errors
    /// It could not, or the request failed.
    pub(super) async fn try_merge(&self, path: &str, patch: &impl Serialize) -> Result<(), ApiError> {
        self.merge(&format!("{path}?dryRun=All"), patch).await
    }

    /// Deletes an object, with a uid only that one; what is gone already is fine.
    ///
    /// # Errors
    /// The request failed.
    pub async fn delete(&self, path: &str, uid: Option<&str>) -> Result<(), ApiError> {
        let options = match uid {
            Some(uid) => json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": uid } }),
            None => json!({ "apiVersion": "v1", "kind": "DeleteOptions" }),
        };
        self.delete_with(path, &options).await
    }

    /// Deletes an object as the options say; what is gone already is fine.
    ///
    /// # Errors
    /// The request failed.
    pub async fn delete_with(&self, path: &str, options: &Value) -> Result<(), ApiError> {
        match self.send(Method::DELETE, path, Some(("application/json", object_bytes(path, options)?))).await {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// An object that is always there, and the API server's clock.
    ///
    /// # Errors
    /// The request failed.
    pub(super) async fn get_with_clock<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<(T, Option<UnixTime>), ApiError> {
        let (bytes, clock) = self.send(Method::GET, path, None).await?;
        Ok((decode(path, &bytes)?, clock))
    }

    /// Sends; the body and the server's time.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Zeroizing<Vec<u8>>)>,
    ) -> Result<(Zeroizing<Vec<u8>>, Option<UnixTime>), ApiError> {
        self.send_for(WHOLE, method, path, body).await
    }

    /// The same, for an answer in this form.
    async fn send_for(
        &self,
        accept: &'static str,
        method: Method,
        path: &str,
        body: Option<(&str, Zeroizing<Vec<u8>>)>,
    ) -> Result<(Zeroizing<Vec<u8>>, Option<UnixTime>), ApiError> {
        let asked = Asked(&method, path);
        let mut request = Request::builder().method(&method).uri(path).header(ACCEPT, accept);
        let body = match body {
            Some((kind, bytes)) => {
                request = request.header(CONTENT_TYPE, kind);
                Body::from(Bytes::from_owner(bytes))
            }
            None => Body::empty(),
        };
        let request = request.body(body).map_err(|error| invalid(&asked, &error.to_string()))?;
        let answered = tokio::time::timeout(self.deadline, async {
            let response = self.client.send(request).await.map_err(|error| unavailable(&asked, &chain(&error)))?;
            let date =
                response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok()).and_then(http_date);
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
            let body = body.map_err(|error| unavailable(&asked, &error.to_string()))?;
            Ok((status, date, Zeroizing::new(body.to_bytes().to_vec())))
        });
        let (status, date, bytes) = match answered.await {
            Ok(answer) => answer?,
            Err(_) => return Err(unavailable(&asked, &format!("no answer within {} s", self.deadline.as_secs_f32()))),
        };
        if status.is_success() { Ok((bytes, date)) } else { Err(refused(&asked, status, &bytes)) }
    }
}

/// `PATCH /api/v1/…`, without the query.
struct Asked<'a>(&'a Method, &'a str);

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.1.split('?').next().unwrap_or_default())
    }
}

fn object_bytes(path: &str, object: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    serde_json::to_vec(object)
        .map(Zeroizing::new)
        .map_err(|error| invalid(&Asked(&Method::POST, path), &error.to_string()))
}

fn decode<'a, T: Deserialize<'a>>(path: &str, bytes: &'a [u8]) -> Result<T, ApiError> {
    // The error's text names places, never values of strings.
    serde_json::from_slice(bytes).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        unavailable(&Asked(&Method::GET, path), &format!("the answer is not what the API promises ({place})"))
    })
}

fn refused(asked: &Asked<'_>, status: StatusCode, bytes: &[u8]) -> ApiError {
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        message: String,
    }
    let said = serde_json::from_slice::<Status>(bytes).map(|status| status.message).unwrap_or_default();
    let said: String = said.chars().take(512).collect();
    let kind = match status {
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::CONFLICT => ErrorKind::Conflict,
        // Who denies in a webhook says 403 unless told otherwise, and no right helps against that.
        StatusCode::FORBIDDEN if said.contains("admission webhook") => ErrorKind::Invalid,
        StatusCode::FORBIDDEN => ErrorKind::Forbidden,
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    };
    let missing = match (status, kind) {
        (StatusCode::FORBIDDEN, ErrorKind::Forbidden) => format!("meshcert may not {}: ", right(asked)),
        (StatusCode::UNAUTHORIZED, _) => format!("{UNKNOWN}: "),
        _ => String::new(),
    };
    ApiError { kind, message: format!("{missing}{asked}: the API server answered {status}: {said}") }
}

/// What is asked, as `kubectl auth can-i` and a Role name it: `get deployments.apps in istio-system`.
fn right(Asked(method, path): &Asked<'_>) -> String {
    let segments: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').skip(1).collect();
    let (group, rest) = match &segments[..] {
        ["apis", group, _, rest @ ..] => (format!(".{group}"), rest),
        ["api", _, rest @ ..] => (String::new(), rest),
        _ => return format!("{} {path}", method.as_str().to_lowercase()),
    };
    let (place, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (format!(" in {namespace}"), rest),
        rest => (String::new(), rest),
    };
    let verb = match (method.as_str(), rest.len()) {
        ("GET", 1) => "list",
        ("GET", _) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        (other, _) => &other.to_lowercase(),
    };
    let sub = rest.get(2).map(|sub| format!("/{sub}")).unwrap_or_default();
    format!("{verb} {}{group}{sub}{place}", rest.first().unwrap_or(&""))
}

fn invalid(asked: &Asked<'_>, why: &str) -> ApiError {
    ApiError { kind: ErrorKind::Invalid, message: format!("{asked}: the request cannot be made: {why}") }
}

fn unavailable(asked: &Asked<'_>, why: &str) -> ApiError {
    ApiError { kind: ErrorKind::Unavailable, message: format!("{asked}: {why}") }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7).
fn http_date(text: &str) -> Option<UnixTime> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = text.split_whitespace().skip(1);
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.find(month)? / 3 + 1;
    UnixTime::parse_rfc_3339(&format!("{year}-{month:02}-{day:0>2}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_named_as_a_role_names_it() {
        let named = |method: Method, path| right(&Asked(&method, path));
        for (method, path, words) in [
            (Method::GET, "/api/v1/namespaces/a/secrets/b", "get secrets in a"),
            (Method::GET, "/api/v1/namespaces/a/pods?labelSelector=b%3Dc", "list pods in a"),
            (Method::PATCH, "/apis/apps/v1/namespaces/a/deployments/b", "patch deployments.apps in a"),
            (
                Method::PUT,
                "/apis/meshcert.dev/v1alpha1/namespaces/a/certificaterenewals/b/status",
                "update certificaterenewals.meshcert.dev/status in a",
            ),
            (Method::POST, "/apis/batch/v1/namespaces/a/jobs", "create jobs.batch in a"),
            (Method::GET, "/api/v1/namespaces/a", "get namespaces"),
            (Method::GET, "/version", "get /version"),
        ] {
            assert_eq!(named(method, path), words);
        }
    }

    #[test]
    fn an_identity_that_is_not_known_is_told_from_one_without_a_right() {
        let told = |status| refused(&Asked(&Method::GET, "/api/v1/namespaces/a/secrets/b"), status, b"{}");
        let unknown = told(StatusCode::UNAUTHORIZED);
        assert_eq!(unknown.kind, ErrorKind::Unavailable, "{unknown}");
        assert!(unknown.message.contains("does not know this identity, renew the kubeconfig"), "{unknown}");
        let forbidden = told(StatusCode::FORBIDDEN);
        assert_eq!(forbidden.kind, ErrorKind::Forbidden, "{forbidden}");
        assert!(forbidden.message.starts_with("meshcert may not get secrets in a: "), "{forbidden}");
    }

    #[test]
    fn the_date_header_is_read() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(UnixTime(784_111_777)));
        assert_eq!(http_date("yesterday"), None);
    }
}
