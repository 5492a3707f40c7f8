//! Reads a dashboard's file as Grafana would: its queries, links, thresholds and units.

use serde_json::Value;

pub struct Dashboard {
    pub path: &'static str,
    pub model: Value,
}

/// A query of a panel, a variable or an annotation.
pub struct Query {
    /// Where it stands, for messages.
    pub place: String,
    /// The title of what it belongs to.
    pub panel: String,
    pub expr: String,
}

impl Dashboard {
    pub fn panels(&self) -> &[Value] {
        self.model["panels"].as_array().unwrap()
    }

    pub fn queries(&self) -> Vec<Query> {
        let mut all = Vec::new();
        for panel in self.panels() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let place = format!("{}: {} {}", self.path, panel["title"], target["refId"]);
                all.push(Query { place, panel: text(&panel["title"]), expr: text(&target["expr"]) });
            }
        }
        for annotation in self.model["annotations"]["list"].as_array().unwrap() {
            let place = format!("{}: annotation {}", self.path, annotation["name"]);
            all.push(Query { place, panel: text(&annotation["name"]), expr: text(&annotation["target"]["expr"]) });
        }
        for variable in self.model["templating"]["list"].as_array().unwrap().iter().filter(|one| one["type"] == "query")
        {
            let place = format!("{}: variable {}", self.path, variable["name"]);
            let query = text(&variable["query"]["query"]);
            let (selector, label) =
                query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap().rsplit_once(", ").unwrap();
            all.push(Query { place, panel: text(&variable["name"]), expr: format!("count by ({label}) ({selector})") });
        }
        all
    }

    /// The addresses of all links, of whatever they hang on.
    pub fn links(&self) -> Vec<String> {
        let mut all = Vec::new();
        visit(&self.model, &mut |key, value| {
            if key == "links" {
                let urls = value.as_array().into_iter().flatten().map(|link| text(&link["url"]));
                all.extend(urls.filter(|url| !url.is_empty()));
            }
        });
        let overrides =
            self.panels().iter().flat_map(|panel| panel["fieldConfig"]["overrides"].as_array().into_iter().flatten());
        for property in
            overrides.flat_map(|one| one["properties"].as_array().unwrap()).filter(|one| one["id"] == "links")
        {
            all.extend(property["value"].as_array().unwrap().iter().map(|link| text(&link["url"])));
        }
        all
    }

    /// The values at which colours change, for everything that is coloured.
    pub fn thresholds(&self) -> Vec<Vec<i64>> {
        let mut all = Vec::new();
        visit(&self.model, &mut |key, value| {
            if key == "steps" {
                all.push(value.as_array().unwrap().iter().filter_map(|step| step["value"].as_i64()).collect());
            }
        });
        all
    }

    /// Each query of a panel with the unit in which it is shown.
    pub fn units(&self) -> Vec<(String, String, String)> {
        let mut all = Vec::new();
        for panel in self.panels() {
            let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
            for target in targets {
                let unit = if panel["type"] == "table" {
                    column_unit(panel, target["refId"].as_str().unwrap(), targets.len())
                } else {
                    text(&panel["fieldConfig"]["defaults"]["unit"])
                };
                all.push((
                    format!("{}: {} {}", self.path, panel["title"], target["refId"]),
                    text(&target["expr"]),
                    unit,
                ));
            }
        }
        all
    }

    /// The query of a table's column, and the words that stand for its values.
    pub fn column(&self, table: &str, title: &str) -> (String, Value) {
        let panel = self.panels().iter().find(|panel| panel["title"] == table).unwrap();
        let names = panel["transformations"][1]["options"]["renameByName"].as_object().unwrap();
        let (field, _) = names.iter().find(|(_, name)| *name == title).unwrap();
        let is_its = |target: &&Value| *field == format!("Value #{}", text(&target["refId"]));
        let query = panel["targets"].as_array().unwrap().iter().find(is_its).unwrap();
        let overrides = panel["fieldConfig"]["overrides"].as_array().unwrap().iter();
        let words = overrides
            .filter(|one| one["matcher"]["options"] == title)
            .flat_map(|one| one["properties"].as_array().unwrap())
            .find(|one| one["id"] == "mappings")
            .map(|one| one["value"][0]["options"].clone());
        (text(&query["expr"]), words.unwrap_or_default())
    }

    /// The labels that a table shows in columns, by the panel's title.
    pub fn columns(&self) -> Vec<(String, Vec<String>)> {
        let tables = self.panels().iter().filter(|panel| panel["type"] == "table");
        tables
            .map(|panel| {
                let names = panel["transformations"][1]["options"]["renameByName"].as_object().unwrap();
                let labels = names.keys().filter(|name| !name.starts_with("Value")).cloned().collect();
                (text(&panel["title"]), labels)
            })
            .collect()
    }
}

/// The query as Grafana sends it, for one mesh of the demo, or where several can be chosen for those of all clusters.
pub fn interpolate(expr: &str, mesh: &str) -> String {
    expr.replace("$__rate_interval", "1m")
        .replace("$__range", "10m")
        .replace("=~\"$mesh_cluster", "=~\".*")
        .replace("$mesh_cluster", "demo")
        .replace("$mesh_namespace", "istio-system")
        .replace("=~\"$mesh_id\"", "=~\".*\"")
        .replace("$mesh_id", mesh)
        .replace("$job", ".*")
        .replace("$instance", ".*")
}

fn column_unit(panel: &Value, letter: &str, queries: usize) -> String {
    let field = if queries == 1 { "Value".to_owned() } else { format!("Value #{letter}") };
    let title = &panel["transformations"][1]["options"]["renameByName"][field];
    let overrides = panel["fieldConfig"]["overrides"].as_array().unwrap();
    let column = overrides.iter().find(|one| one["matcher"]["options"] == *title);
    let properties = column.and_then(|column| column["properties"].as_array()).into_iter().flatten();
    properties.into_iter().find(|one| one["id"] == "unit").map(|one| text(&one["value"])).unwrap_or_default()
}

fn visit(value: &Value, seen: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                seen(key, inner);
                visit(inner, seen);
            }
        }
        Value::Array(all) => all.iter().for_each(|inner| visit(inner, seen)),
        _ => {}
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
