//! Custom resources: what their schema does not know is dropped, what it forbids is refused.

use serde_json::{Value, json};

use crate::demo::api::Api;
use crate::demo::kinds::Kind;
use crate::demo::status::Failure;

impl Api {
    /// The schema of a custom resource.
    pub(super) fn schema(&self, kind: &Kind) -> Option<Value> {
        let name = format!("{}.{}", kind.plural, kind.group);
        let definition =
            self.store.get(&("apiextensions.k8s.io/customresourcedefinitions".into(), "".into(), name.into()))?;
        let versions = definition.value["spec"]["versions"].as_array()?;
        let version = versions.iter().find(|version| version["name"] == *kind.version)?;
        version["schema"].get("openAPIV3Schema").cloned()
    }
}

/// Drops unknown fields, then refuses what does not fit.
pub(super) fn check(schema: &Value, object: &mut Value) -> Result<(), Failure> {
    prune_object(schema, object);
    // The dialect of custom resources is that of draft 4, where it says anything at all.
    let validator = jsonschema::draft4::new(schema)
        .map_err(|error| Failure::invalid(format!("the schema of the kind cannot be used: {error}")))?;
    let errors: Vec<String> =
        validator.iter_errors(object).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if errors.is_empty() { Ok(()) } else { Err(Failure::invalid(errors.join(", "))) }
}

/// The root: its type and its metadata are known to the server, whatever the schema says.
fn prune_object(schema: &Value, object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    if keeps_all(schema) {
        return;
    }
    let known = &schema["properties"];
    fields
        .retain(|field, _| matches!(field.as_str(), "apiVersion" | "kind" | "metadata") || known.get(field).is_some());
    for (field, value) in fields {
        if field != "metadata" {
            prune(known.get(field).unwrap_or(&json!({})), value);
        }
    }
}

fn prune(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let (known, others) = (&schema["properties"], schema.get("additionalProperties"));
            if others.is_none() && !keeps_all(schema) {
                fields.retain(|field, _| known.get(field).is_some());
            }
            for (field, value) in fields {
                if let Some(schema) = known.get(field).or(others) {
                    prune(schema, value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| prune(&schema["items"], item)),
        _ => {}
    }
}

fn keeps_all(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}
