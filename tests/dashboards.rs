//! The dashboards: made here from one description, sound in themselves, and every panel has data on a real Prometheus.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test may")]

#[path = "support/client.rs"]
mod client;
#[path = "dashboards/common.rs"]
mod common;
#[path = "dashboards/grafana.rs"]
mod grafana;
#[path = "dashboards/itself.rs"]
mod itself;
#[path = "dashboards/mesh.rs"]
mod mesh;
#[path = "dashboards/overview.rs"]
mod overview;
#[path = "dashboards/reading.rs"]
mod reading;
#[path = "dashboards/renewals.rs"]
mod renewals;
#[path = "support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use client::{Ca, Client, put};
use common::Limits;
use meshcert::clock::SystemClock;
use meshcert::cluster::api::Api;
use meshcert::cluster::connect::{Connection, connect};
use meshcert::material::assemble;
use meshcert::mesh::{MeshKey, Naming, SecretRole};
use meshcert::native;
use meshcert::policy::Policy;
use meshcert::ports::Clock;
use meshcert::server::overview::State;
use meshcert::time::DAY;
use promql_parser::parser::{self, Expr};
use promql_parser::util::{ExprVisitor, walk_expr};
use reading::{Dashboard, Query, interpolate};
use serde_json::{Value, json};
use support::daemon::{Demo, Process};
use support::prometheus::{Prometheus, free_address};
use support::tools;

/// What Prometheus writes itself about each scrape.
const OF_PROMETHEUS: [&str; 2] = ["scrape_duration_seconds", "scrape_samples_scraped"];

fn page(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rules() -> Value {
    serde_saphyr::from_str(&page("alerts/meshcert.rules.yaml")).unwrap()
}

fn made() -> [(&'static str, Value); 4] {
    let limits = Limits::of(&rules());
    [
        ("dashboards/overview.json", overview::model(&limits)),
        ("dashboards/mesh.json", mesh::model(&limits)),
        ("dashboards/renewals.json", renewals::model(&limits)),
        ("dashboards/meshcert.json", itself::model()),
    ]
}

/// The dashboards; that their files hold the same is a test of its own.
fn shipped() -> Vec<Dashboard> {
    made().into_iter().map(|(path, model)| Dashboard { path, model }).collect()
}

#[test]
fn the_files_are_those_that_are_made_here() {
    for (path, model) in made() {
        let text = format!("{}\n", serde_json::to_string_pretty(&model).unwrap());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), &text).unwrap();
        }
        assert!(page(path) == text, "{path} is not what is made of its description: run `make golden`");
    }
}

#[test]
fn grafanas_own_model_reads_them_without_loss() {
    let Some(python) = tools::python_with("grafana_foundation_sdk") else { return };
    let folder = tempfile::TempDir::new().unwrap();
    let write = |name: &str, model: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, model.to_string()).unwrap();
        path
    };
    let files = made().map(|(path, model)| write(path.rsplit('/').next().unwrap(), &model));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dashboards/model.py");
    let check = |files: &[PathBuf]| Command::new(&python).arg(&script).args(files).output().unwrap();
    let output = check(&files);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // It does see what is wrong.
    let (_, mut model) = made().into_iter().next().unwrap();
    model["panels"][1]["fieldConfig"]["defaults"]["unti"] = "s".into();
    assert_eq!(check(&[write("wrong.json", &model)]).status.code(), Some(1));
}

#[test]
fn panels_have_ids_of_their_own_and_do_not_overlap() {
    let mut uids = BTreeSet::new();
    for dashboard in shipped() {
        assert!(uids.insert(dashboard.model["uid"].to_string()), "{}: a uid of its own", dashboard.path);
        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in dashboard.panels() {
            let title = &panel["title"];
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}: {title}", dashboard.path);
            let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24 && place("w") > 0 && place("h") > 0, "{}: {title}", dashboard.path);
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{}: {title} lies on another panel", dashboard.path);
                }
            }
        }
    }
}

#[test]
fn every_panel_says_what_it_shows_and_names_each_query_once() {
    for dashboard in shipped() {
        for panel in dashboard.panels().iter().filter(|panel| panel["type"] != "row") {
            let place = format!("{}: {}", dashboard.path, panel["title"]);
            assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{place}");
            assert!(
                panel["description"].as_str().is_some_and(|text| text.ends_with('.')),
                "{place} has no description"
            );
            let targets = panel["targets"].as_array().unwrap();
            let letters: BTreeSet<&str> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
            assert!(!targets.is_empty() && letters.len() == targets.len(), "{place}");
            for holder in targets.iter().chain([panel]) {
                assert_eq!(holder["datasource"]["uid"], "${datasource}", "{place}");
            }
        }
    }
}

/// The metrics that an expression names.
struct Named(BTreeSet<String>);

impl ExprVisitor for Named {
    type Error = ();

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, ()> {
        match expr {
            Expr::VectorSelector(selector) => self.0.extend(selector.name.clone()),
            Expr::MatrixSelector(selector) => self.0.extend(selector.vs.name.clone()),
            _ => {}
        }
        Ok(true)
    }
}

fn metrics_of(place: &str, expr: &str) -> BTreeSet<String> {
    let expr = parser::parse(expr).unwrap_or_else(|error| panic!("{place}: {error}\n{expr}"));
    let mut named = Named(BTreeSet::new());
    walk_expr(&mut named, &expr).unwrap();
    assert!(!named.0.is_empty(), "{place} names no metric");
    named.0
}

/// The metrics of docs/METRICS.md, which a test of its own holds against the code.
fn documented() -> BTreeSet<String> {
    let text = page("docs/METRICS.md");
    let mut all: BTreeSet<String> = OF_PROMETHEUS.map(str::to_owned).into();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        let ends: &[&str] = if cells[2] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        all.extend(ends.iter().map(|end| format!("{name}{end}")));
    }
    all
}

#[test]
fn every_expression_parses_and_uses_only_metrics_that_exist() {
    let known = documented();
    for dashboard in shipped() {
        for Query { place, expr, .. } in dashboard.queries() {
            let unknown: Vec<String> =
                metrics_of(&place, &interpolate(&expr, "m")).difference(&known).cloned().collect();
            assert!(unknown.is_empty(), "{place} uses {unknown:?}");
        }
    }
    for group in rules()["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            let place = rule["alert"].as_str().or(rule["record"].as_str()).unwrap();
            let unknown: Vec<String> =
                metrics_of(place, rule["expr"].as_str().unwrap()).difference(&known).cloned().collect();
            assert!(unknown.is_empty(), "{place} uses {unknown:?}");
        }
    }
}

#[test]
fn variables_that_are_used_exist_and_those_that_exist_are_used() {
    // What Grafana itself fills in.
    let given = |name: &str| name.starts_with("__");
    let used = regex::Regex::new(r"\$\{?([a-z_]+)").unwrap();
    for dashboard in shipped() {
        let text = dashboard.model.to_string();
        let used: BTreeSet<&str> =
            used.captures_iter(&text).map(|found| found.get(1).unwrap().as_str()).filter(|name| !given(name)).collect();
        let list = dashboard.model["templating"]["list"].as_array().unwrap();
        let exist: BTreeSet<&str> = list.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(used, exist, "{}", dashboard.path);
    }
}

#[test]
fn panels_that_ignore_what_is_chosen_say_so() {
    for dashboard in shipped() {
        let list = dashboard.model["templating"]["list"].as_array().unwrap().iter();
        let choices: Vec<String> = list
            .filter(|one| one["type"] == "query")
            .map(|one| format!("${}", one["name"].as_str().unwrap()))
            .collect();
        for panel in dashboard.panels().iter().filter(|panel| panel["type"] != "row") {
            let mut queries =
                panel["targets"].as_array().unwrap().iter().map(|target| target["expr"].as_str().unwrap());
            let obeys = queries.all(|query| choices.iter().any(|choice| query.contains(choice)));
            let says = panel["description"].as_str().unwrap().contains("whatever is chosen above");
            assert_eq!(says, !obeys, "{}: {}", dashboard.path, panel["title"]);
        }
    }
}

#[test]
fn every_link_leads_to_a_page_or_to_another_dashboard() {
    let all = shipped();
    let uids: BTreeSet<&str> = all.iter().map(|one| one.model["uid"].as_str().unwrap()).collect();
    for dashboard in &all {
        let links = dashboard.links();
        assert!(links.len() > 5, "{}: {links:?}", dashboard.path);
        for link in links {
            let place = format!("{} links to {link}", dashboard.path);
            if let Some(page) = link.strip_prefix(grafana::DOCS).map(|rest| rest.split('?').next().unwrap()) {
                assert!(
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page.trim_start_matches('/')).exists(),
                    "{place}"
                );
            } else if let Some(rest) = link.strip_prefix("/d/") {
                let (uid, query) = rest.split_once('?').unwrap();
                assert!(uids.contains(uid), "{place}");
                let target = all.iter().find(|one| one.model["uid"] == uid).unwrap();
                let names = query.split('&').filter_map(|part| part.strip_prefix("var-")?.split('=').next());
                for name in names {
                    let variables = target.model["templating"]["list"].as_array().unwrap();
                    assert!(variables.iter().any(|one| one["name"] == name), "{place}: it has no variable {name}");
                }
            } else {
                assert!(link.starts_with("${page}/"), "{place}");
            }
        }
    }
}

#[tokio::test]
async fn links_that_lead_to_meshcert_lead_to_what_is_chosen() {
    let demo = Demo::start(&["--scenario", "mixed"]);
    let (client, address) = (Client::default(), demo.address.parse().unwrap());
    while !client.get(address, "/-/ready").await.is_ok_and(|(status, _)| status == 200) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let chosen =
        [("page", ""), ("mesh_cluster", "demo"), ("mesh_namespace", "istio-system"), ("mesh_id", "hosted-critical")];
    for dashboard in shipped() {
        let is_about_a_mesh = dashboard.path == "dashboards/mesh.json";
        let mut seen = (0, 0);
        for link in dashboard.links() {
            // Those that are published are served too.
            let (link, runbook) = match link.strip_prefix(grafana::RUNBOOKS) {
                Some(rest) => (format!("/runbooks{rest}"), true),
                None if link.starts_with("${page}") => (link, false),
                None => continue,
            };
            let path = chosen.iter().fold(link, |link, (name, value)| {
                link.replace(&format!("${{{name}:percentencode}}"), value).replace(&format!("${{{name}}}"), value)
            });
            let (status, text) = client.get(address, &path).await.unwrap();
            assert_eq!(status, 200, "{}: {path}", dashboard.path);
            if is_about_a_mesh {
                let others = text.contains("hosted-demo") || text.contains("hosted-healthy");
                assert!(text.contains("hosted-critical") && !others, "{path} is not about the mesh");
            }
            if runbook { seen.1 += 1 } else { seen.0 += 1 }
        }
        assert!(seen.0 == 1 && seen.1 > 1, "{}: {seen:?}", dashboard.path);
    }
}

#[test]
fn colours_change_where_the_rules_warn() {
    let Limits { warning, critical, ca } = Limits::of(&rules());
    assert_eq!((critical, warning, ca), (7 * 86_400, 30 * 86_400, 365 * 86_400));
    let mut seen = BTreeSet::new();
    for dashboard in shipped() {
        for steps in dashboard.thresholds() {
            // Counts change colour at 1.
            if steps != [1] && !steps.is_empty() {
                assert!(steps == [0, critical, warning] || steps == [0, ca], "{}: {steps:?}", dashboard.path);
                seen.insert(steps);
            }
        }
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn units_fit_what_is_queried() {
    let mut seen = 0;
    for dashboard in shipped() {
        for (place, expr, unit) in dashboard.units() {
            let fits: &[&str] = if expr.ends_with("* 1000") || expr.contains("* 1000\nor") {
                &["dateTimeAsIso", "dateTimeFromNow"]
            } else if expr.trim_end_matches(')').ends_with("- time(") {
                &["dtdhms", "s"]
            } else if expr.contains("_bytes") {
                &["bytes"]
            } else if expr.contains("scrape_duration_seconds")
                || expr.contains("step_duration_seconds_sum")
                || expr.contains("quantile")
            {
                &["s"]
            } else {
                continue;
            };
            seen += 1;
            assert!(fits.contains(&unit.as_str()), "{place}: {unit:?} for {expr}");
        }
    }
    assert!(seen > 20, "{seen}");
}

/// Meshes of the world below; each has something that the others lack.
const MESHES: [&str; 4] = ["hosted-demo", "hosted-healthy", "hosted-broken", "hosted-incomplete"];

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_has_data_on_a_real_prometheus() {
    // Meshes in every state; those that are due are renewed meanwhile.
    let demo = Demo::start(&["--scenario", "mixed", "--mode", "auto"]);
    // A second replica, which also sees Secrets that are no mesh's: what replicas have in common must not be counted twice.
    let replica = free_address();
    let config = demo.folder.path().join("meshcert.yaml");
    let kubeconfig = demo.kubeconfig.display().to_string();
    let text = format!(
        "clusters: [{{name: demo, kubeconfig: '{kubeconfig}'}}]\nsecretRules: [{{type: kubernetes.io/tls, namespaces: [shop]}}]\n"
    );
    std::fs::write(&config, text).unwrap();
    let meshcert = Path::new(env!("CARGO_BIN_EXE_meshcert"));
    let arguments = ["serve", "--listen", &replica, "--config", &config.display().to_string()].map(str::to_owned);
    let _replica = Process::start(meshcert, &arguments);
    // A webhook alone, on an address of its own with TLS: it is told the meshes, and its rights are looked at.
    let webhook = free_address();
    let pair = Ca::new("servers").server();
    let put = |name: &str, text: &str| put(demo.folder.path(), name, text).display().to_string();
    let (crt, key, token) = (put("tls.crt", &pair.certificate), put("tls.key", &pair.key), put("token", "t"));
    let config = put(
        "webhook.yaml",
        &format!(
            "clusters: [{{name: demo, kubeconfig: '{kubeconfig}'}}]\nwebhook: {{bearerTokenFile: '{token}', listen: '127.0.0.1:0', tls: {{certFile: '{crt}', keyFile: '{key}'}}, meshesFrom: {{url: 'http://{}'}}}}\n",
            demo.address
        ),
    );
    let arguments = ["serve", "--roles", "webhook", "--listen", &webhook, "--config", &config].map(str::to_owned);
    let _webhook = Process::start(meshcert, &arguments);
    let Some(prometheus) = Prometheus::start(&[&demo.address, &replica, &webhook]) else { return };
    // A renewal that policy holds up, and one that cannot be.
    demo.kubectl(&[
        "-n",
        "istio-system",
        "annotate",
        "secret",
        "hosted-healthy-kube-certs",
        "meshcert.dev/paused=true",
    ]);
    for mesh in ["hosted-healthy", "hosted-incomplete"] {
        let asked =
            Command::new(meshcert).args(["renew", mesh, "--force", "--kubeconfig", &kubeconfig]).output().unwrap();
        assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    }

    let dashboards = shipped();
    let start = tokio::time::Instant::now();
    loop {
        let missing = missing(&prometheus, &dashboards).await;
        if missing.is_empty() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(180), "{}", missing.join("\n"));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Somebody renews what a mesh's API shows, and restarts nothing: its pod goes on with what it has loaded.
async fn renew_without_restart(demo: &Demo, id: &str) {
    let pod_is_there = "--for=jsonpath={.status.readyReplicas}=1";
    demo.kubectl(&["wait", &format!("deployment/{id}-hosted-apiserver"), pod_is_there, "--timeout=60s"]);
    let api = Api::new(connect(&Connection::file(demo.kubeconfig.clone(), None)).await.unwrap());
    let (naming, key) = (Naming::default(), MeshKey { namespace: "istio-system".into(), id: id.parse().unwrap() });
    let secrets = api.mesh_secrets(&key.namespace, &naming.secret_names(&key.id)).await.unwrap();
    // What would end no later than the present one is kept.
    let longer = Policy { lifetime: 366 * DAY, ..Policy::default() };
    let (mesh, role) = (assemble(&naming, &key, &secrets), SecretRole::KubeCerts);
    let made = native::renew(&mesh, &secrets, role, &longer, SystemClock.now(), &mut rand::rng()).unwrap();
    let live = secrets[role as usize].as_ref().unwrap();
    api.write_entries(&key.namespace, &live.name, &live.resource_version, &made).await.unwrap();
}

/// Cluster and kubeconfig, as the configuration has them, of a cluster where nobody listens.
fn dead_cluster(demo: &Demo) -> String {
    let text = std::fs::read_to_string(&demo.kubeconfig).unwrap();
    let server = regex::Regex::new("server: .*").unwrap();
    let dead = server.replace_all(&text, format!("server: http://{}", free_address()));
    let path = put(demo.folder.path(), "dead", &dead);
    format!("{{name: dead, kubeconfig: '{}'}}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overviews_numbers_are_those_of_the_meshes() {
    // Each of the six kinds, and four of them again; hosted-healthy serves what is not stored any more.
    let demo = Demo::start(&["--scenario", "mixed", "--meshes", "10"]);
    renew_without_restart(&demo, "hosted-healthy").await;
    // The API of hosted-healthy; API and etcd, on two ports, of those that have ended; the etcd of hosted-incomplete cannot start.
    let endpoints = [("hosted-healthy", 1), ("hosted-expired", 3), ("hosted-expired-2", 3), ("hosted-incomplete", 2)];
    let wanted = [
        ("Hosted meshes", "10"),
        ("Ended", "2"),
        ("Critical", "2"),
        ("Due", "2"),
        ("Findings", "2"),
        ("Old or silent endpoints", "9"),
        ("Sources down", "1"),
    ];
    let worst_first = [
        ("expired", "hosted-expired"),
        ("expired", "hosted-expired-2"),
        ("critical", "hosted-critical"),
        ("critical", "hosted-critical-2"),
        ("missing", "hosted-incomplete"),
        ("stale", "hosted-healthy"),
        ("invalid", "hosted-broken"),
        ("expiring", "hosted-demo"),
        ("expiring", "hosted-demo-2"),
        ("ok", "hosted-healthy-2"),
    ];
    // A second replica counts no mesh twice. It observes the cluster under the same name, and one that does not answer.
    let replica = free_address();
    let config = demo.folder.path().join("meshcert.yaml");
    let kubeconfig = demo.kubeconfig.display();
    let text = format!("clusters: [{{name: demo, kubeconfig: '{kubeconfig}'}}, {}]\n", dead_cluster(&demo));
    std::fs::write(&config, text).unwrap();
    let arguments = ["serve", "--listen", &replica, "--config", &config.display().to_string()].map(str::to_owned);
    let _replica = Process::start(Path::new(env!("CARGO_BIN_EXE_meshcert")), &arguments);
    let Some(prometheus) = Prometheus::start(&[&demo.address, &replica]) else { return };

    let start = tokio::time::Instant::now();
    let both = format!("count({}{{mesh_id=\"hosted-demo\"}})", common::SIGNAL);
    while value(&prometheus, &both).await.as_deref() != Some("2") {
        assert!(start.elapsed() < Duration::from_secs(120), "Prometheus does not see both replicas");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let overview = shipped().into_iter().next().unwrap();
    let of = |panel: &str| {
        let queries = overview.queries().into_iter().filter(|query| query.panel == panel);
        queries.map(|query| interpolate(&query.expr, "")).collect::<Vec<String>>()
    };
    // The leader looks at endpoints once a minute.
    let stale = &of("Old or silent endpoints")[0];
    while value(&prometheus, stale).await.as_deref() != Some("9") {
        assert!(start.elapsed() < Duration::from_secs(180), "{:?} for {stale}", prometheus.query(stale).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (panel, number) in wanted {
        assert_eq!(value(&prometheus, &of(panel)[0]).await.as_deref(), Some(number), "{panel}");
    }
    let table = "Meshes, worst first";
    let values = async |column: &str| by_mesh(&prometheus, &interpolate(&overview.column(table, column).0, "")).await;
    let found = values("Old or silent").await;
    assert_eq!(found, endpoints.map(|(mesh, number)| (mesh.to_owned(), f64::from(number))).into());
    // As Grafana sorts it.
    let panel = overview.panels().iter().find(|panel| panel["title"] == table).unwrap();
    let by = |column: &str| json!({ "displayName": column, "desc": false });
    assert_eq!(panel["options"]["sortBy"], json!([by("State"), by("Time left")]));
    let (states, left) = (values("State").await, values("Time left").await);
    let mut rows: Vec<(f64, f64, &str)> = states.iter().map(|(mesh, state)| (*state, left[mesh], &**mesh)).collect();
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let words = overview.column(table, "State").1;
    let rows: Vec<(&str, &str)> =
        rows.iter().map(|(state, _, mesh)| (words[state.to_string()]["text"].as_str().unwrap(), *mesh)).collect();
    assert_eq!(rows, worst_first);
    // The page's words in the page's order; only what is urgent there is what on-call is paged for here.
    let on_the_page = State::ALL.map(|state| if state == State::Urgent { "critical" } else { state.as_str() });
    let in_order = (0..words.as_object().unwrap().len()).map(|rank| words[rank.to_string()]["text"].as_str().unwrap());
    assert!(in_order.eq(on_the_page));
}

/// The values of an expression that has one series for each mesh.
async fn by_mesh(prometheus: &Prometheus, expr: &str) -> BTreeMap<String, f64> {
    let series = prometheus.query(expr).await.unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let one = |one: &Value| (text(&one["metric"]["mesh_id"]), text(&one["value"][1]).parse().unwrap());
    let found: BTreeMap<String, f64> = series.iter().map(one).collect();
    assert_eq!(found.len(), series.len(), "{expr}");
    found
}

/// The value of the only series of an expression.
async fn value(prometheus: &Prometheus, expr: &str) -> Option<String> {
    let series = prometheus.query(expr).await.ok()?;
    let [only] = series.as_slice() else { return None };
    only["value"][1].as_str().map(str::to_owned)
}

/// What shows nothing: queries without data for any mesh, and columns of tables for which no query has the label.
async fn missing(prometheus: &Prometheus, dashboards: &[Dashboard]) -> Vec<String> {
    let mut missing = Vec::new();
    for dashboard in dashboards {
        let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for Query { place, panel, expr } in dashboard.queries() {
            let mut found = false;
            for mesh in MESHES {
                match prometheus.query(&interpolate(&expr, mesh)).await {
                    Ok(series) => {
                        found |= !series.is_empty();
                        let names = series.iter().flat_map(|one| one["metric"].as_object().unwrap().keys().cloned());
                        labels.entry(panel.clone()).or_default().extend(names);
                    }
                    Err(error) => missing.push(format!("{place}: {error}\n{expr}")),
                }
            }
            if !found {
                missing.push(format!("{place} has no data: {expr}"));
            }
        }
        for (panel, columns) in dashboard.columns() {
            let known = labels.remove(&panel).unwrap_or_default();
            let lacking: Vec<&String> = columns.iter().filter(|label| !known.contains(*label)).collect();
            if !lacking.is_empty() {
                missing.push(format!("{}: {panel} has no label {lacking:?}", dashboard.path));
            }
        }
    }
    missing
}
