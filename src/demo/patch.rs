//! The patch types that kubectl and meshcert send; anything else is refused in words.

use http::StatusCode;
use serde_json::{Map, Value};

use crate::demo::status::Failure;

/// Applies a patch of the given content type to an object.
pub(super) fn apply(content_type: &str, object: &Value, body: &[u8]) -> Result<Value, Failure> {
    let mut patched = object.clone();
    match content_type {
        "application/json-patch+json" => {
            let patch: json_patch::Patch = serde_json::from_slice(body).map_err(unreadable)?;
            json_patch::patch(&mut patched, &patch).map_err(|error| Failure::invalid(error.to_string()))?;
        }
        "application/merge-patch+json" => {
            json_patch::merge(&mut patched, &serde_json::from_slice(body).map_err(unreadable)?);
        }
        "application/strategic-merge-patch+json" => {
            strategic(&mut patched, serde_json::from_slice(body).map_err(unreadable)?)?;
        }
        other => {
            return Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UnsupportedMediaType",
                format!(
                    "the embedded API takes JSON, merge and strategic merge patches and whole objects by server-side apply, not {other:?}"
                ),
            ));
        }
    }
    Ok(patched)
}

fn unreadable(error: serde_json::Error) -> Failure {
    Failure::bad_request(format!("the patch is no JSON of its type: {error}"))
}

/// A strategic merge: maps merge, `null` deletes, lists of objects merge by their key where they have one, other lists are replaced.
fn strategic(target: &mut Value, patch: Value) -> Result<(), Failure> {
    let Value::Object(patch) = patch else {
        *target = patch;
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        None => {}
        Some("replace") => {
            *target = Value::Object(patch.into_iter().filter(|(key, _)| key != "$patch").collect());
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some(other) => return Err(unsupported(&format!("$patch: {other}"))),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return Ok(()) };
    let mut retained = None;
    for (key, value) in patch {
        // Orders are advice on where new list elements go; the elements themselves come under their own key.
        if key.starts_with("$setElementOrder/") {
            continue;
        }
        if key == "$retainKeys" {
            retained = value.as_array().cloned();
            continue;
        }
        if let Some(directive) = key.strip_prefix('$') {
            return Err(unsupported(&format!("${directive}")));
        }
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(map) if map.get("$patch").is_some_and(|directive| directive == "delete") => {
                target.remove(&key);
            }
            Value::Array(items) => {
                let merge_key = merge_key(&key, &items);
                let known = target.entry(key).or_insert(Value::Null);
                match merge_key {
                    Some(merge_key) => merge_list(known, items, merge_key)?,
                    None => *known = Value::Array(items),
                }
            }
            value => strategic(target.entry(key).or_insert(Value::Null), value)?,
        }
    }
    if let Some(retained) = retained {
        target.retain(|key, _| retained.iter().any(|name| name == key));
    }
    Ok(())
}

/// The key by which the elements of a well-known list are told apart (the `patchMergeKey` of the API types).
fn merge_key(list: &str, items: &[Value]) -> Option<&'static str> {
    let key = match list {
        "containers" | "initContainers" | "env" | "volumes" | "imagePullSecrets" | "secrets" => "name",
        "ports" if items.iter().any(|item| item.get("containerPort").is_some()) => "containerPort",
        "ports" => "port",
        "volumeMounts" => "mountPath",
        "conditions" => "type",
        "ownerReferences" => "uid",
        _ => return None,
    };
    items.iter().all(|item| item.get(key).is_some() || item.get("$patch").is_some()).then_some(key)
}

fn merge_list(known: &mut Value, items: Vec<Value>, key: &str) -> Result<(), Failure> {
    if !known.is_array() {
        *known = Value::Array(Vec::new());
    }
    let Some(known) = known.as_array_mut() else { return Ok(()) };
    for item in items {
        let at = known.iter().position(|element| element[key] == item[key]);
        match (item.get("$patch").and_then(Value::as_str), at) {
            (Some("delete"), Some(at)) => {
                known.remove(at);
            }
            (Some("delete"), None) => {}
            (Some(other), _) => return Err(unsupported(&format!("$patch: {other} in a list"))),
            (None, Some(at)) => strategic(&mut known[at], item)?,
            (None, None) => known.push(item),
        }
    }
    Ok(())
}

fn unsupported(what: &str) -> Failure {
    Failure::bad_request(format!("the embedded API does not know the strategic merge directive {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_strategic_merge_keeps_what_it_does_not_name() {
        let object = json!({ "metadata": { "annotations": { "a": "1", "b": "2" } }, "spec": { "containers": [{ "name": "x", "image": "1", "env": [{ "name": "E", "value": "1" }] }, { "name": "y" }], "args": [1, 2] } });
        let patch = json!({ "metadata": { "annotations": { "a": null, "c": "3" } }, "spec": { "$setElementOrder/containers": [], "containers": [{ "name": "x", "image": "2" }, { "name": "y", "$patch": "delete" }, { "name": "z" }], "args": [3] } });
        let patched = apply("application/strategic-merge-patch+json", &object, patch.to_string().as_bytes()).unwrap();
        let expected = json!({ "metadata": { "annotations": { "b": "2", "c": "3" } }, "spec": { "containers": [{ "name": "x", "image": "2", "env": [{ "name": "E", "value": "1" }] }, { "name": "z" }], "args": [3] } });
        assert_eq!(patched, expected);
    }

    #[test]
    fn what_is_not_known_is_refused_whole() {
        let object = json!({ "a": 1 });
        for (content_type, body) in [
            ("application/strategic-merge-patch+json", r#"{"$deleteFromPrimitiveList/x": ["a"]}"#),
            ("application/strategic-merge-patch+json", "{"),
            ("application/json-patch+json", r#"[{"op":"test","path":"/a","value":2}]"#),
            ("application/json-patch+json", "{}"),
            ("text/plain", "{}"),
        ] {
            assert!(apply(content_type, &object, body.as_bytes()).is_err(), "{content_type} {body}");
        }
    }
}
