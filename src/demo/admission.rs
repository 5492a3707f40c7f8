//! What the API server does to an object before it stores it: it fills in, and it refuses.

use serde_json::{Value, json};

use crate::demo::kinds::Kind;
use crate::demo::status::Failure;

/// What the API server fills in.
pub(super) fn complete(kind: &Kind, value: &mut Value) {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "secrets") => {
            if value["type"].is_null() {
                value["type"] = json!("Opaque");
            }
            let plain = value.as_object_mut().and_then(|object| object.remove("stringData"));
            for (key, text) in plain.iter().filter_map(Value::as_object).flatten() {
                use base64::Engine;
                let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
                value["data"][key] = json!(encoded);
            }
        }
        ("", "namespaces") => value["status"] = json!({ "phase": "Active" }),
        ("apps", plural) => {
            let spec = &mut value["spec"];
            if plural != "daemonsets" && spec["replicas"].is_null() {
                spec["replicas"] = json!(1);
            }
            let strategy = if plural == "deployments" { "strategy" } else { "updateStrategy" };
            if spec[strategy]["type"].is_null() {
                spec[strategy]["type"] = json!("RollingUpdate");
            }
        }
        ("batch", "jobs") if value["spec"]["completions"].is_null() => value["spec"]["completions"] = json!(1),
        ("apiextensions.k8s.io", _) => {
            let names = value["spec"]["names"].clone();
            value["status"] = json!({
                "acceptedNames": names, "storedVersions": [],
                "conditions": [{ "type": "NamesAccepted", "status": "True" }, { "type": "Established", "status": "True" }],
            });
        }
        _ => {}
    }
}

/// What the API server does not let change.
pub(super) fn immutable(kind: &Kind, current: &Value, next: &Value) -> Result<(), Failure> {
    if !kind.group.is_empty() || !matches!(kind.plural.as_str(), "secrets" | "configmaps") {
        return Ok(());
    }
    if kind.plural == "secrets" && current["type"] != next["type"] {
        return Err(Failure::invalid("type: Invalid value: field is immutable"));
    }
    if current["immutable"] == true && (current["data"] != next["data"] || next["immutable"] != true) {
        return Err(Failure::invalid("data: Forbidden: field is immutable when `immutable` is set"));
    }
    Ok(())
}

/// Whether it is an RFC 1123 subdomain.
pub(super) fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    bytes.len() <= 253 && bytes.iter().all(|byte| inner(*byte)) && edge(bytes.first()) && edge(bytes.last())
}
