//! The OpenAPI v3 documents, as far as kubectl asks: which resources take `dryRun` and `fieldValidation`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::demo::kinds::Kind;

/// `/openapi/v3` and what stands below it.
pub(super) fn document(kinds: &[Kind], segments: &[&str]) -> Option<Value> {
    match segments {
        ["v3"] => {
            let groups: BTreeSet<String> = kinds.iter().map(root).collect();
            let paths: Map<String, Value> = groups
                .into_iter()
                .map(|root| (root.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{root}") })))
                .collect();
            Some(json!({ "paths": paths }))
        }
        ["v3", rest @ ..] => {
            let wanted = rest.join("/");
            let of_group: Vec<&Kind> = kinds.iter().filter(|kind| root(kind) == wanted).collect();
            if of_group.is_empty() {
                return None;
            }
            let paths: Map<String, Value> = of_group.into_iter().map(path).collect();
            let info = json!({ "title": "meshcert demo", "version": "v1" });
            Some(json!({ "openapi": "3.0.0", "info": info, "paths": paths, "components": { "schemas": {} } }))
        }
        _ => None,
    }
}

fn root(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    }
}

fn path(kind: &Kind) -> (String, Value) {
    let namespace = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation", "force"]
        .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }))
        .into();
    let of_kind = json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
    let patch = json!({
        "operationId": format!("patch{}", kind.kind), "parameters": parameters, "responses": {},
        "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": of_kind,
    });
    (format!("/{}{namespace}/{}/{{name}}", root(kind), kind.plural), json!({ "patch": patch }))
}
