//! Grafana's classic dashboard model, as much of it as is used: panels that flow into rows, variables, annotations, links.

use serde_json::{Value, json};

/// The model's version; Grafana raises older ones when it loads them.
const SCHEMA_VERSION: u32 = 42;
/// Columns of the grid.
const COLUMNS: u64 = 24;
/// What all dashboards are found by.
pub const TAG: &str = "meshcert";
/// Where the documents are.
pub const DOCS: &str = "https://github.com/meshcert/meshcert/blob/main/docs";
/// Where the chart's `monitoring.rules.runbookUrl` leads instead.
pub const RUNBOOKS: &str = "https://github.com/meshcert/meshcert/blob/main/docs/runbooks";

/// A panel, and the space that it takes.
pub struct Panel {
    model: Value,
    width: u64,
    height: u64,
}

/// A heading and what stands below it.
pub struct Row(pub &'static str, pub Vec<Panel>);

/// Colours from a value on; the first has none below.
pub type Steps = Vec<(Option<i64>, &'static str)>;

/// A dashboard's own part; what all have in common is added.
pub struct Dashboard {
    pub uid: &'static str,
    pub title: &'static str,
    pub description: &'static str,
    pub about: About,
    pub variables: Vec<Value>,
    pub annotations: Vec<Value>,
    pub rows: Vec<Row>,
}

/// What a dashboard is about: its links lead there.
#[derive(Clone, Copy)]
pub enum About {
    /// All that can be chosen.
    All,
    /// The one mesh of its variables.
    Mesh,
}

/// A column of a table, made of a label or of a query's value (its letter).
pub struct Column {
    field: &'static str,
    title: &'static str,
    properties: Vec<Value>,
}

impl Dashboard {
    pub fn model(self) -> Value {
        let Self { uid, title, description, about, variables, annotations, rows } = self;
        let mut panels: Vec<Value> = Vec::new();
        let mut top = 0;
        for Row(heading, members) in rows {
            let place = json!({ "x": 0, "y": top, "w": COLUMNS, "h": 1 });
            panels.push(json!({ "type": "row", "title": heading, "collapsed": false, "panels": [], "gridPos": place }));
            top += 1;
            let (mut left, mut height) = (0, 0);
            for Panel { mut model, width, height: own } in members {
                if left + width > COLUMNS {
                    (left, top, height) = (0, top + height, 0);
                }
                model["gridPos"] = json!({ "x": left, "y": top, "w": width, "h": own });
                panels.push(model);
                (left, height) = (left + width, height.max(own));
            }
            top += height;
        }
        for (index, panel) in panels.iter_mut().enumerate() {
            panel["id"] = json!(index + 1);
            for link in panel["links"].as_array_mut().into_iter().flatten() {
                if let Some(url) = link["url"].as_str().filter(|url| url.starts_with(RUNBOOKS)) {
                    link["url"] = json!(format!("{url}{}", about.runbooks_query()));
                }
            }
        }
        let mut all = vec![data_source(), page()];
        all.extend(variables);
        json!({
            "uid": uid,
            "title": title,
            "description": description,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "1m",
            "time": { "from": "now-24h", "to": "now" },
            "timezone": "browser",
            "links": [
                { "type": "dashboards", "title": "meshcert", "tags": [TAG], "asDropdown": false, "includeVars": true, "keepTime": true, "targetBlank": false, "icon": "external link", "tooltip": "", "url": "" },
                outside("Page", &format!("${{page}}{}", about.page())),
                outside("Runbooks", &format!("{DOCS}/ALERTS.md")),
                outside("Metrics", &format!("{DOCS}/METRICS.md")),
            ],
            "annotations": { "list": annotations },
            "templating": { "list": all },
            "panels": panels,
        })
    }
}

impl About {
    /// The path of meshcert's page about it.
    fn page(self) -> &'static str {
        match self {
            Self::All => "/",
            Self::Mesh => {
                "/meshes/${mesh_cluster:percentencode}/${mesh_namespace:percentencode}/${mesh_id:percentencode}"
            }
        }
    }

    /// What the runbooks that meshcert serves put into their commands, as the alerts' `runbook_url` says it.
    fn runbooks_query(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Mesh => {
                "?mesh=${mesh_id:percentencode}&namespace=${mesh_namespace:percentencode}&cluster=${mesh_cluster:percentencode}"
            }
        }
    }
}

impl Panel {
    fn new(kind: &str, title: &str, description: &str, (width, height): (u64, u64), queries: &[(&str, &str)]) -> Self {
        let targets: Vec<Value> = ('A'..='Z')
            .zip(queries)
            .map(|(letter, (expr, legend))| {
                json!({ "refId": letter, "datasource": source(), "expr": expr, "legendFormat": legend, "editorMode": "code", "range": true, "instant": false })
            })
            .collect();
        let model = json!({
            "type": kind, "title": title, "description": description, "datasource": source(), "targets": targets,
            "fieldConfig": { "defaults": {}, "overrides": [] }, "options": {}, "links": [],
        });
        Self { model, width, height }
    }

    /// One number of now.
    pub fn stat(title: &str, description: &str, width: u64, expr: &str) -> Self {
        let mut panel = Self::new("stat", title, description, (width, 4), &[(expr, "")]).instant("time_series");
        panel.model["options"] = json!({
            "colorMode": "background", "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
            "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
        });
        panel
    }

    /// Lines over time: queries and what their series are called.
    pub fn lines(title: &str, description: &str, size: (u64, u64), queries: &[(&str, &str)]) -> Self {
        let mut panel = Self::new("timeseries", title, description, size, queries);
        panel.model["options"] = json!({
            "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
            "tooltip": { "mode": "multi", "sort": "desc" },
        });
        panel.default("custom", json!({ "drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false }))
    }

    /// Counts of events, stacked as bars.
    pub fn events(title: &str, description: &str, size: (u64, u64), queries: &[(&str, &str)]) -> Self {
        let bars = json!({ "drawStyle": "bars", "fillOpacity": 80, "lineWidth": 0, "stacking": { "mode": "normal", "group": "A" } });
        Self::lines(title, description, size, queries).default("custom", bars).unit("short").whole()
    }

    /// A lane for each series, coloured by its state.
    pub fn lanes(title: &str, description: &str, size: (u64, u64), queries: &[(&str, &str)]) -> Self {
        let mut panel = Self::new("state-timeline", title, description, size, queries);
        panel.model["options"] = json!({
            "mergeValues": true, "showValue": "auto", "rowHeight": 0.8, "alignValue": "left",
            "legend": { "displayMode": "list", "placement": "bottom", "showLegend": false },
            "tooltip": { "mode": "single", "sort": "none" },
        });
        panel.default("custom", json!({ "fillOpacity": 80, "lineWidth": 0 }))
    }

    /// A bar for each value of the label `over`.
    pub fn bars(title: &str, description: &str, size: (u64, u64), expr: &str, over: &str) -> Self {
        let mut panel = Self::new("barchart", title, description, size, &[(expr, "")]).instant("table");
        panel.model["options"] = json!({
            "xField": over, "orientation": "vertical", "showValue": "always", "stacking": "none", "groupWidth": 0.7, "barWidth": 0.9,
            "legend": { "displayMode": "list", "placement": "bottom", "showLegend": false },
            "tooltip": { "mode": "single", "sort": "none" },
        });
        let order = json!({ "id": "sortBy", "options": { "sort": [{ "field": over, "desc": false }] } });
        let hide = json!({ "id": "organize", "options": { "excludeByName": { "Time": true, "month": true }, "indexByName": {}, "renameByName": { "Value": title } } });
        panel.model["transformations"] = json!([order, hide]);
        panel.default("custom", json!({ "fillOpacity": 80 })).unit("short").whole()
    }

    /// A horizontal bar for each series.
    pub fn gauges(title: &str, description: &str, size: (u64, u64), expr: &str, legend: &str) -> Self {
        let mut panel = Self::new("bargauge", title, description, size, &[(expr, legend)]).instant("time_series");
        panel.model["options"] = json!({
            "displayMode": "basic", "orientation": "horizontal", "showUnfilled": true, "valueMode": "color", "namePlacement": "auto", "sizing": "auto", "minVizWidth": 8, "minVizHeight": 16,
            "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
        });
        panel
    }

    /// A row for each object: queries that agree in their identity, joined; the first column sorts unless another one is told to.
    pub fn table(title: &str, description: &str, size: (u64, u64), queries: &[&str], columns: &[Column]) -> Self {
        let queries: Vec<(&str, &str)> = queries.iter().map(|expr| (*expr, "")).collect();
        let mut panel = Self::new("table", title, description, size, &queries).instant("table");
        // Grafana calls the value by its query where there are several.
        let field = |name: &str| match (name.len() == 1, queries.len()) {
            (true, 1) => "Value".to_owned(),
            (true, _) => format!("Value #{name}"),
            _ => name.to_owned(),
        };
        let letters = ('A'..='Z').take(queries.len()).map(|letter| letter.to_string());
        let unused = letters.filter(|letter| columns.iter().all(|column| column.field != letter));
        let excluded: Value =
            unused.map(|letter| (field(&letter), json!(true))).chain([("Time".to_owned(), json!(true))]).collect();
        let order: Value =
            columns.iter().enumerate().map(|(index, column)| (field(column.field), json!(index))).collect();
        let names: Value = columns.iter().map(|column| (field(column.field), json!(column.title))).collect();
        panel.model["transformations"] = json!([
            { "id": "merge", "options": {} },
            { "id": "organize", "options": { "excludeByName": excluded, "indexByName": order, "renameByName": names } },
        ]);
        let overrides = columns.iter().filter(|column| !column.properties.is_empty()).map(
            |column| json!({ "matcher": { "id": "byName", "options": column.title }, "properties": column.properties }),
        );
        panel.model["fieldConfig"]["overrides"] = overrides.collect();
        panel.model["options"] = json!({ "showHeader": true, "cellHeight": "sm", "footer": { "show": false, "reducer": ["sum"], "fields": "" }, "sortBy": [] });
        panel.default("custom", json!({ "align": "auto", "filterable": true, "cellOptions": { "type": "auto" } }))
    }

    fn instant(mut self, format: &str) -> Self {
        for target in self.model["targets"].as_array_mut().into_iter().flatten() {
            target["range"] = json!(false);
            target["instant"] = json!(true);
            target["format"] = json!(format);
        }
        self
    }

    fn default(mut self, name: &str, value: Value) -> Self {
        self.model["fieldConfig"]["defaults"][name] = value;
        self
    }

    pub fn unit(self, unit: &str) -> Self {
        self.default("unit", json!(unit))
    }

    /// Without decimals.
    pub fn whole(self) -> Self {
        self.default("decimals", json!(0))
    }

    pub fn between(self, least: i64, most: i64) -> Self {
        self.default("min", json!(least)).default("max", json!(most))
    }

    pub fn colours(self, steps: &Steps) -> Self {
        self.default("thresholds", thresholds(steps)).default("color", json!({ "mode": "thresholds" }))
    }

    /// Colours by threshold, with lines where they begin.
    pub fn marked(mut self, steps: &Steps) -> Self {
        self.model["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"] = json!({ "mode": "dashed" });
        self.default("thresholds", thresholds(steps))
    }

    pub fn words(self, words: &[(i64, &str, &str)]) -> Self {
        let all = mappings(words);
        self.default("mappings", all)
    }

    /// What is shown where there is nothing.
    pub fn empty(self, text: &str) -> Self {
        self.default("noValue", json!(text))
    }

    /// Shows the series' name in place of its value.
    pub fn by_name(mut self, legend: &str) -> Self {
        self.model["options"]["textMode"] = json!("name");
        self.model["targets"][0]["legendFormat"] = json!(legend);
        self
    }

    /// Sorts by a column; said again, by another one where these are alike.
    pub fn sorted(mut self, column: &str, descending: bool) -> Self {
        if let Some(columns) = self.model["options"]["sortBy"].as_array_mut() {
            columns.push(json!({ "displayName": column, "desc": descending }));
        }
        self
    }

    pub fn link(mut self, title: &str, url: &str) -> Self {
        if let Some(links) = self.model["links"].as_array_mut() {
            links.push(json!({ "title": title, "url": url, "targetBlank": url.starts_with("https://") }));
        }
        self
    }

    /// A link to the page on what to do about an alert.
    pub fn runbook(self, alert: &str) -> Self {
        self.link(&format!("Runbook {alert}"), &format!("{RUNBOOKS}/{alert}.md"))
    }
}

impl Column {
    pub fn new(field: &'static str, title: &'static str) -> Self {
        Self { field, title, properties: Vec::new() }
    }

    fn with(mut self, id: &str, value: Value) -> Self {
        self.properties.push(json!({ "id": id, "value": value }));
        self
    }

    pub fn unit(self, unit: &str) -> Self {
        self.with("unit", json!(unit))
    }

    /// Without decimals.
    pub fn whole(self) -> Self {
        self.with("decimals", json!(0))
    }

    pub fn width(self, pixels: u32) -> Self {
        self.with("custom.width", json!(pixels))
    }

    pub fn colours(self, steps: &Steps) -> Self {
        self.with("thresholds", thresholds(steps))
            .with("color", json!({ "mode": "thresholds" }))
            .with("custom.cellOptions", json!({ "type": "color-background", "mode": "basic" }))
    }

    pub fn words(self, words: &[(i64, &str, &str)]) -> Self {
        self.with("mappings", mappings(words)).with("custom.cellOptions", json!({ "type": "color-text" }))
    }

    pub fn link(self, title: &str, url: &str) -> Self {
        self.with("links", json!([{ "title": title, "url": url }]))
    }
}

fn thresholds(steps: &Steps) -> Value {
    let steps: Vec<Value> = steps.iter().map(|(from, colour)| json!({ "value": from, "color": colour })).collect();
    json!({ "mode": "absolute", "steps": steps })
}

fn mappings(words: &[(i64, &str, &str)]) -> Value {
    let options: Value = words
        .iter()
        .enumerate()
        .map(|(index, (value, text, colour))| {
            (value.to_string(), json!({ "index": index, "text": text, "color": colour }))
        })
        .collect();
    json!([{ "type": "value", "options": options }])
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn outside(title: &str, url: &str) -> Value {
    json!({ "type": "link", "title": title, "url": url, "icon": "external link", "targetBlank": true, "tags": [], "asDropdown": false, "includeVars": false, "keepTime": false, "tooltip": "" })
}

fn data_source() -> Value {
    json!({ "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1, "current": {}, "hide": 0, "multi": false, "includeAll": false, "regex": "", "options": [] })
}

fn page() -> Value {
    let address = "http://localhost:9794";
    json!({
        "type": "textbox", "name": "page", "label": "Page", "query": address, "hide": 0,
        "description": "Where a browser reaches meshcert; as it is, through kubectl port-forward to port 9794.",
        "current": { "text": address, "value": address }, "options": [{ "text": address, "value": address, "selected": true }],
    })
}

/// A variable that takes its values from a label of a metric.
pub fn variable(label: &str, title: &str, query: &str, several: bool) -> Value {
    let query = format!("label_values({query}, {label})");
    let mut model = json!({
        "type": "query", "name": label, "label": title, "datasource": source(), "definition": query, "query": { "query": query, "refId": label, "qryType": 1 },
        "refresh": 2, "sort": 1, "hide": 0, "regex": "", "multi": several, "includeAll": several, "options": [], "current": {},
    });
    if several {
        model["allValue"] = json!(".*");
        model["current"] = json!({ "text": ["All"], "value": ["$__all"] });
    }
    model
}

/// A mark on the time lines; the query's value is the moment, in milliseconds.
pub fn annotation(name: &str, colour: &str, expr: &str) -> Value {
    json!({
        "name": name, "datasource": source(), "enable": true, "hide": false, "iconColor": colour, "useValueForTime": true,
        "target": { "refId": "Anno", "expr": expr, "interval": "60s", "range": true, "instant": false },
        "titleFormat": "{{mesh_id}}: {{outcome}}", "textFormat": "cluster {{mesh_cluster}}, namespace {{mesh_namespace}}", "tagKeys": "outcome",
    })
}
