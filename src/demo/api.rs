//! The embedded Kubernetes API: one axum router that kubectl and kube talk to.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::response::Response;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, StatusCode};
use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::demo::admission::{complete, immutable, is_name};
use crate::demo::kinds::Kind;
use crate::demo::status::Failure;
use crate::demo::store::{Key, Store, metadata};
use crate::demo::{list, patch, table};
use crate::ports::Clock;

/// The largest object taken, as etcd's limit with room for the envelope.
const LARGEST_BODY: usize = 3 << 20;

/// What the handlers share.
pub(super) struct Api {
    pub(super) store: Arc<Store>,
    pub(super) clock: Arc<dyn Clock>,
}

/// A request, taken apart.
pub(super) struct Call {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
    pub(super) query: BTreeMap<String, String>,
    pub(super) as_table: bool,
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
        let (head, body) = request.into_parts();
        let segments: Vec<&str> = head.uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if let Some(document) = self.discovery(&segments) {
            return Ok(json_response(StatusCode::OK, &document));
        }
        let mut call = self.call(&segments, head.uri.query().unwrap_or_default())?;
        call.as_table = header(ACCEPT).split(',').next().is_some_and(|first| first.contains("as=Table"));
        let content_type = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_owned();
        let body = axum::body::to_bytes(body, LARGEST_BODY).await.map_err(|_| {
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", "the request is larger than 3 MiB")
        })?;
        match (head.method, call.name.is_some()) {
            (Method::GET, false) if call.is("watch") => list::watch(self, call),
            (Method::GET, false) => list::list(self, &call),
            (Method::GET, true) => self.get(&call),
            (Method::POST, false) => self.create(&call, &body),
            (Method::PUT, true) => self.replace(&call, &body),
            (Method::PATCH, true) => self.patch(&call, &content_type, &body),
            (Method::DELETE, true) => self.delete(&call, &body),
            (Method::DELETE, false) => list::delete_collection(self, &call),
            (method, _) => Err(Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                format!("the embedded API does not take {method} here"),
            )),
        }
    }

    fn call(&self, segments: &[&str], query: &str) -> Result<Call, Failure> {
        let unknown =
            || Failure::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource");
        let (group, version, rest) = match segments {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(unknown()),
        };
        // `namespaces/NAME/status` is a namespace's subresource, not a resource called status.
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if !matches!(*plural, "status" | "finalize") => {
                (Some((*namespace).to_owned()), [&[*plural], rest].concat())
            }
            rest => (None, rest.to_vec()),
        };
        let plural = rest.first().ok_or_else(unknown)?;
        let served = |kind: &Kind| kind.group == group && kind.version == version && kind.plural == *plural;
        let kind = self.kinds().into_iter().find(served).ok_or_else(unknown)?;
        if rest.len() > 3 || (namespace.is_some() && !kind.namespaced) {
            return Err(unknown());
        }
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Ok(Call {
            kind,
            namespace,
            name: rest.get(1).map(|name| (*name).to_owned()),
            subresource: rest.get(2).map(|name| (*name).to_owned()),
            query: query.collect(),
            as_table: false,
        })
    }

    fn get(&self, call: &Call) -> Result<Response, Failure> {
        let key = call.key()?;
        let object = self.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
        match call.subresource.as_deref() {
            None | Some("status") => {}
            Some("log") if call.kind.plural == "pods" => {
                let log = object.value["metadata"]["annotations"]["demo.meshcert.dev/log"].as_str().unwrap_or_default();
                return Ok(Response::new(Body::from(log.to_owned())));
            }
            Some(other) => return Err(no_subresource(other)),
        }
        if call.as_table {
            let table = table::table(&call.kind, &[&object.value], json!({}), self.clock.now());
            return Ok(json_response(StatusCode::OK, &table));
        }
        Ok(raw_response(StatusCode::OK, object.json))
    }

    fn create(&self, call: &Call, body: &[u8]) -> Result<Response, Failure> {
        let mut value = call.object(body)?;
        let fields = metadata(&mut value);
        if fields.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
            let prefix = fields.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
            if prefix.is_empty() {
                return Err(Failure::invalid("metadata.name: Required value: name or generateName is required"));
            }
            let suffix = self.store.versions().borrow().wrapping_mul(2_654_435_761) % 100_000;
            fields.insert("name".to_owned(), json!(format!("{prefix}{suffix:05}")));
        }
        let name = fields["name"].as_str().unwrap_or_default().to_owned();
        if !is_name(&name) {
            return Err(Failure::invalid(format!(
                "metadata.name: Invalid value: {name:?}: must be a lowercase RFC 1123 subdomain"
            )));
        }
        let namespace = self.namespace_of(call, &value)?;
        if call.kind.namespaced {
            metadata(&mut value).insert("namespace".to_owned(), json!(namespace));
        }
        if call.kind.status
            && !call.kind.columns.is_empty()
            && let Some(object) = value.as_object_mut()
        {
            object.remove("status");
        }
        complete(&call.kind, &mut value);
        let key: Key = (call.kind.resource().into(), namespace.into(), name.into());
        if call.dry() {
            return match self.store.get(&key) {
                Some(_) => Err(Failure::already_exists(&key)),
                None => Ok(json_response(StatusCode::CREATED, &value)),
            };
        }
        let object = self.store.create(key, value)?;
        Ok(raw_response(StatusCode::CREATED, object.json))
    }

    fn namespace_of(&self, call: &Call, value: &Value) -> Result<String, Failure> {
        if !call.kind.namespaced {
            return Ok(String::new());
        }
        let said = value["metadata"]["namespace"].as_str().filter(|said| !said.is_empty());
        let namespace =
            call.namespace.as_deref().ok_or_else(|| Failure::bad_request("a namespace is required in the path"))?;
        if said.is_some_and(|said| said != namespace) {
            return Err(Failure::bad_request("the namespace of the object does not match that of the request"));
        }
        let key: Key = ("/namespaces".into(), "".into(), namespace.into());
        self.store.get(&key).map(|_| namespace.to_owned()).ok_or_else(|| Failure::not_found(&key))
    }

    fn replace(&self, call: &Call, body: &[u8]) -> Result<Response, Failure> {
        let value = call.object(body)?;
        self.change(call, |_| Ok(value))
    }

    fn patch(&self, call: &Call, content_type: &str, body: &[u8]) -> Result<Response, Failure> {
        if content_type == "application/apply-patch+yaml" {
            return self.server_side_apply(call, body);
        }
        if content_type == "application/strategic-merge-patch+json" && !call.kind.columns.is_empty() {
            return Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UnsupportedMediaType",
                "custom resources take merge and JSON patches",
            ));
        }
        self.change(call, |current| patch::apply(content_type, current, body))
    }

    /// Creates the object, or merges the applied fields into it. Fields that another manager applied, and that would change, are a conflict.
    fn server_side_apply(&self, call: &Call, body: &[u8]) -> Result<Response, Failure> {
        let manager = call
            .query
            .get("fieldManager")
            .cloned()
            .ok_or_else(|| Failure::bad_request("fieldManager is required for apply"))?;
        let text = std::str::from_utf8(body).map_err(|_| Failure::bad_request("the applied object is not UTF-8"))?;
        let applied: Value = serde_saphyr::from_str(text)
            .map_err(|error| Failure::bad_request(format!("the applied object is no YAML: {error}")))?;
        let managed = |value: &mut Value| {
            let entry = json!({ "manager": manager, "operation": "Apply", "apiVersion": call.kind.api_version(), "fieldsType": "FieldsV1", "fieldsV1": {} });
            metadata(value).insert("managedFields".to_owned(), json!([entry]));
        };
        if self.store.get(&call.key()?).is_none() {
            let mut value = applied;
            metadata(&mut value).insert("name".to_owned(), json!(call.name));
            managed(&mut value);
            let call = Call { name: None, ..call.clone_place() };
            return self.create(&call, value.to_string().as_bytes());
        }
        let force = call.is("force");
        self.change(call, |current| {
            let mut value = current.clone();
            json_patch::merge(&mut value, &applied);
            let other = current["metadata"]["managedFields"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|entry| entry["operation"] == "Apply" && entry["manager"] != *manager);
            if let Some(other) = other
                && value != *current
                && !force
            {
                return Err(Failure::new(
                    StatusCode::CONFLICT,
                    "Conflict",
                    format!(
                        "Apply failed: the object was applied by {}; use --force-conflicts to take it over",
                        other["manager"]
                    ),
                ));
            }
            managed(&mut value);
            Ok(value)
        })
    }

    /// Changes an object under the store's lock: preconditions, subresource rules, then the write.
    fn change(&self, call: &Call, make: impl FnOnce(&Value) -> Result<Value, Failure>) -> Result<Response, Failure> {
        let key = call.key()?;
        let work = |current: &Value| {
            let scale = match call.subresource.as_deref() {
                None | Some("status") => false,
                Some("scale") if call.kind.group == "apps" => true,
                Some(other) => return Err(no_subresource(other)),
            };
            let mut next = make(current)?;
            let asked = &next["metadata"]["resourceVersion"];
            if asked.as_str().is_some_and(|asked| !asked.is_empty() && current["metadata"]["resourceVersion"] != *asked)
            {
                return Err(Failure::conflict(&key));
            }
            if next["metadata"]["name"].as_str().is_some_and(|name| name != &*key.2) {
                return Err(Failure::bad_request("the name of the object does not match that of the request"));
            }
            let in_status = call.subresource.as_deref() == Some("status");
            if in_status || scale {
                let mut kept = current.clone();
                if scale {
                    kept["spec"]["replicas"] = next["spec"]["replicas"].take();
                } else {
                    kept["status"] = next["status"].take();
                }
                return Ok(kept);
            }
            if call.kind.status {
                match current.get("status") {
                    Some(status) => next["status"] = status.clone(),
                    None => drop(next.as_object_mut().map(|object| object.remove("status"))),
                }
            }
            metadata(&mut next).insert("name".to_owned(), json!(&*key.2));
            if call.kind.namespaced {
                metadata(&mut next).insert("namespace".to_owned(), json!(&*key.1));
            }
            complete(&call.kind, &mut next);
            immutable(&call.kind, current, &next)?;
            Ok(next)
        };
        if call.dry() {
            let current = self.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
            return Ok(json_response(StatusCode::OK, &work(&current.value)?));
        }
        let object = self.store.update(&key, work)?;
        Ok(raw_response(StatusCode::OK, object.json))
    }

    fn delete(&self, call: &Call, body: &[u8]) -> Result<Response, Failure> {
        let key = call.key()?;
        let options: Value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(body)
                .map_err(|error| Failure::bad_request(format!("the delete options are no JSON: {error}")))?
        };
        let allowed = |value: &Value| {
            let wanted = &options["preconditions"];
            let fits = |field: &str| wanted[field].is_null() || wanted[field] == value["metadata"][field];
            if fits("uid") && fits("resourceVersion") { Ok(()) } else { Err(Failure::conflict(&key)) }
        };
        if call.dry() {
            let object = self.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
            allowed(&object.value)?;
            return Ok(raw_response(StatusCode::OK, object.json));
        }
        let object = self.store.delete(&key, allowed)?;
        Ok(raw_response(StatusCode::OK, object.json))
    }
}

impl Call {
    fn key(&self) -> Result<Key, Failure> {
        if self.kind.namespaced && self.namespace.is_none() {
            return Err(Failure::bad_request("a namespace is required in the path"));
        }
        let namespace = self.namespace.clone().unwrap_or_default();
        Ok((self.kind.resource().into(), namespace.into(), self.name.clone().unwrap_or_default().into()))
    }

    /// Whether a parameter is true.
    pub(super) fn is(&self, parameter: &str) -> bool {
        self.query.get(parameter).is_some_and(|value| matches!(value.as_str(), "true" | "1"))
    }

    fn dry(&self) -> bool {
        self.query.get("dryRun").is_some_and(|value| value == "All")
    }

    fn clone_place(&self) -> Self {
        let Self { kind, namespace, name, subresource, query, as_table } = self;
        Self {
            kind: kind.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            subresource: subresource.clone(),
            query: query.clone(),
            as_table: *as_table,
        }
    }

    /// The object in a body, of this call's kind.
    fn object(&self, body: &[u8]) -> Result<Value, Failure> {
        let mut value: Value = serde_json::from_slice(body)
            .map_err(|error| Failure::bad_request(format!("the body is no JSON object: {error}")))?;
        if !value.is_object() {
            return Err(Failure::bad_request("the body is no JSON object"));
        }
        let said = value["kind"].as_str().unwrap_or_default();
        if !said.is_empty() && said != self.kind.kind && self.subresource.is_none() {
            return Err(Failure::bad_request(format!(
                "the object is a {said}, the path is that of a {}",
                self.kind.kind
            )));
        }
        value["kind"] = json!(self.kind.kind);
        value["apiVersion"] = json!(self.kind.api_version());
        Ok(value)
    }
}

fn no_subresource(name: &str) -> Failure {
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

/// Decodes `%XX` and `+` of a query (the WHATWG's form encoding).
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped =
            bytes.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
