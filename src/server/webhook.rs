//! `POST /webhook`: takes Alertmanager's notifications. It only asks; the acting plane decides from the certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ALLOW, AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ring::digest::{SHA256, digest};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::metrics::renewals::{Received, Refusal, RenewalMetrics};
use crate::notification::{Mapping, Notification};
use crate::requests::{Answer, Asked, Desk};
use crate::server::tls::Peer;
use crate::server::{App, not_found, sentence};

/// Of a body: thousands of alerts.
const LARGEST_BODY: usize = 4 << 20;
/// An answer later than this is a duplicate delivery sooner or later.
const DEADLINE: Duration = Duration::from_millis(900);

/// Who may ask, and where renewals are asked for.
pub struct Webhook {
    /// Whether it has an address of its own, and is not on the main one.
    pub apart: bool,
    /// File with a bearer token.
    pub bearer_token: Option<PathBuf>,
    /// User, and file with the password.
    pub basic: Option<(String, PathBuf)>,
    /// Names in client certificates of which one must be there; empty: any certificate of the CA. `None`: a certificate is no credential.
    pub client_certificates: Option<Vec<String>>,
    /// How alerts name their mesh.
    pub mapping: Mapping,
    /// Takes the requests.
    pub desk: Arc<Desk>,
    /// Counts.
    pub metrics: Arc<RenewalMetrics>,
}

pub(super) async fn only_post() -> Response {
    let mut response = sentence(StatusCode::METHOD_NOT_ALLOWED, "this path answers POST only");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

/// On the main address.
pub(super) async fn receive_here(
    State(app): State<Arc<App>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if app.webhook.load().as_ref().is_some_and(|webhook| webhook.apart) {
        return not_found().await;
    }
    receive(State(app), peer, headers, body).await
}

pub(super) async fn receive(
    State(app): State<Arc<App>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(webhook) = app.webhook.load_full() else {
        app.metrics.webhook_is_disabled();
        return sentence(
            StatusCode::NOT_FOUND,
            "the webhook is disabled: it is no role of this process, or has no credential",
        );
    };
    let Extension(peer) = peer.unwrap_or_default();
    webhook.receive(&headers, &peer, body, &app.asking).await
}

impl Webhook {
    async fn receive(&self, headers: &HeaderMap, peer: &Peer, body: Body, asking: &Semaphore) -> Response {
        match self.judge(headers, peer).await {
            Verdict::Known => {}
            Verdict::Stranger => {
                return self.refuse(
                    Refusal::ClientCertificate,
                    StatusCode::FORBIDDEN,
                    "no name in the client certificate is one of webhook.clientCertificates",
                );
            }
            Verdict::Unknown => {
                let mut response =
                    self.refuse(Refusal::Unauthorized, StatusCode::UNAUTHORIZED, "the credential is missing or wrong");
                response
                    .headers_mut()
                    .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer, Basic realm=\"meshcert\""));
                return response;
            }
            Verdict::Unreadable(path) => {
                warn!(path = %path.display(), "the webhook's credential cannot be read: nobody may ask");
                return self.refuse(
                    Refusal::Disabled,
                    StatusCode::SERVICE_UNAVAILABLE,
                    "no credential is configured that can be read",
                );
            }
        }
        let body = match Limited::new(body, LARGEST_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return self.refuse(Refusal::TooLarge, StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 4 MiB");
            }
            Err(_) => return self.refuse(Refusal::Invalid, StatusCode::BAD_REQUEST, "the body broke off"),
        };
        let notification = match Notification::read(&body) {
            Ok(notification) => notification,
            Err(error) => return self.refuse(Refusal::Invalid, StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let selectors = notification.selectors(&self.mapping);
        if selectors.is_empty() {
            self.metrics.received(Received::Ignored);
            return sentence(StatusCode::OK, "nothing to do: no alert of webhook.alertNames is firing");
        }
        let deadline = Instant::now() + DEADLINE;
        let Ok(_permit) = timeout_at(deadline, asking.acquire()).await else {
            self.metrics.refused(Refusal::Busy);
            return self.unavailable("too many notifications at once; send it again");
        };
        match timeout_at(deadline, self.desk.ask_for(&selectors)).await {
            Ok(Ok(answers)) => self.answer(answers),
            Ok(Err(why)) => {
                warn!("notification not taken: {why}");
                self.unavailable("it is not known now which meshes are meant; send it again")
            }
            Err(_) => self.unavailable("the cluster did not store the requests in time; send it again"),
        }
    }

    fn unavailable(&self, words: &str) -> Response {
        self.metrics.received(Received::Unavailable);
        sentence(StatusCode::SERVICE_UNAVAILABLE, words)
    }

    fn answer(&self, answers: Vec<(String, Answer)>) -> Response {
        let mut lines = Vec::new();
        let mut status = StatusCode::OK;
        for (mesh, answer) in answers {
            let words = match answer {
                Answer::Asked(Asked::Created(name)) => format!("asked for a renewal, {name}"),
                Answer::Asked(Asked::Exists(name, phase)) => format!("{name} is there already, {}", phase.as_str()),
                Answer::Asked(Asked::Deleting(name)) => {
                    status = StatusCode::SERVICE_UNAVAILABLE;
                    format!("{name} is being deleted; send it again")
                }
                Answer::NotDue => {
                    self.metrics.refused(Refusal::NotDue);
                    "nothing ends within renewBefore".to_owned()
                }
                Answer::Unknown => {
                    status = StatusCode::SERVICE_UNAVAILABLE;
                    warn!(mesh, "an alert's mesh is not known, and not every cluster can be read now");
                    "it is not known, and not every cluster can be read now; send it again".to_owned()
                }
                Answer::Unavailable { why, told } => {
                    status = StatusCode::SERVICE_UNAVAILABLE;
                    warn!(mesh, "a renewal could not be asked for: {why}");
                    match told {
                        Some(told) => format!("the request was not stored: {told}"),
                        None => "the cluster did not store the request; send it again".to_owned(),
                    }
                }
            };
            lines.push(format!("{mesh}: {words}"));
        }
        let stored = status == StatusCode::OK;
        self.metrics.received(if stored { Received::Accepted } else { Received::Unavailable });
        // Answers stand in Alertmanager's log.
        let shown = lines.len().min(50);
        let more = if lines.len() > shown { format!("\nand {} more", lines.len() - shown) } else { String::new() };
        let text =
            if lines.is_empty() { "there is no hosted mesh".to_owned() } else { lines[..shown].join("\n") + &more };
        info!(status = status.as_u16(), meshes = lines.len(), "notification");
        sentence(status, &text)
    }

    fn refuse(&self, reason: Refusal, status: StatusCode, words: &str) -> Response {
        self.metrics.received(Received::Refused);
        self.metrics.refused(reason);
        sentence(status, words)
    }

    /// Looks at every credential, whichever comes first, so that the answer takes as long for all.
    async fn judge(&self, headers: &HeaderMap, peer: &Peer) -> Verdict<'_> {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, given) = given.split_once(' ').unwrap_or_default();
        let mut readable = false;
        let mut known = false;
        let mut unreadable = None;
        if let Some(path) = &self.bearer_token {
            match secret(path).await {
                Some(token) => {
                    readable = true;
                    known |= scheme.eq_ignore_ascii_case("bearer") & same(given.trim().as_bytes(), token.as_bytes());
                }
                None => unreadable = Some(path.as_path()),
            }
        }
        if let Some((user, path)) = &self.basic {
            match secret(path).await {
                Some(password) => {
                    readable = true;
                    let wanted = Zeroizing::new(format!("{user}:{}", *password));
                    let given = Zeroizing::new(STANDARD.decode(given.trim()).unwrap_or_default());
                    known |= scheme.eq_ignore_ascii_case("basic") & same(&given, wanted.as_bytes());
                }
                None => unreadable = Some(path.as_path()),
            }
        }
        let mut stranger = false;
        if let Some(allowed) = &self.client_certificates {
            readable = true;
            // Names are no secrets: the handshake has proven the key.
            let named = |names: &Arc<[String]>| allowed.is_empty() || names.iter().any(|name| allowed.contains(name));
            known |= peer.names.as_ref().is_some_and(named);
            stranger = peer.names.is_some();
        }
        match unreadable {
            _ if known => Verdict::Known,
            Some(path) if !readable => Verdict::Unreadable(path),
            _ if stranger && given.is_empty() => Verdict::Stranger,
            _ => Verdict::Unknown,
        }
    }
}

/// Who asks.
enum Verdict<'a> {
    /// Somebody with a credential.
    Known,
    /// Somebody with a certificate of the CA that is not meant.
    Stranger,
    /// Nobody, or somebody with a wrong credential.
    Unknown,
    /// No credential can be read, this file among them.
    Unreadable(&'a Path),
}

/// A credential's file, without the newline at its end; an empty one is none.
async fn secret(path: &Path) -> Option<Zeroizing<String>> {
    let text = Zeroizing::new(tokio::fs::read_to_string(path).await.ok()?);
    let trimmed = text.trim();
    (!trimmed.is_empty()).then(|| Zeroizing::new(trimmed.to_owned()))
}

/// Compares digests: how long it takes says nothing about where two credentials differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    digest(&SHA256, a).as_ref() == digest(&SHA256, b).as_ref()
}
