//! What is shown of objects instead of all: server-side tables, which `kubectl get` prints, and metadata.

use serde_json::{Value, json};

use crate::demo::kinds::Kind;
use crate::time::{UnixTime, in_words};

/// The metadata of an object.
pub(super) fn metadata(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

/// A Table of objects of one kind.
pub(super) fn table(kind: &Kind, objects: &[&Value], list: Value, now: UnixTime) -> Value {
    let columns = columns(kind);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|column| column.cell(object, now)).collect();
            json!({ "cells": cells, "object": metadata(object) })
        })
        .collect();
    let definitions: Vec<Value> = columns
        .iter()
        .map(|column| json!({ "name": column.name, "type": column.kind, "format": if column.name == "Name" { "name" } else { "" }, "description": column.name, "priority": column.priority }))
        .collect();
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list, "columnDefinitions": definitions, "rows": rows })
}

struct Column {
    name: String,
    kind: String,
    content: Content,
    /// Above 0: shown with `-o wide` alone.
    priority: i64,
}

enum Content {
    /// The value at a path; an absent one is empty.
    Path(String),
    /// The time since the moment at a path.
    Age(String),
    /// The number of keys at a path.
    Count(&'static str),
    /// Two numbers as `ready/wanted`; absent ones are 0.
    Share(&'static str, &'static str),
}

impl Column {
    fn new(name: &str, kind: &str, content: Content) -> Self {
        Self { name: name.to_owned(), kind: kind.to_owned(), content, priority: 0 }
    }

    fn cell(&self, object: &Value, now: UnixTime) -> Value {
        let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
        match &self.content {
            Content::Path(path) => object.pointer(path).cloned().unwrap_or(Value::Null),
            Content::Age(path) => {
                let moment = object.pointer(path).and_then(Value::as_str).and_then(UnixTime::parse_rfc_3339);
                json!(
                    moment.map_or_else(|| "<unknown>".to_owned(), |moment| in_words(moment.seconds_until(now).max(0)))
                )
            }
            Content::Count(path) => json!(object.pointer(path).and_then(Value::as_object).map_or(0, |map| map.len())),
            Content::Share(ready, wanted) => json!(format!("{}/{}", number(ready), number(wanted))),
        }
    }
}

fn columns(kind: &Kind) -> Vec<Column> {
    let path = |name: &str, at: &str| Column::new(name, "string", Content::Path(at.to_owned()));
    let age = || Column::new("Age", "string", Content::Age("/metadata/creationTimestamp".to_owned()));
    let ready = |ready, wanted| Column::new("Ready", "string", Content::Share(ready, wanted));
    let mut columns = vec![path("Name", "/metadata/name")];
    if !kind.columns.is_empty() {
        columns.extend(kind.columns.iter().map(|(name, kind, at, priority)| {
            let pointer = at.replace('.', "/");
            let content = if kind == "date" { Content::Age(pointer) } else { Content::Path(pointer) };
            Column { priority: *priority, ..Column::new(name, kind, content) }
        }));
        return columns;
    }
    match kind.plural.as_str() {
        "secrets" => columns.extend([path("Type", "/type"), Column::new("Data", "integer", Content::Count("/data"))]),
        "configmaps" => columns.push(Column::new("Data", "integer", Content::Count("/data"))),
        "deployments" | "statefulsets" => columns.push(ready("/status/readyReplicas", "/spec/replicas")),
        "pods" => columns.push(path("Status", "/status/phase")),
        "jobs" => {
            columns.push(Column::new("Completions", "string", Content::Share("/status/succeeded", "/spec/completions")))
        }
        "namespaces" => columns.push(path("Status", "/status/phase")),
        _ => {}
    }
    columns.push(age());
    columns
}
