//! docs/CONFIGURATION.md, from the JSON schema of the configuration file.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

const BEGINNING: &str = "# Configuration

Written from the JSON schema (`meshcert config schema`) by `tests/docs.rs`; `make golden` writes it anew. The schema can be given to an editor: put
`# yaml-language-server: $schema=meshcert.schema.json` at the top of the file.

`meshcert serve --config FILE` reads it, and again when it changes: an invalid one keeps the former in force, says so in the log, and sets `meshcert_config_last_reload_successful` to 0.
`meshcert config check FILE` says what is wrong and what is allowed. Without a file everything is as below: the current kubeconfig, or the cluster that meshcert runs in, namespace `istio-system`, and nothing is renewed; a file without content is refused, for it may be half written: `{}` asks for the defaults.

```yaml
clusters:
  - {name: cp-1, inCluster: true}
  - {name: cp-2, kubeconfig: /etc/meshcert/clusters/cp-2, namespaces: [istio-system, mesh-2]}
secretRules:
  - {type: kubernetes.io/tls, namespaces: [shop]}
policy:
  mode: approve
  renewBefore: 30d
  windows:
    - {days: [sat, sun], start: '22:00', end: '04:00', timeZone: Europe/Berlin}
webhook:
  bearerTokenFile: /etc/meshcert/webhook/token
```

Durations are numbers with units, the larger first: `30d`, `1h30m` (y, w, d, h, m, s).
";

/// The page.
pub fn page(schema: &Value) -> String {
    let mut text = BEGINNING.to_owned();
    section("", schema, schema, &mut text);
    text
}

/// A table of an object's fields, then a section for each field that holds objects.
fn section(path: &str, object: &Value, schema: &Value, text: &mut String) {
    let title = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
    let description = words(object);
    text.push_str(&format!(
        "\n## {title}\n\n{description}\n\n| field | kind | default | meaning |\n|---|---|---|---|\n"
    ));
    let required: Vec<&str> = object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fields = fields(object);
    for (name, field) in &fields {
        let default = if required.contains(&name.as_str()) { "required".to_owned() } else { default(field, schema) };
        text.push_str(&format!("| `{name}` | {} | {default} | {} |\n", kind(field, schema), meaning(field, schema)));
    }
    for (name, field) in fields {
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        if let Some((marks, inner)) = inner_object(field, schema) {
            section(&format!("{path}{marks}"), inner, schema, text);
        }
    }
}

fn fields(object: &Value) -> BTreeMap<&String, &Value> {
    object["properties"].as_object().into_iter().flat_map(Map::iter).collect()
}

/// What a reference stands for, and what is left of an alternative without `null`.
fn resolved<'a>(value: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(name) = value["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
        return &schema["$defs"][name];
    }
    let alternatives = value["anyOf"].as_array().into_iter().flatten();
    let mut real = alternatives.filter(|one| one["type"] != "null");
    match (real.next(), real.next()) {
        (Some(only), None) => resolved(only, schema),
        _ => value,
    }
}

/// The objects that a field holds, with `[]` for each list around them.
fn inner_object<'a>(field: &'a Value, schema: &'a Value) -> Option<(String, &'a Value)> {
    let field = resolved(field, schema);
    if field["properties"].is_object() {
        return Some((String::new(), field));
    }
    let items = field.get("items")?;
    inner_object(items, schema).map(|(marks, inner)| (format!("[]{marks}"), inner))
}

fn kind(field: &Value, schema: &Value) -> String {
    let field = resolved(field, schema);
    if field["properties"].is_object() {
        return "object".to_owned();
    }
    if let Some(items) = field.get("items") {
        return format!("list of {}", kind(items, schema));
    }
    if let Some(values) = values(field) {
        return values.iter().map(|(value, _)| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    }
    if field["pattern"].is_string() {
        return "duration".to_owned();
    }
    let names = match &field["type"] {
        Value::Array(all) => {
            all.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect::<Vec<_>>().join(" or ")
        }
        name => name.as_str().unwrap_or("any").to_owned(),
    };
    match names.as_str() {
        "object" => format!("map to {}", kind(&field["additionalProperties"], schema)),
        "boolean" => "`true`, `false`".to_owned(),
        _ => names,
    }
}

/// The allowed values, with what each means.
fn values(field: &Value) -> Option<Vec<(String, String)>> {
    if let Some(all) = field["enum"].as_array() {
        return Some(all.iter().filter_map(Value::as_str).map(|value| (value.to_owned(), String::new())).collect());
    }
    let all = field["oneOf"].as_array()?;
    all.iter().map(|one| Some((one["const"].as_str()?.to_owned(), words(one)))).collect()
}

fn meaning(field: &Value, schema: &Value) -> String {
    let said = words(field);
    let explained: Vec<String> = values(resolved(field, schema))
        .unwrap_or_default()
        .into_iter()
        .filter(|(value, why)| !why.is_empty() && !said.contains(&format!("`{value}`")))
        .map(|(value, why)| format!("`{value}`: {}", why.trim_end_matches('.')))
        .collect();
    if explained.is_empty() { said } else { format!("{said} {}", explained.join("; ")) }
}

fn default(field: &Value, schema: &Value) -> String {
    match &field["default"] {
        Value::Null => "none".to_owned(),
        // Its fields have their own.
        Value::Object(_) if inner_object(field, schema).is_some() => "as below".to_owned(),
        Value::Array(all) if all.len() > 1 && inner_object(field, schema).is_some() => {
            "see the example in [OPERATIONS](OPERATIONS.md#policy)".to_owned()
        }
        Value::String(text) => format!("`{text}`"),
        value => format!("`{value}`"),
    }
}

/// A description in one line of a table.
fn words(value: &Value) -> String {
    value["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}
