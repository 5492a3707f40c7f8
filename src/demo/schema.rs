//! Custom resources: what their schema does not know is dropped, what it forbids is refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::demo::api::Api;
use crate::demo::kinds::{DEFINITIONS, Kind};
use crate::demo::status::Failure;

/// The definition that a schema was read from, and what came of it.
type Known = (Arc<Value>, Arc<Schema>);

/// By name and version of the kind.
#[derive(Default)]
pub(super) struct Schemas(Mutex<BTreeMap<(String, String), Known>>);

/// A schema, ready to check with.
pub(super) struct Schema {
    fields: Value,
    /// Or why it cannot be used.
    validator: Result<Validator, String>,
}

impl Api {
    /// The schema of a custom resource; made ready once, for every write asks for it.
    pub(super) fn schema(&self, kind: &Kind) -> Option<Arc<Schema>> {
        let name = format!("{}.{}", kind.plural, kind.group);
        let key = (DEFINITIONS.into(), "".into(), name.as_str().into());
        let definition = self.store.get(&key)?.value;
        let mut known = self.schemas.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (name, kind.version.clone());
        if let Some((_, schema)) = known.get(&place).filter(|(of, _)| Arc::ptr_eq(of, &definition)) {
            return Some(Arc::clone(schema));
        }
        let versions = definition["spec"]["versions"].as_array()?;
        let version = versions.iter().find(|version| version["name"] == *kind.version)?;
        let schema = Arc::new(Schema::new(version["schema"].get("openAPIV3Schema")?.clone()));
        known.insert(place, (Arc::clone(&definition), Arc::clone(&schema)));
        Some(schema)
    }
}

impl Schema {
    fn new(fields: Value) -> Self {
        // The dialect of custom resources is that of draft 4, where it says anything at all.
        let validator = jsonschema::draft4::new(&fields).map_err(|error| error.to_string());
        Self { fields, validator }
    }

    /// Drops unknown fields, then refuses what does not fit.
    pub(super) fn check(&self, object: &mut Value) -> Result<(), Failure> {
        prune_object(&self.fields, object);
        let validator = self
            .validator
            .as_ref()
            .map_err(|error| Failure::invalid(format!("the schema of the kind cannot be used: {error}")))?;
        let errors: Vec<String> =
            validator.iter_errors(object).map(|error| format!("{}: {error}", error.instance_path())).collect();
        if errors.is_empty() { Ok(()) } else { Err(Failure::invalid(errors.join(", "))) }
    }
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
