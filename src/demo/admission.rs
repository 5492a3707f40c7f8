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
            if plural == "statefulsets"
                && spec[strategy]["type"] == "RollingUpdate"
                && spec[strategy]["rollingUpdate"]["partition"].is_null()
            {
                spec[strategy]["rollingUpdate"]["partition"] = json!(0);
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
    no_new_finalizers(current, next)?;
    if kind.group == "apps" {
        return same_workload(kind, current, next);
    }
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

fn no_new_finalizers(current: &Value, next: &Value) -> Result<(), Failure> {
    let finalizers = |value: &Value| value["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let (known, wanted) = (finalizers(current), finalizers(next));
    if current["metadata"]["deletionTimestamp"].is_string() && wanted.iter().any(|one| !known.contains(one)) {
        let message = "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted";
        return Err(Failure::invalid(message));
    }
    Ok(())
}

/// What may change in a StatefulSet that is there.
const CHANGEABLE: [&str; 7] = [
    "minReadySeconds",
    "ordinals",
    "persistentVolumeClaimRetentionPolicy",
    "replicas",
    "revisionHistoryLimit",
    "template",
    "updateStrategy",
];

fn same_workload(kind: &Kind, current: &Value, next: &Value) -> Result<(), Failure> {
    let fixed = |value: &Value| -> Vec<(String, Value)> {
        let fields = value["spec"].as_object().into_iter().flatten();
        let is_fixed = |field: &str| match kind.plural.as_str() {
            "statefulsets" => !CHANGEABLE.contains(&field),
            _ => field == "selector",
        };
        let fixed = fields.filter(|(field, value)| is_fixed(field) && !value.is_null());
        fixed.map(|(field, value)| (field.clone(), value.clone())).collect()
    };
    if fixed(current) == fixed(next) {
        return Ok(());
    }
    Err(Failure::invalid(format!("spec: Forbidden: these fields of a {} cannot be changed", kind.kind)))
}

/// Refuses a built-in object with values that cannot be.
pub(super) fn check(kind: &Kind, value: &Value) -> Result<(), Failure> {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "secrets") => {
            for (key, content) in value["data"].as_object().into_iter().flatten() {
                use base64::Engine;
                let decodes = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).is_ok();
                if !content.as_str().is_some_and(decodes) {
                    return Err(Failure::invalid(format!("data[{key}]: Invalid value: it is no base64")));
                }
                if !is_key(key) {
                    return Err(Failure::invalid(format!(
                        "data[{key}]: Invalid value: a key holds letters, digits, '-', '_' and '.'"
                    )));
                }
            }
        }
        ("coordination.k8s.io", "leases") => {
            let seconds = &value["spec"]["leaseDurationSeconds"];
            if seconds.as_i64().is_some_and(|seconds| seconds <= 0) {
                return Err(Failure::invalid("spec.leaseDurationSeconds: Invalid value: must be greater than 0"));
            }
        }
        _ => {}
    }
    Ok(())
}

fn is_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 253
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
