//! The chart's values: a strict schema, a default and a description for each, and nothing in the chart that is a copy which can drift.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use meshcert::config::Config;
use serde_json::{Map, Value, json};
use support::helm::{golden, root};

const SCHEMA: &str = "deploy/chart/values.schema.json";
/// What the values take over from the configuration, and the definitions behind it.
const FROM_CONFIG: [&str; 4] = ["NamingConfig", "SecretRuleConfig", "PolicyConfig", "LabelsConfig"];
/// Objects of others, whose fields are theirs to describe.
const FOREIGN: [&str; 2] = ["global", "affinity"];

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn schema() -> Value {
    serde_json::from_str(&read(SCHEMA)).unwrap()
}

fn values() -> Value {
    serde_saphyr::from_str(&read("deploy/chart/values.yaml")).unwrap()
}

/// The definitions of the configuration's schema that the values need, in the draft that every Helm reads.
fn definitions() -> Map<String, Value> {
    let text = serde_json::to_string(&Config::schema()).unwrap().replace("#/$defs/", "#/definitions/");
    let mut all: Value = serde_json::from_str(&text).unwrap();
    let Value::Object(all) = all["$defs"].take() else { panic!("{text}") };
    let mut wanted: BTreeSet<String> = FROM_CONFIG.map(str::to_owned).into();
    loop {
        let text: String = wanted.iter().map(|name| all[name].to_string()).collect();
        let reached = all.keys().filter(|name| text.contains(&format!("#/definitions/{name}\"")));
        let more: BTreeSet<String> = wanted.iter().chain(reached).cloned().collect();
        if more == wanted {
            return all.into_iter().filter(|(name, _)| wanted.contains(name)).collect();
        }
        wanted = more;
    }
}

/// Calls `visit` for every schema of an object with named fields.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    match schema {
        Value::Object(fields) => {
            if fields.get("properties").is_some_and(Value::is_object) {
                visit(path, schema);
            }
            fields.iter().for_each(|(name, part)| walk(part, &format!("{path}/{name}"), visit));
        }
        Value::Array(parts) => parts.iter().for_each(|part| walk(part, path, visit)),
        _ => {}
    }
}

/// Every value: its path, its schema, its default (null where it has none). Passes over what lists hold and what the configuration describes.
fn leaves<'a>(schema: &'a Value, values: &'a Value, path: &str, found: &mut Vec<(String, &'a Value, &'a Value)>) {
    match schema["properties"].as_object() {
        Some(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(field, &values[name], &path, found);
            }
        }
        None => found.push((path.to_owned(), schema, values)),
    }
}

#[test]
fn what_the_chart_brings_along_is_what_its_sources_say() {
    for rules in ["meshcert.rules.yaml", "x509-certificate-exporter.rules.yaml"] {
        golden(&format!("deploy/chart/files/{rules}"), &read(&format!("alerts/{rules}")));
    }
    golden("deploy/chart/files/crd.yaml", &serde_saphyr::to_string(&meshcert::crd::definition()).unwrap());
    let names = |folder: &str| -> BTreeSet<String> {
        let files = std::fs::read_dir(root().join(folder)).into_iter().flatten();
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".json"))
            .collect()
    };
    let dashboards = names("dashboards");
    for name in &dashboards {
        golden(&format!("deploy/chart/files/dashboards/{name}"), &read(&format!("dashboards/{name}")));
    }
    assert_eq!(names("deploy/chart/files/dashboards"), dashboards, "the chart's dashboards are those of dashboards/");
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    let chart: Value = serde_saphyr::from_str(&read("deploy/chart/Chart.yaml")).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}

/// Has every value be there that has a default: Helm takes `null` for a default away, and no template expects that.
fn require(schema: &mut Value, defaults: &Value) {
    let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, field) in fields.iter_mut() {
        require(field, &defaults[name]);
    }
    let required: Vec<String> = fields.keys().filter(|name| !defaults[*name].is_null()).cloned().collect();
    schema["required"] = json!(required);
}

#[test]
fn the_schema_takes_over_what_the_configuration_describes_and_asks_for_every_default() {
    let mut wanted = schema();
    wanted["definitions"].as_object_mut().unwrap().extend(definitions());
    require(&mut wanted, &values());
    golden(SCHEMA, &format!("{}\n", serde_json::to_string_pretty(&wanted).unwrap()));
}

#[test]
fn the_schema_is_strict_everywhere() {
    let schema = schema();
    let mut objects = 0;
    walk(&schema, "", &mut |path, object| {
        objects += 1;
        // A closed list of fields; or, for maps, a schema of what is in them.
        assert_eq!(object["additionalProperties"], false, "{path} takes fields that nobody knows");
    });
    assert!(objects > 30, "the walk found the objects");
    for (name, field) in schema["properties"].as_object().unwrap() {
        let open = field["type"] == "object" && field["additionalProperties"] == true;
        assert_eq!(open, FOREIGN.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn every_value_has_a_description_and_a_default_that_the_schema_accepts() {
    let (schema, values) = (schema(), values());
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&values).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert_eq!(errors, Vec::<String>::new());
    walk(&schema["properties"], "", &mut |path, object| {
        for (name, field) in object["properties"].as_object().unwrap() {
            let described = field["description"].is_string() || field["$ref"].is_string();
            assert!(
                described || path.contains("/tolerations/") || path.contains("/requests") || path.contains("/limits"),
                "{path}/{name} has no description"
            );
        }
    });
    let mut found = Vec::new();
    leaves(&schema, &values, "", &mut found);
    for (path, _, _) in found.iter().filter(|(path, _, _)| path != "global") {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(values.pointer(&pointer).is_some(), "values.yaml does not name {path}");
    }
}

#[test]
fn the_values_are_listed_in_the_manual() {
    let (schema, values) = (schema(), values());
    let mut found = Vec::new();
    leaves(&schema, &values, "", &mut found);
    let mut rows: Vec<String> = vec!["| value | default | |".to_owned(), "|---|---|---|".to_owned()];
    for (path, field, default) in found.iter().filter(|(path, _, _)| path != "global") {
        let referred =
            field["$ref"].as_str().map(|name| &schema["definitions"][name.trim_start_matches("#/definitions/")]);
        let description =
            field["description"].as_str().or_else(|| referred?["description"].as_str()).unwrap_or_default();
        let words = if let Some(one_of) = field["enum"].as_array() {
            let names: Vec<_> = one_of.iter().map(|one| format!("`{}`", one.as_str().unwrap())).collect();
            format!("{description} {}", names.join(", "))
        } else {
            description.to_owned()
        };
        let default = match default {
            Value::String(text) if text.is_empty() => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        rows.push(format!("| `{path}` | {default} | {} |", words.replace('|', "\\|")));
    }
    let page = read("docs/INSTALL.md");
    let (before, rest) = page.split_once("<!-- values: tests/chart.rs writes this table -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- end of values -->").unwrap();
    let wanted = format!(
        "{before}<!-- values: tests/chart.rs writes this table -->\n{}\n<!-- end of values -->{after}",
        rows.join("\n")
    );
    golden("docs/INSTALL.md", &wanted);
}

#[test]
fn the_defaults_of_the_chart_are_those_of_the_program() {
    let values = values();
    let config = serde_json::to_value(Config::default()).unwrap();
    // Thresholds are rendered from these where the values name none.
    let templates = ["_checks.tpl", "monitoring.yaml"].map(|file| read(&format!("deploy/chart/templates/{file}")));
    let before = format!("\"renewBefore\" | default {}", config["policy"]["renewBefore"]);
    assert!(templates.iter().all(|text| text.contains(&before)), "{before}");
    assert_eq!(config["policy"]["mode"], "observe");
    assert_eq!(values["cluster"]["namespaces"], json!(["istio-system"]));
    let lists: BTreeMap<_, _> = [("alertNames", json!([])), ("labels", json!({}))].into();
    for (name, empty) in lists {
        assert_eq!(values["webhook"][name], empty, "left to the program");
    }
}
