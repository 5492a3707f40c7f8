//! The alert rules: tested by promtool, routed by amtool, generated for operators, each with a runbook.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used, missing_docs, reason = "a test may")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// The forms for operators: file, kind, API group and labels.
const GENERATED: [(&str, &str, &str); 2] = [
    ("alerts/meshcert.prometheusrule.yaml", "PrometheusRule", "monitoring.coreos.com/v1"),
    ("alerts/meshcert.vmrule.yaml", "VMRule", "operator.victoriametrics.com/v1beta1"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rules() -> Value {
    serde_saphyr::from_str(&read("alerts/meshcert.rules.yaml")).unwrap()
}

fn alerts() -> Vec<Value> {
    let rules = rules();
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone());
    rules.filter(|rule| rule["record"].is_null()).collect()
}

fn is_about_a_mesh(alert: &Value) -> bool {
    alert["expr"].as_str().unwrap().contains("by (mesh_cluster, mesh_namespace, mesh_id")
}

/// A tool built by `tools/build.sh`; without it the test is skipped aloud, or fails where all tools are required.
fn tool(name: &str) -> Option<PathBuf> {
    let path = root().join(".cache/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("MESHCERT_REQUIRE_TOOLS").is_none(), "{name} is missing: run `make tools`");
    eprintln!("SKIPPED: {name} is missing; `make tools` builds it");
    None
}

fn run(tool: &Path, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).current_dir(root()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

#[test]
fn promtool_finds_the_rules_silent_and_firing_as_they_should_be() {
    let Some(promtool) = tool("promtool") else { return };
    run(&promtool, &["check", "rules", "--lint-fatal", "alerts/meshcert.rules.yaml"]);
    run(&promtool, &["test", "rules", "alerts/tests/meshcert.yaml"]);
    // Every alert is tested for silence and for firing.
    let tests: Value = serde_saphyr::from_str(&read("alerts/tests/meshcert.yaml")).unwrap();
    let mut seen: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for test in tests["tests"].as_array().unwrap() {
        for case in test["alert_rule_test"].as_array().unwrap() {
            let entry = seen.entry(case["alertname"].as_str().unwrap().to_owned()).or_default();
            let fires = case["exp_alerts"].as_array().is_some_and(|expected| !expected.is_empty());
            if fires { entry.1 = true } else { entry.0 = true }
        }
    }
    for alert in alerts() {
        assert_eq!(seen.get(alert["alert"].as_str().unwrap()), Some(&(true, true)), "{}", alert["alert"]);
    }
}

#[test]
fn dashboards_of_the_other_exporter_go_on_with_what_is_recorded() {
    let Some(promtool) = tool("promtool") else { return };
    run(&promtool, &["check", "rules", "--lint-fatal", "alerts/x509-certificate-exporter.rules.yaml"]);
    run(&promtool, &["test", "rules", "alerts/tests/x509-certificate-exporter.yaml"]);
}

#[test]
fn the_page_on_migration_says_of_each_metric_what_becomes_of_it() {
    let rules: Value = serde_saphyr::from_str(&read("alerts/x509-certificate-exporter.rules.yaml")).unwrap();
    let records = rules["groups"][0]["rules"].as_array().unwrap().iter().map(|rule| rule["record"].as_str().unwrap());
    let recorded: BTreeSet<&str> = records.filter(|name| name.starts_with("x509_")).collect();
    let metrics = read("docs/METRICS.md");
    let exported: BTreeSet<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("| `x509_")?.split('`').next()).collect();
    let page = read("docs/MIGRATION.md");
    let (mut said_recorded, mut said_the_same) = (BTreeSet::new(), BTreeSet::new());
    for row in page.lines().filter(|line| line.starts_with("| `x509_")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].split('`').nth(1).unwrap();
        assert!(cells[2] == "none" || cells[2].contains("recorded"), "{row}");
        if cells[2].contains("recorded") {
            said_recorded.insert(name);
        }
        if cells[2].starts_with("the same") {
            said_the_same.insert(name.trim_start_matches("x509_"));
        }
    }
    assert_eq!(said_recorded, recorded);
    assert_eq!(said_the_same, exported);
}

#[test]
fn every_alert_has_its_texts_and_a_runbook() {
    let listed = read("docs/ALERTS.md");
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        for annotation in ["summary", "description", "runbook_url", "dashboard_url"] {
            assert!(alert["annotations"][annotation].is_string(), "{name} lacks {annotation}");
        }
        assert!(matches!(alert["labels"]["severity"].as_str(), Some("critical" | "warning")), "{name}");
        let url = alert["annotations"]["runbook_url"].as_str().unwrap();
        let page = format!("docs/runbooks/{name}.md");
        // The page that meshcert serves puts the mesh's names into the commands.
        let about = "?mesh={{ $labels.mesh_id }}&namespace={{ $labels.mesh_namespace }}&cluster={{ urlquery $labels.mesh_cluster }}";
        let about = if is_about_a_mesh(&alert) { about } else { "" };
        assert!(url.ends_with(&format!("/{page}{about}")), "{name}: {url}");
        let text = read(&page);
        let headings: Vec<&str> = text.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(headings, ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"], "{page}");
        assert!(listed.contains(&format!("runbooks/{name}.md")), "docs/ALERTS.md lacks {name}");
    }
    for page in std::fs::read_dir(root().join("docs/runbooks")).unwrap() {
        let name = page.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(alerts().iter().any(|alert| alert["alert"] == *name), "docs/runbooks/{name}.md belongs to no alert");
    }
}

/// What tells a rule from others of its alert: name, severity, other labels, and the minutes for which it must hold.
type Told = (String, String, BTreeMap<String, String>, u32);

/// A rule's `for`, or how the page says it.
fn minutes(number: &str, unit: &str) -> u32 {
    let each = match unit {
        "m" | "min" => 1,
        "h" => 60,
        "d" | "day" => 24 * 60,
        _ => panic!("{number} {unit}"),
    };
    each * number.parse::<u32>().unwrap()
}

#[test]
fn the_page_on_alerts_says_of_each_rule_its_severity_and_for_how_long_it_must_hold() {
    let ruled: Vec<Told> = alerts()
        .iter()
        .map(|alert| {
            let mut labels: BTreeMap<String, String> = serde_json::from_value(alert["labels"].clone()).unwrap();
            let severity = labels.remove("severity").unwrap();
            let hold = alert["for"].as_str().map_or(0, |hold| {
                let (number, unit) = hold.split_at(hold.len() - 1);
                minutes(number, unit)
            });
            (alert["alert"].as_str().unwrap().to_owned(), severity, labels, hold)
        })
        .collect();

    let label = regex::Regex::new(r#"`(\w+)="(\w+)"`"#).unwrap();
    let hold = regex::Regex::new(r"\bfor (\d+) (min|h|day)\b").unwrap();
    let page = read("docs/ALERTS.md");
    let mut told: Vec<Told> = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `M") || line.starts_with("| the same")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = if cells[1].starts_with("the same") {
            &told.last().unwrap().0
        } else {
            cells[1].split('`').nth(1).unwrap()
        };
        let labels = label.captures_iter(cells[1]).map(|found| (found[1].to_owned(), found[2].to_owned())).collect();
        let holds: Vec<u32> = hold.captures_iter(cells[3]).map(|found| minutes(&found[1], &found[2])).collect();
        let hold = match holds[..] {
            [] if cells[3].ends_with("at once") => 0,
            [hold] => hold,
            _ => panic!("{row} says not once for how long"),
        };
        told.push((name.to_owned(), cells[2].to_owned(), labels, hold));
    }
    // The page follows its own order.
    let sorted = |mut all: Vec<Told>| {
        all.sort();
        all
    };
    assert_eq!(sorted(told), sorted(ruled));
}

/// A dashboard's address, and the variables that can be chosen there.
fn dashboards() -> BTreeMap<String, Vec<String>> {
    let files = std::fs::read_dir(root().join("dashboards")).unwrap();
    files
        .map(|file| {
            let model: Value = serde_json::from_slice(&std::fs::read(file.unwrap().path()).unwrap()).unwrap();
            let variables = model["templating"]["list"].as_array().unwrap().iter();
            let names = variables.map(|variable| variable["name"].as_str().unwrap().to_owned());
            (format!("/d/{}", model["uid"].as_str().unwrap()), names.collect())
        })
        .collect()
}

#[test]
fn every_alert_leads_to_a_dashboard_that_shows_what_it_is_about() {
    let dashboards = dashboards();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let url = alert["annotations"]["dashboard_url"].as_str().unwrap();
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let variables = dashboards.get(address).unwrap_or_else(|| panic!("{name}: there is no dashboard {address}"));
        for choice in query.split('&').filter(|choice| !choice.is_empty()) {
            let (variable, value) = choice.strip_prefix("var-").and_then(|choice| choice.split_once('=')).unwrap();
            assert!(variables.iter().any(|known| known == variable), "{name}: {address} has no variable {variable}");
            assert_eq!(value, format!("{{{{ $labels.{variable} }}}}"), "{name}");
        }
        assert_eq!(
            is_about_a_mesh(&alert),
            query.contains("var-mesh_id="),
            "{name}: an alert about a mesh leads to that mesh"
        );
    }
}

#[test]
fn the_forms_for_operators_are_those_of_the_rules() {
    for (path, kind, api_version) in GENERATED {
        let mut rules = rules();
        for group in rules["groups"].as_array_mut().unwrap() {
            assert!(group["name"].as_str().unwrap().len() <= 63, "Insight's limit");
        }
        let object = json!({
            "apiVersion": api_version,
            "kind": kind,
            // Insight, DCE's observability, picks up what carries its label.
            "metadata": { "name": "meshcert", "labels": { "operator.insight.io/managed-by": "insight" } },
            "spec": rules.take(),
        });
        let text = format!(
            "# Generated from meshcert.rules.yaml by tests/alerts.rs; `make golden` writes it anew.\n{}\n",
            serde_saphyr::to_string(&object).unwrap().trim_end()
        );
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(root().join(path), &text).unwrap();
        }
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), object, "the writing reads back");
        assert_eq!(read(path), text, "{path} is not that of the rules: run `make golden`");
    }
}

#[test]
fn alertmanager_takes_the_routes_and_sends_each_alert_where_it_belongs() {
    let Some(amtool) = tool("amtool") else { return };
    let config = "deploy/alertmanager/alertmanager.yaml";
    run(&amtool, &["check-config", config]);
    for alert in alerts() {
        let severity = alert["labels"]["severity"].as_str().unwrap();
        let receiver = if severity == "critical" { "on-call" } else { "team" };
        let name = format!("alertname={}", alert["alert"].as_str().unwrap());
        let wanted = format!("--verify.receivers={receiver}");
        let config = format!("--config.file={config}");
        run(&amtool, &["config", "routes", "test", &config, &wanted, &name, &format!("severity={severity}")]);
    }
}

#[test]
fn alertmanager_takes_the_remediation_and_sends_the_signal_to_meshcert_and_to_people() {
    let Some(amtool) = tool("amtool") else { return };
    let config = "deploy/alertmanager/remediation.yaml";
    run(&amtool, &["check-config", config]);
    for (alert, receivers) in
        [("MspiderHostedKubeAPICertExpiration", "meshcert,people"), ("MeshcertSourceDown", "people")]
    {
        let wanted = format!("--verify.receivers={receivers}");
        let config = format!("--config.file={config}");
        run(&amtool, &["config", "routes", "test", &config, &wanted, &format!("alertname={alert}")]);
    }
}
