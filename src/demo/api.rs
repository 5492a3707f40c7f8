//! The embedded Kubernetes API: one axum router that kubectl and kube talk to.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::response::Response;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, StatusCode};
use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::demo::access::Access;
use crate::demo::call::{Call, Form};
use crate::demo::forward::Nodes;
use crate::demo::schema::Schemas;
use crate::demo::status::Failure;
use crate::demo::store::Store;
use crate::demo::{list, scale, table};
use crate::ports::Clock;

/// The largest object taken, as etcd's limit with room for the envelope.
const LARGEST_BODY: usize = 3 << 20;

/// What the handlers share.
pub(super) struct Api {
    pub(super) store: Arc<Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) access: Access,
    pub(super) nodes: Arc<Nodes>,
    pub(super) schemas: Schemas,
}

/// The router over a store.
pub(super) fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(answer).layer(DefaultBodyLimit::max(LARGEST_BODY)).with_state(api)
}

async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    match api.answer(request).await {
        Ok(response) => response,
        Err(failure) => json_response(failure.code, &failure.body()),
    }
}

impl Api {
    async fn answer(&self, request: Request) -> Result<Response, Failure> {
        let (mut head, body) = request.into_parts();
        let segments: Vec<&str> = head.uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if let Some(document) = self.discovery(&segments) {
            return Ok(json_response(StatusCode::OK, &document));
        }
        let authorization = header(AUTHORIZATION);
        if let ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] = segments[..] {
            let body = read(body).await?;
            return Ok(json_response(StatusCode::CREATED, &self.access.review(authorization, &body)?));
        }
        let mut call = self.call(&segments, head.uri.query().unwrap_or_default())?;
        self.access.check(authorization, &head.method, &call)?;
        call.form = Form::of(header(ACCEPT));
        if call.kind.plural == "pods" && call.subresource.as_deref() == Some("portforward") {
            return self.forward(&call, &mut head);
        }
        let content_type = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_owned();
        let body = read(body).await?;
        match (head.method, call.name.is_some()) {
            (Method::GET, false) if call.is("watch") => list::watch(self, call),
            (Method::GET, false) => list::list(self, &call),
            (Method::GET, true) => self.get(&call),
            (Method::POST, true) => Err(no_subresource(call.subresource.as_deref().unwrap_or_default())),
            (Method::POST, false) => self.create(&call, &body),
            (Method::PUT, true) => self.replace(&call, &body),
            (Method::PATCH, true) => self.patch(&call, &content_type, &body),
            (Method::DELETE, true) => self.delete(&call, &body),
            (Method::DELETE, false) => list::delete_collection(self, &call, &body),
            (method, _) => Err(Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                format!("the embedded API does not take {method} here"),
            )),
        }
    }

    fn get(&self, call: &Call) -> Result<Response, Failure> {
        let key = call.key()?;
        let object = self.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
        match call.subresource.as_deref() {
            None | Some("status") => {}
            Some("scale") if call.has_scale() => {
                return Ok(json_response(StatusCode::OK, &scale::view(&object.value)));
            }
            Some("log") if call.kind.plural == "pods" => {
                let log = object.value["metadata"]["annotations"]["demo.meshcert.dev/log"].as_str().unwrap_or_default();
                return Ok(Response::new(Body::from(log.to_owned())));
            }
            Some(other) => return Err(no_subresource(other)),
        }
        Ok(match call.form {
            Form::Whole => raw_response(StatusCode::OK, object.json()),
            Form::Metadata => json_response(StatusCode::OK, &table::metadata(&object.value)),
            Form::Table => {
                let table = table::table(&call.kind, &[&object.value], json!({}), self.clock.now());
                json_response(StatusCode::OK, &table)
            }
        })
    }
}

async fn read(body: Body) -> Result<Bytes, Failure> {
    axum::body::to_bytes(body, LARGEST_BODY).await.map_err(|_| {
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", "the request is larger than 3 MiB")
    })
}

pub(super) fn no_subresource(name: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "NotFound", format!("the embedded API has no subresource {name} here"))
}

pub(super) fn json_response(status: StatusCode, value: &Value) -> Response {
    raw_response(status, Bytes::from(value.to_string()))
}

pub(super) fn raw_response(status: StatusCode, json: Bytes) -> Response {
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
