//! Requests that change objects.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use crate::demo::admission::{check, complete, immutable};
use crate::demo::api::{Api, json_response, no_subresource, raw_response};
use crate::demo::apply::Applier;
use crate::demo::call::Call;
use crate::demo::kinds::{DEFINITIONS, custom};
use crate::demo::patch;
use crate::demo::scale;
use crate::demo::schema::Schema;
use crate::demo::status::Failure;
use crate::demo::store::{Dependents, Key, metadata};
use crate::name::is_subdomain;

impl Api {
    pub(super) fn create(&self, call: &Call, body: &[u8]) -> Result<Response, Failure> {
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
        if !is_subdomain(&name) {
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
        valid(call, self.schema(&call.kind).as_deref(), &mut value)?;
        let key: Key = (call.kind.resource().into(), namespace.into(), name.into());
        if call.dry() {
            return match self.store.get(&key) {
                Some(_) => Err(Failure::already_exists(&key)),
                None => Ok(json_response(StatusCode::CREATED, &value)),
            };
        }
        let object = self.store.create(key, value)?;
        Ok(raw_response(StatusCode::CREATED, object.json()))
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

    pub(super) fn replace(&self, call: &Call, body: &[u8]) -> Result<Response, Failure> {
        let value = call.object(body)?;
        self.change(call, |_| Ok(value))
    }

    pub(super) fn patch(&self, call: &Call, content_type: &str, body: &[u8]) -> Result<Response, Failure> {
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

    /// Creates the object, or makes it what its managers apply.
    fn server_side_apply(&self, call: &Call, body: &[u8]) -> Result<Response, Failure> {
        let manager =
            call.query.get("fieldManager").ok_or_else(|| Failure::bad_request("fieldManager is required for apply"))?;
        let text = std::str::from_utf8(body).map_err(|_| Failure::bad_request("the applied object is not UTF-8"))?;
        let applied: Value = serde_saphyr::from_str(text)
            .map_err(|error| Failure::bad_request(format!("the applied object is no YAML: {error}")))?;
        let api_version = call.kind.api_version();
        let applier = Applier { manager, api_version: &api_version, force: call.is("force") };
        if self.store.get(&call.key()?).is_none() {
            let mut value = applier.apply(&json!({}), &applied)?;
            metadata(&mut value).insert("name".to_owned(), json!(call.name));
            let call = Call { name: None, ..call.clone() };
            return self.create(&call, value.to_string().as_bytes());
        }
        self.change(call, |current| applier.apply(current, &applied))
    }

    /// Changes an object under the store's lock: preconditions, subresource rules, then the write.
    fn change(&self, call: &Call, make: impl FnOnce(&Value) -> Result<Value, Failure>) -> Result<Response, Failure> {
        let key = call.key()?;
        // Looked up before the object is locked.
        let schema = self.schema(&call.kind);
        let work = |current: &Value| {
            let scale = match call.subresource.as_deref() {
                None | Some("status") => false,
                Some("scale") if call.has_scale() => true,
                Some(other) => return Err(no_subresource(other)),
            };
            let mut next = if scale { make(&scale::view(current))? } else { make(current)? };
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
                    kept["spec"]["replicas"] = scale::replicas(&next)?;
                } else {
                    kept["status"] = next["status"].take();
                    valid(call, schema.as_deref(), &mut kept)?;
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
            valid(call, schema.as_deref(), &mut next)?;
            Ok(next)
        };
        if call.dry() {
            let current = self.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
            return Ok(json_response(StatusCode::OK, &work(&current.value)?));
        }
        let object = self.store.update(&key, work)?;
        if call.subresource.as_deref() == Some("scale") {
            return Ok(json_response(StatusCode::OK, &scale::view(&object.value)));
        }
        Ok(raw_response(StatusCode::OK, object.json()))
    }

    pub(super) fn delete(&self, call: &Call, body: &[u8]) -> Result<Response, Failure> {
        let key = call.key()?;
        let (options, dry) = deletion(call, body)?;
        let allowed = |value: &Value| {
            let wanted = &options["preconditions"];
            let fits = |field: &str| wanted[field].is_null() || wanted[field] == value["metadata"][field];
            if fits("uid") && fits("resourceVersion") { Ok(()) } else { Err(Failure::conflict(&key)) }
        };
        if dry {
            let object = self.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
            allowed(&object.value)?;
            return Ok(raw_response(StatusCode::OK, object.json()));
        }
        let policy = options["propagationPolicy"].as_str().or(call.query.get("propagationPolicy").map(String::as_str));
        let dependents = match policy {
            Some("Orphan") => Dependents::Stay,
            Some(_) => Dependents::Go,
            // For old clients' sake, the Job's API leaves its pods behind unless told otherwise.
            None if &*key.0 == "batch/jobs" => Dependents::Stay,
            None => Dependents::Go,
        };
        if *key.0 == *DEFINITIONS {
            self.delete_defined(&key);
        }
        let object = self.store.delete(&key, dependents, allowed)?;
        let metadata = &object.value["metadata"];
        // What is gone at once is told of; what is only going, and a pod, is shown.
        if metadata["deletionTimestamp"].is_string() || call.kind.plural == "pods" {
            return Ok(raw_response(StatusCode::OK, object.json()));
        }
        let details = json!({ "name": metadata["name"], "group": call.kind.group, "kind": call.kind.plural, "uid": metadata["uid"] });
        let status =
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
        Ok(json_response(StatusCode::OK, &status))
    }
}

impl Api {
    /// The objects of a kind go before its definition does.
    fn delete_defined(&self, definition: &Key) {
        let Some(stored) = self.store.get(definition) else { return };
        let Some(kind) = custom(&stored.value).pop() else { return };
        for (key, _) in self.store.list(&kind.resource(), None).objects {
            // Whatever is gone meanwhile is what was wanted.
            let _ = self.store.delete(&key, Dependents::Go, |_| Ok(()));
        }
    }
}

/// The options of a deletion, and whether it is for show.
pub(super) fn deletion(call: &Call, body: &[u8]) -> Result<(Value, bool), Failure> {
    // Where there are options, the query is not looked at.
    if body.is_empty() {
        return Ok((Value::Null, call.dry()));
    }
    let options: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the delete options are no JSON: {error}")))?;
    let dry = options["dryRun"] == json!(["All"]);
    Ok((options, dry))
}

/// Refuses what the real API server refuses; drops what the schema of a custom resource does not know.
fn valid(call: &Call, schema: Option<&Schema>, value: &mut Value) -> Result<(), Failure> {
    match schema {
        Some(schema) => schema.check(value),
        None => check(&call.kind, value),
    }
}
