//! The CustomResourceDefinition, generated from the types that are read and written.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::renewal::{GROUP, PLURAL, Spec, Status, VERSION};

/// The definition of `CertificateRenewal`.
pub fn definition() -> Value {
    let mut spec = structural::<Spec>();
    spec["required"] = json!(["meshId"]);
    spec["properties"]["meshId"]["x-kubernetes-validations"] =
        json!([{ "rule": "self == oldSelf", "message": "a renewal is for one mesh; create another one" }]);
    let column = |name: &str, kind: &str, path: &str| json!({ "name": name, "type": kind, "jsonPath": path });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{PLURAL}.{GROUP}") },
        "spec": {
            "group": GROUP, "scope": "Namespaced",
            "names": {
                "kind": "CertificateRenewal", "listKind": "CertificateRenewalList", "plural": PLURAL,
                "singular": "certificaterenewal", "shortNames": ["crn"],
            },
            "versions": [{
                "name": VERSION, "served": true, "storage": true, "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    column("Mesh", "string", ".spec.meshId"),
                    column("Phase", "string", ".status.phase"),
                    column("Ends", "string", ".status.endsAt"),
                    column("Reason", "string", ".status.reason"),
                    column("Age", "date", ".metadata.creationTimestamp"),
                    json!({ "name": "Engine", "type": "string", "jsonPath": ".status.plan.engine", "priority": 1 }),
                ],
                "schema": { "openAPIV3Schema": {
                    "type": "object", "description": "Asks for the renewal of a hosted mesh's certificates; its status is the journal.",
                    "required": ["spec"],
                    "properties": { "spec": spec, "status": structural::<Status>() },
                } },
            }],
        },
    })
}

/// The schema of a type as Kubernetes takes it: no references, no null, no defaults, enums as plain strings.
fn structural<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut value = schema.to_value();
    simplify(&mut value);
    value
}

fn simplify(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    for surplus in ["$schema", "title", "default", "nullable", "components"] {
        fields.remove(surplus);
    }
    // One of several constants, each with its description.
    if let Some(Value::Array(variants)) = fields.get("oneOf") {
        let names: Vec<Value> = variants.iter().flat_map(constants).collect();
        fields.remove("oneOf");
        fields.insert("type".to_owned(), json!("string"));
        fields.insert("enum".to_owned(), Value::Array(names));
    }
    // Something or null: absent means null here.
    for either in ["anyOf", "allOf"] {
        if let Some(Value::Array(variants)) = fields.remove(either) {
            let real =
                variants.into_iter().find(|variant| variant["enum"] != json!([null]) && variant["type"] != "null");
            if let Some(Value::Object(real)) = real {
                for (key, value) in real {
                    fields.entry(key).or_insert(value);
                }
                return simplify(schema);
            }
        }
    }
    if matches!(fields.get("format").and_then(Value::as_str), Some("uint32" | "uint64")) {
        fields.insert("format".to_owned(), json!("int64"));
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
    if let Some(items) = fields.get_mut("items") {
        simplify(items);
    }
}

fn constants(variant: &Value) -> Vec<Value> {
    let one: Option<&Map<String, Value>> = variant.as_object();
    let one = one.and_then(|fields| fields.get("const").cloned());
    one.map_or_else(|| variant["enum"].as_array().cloned().unwrap_or_default(), |name| vec![name])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(schema: &Value, path: &str) {
        let Value::Object(fields) = schema else { return };
        for key in fields.keys() {
            assert!(
                !matches!(key.as_str(), "$ref" | "oneOf" | "anyOf" | "allOf" | "nullable" | "default"),
                "{path}: {key}"
            );
        }
        assert!(fields["type"].is_string(), "{path}: every part of a structural schema has a type");
        for (name, property) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(property, &format!("{path}.{name}"));
        }
        if let Some(items) = fields.get("items") {
            walk(items, &format!("{path}[]"));
        }
    }

    #[test]
    fn the_schema_is_structural() {
        let definition = definition();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        walk(schema, "");
        let phases = schema["properties"]["status"]["properties"]["phase"]["enum"].as_array().unwrap();
        assert_eq!(phases.len(), crate::renewal::Phase::ALL.len());
        assert_eq!(schema["properties"]["spec"]["properties"]["meshId"]["pattern"], "^[a-z]([-a-z0-9]*[a-z0-9])?$");
    }
}
