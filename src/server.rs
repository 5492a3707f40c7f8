//! The HTTP server: metrics, health, the pages, the API and its events, the webhook.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::follower::Followed;
use crate::metrics::exposition::{Exposition, ObjectPart};
use crate::metrics::family::Format;
use crate::metrics::{Handler, Metrics, Observed, StatusClass};
use crate::policy::Thresholds;
use crate::ports::Clock;
use crate::requests::told;
use crate::server::accept::Encoding;
use crate::server::body::Scrape;
use crate::server::brief::Briefs;
use crate::server::overview::Overviews;
use crate::server::tls::Peer;

mod accept;
mod body;
mod brief;
mod connection;
mod events;
pub mod overview;
mod page;
mod renewals;
mod room;
pub mod tls;
mod webhook;

pub use connection::{Door, Limits, serve};
pub use events::announce;
pub use webhook::Webhook;

/// Notifications whose renewals are asked for at the same time; further ones wait within their deadline.
const MOST_ASKING: usize = 32;

/// What the handlers share.
pub struct App {
    observed: Arc<dyn Observed>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    exposition: Exposition,
    overviews: Overviews,
    thresholds: ArcSwap<Thresholds>,
    was_ready: AtomicBool,
    stopping: AtomicBool,
    briefs: Briefs,
    webhook: ArcSwapOption<Webhook>,
    followed: Arc<Followed>,
    feed: events::Feed,
    /// Notifications that ask at a time.
    asking: Semaphore,
}

impl App {
    /// Shows what is observed and followed.
    pub fn new(
        observed: Arc<dyn Observed>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        thresholds: Thresholds,
        followed: Arc<Followed>,
    ) -> Arc<Self> {
        Arc::new(Self {
            observed,
            metrics,
            clock,
            exposition: Exposition::default(),
            overviews: Overviews::default(),
            thresholds: ArcSwap::from_pointee(thresholds),
            was_ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            briefs: Briefs::default(),
            webhook: ArcSwapOption::empty(),
            followed,
            feed: events::Feed::default(),
            asking: Semaphore::new(MOST_ASKING),
        })
    }

    /// Takes those of a reloaded policy.
    pub fn set_thresholds(&self, thresholds: Thresholds) {
        self.thresholds.store(Arc::new(thresholds));
    }

    /// Who may ask for renewals from now on; `None`: nobody.
    pub fn set_webhook(&self, webhook: Option<Webhook>) {
        self.webhook.store(webhook.map(Arc::new));
    }

    /// From now on it is not ready, so that no new traffic is sent here; requests are still answered, streams of events end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.feed.close();
    }

    /// Once it is ready, it stays so until it stops: what is added later may be long in answering, and would take all else along.
    fn ready(&self) -> Result<(), String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("it is stopping".to_owned());
        }
        if !self.was_ready.load(Ordering::Relaxed) {
            self.observed.ready()?;
            self.was_ready.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Renders what changed, so that the next scrape finds it done. Safe to call at any time and from several tasks; returns once the exposition is that of
    /// the present snapshots.
    pub async fn refresh(self: &Arc<Self>) {
        self.objects(Format::OpenMetrics).await;
    }

    async fn objects(self: &Arc<Self>, format: Format) -> Option<Arc<ObjectPart>> {
        let clusters = self.observed.clusters();
        let now = self.clock.now();
        if let Some(part) = self.exposition.unchanged(&clusters, format, now) {
            return Some(part);
        }
        let app = Arc::clone(self);
        tokio::task::spawn_blocking(move || app.exposition.render(&clusters, format, now)).await.ok()
    }
}

/// All routes of the main address. Others may be merged before it is served.
pub fn router(app: Arc<App>) -> Router {
    let metrics = Arc::clone(&app.metrics);
    Router::new()
        .route("/metrics", get(scrape))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready))
        .route("/", get(page::first))
        .route("/meshes/{cluster}/{namespace}/{mesh}", get(page::one_mesh))
        .route("/api/v1/meshes", get(meshes))
        .route("/api/v1/renewals", get(renewals::list))
        .route("/api/v1/renewals/{cluster}/{namespace}/{name}", get(renewals::one))
        .route("/api/v1/events", get(events::subscribe))
        .route("/api/v1/openapi.yaml", get(openapi))
        .route("/runbooks/{name}", get(page::runbook::read))
        .route(told::PATH, get(brief))
        .route("/webhook", post(webhook::receive_here).fallback(webhook::only_post))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(admit))
        .layer(middleware::from_fn_with_state(metrics, count))
        .with_state(app)
}

/// The routes of the webhook's own address.
pub fn webhook_router(app: Arc<App>) -> Router {
    let metrics = Arc::clone(&app.metrics);
    Router::new()
        .route("/webhook", post(webhook::receive).fallback(webhook::only_post))
        .fallback(nothing_else)
        .layer(middleware::from_fn_with_state(metrics, count))
        .with_state(app)
}

async fn scrape(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let format = accept::format(&headers);
    let Some(objects) = app.objects(format).await else {
        return sentence(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered; the log says why");
    };
    let tail = app.metrics.tail(&objects, format);
    let content_type = match format {
        Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
    };
    let head = [(CONTENT_TYPE, content_type), (VARY, "Accept, Accept-Encoding")];
    match accept::encoding(&headers) {
        Encoding::Gzip => {
            (head, [(CONTENT_ENCODING, "gzip")], axum::body::Body::new(Scrape::gzip(&objects, tail))).into_response()
        }
        Encoding::Identity => (head, axum::body::Body::new(Scrape::identity(objects, tail))).into_response(),
    }
}

async fn healthy() -> Response {
    sentence(StatusCode::OK, "meshcert is running")
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.ready() {
        Ok(()) => sentence(StatusCode::OK, "meshcert is ready"),
        Err(awaited) => sentence(StatusCode::SERVICE_UNAVAILABLE, &format!("meshcert is not ready: {awaited}")),
    }
}

async fn meshes(State(app): State<Arc<App>>) -> Response {
    json(overview::current(&app).await.map(|overview| overview.json.clone()))
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/yaml")], include_str!("../docs/openapi.yaml")).into_response()
}

async fn brief(State(app): State<Arc<App>>) -> Response {
    json(brief::current(&app).await)
}

async fn not_found() -> Response {
    sentence(StatusCode::NOT_FOUND, "there is nothing at this path; / lists what there is")
}

async fn nothing_else() -> Response {
    sentence(StatusCode::NOT_FOUND, "this address takes POST /webhook alone")
}

async fn wrong_method() -> Response {
    let mut response = sentence(StatusCode::METHOD_NOT_ALLOWED, "this path answers GET and HEAD only");
    response.headers_mut().insert(ALLOW, axum::http::HeaderValue::from_static("GET,HEAD"));
    response
}

fn encoded(answer: &impl Serialize) -> Bytes {
    // Only maps with keys that are no texts, and failing writers, make this fail; there are none.
    serde_json::to_vec(answer).unwrap_or_default().into()
}

/// An [`encoded`] answer; `None` where making it failed, which the runtime has logged.
fn json(answer: Option<Bytes>) -> Response {
    match answer {
        Some(json) => ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], json).into_response(),
        None => sentence(StatusCode::INTERNAL_SERVER_ERROR, "the list could not be made; the log says why"),
    }
}

fn sentence(status: StatusCode, words: &str) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{words}\n")).into_response()
}

/// Where the listener has a CA for clients, only they see anything; kubelet asks for the health and has no certificate, and the webhook has its own judgement.
async fn admit(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let for_everybody = path.starts_with("/-/") || path == "/webhook";
    let stranger = request.extensions().get::<Peer>().is_some_and(|peer| peer.asked && peer.names.is_none());
    if stranger && !for_everybody {
        return sentence(StatusCode::FORBIDDEN, "this path is for clients with a certificate of tls.clientCaFile");
    }
    next.run(request).await
}

async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let handler = match request.uri().path() {
        "/metrics" => Handler::Metrics,
        "/-/healthy" => Handler::Healthy,
        "/-/ready" => Handler::Ready,
        path if path == "/" || path.starts_with("/meshes/") || path.starts_with("/runbooks/") => Handler::Page,
        "/webhook" => Handler::Webhook,
        path if path.starts_with("/api/") => Handler::Api,
        _ => Handler::Other,
    };
    let response = next.run(request).await;
    let code = match response.status() {
        status if status.is_server_error() => StatusClass::ServerError,
        status if status.is_client_error() => StatusClass::ClientError,
        _ => StatusClass::Success,
    };
    metrics.http_request(handler, code);
    response
}
