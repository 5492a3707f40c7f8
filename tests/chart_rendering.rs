//! What the chart renders for a matrix of values, with the real Helm and kubeconform, and what it refuses.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::{Value, json};
use support::helm::{CHART, Helm, golden, name, objects, of_kind, root};
use support::tools;

/// All roles, each with a Deployment; a token of one's own, so that nothing is random.
const ROLES: &str = "
webhook: {enabled: true, credentials: {existingSecret: meshcert-webhook}}
act: {enabled: true}
policy: {mode: approve}
";
const COMBINED: &str = "
combined: {enabled: true, replicas: 1}
webhook: {enabled: true, credentials: {existingSecret: meshcert-webhook}}
act: {enabled: true}
policy: {mode: auto, engine: native, renewBefore: 45d, windows: [{days: [sat], start: '22:00', end: '04:00', timeZone: Asia/Shanghai}]}
monitoring: {operator: victoriametrics, rules: {criticalBefore: 10d12h}}
";
const OPERATOR: &str = "
webhook: {enabled: true, credentials: {existingSecret: meshcert-webhook}}
act: {enabled: true}
policy: {mode: approve}
monitoring: {operator: prometheus, labels: {release: kps}, dashboards: {enabled: true, namespace: grafana}}
";
const FLEET: &str = "
cluster: {name: cp-1, namespaces: [istio-system, mesh-2], reach: portForward}
extraClusters:
  - {name: cp-2, kubeconfigSecrets: {observe: cp-2-observe, webhook: cp-2-webhook, act: cp-2-act}}
  - {name: Cp_3, namespaces: [a, b], reach: direct, kubeconfigSecrets: {observe: cp-3-observe}}
clusterSecrets: {enabled: true, namespace: clusters, istioRemoteSecrets: true, namespaces: ['*']}
naming: {kubeCerts: 'x-{mesh}-kube'}
secretRules: [{type: kubernetes.io/tls, namespaces: [shop]}, {type: kubernetes.io/tls}]
webhook: {enabled: true, credentials: {existingSecret: meshcert-webhook}, alertNames: [A, B], labels: {mesh: mesh}}
act: {enabled: true}
policy: {mode: approve, engine: job, job: {deadline: 10m}}
crd: {install: false}
monitoring: {scrape: {enabled: false}}
podDisruptionBudget: {enabled: false}
";
const LOCKED: &str = "
fullnameOverride: guard
image: {repository: registry.example.org/meshcert, digest: 'sha256:0123456789012345678901234567890123456789012345678901234567890123', pullSecrets: [pull]}
webhook:
  enabled: true
  credentials: {existingSecret: creds, bearerTokenKey: '', basicAuth: {username: am, passwordKey: pass.word}}
  tls: {existingSecret: webhook-tls, clientCertificates: [alertmanager]}
act: {enabled: true, replicas: 1}
crd: {install: false}
networkPolicy: {restrictEgress: true, metricsFromNamespaces: [monitoring], webhookFromNamespaces: [monitoring, alerts], apiServerPorts: [6443]}
log: {format: plain, level: debug}
podLabels: {team: mesh}
podAnnotations: {note: x}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
topologySpread: {topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}
priorityClassName: high
uninstallHooks: {enabled: false}
";
/// TLS everywhere, and scraped by an operator.
const SECURE: &str = "
tls: {existingSecret: meshcert-tls}
webhook: {enabled: true, credentials: {existingSecret: meshcert-webhook}}
act: {enabled: true}
policy: {mode: approve}
monitoring: {operator: prometheus}
";
/// As in DCE, beside those who have x509-certificate-exporter's dashboards.
const INSIGHT: &str =
    "monitoring: {operator: insight, rules: {x509CertificateExporter: true}, dashboards: {enabled: true}}";
/// Everything is watched; what writes keeps to its namespaces.
const WIDE: &str = "{cluster: {observeAllNamespaces: true}, act: {enabled: true}, secretRules: [{namespaces: [shop]}]}";
const MATRIX: [(&str, &str); 11] = [
    ("default", ""),
    ("roles", ROLES),
    ("combined", COMBINED),
    ("operator", OPERATOR),
    ("fleet", FLEET),
    ("locked", LOCKED),
    ("secure", SECURE),
    ("insight", INSIGHT),
    (
        "secure in one",
        "{tls: {existingSecret: t, serverName: meshcert.example.org}, combined: {enabled: true}, webhook: {enabled: true, credentials: {existingSecret: c}}, monitoring: {operator: victoriametrics}}",
    ),
    ("wide", WIDE),
    (
        "webhook",
        "{observe: {enabled: false}, webhook: {enabled: true, meshesFrom: {url: 'https://other:9794', caSecret: ca}, tls: {existingSecret: t, clientCertificates: []}}}",
    ),
];

fn pods(objects: &[Value]) -> Vec<(String, &Value)> {
    let owners = objects.iter().filter(|object| matches!(object["kind"].as_str(), Some("Deployment" | "Job")));
    owners.map(|owner| (name(owner), &owner["spec"]["template"]["spec"])).collect()
}

#[test]
fn lint_and_schemas_find_nothing_whatever_is_asked_for() {
    let (Some(helm), Some(kubeconform)) = (Helm::find(), tools::built("kubeconform")) else { return };
    let schemas = root().join(".cache/schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json");
    let conform = |manifest: &str| {
        let mut command = Command::new(&kubeconform);
        command.args(["-strict", "-schema-location"]).arg(&schemas);
        tools::run(&mut command, manifest.as_bytes()).unwrap()
    };
    for (case, values) in MATRIX {
        let lint = helm.run(&["lint", "--strict", CHART, "--values", "-"], values);
        assert!(lint.status.success(), "{case}: {}", String::from_utf8_lossy(&lint.stdout));
        let found = conform(&helm.template(values));
        assert!(found.status.success(), "{case}: {}", String::from_utf8_lossy(&found.stdout));
    }
    for file in ["alerts/meshcert.prometheusrule.yaml", "alerts/meshcert.vmrule.yaml"] {
        let found = conform(&std::fs::read_to_string(root().join(file)).unwrap());
        assert!(found.status.success(), "{file}: {}", String::from_utf8_lossy(&found.stdout));
    }
    for wrong in [
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {prots: []}}",
        "{apiVersion: operator.victoriametrics.com/v1beta1, kind: VMServiceScrape, metadata: {name: a}, spec: {endpoint: []}}",
    ] {
        assert!(!conform(wrong).status.success(), "kubeconform finds what is wrong in {wrong}");
    }
}

#[test]
fn every_configuration_is_accepted_by_the_program_and_names_only_what_is_mounted() {
    let Some(helm) = Helm::find() else { return };
    for (case, values) in MATRIX {
        let objects = helm.objects(values);
        let pods = pods(&objects);
        let configs = of_kind(&objects, "ConfigMap").into_iter().filter(|map| map["data"]["meshcert.yaml"].is_string());
        let mut checked = 0;
        for map in configs {
            let text = map["data"]["meshcert.yaml"].as_str().unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let check = Command::new(env!("CARGO_BIN_EXE_meshcert"));
            let found = { check }.args(["config", "check"]).arg(file.path()).output().unwrap();
            assert!(found.status.success(), "{case}: {}\n{text}", String::from_utf8_lossy(&found.stderr));
            let users =
                pods.iter().filter(|(_, pod)| pod["volumes"][0]["configMap"]["name"] == map["metadata"]["name"]);
            for (pod, spec) in users {
                checked += 1;
                let mounts: Vec<_> = spec["containers"][0]["volumeMounts"].as_array().unwrap().iter().collect();
                let volumes: BTreeSet<_> =
                    spec["volumes"].as_array().unwrap().iter().map(|one| one["name"].to_string()).collect();
                let mounted: BTreeSet<_> = mounts.iter().map(|mount| mount["name"].to_string()).collect();
                assert_eq!(mounted, volumes, "{case}: {pod}");
                for path in text.split_whitespace().filter(|word| word.starts_with("/etc/meshcert/")) {
                    let below =
                        |mount: &&&Value| path.starts_with(&format!("{}/", mount["mountPath"].as_str().unwrap()));
                    assert_eq!(mounts.iter().filter(below).count(), 1, "{case}: {pod} does not mount {path}");
                }
            }
        }
        assert_eq!(checked, pods.len(), "{case}: every pod has its configuration");
    }
}

/// Bytes of a quantity as the chart writes them.
fn bytes(quantity: &str) -> u64 {
    let number = quantity.strip_suffix("Mi").unwrap_or_else(|| panic!("{quantity}"));
    number.parse::<u64>().unwrap() << 20
}

/// What a process with these roles may take by the measurements: the target of docs/PERFORMANCE.md, and the bound of `make e2e-fleet` for who acts.
fn most_memory(roles: &str) -> u64 {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let performance = read("docs/PERFORMANCE.md");
    let row =
        performance.lines().find(|line| line.starts_with("| resident memory, peak, worst of the starts |")).unwrap();
    let observing = row.split('≤').nth(1).unwrap().trim().split(' ').next().unwrap().parse::<f64>().unwrap();
    let fleet = read("tests/e2e/fleet.rs");
    let bound = fleet.split("const PEAK_MEMORY: u64 = ").nth(1).unwrap().split(';').next().unwrap();
    let acting: u64 = bound.replace('_', "").parse().unwrap();
    let has = |role: &str| roles.split(',').any(|one| one == role);
    // A webhook alone was not measured; it is told less than who observes reads.
    let known = if has("observe") || has("webhook") { (observing * 1e6) as u64 } else { 0 };
    known + if has("act") { acting } else { 0 }
}

#[test]
fn every_pod_is_restricted_and_may_take_the_memory_that_was_measured() {
    let Some(helm) = Helm::find() else { return };
    for (case, values) in MATRIX {
        for (pod, spec) in pods(&helm.objects(values)) {
            let wanted = json!({
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                "seccompProfile": { "type": "RuntimeDefault" },
            });
            assert_eq!(spec["securityContext"], wanted, "{case}: {pod}");
            let container = &spec["containers"][0];
            let wanted = json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
            });
            assert_eq!(container["securityContext"], wanted, "{case}: {pod}");
            let limit = bytes(container["resources"]["limits"]["memory"].as_str().unwrap());
            let arguments: Vec<&str> = container["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            match arguments.iter().find_map(|argument| argument.strip_prefix("--roles=")) {
                Some(roles) => assert!(limit >= most_memory(roles), "{case}: {pod} is killed at {limit} bytes"),
                None => assert_eq!(arguments[0], "uninstall", "{case}: {pod}"),
            }
            assert!(container["resources"]["limits"]["cpu"].is_null(), "{case}: {pod} is not throttled");
        }
    }
}

#[test]
fn the_rendering_is_the_golden_one() {
    let Some(helm) = Helm::find() else { return };
    for (case, values) in [("combined", COMBINED), ("fleet", FLEET), ("locked", LOCKED), ("secure", SECURE)] {
        // The definition and the rules have files of their own that are compared.
        let text = helm.try_template(values, &["--set", "crd.install=false,monitoring.rules.enabled=false"]).unwrap();
        golden(&format!("tests/golden/chart/{case}.yaml"), &text);
    }
}

#[test]
fn the_plain_manifests_are_those_of_the_chart() {
    let Some(helm) = Helm::find() else { return };
    for (file, values, says) in [
        ("observe", "", "Watches and alerts; writes nothing."),
        ("renew", ROLES, "Watches, takes notifications and renews what a person has approved."),
    ] {
        let text = helm.try_template(values, &["--no-hooks"]).unwrap();
        let head = format!(
            "# {says} Generated from deploy/chart by `make manifests`; docs/INSTALL.md says how to use it.\n\
             apiVersion: v1\nkind: Namespace\nmetadata:\n  name: meshcert\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n"
        );
        golden(&format!("deploy/manifests/{file}.yaml"), &format!("{head}{}", without_helm(&text)));
    }
}

/// What only Helm understands or adds: comments about sources, its labels and annotations, empty documents.
fn without_helm(text: &str) -> String {
    let own = |line: &&str| {
        let line = line.trim_start();
        !line.starts_with("# Source:")
            && !line.starts_with("helm.sh/")
            && !line.starts_with("app.kubernetes.io/managed-by:")
    };
    let text: Vec<&str> = text.lines().filter(own).filter(|line| !line.is_empty()).collect();
    let text = text.join("\n").replace("  annotations:\n  labels:", "  labels:");
    format!("{text}\n")
}

#[test]
fn values_that_cannot_work_are_refused_in_words() {
    let Some(helm) = Helm::find() else { return };
    for (values, word) in [
        ("polcy: {}", "polcy"),
        ("policy: {mode: yolo}", "policy"),
        ("policy: {renewBefore: soon}", "renewBefore"),
        ("policy: {image: x}", "image"),
        ("observe: {replicas: 0}", "replicas"),
        ("{act: {enabled: true}, cluster: {namespaces: null}}", "'/cluster': missing property 'namespaces'"),
        ("policy: null", "missing property 'policy'"),
        ("policy: {mode: null}", "/policy/mode"),
        ("monitoring: {rules: {runbookUrl: null}}", "'/monitoring/rules': missing property 'runbookUrl'"),
        ("image: {digest: latest}", "digest"),
        ("cluster: {namespaces: ['*']}", "namespaces"),
        (
            "cluster: {namespaces: []}",
            "cluster.namespaces is empty, and no extraClusters has kubeconfigSecrets.observe",
        ),
        (
            "{act: {enabled: true}, cluster: {namespaces: []}, extraClusters: [{name: b, kubeconfigSecrets: {observe: a}}]}",
            "no extraClusters has kubeconfigSecrets.act: ",
        ),
        ("extraClusters: [{name: a}]", "kubeconfigSecrets"),
        ("observe: {enabled: false}", "nothing is enabled"),
        ("{combined: {enabled: true}, observe: {enabled: false}}", "combined.enabled without a role"),
        ("policy: {mode: auto}", "policy.mode is auto, but nobody would renew: set act.enabled=true"),
        ("extraClusters: [{name: default, kubeconfigSecrets: {observe: a}}]", "is the name of this cluster already"),
        (
            "extraClusters: [{name: b, kubeconfigSecrets: {observe: a}}, {name: b, kubeconfigSecrets: {observe: c}}]",
            "extraClusters: \"b\" stands there twice; give each cluster its own name",
        ),
        ("extraClusters: [{name: b, kubeconfigSecrets: {act: a}}]", "b has no kubeconfigSecrets.observe"),
        (
            "{observe: {enabled: false}, act: {enabled: true}, extraClusters: [{name: b, kubeconfigSecrets: {observe: a}}]}",
            "b is left alone, for it has kubeconfigSecrets only of roles that are not enabled; enable one of them, or add kubeconfigSecrets.act",
        ),
        ("podLabels: {app.kubernetes.io/component: mine}", "podLabels: app.kubernetes.io/component is the chart's own"),
        ("secretRules: [{namespaces: ['*']}]", "secretRules: namespaces: ['*'] is no namespace; leave namespaces out"),
        (
            "{combined: {enabled: true}, act: {enabled: true}, extraClusters: [{name: b, kubeconfigSecrets: {observe: a}}]}",
            "b has no kubeconfigSecrets.act",
        ),
        ("{observe: {enabled: false}, webhook: {enabled: true}}", "webhook.meshesFrom"),
        ("webhook: {enabled: true, meshesFrom: {url: 'https://a'}}", "needs webhook.meshesFrom.caSecret"),
        ("webhook: {enabled: true, credentials: {bearerTokenKey: ''}}", "nobody may ask without a credential"),
        ("webhook: {enabled: true, tls: {clientCertificates: []}}", "needs webhook.tls.existingSecret"),
        ("webhook: {enabled: true, credentials: {basicAuth: {username: a}}}", "with the password"),
        ("{act: {enabled: true}, cluster: {observeAllNamespaces: true, namespaces: []}}", "name those in which"),
        (
            "{combined: {enabled: true}, act: {enabled: true}, cluster: {observeAllNamespaces: true}}",
            "exclude each other",
        ),
        ("{clusterSecrets: {enabled: true}, cluster: {namespaces: []}}", "clusterSecrets.enabled needs"),
        ("monitoring: {rules: {dashboardUrl: grafana.example.org}}", "dashboardUrl"),
        ("monitoring: {rules: {runbookUrl: \"https://m.example.org/it's\"}}", "runbookUrl"),
        ("policy: {renewBefore: 5d}", "must be shorter than policy.renewBefore (5d)"),
    ] {
        let error = helm.try_template(values, &[]).expect_err(values);
        assert!(error.contains(word), "{values}: {error}");
    }
}

/// Group/resource and verb of every rule that an account is bound to, with the namespace (empty: everywhere).
fn rights(objects: &[Value]) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for binding in objects.iter().filter(|one| one["kind"].as_str().is_some_and(|kind| kind.ends_with("Binding"))) {
        let namespace = binding["metadata"]["namespace"].as_str().unwrap_or_default();
        let role = objects.iter().find(|one| {
            one["kind"] == binding["roleRef"]["kind"]
                && one["metadata"]["name"] == binding["roleRef"]["name"]
                && one["metadata"]["namespace"] == binding["metadata"]["namespace"]
        });
        for rule in role.unwrap()["rules"].as_array().unwrap() {
            let all = |field: &str| {
                rule[field].as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            for subject in binding["subjects"].as_array().unwrap() {
                let rights = found.entry(subject["name"].as_str().unwrap().to_owned()).or_default();
                for resource in all("resources") {
                    rights.extend(all("verbs").iter().map(|verb| format!("{namespace}: {verb} {resource}")));
                }
            }
        }
    }
    found
}

fn in_namespace(namespace: &str, rules: &[(&str, &str)]) -> BTreeSet<String> {
    let each = rules
        .iter()
        .flat_map(|(resource, verbs)| verbs.split(' ').map(move |verb| format!("{namespace}: {verb} {resource}")));
    each.collect()
}

const SECRETS: (&str, &str) = ("secrets", "list watch");
const OBSERVE: &[(&str, &str)] = &[SECRETS, ("certificaterenewals", "list watch")];
const WEBHOOK: &[(&str, &str)] = &[("certificaterenewals", "get list create")];
const ACT: &[(&str, &str)] = &[
    ("secrets", "get list watch create patch delete"),
    ("certificaterenewals", "get list watch create patch"),
    ("certificaterenewals/status", "update"),
    ("leases", "get create patch"),
    ("deployments", "get list patch"),
    ("statefulsets", "get list patch"),
    ("daemonsets", "get list patch"),
    ("jobs", "get"),
    ("pods", "list delete"),
    ("services", "get list"),
    ("events", "create"),
];
const UNINSTALL: &[(&str, &str)] = &[("certificaterenewals", "list"), ("leases", "list delete")];

#[test]
fn each_role_has_the_rights_that_it_needs_and_no_other() {
    let Some(helm) = Helm::find() else { return };
    let one = |rules| in_namespace("istio-system", rules);
    assert_eq!(rights(&helm.objects("")), [("meshcert-observe".to_owned(), one(OBSERVE))].into());
    let found = rights(&helm.objects(ROLES));
    let wanted = [("observe", OBSERVE), ("webhook", WEBHOOK), ("act", ACT), ("uninstall", UNINSTALL)];
    assert_eq!(found, wanted.map(|(role, rules)| (format!("meshcert-{role}"), one(rules))).into());

    let all: BTreeSet<String> = [OBSERVE, WEBHOOK, ACT].iter().flat_map(|rules| one(rules)).collect();
    assert_eq!(rights(&helm.objects(COMBINED))["meshcert"], all, "one account has the rights of all");

    let wide = rights(&helm.objects(WIDE));
    assert_eq!(wide["meshcert-observe"], in_namespace("", OBSERVE), "everywhere, on request");
    assert_eq!(wide["meshcert-act"], one(ACT), "what writes keeps to its namespaces");

    let fleet = rights(&helm.objects(FLEET));
    let mut wanted: BTreeSet<String> =
        ["istio-system", "mesh-2"].iter().flat_map(|namespace| in_namespace(namespace, OBSERVE)).collect();
    wanted.extend(in_namespace("shop", &[SECRETS]));
    wanted.insert("clusters: list secrets".to_owned());
    assert_eq!(fleet["meshcert-observe"], wanted, "where there are no meshes there are no renewals");
    let own = rights(&helm.objects("clusterSecrets: {enabled: true}"));
    assert!(
        own["meshcert-observe"].contains("meshcert: list secrets"),
        "the release's namespace, unless another is named"
    );
    assert!(fleet["meshcert-act"].contains("mesh-2: create pods/portforward"), "where it is asked for");

    // The vendor's Job is made only by the engine that runs it.
    let values = "{act: {enabled: true}, policy: {mode: approve, engine: job}}";
    let job = rights(&helm.objects(values));
    let more = one(&[("jobs", "create delete"), ("serviceaccounts", "get")]);
    assert_eq!(job["meshcert-act"], one(ACT).union(&more).cloned().collect());
    for (account, rights) in rights(&helm.objects(ROLES)).iter().filter(|(account, _)| account.ends_with("webhook")) {
        assert!(!rights.iter().any(|right| right.contains("secrets")), "{account}");
    }
}

#[test]
fn the_manual_names_the_same_rights() {
    let page = std::fs::read_to_string(root().join("docs/OPERATIONS.md")).unwrap();
    let text = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .find(|text| text.contains("kind: Role"));
    let role: Value = serde_saphyr::from_str(text.unwrap()).unwrap();
    let binding = json!({
        "kind": "RoleBinding", "metadata": { "namespace": "istio-system" },
        "roleRef": { "kind": "Role", "name": role["metadata"]["name"] }, "subjects": [{ "name": "act" }],
    });
    // Beside those that always are needed: what a way to the pods, or the engine, needs.
    let sometimes = [("pods/portforward", "get create"), ("jobs", "create delete"), ("serviceaccounts", "get")];
    let (always, sometimes) = (in_namespace("istio-system", ACT), in_namespace("istio-system", &sometimes));
    let named = &rights(&[role, binding])["act"];
    assert!(named.is_superset(&always), "{:?}", always.difference(named));
    assert_eq!(named.difference(&always).find(|right| !sometimes.contains(*right)), None);
}

#[test]
fn the_page_on_security_names_the_same_rights() {
    let page = std::fs::read_to_string(root().join("docs/SECURITY.md")).unwrap();
    let (_, table) = page.split_once("**Rights by role**").unwrap();
    let cells = |role: &str| -> Vec<String> {
        let row = table.lines().find(|line| line.starts_with(&format!("| `{role}` |"))).unwrap();
        row.trim_matches('|').split('|').skip(1).map(|cell| cell.trim().to_owned()).collect()
    };
    let verbs = |rules: &[(&str, &str)], resource: &str| {
        let found = rules.iter().find(|(name, _)| *name == resource);
        found.map_or_else(|| "none".to_owned(), |(_, verbs)| verbs.replace(' ', ", "))
    };
    for (role, rules) in [("observe", OBSERVE), ("webhook", WEBHOOK), ("act", ACT)] {
        let cells = cells(role);
        for (cell, resource) in cells.iter().zip(["secrets", "certificaterenewals"]) {
            let wanted = verbs(rules, resource);
            let said = cell.strip_prefix(&wanted).unwrap_or_else(|| panic!("{role}: {cell} is not {wanted}"));
            assert!(!said.starts_with(|next: char| next.is_alphanumeric()), "{role}: {cell}");
        }
        let others = rules.iter().filter(|(resource, _)| !["secrets", "certificaterenewals"].contains(resource));
        for (resource, verbs) in others {
            let named = cells.iter().any(|cell| cell.contains(&format!("`{resource}`")));
            assert!(named && verbs.split(' ').all(|verb| cells.concat().contains(verb)), "{role}: {verbs} {resource}");
        }
    }
    // What the engine `job` and the way through the API server need besides.
    for more in ["`pods/portforward`", "`serviceaccounts`"] {
        assert!(cells("act")[2].contains(more), "{more}");
    }
}

fn rules(objects: &[Value], kind: &str) -> Value {
    of_kind(objects, kind)[0]["spec"].clone()
}

fn alerts(spec: &Value) -> Vec<&Value> {
    let rules = spec["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules.filter(|rule| rule["record"].is_null()).collect()
}

#[test]
fn alert_thresholds_follow_renew_before() {
    let Some(helm) = Helm::find() else { return };
    let source: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(root().join("alerts/meshcert.rules.yaml")).unwrap()).unwrap();
    assert_eq!(rules(&helm.objects(OPERATOR), "PrometheusRule"), source, "with the defaults they are the source");

    let found = rules(&helm.objects(COMBINED), "VMRule");
    let wanted = source.to_string().replace("< 30 * 86400", "< 45 * 86400").replace("< 7 * 86400", "< 907200");
    assert_eq!(found, serde_json::from_str::<Value>(&wanted).unwrap());
    let first = alerts(&found);
    assert!(first[0]["expr"].as_str().unwrap().contains("< 45 * 86400"), "the warning comes when a renewal is due");
    assert!(first[1]["expr"].as_str().unwrap().contains("< 907200 > 0"));
}

#[test]
fn links_lead_where_the_values_say() {
    let Some(helm) = Helm::find() else { return };
    let published = "https://github.com/meshcert/meshcert/blob/main/docs/runbooks";
    let addresses =
        "rules: {runbookUrl: 'https://m.example.org/runbooks', dashboardUrl: 'https://g.example.org/grafana'}";
    let text = helm.template(&OPERATOR.replacen("monitoring: {", &format!("monitoring: {{{addresses}, "), 1));
    assert!(!text.contains(published), "rules and dashboards");
    let found = rules(&objects(&text), "PrometheusRule");
    let all = alerts(&found);
    assert_eq!(
        all[0]["annotations"]["runbook_url"],
        "https://m.example.org/runbooks/MspiderHostedKubeAPICertExpiration.md?mesh={{ $labels.mesh_id }}&namespace={{ $labels.mesh_namespace }}&cluster={{ urlquery $labels.mesh_cluster }}"
    );
    for alert in all {
        let url = alert["annotations"]["dashboard_url"].as_str().unwrap();
        assert!(url.starts_with("https://g.example.org/grafana/d/meshcert-"), "{url}");
    }
    // Without a value the dashboards' links are those that are published.
    assert!(helm.template(OPERATOR).contains(&format!("{published}/MeshcertCAEndsSoon.md\"")));
}

#[test]
fn the_notes_say_where_runbooks_are_without_the_internet() {
    let Some(helm) = Helm::find() else { return };
    let notes = |values: &str| {
        let output = helm.run(&["install", "meshcert", CHART, "--dry-run=client", "--values", "-"], values);
        let said = String::from_utf8(output.stdout).unwrap();
        said.split_once("\nNOTES:\n").unwrap_or_else(|| panic!("{values}: {said}")).1.to_owned()
    };
    let way = "--set monitoring.rules.runbookUrl=http";
    for (values, scheme) in [(OPERATOR, "http"), (SECURE, "https")] {
        assert!(notes(values).contains(&format!("runbookUrl={scheme}://ADDRESS/runbooks")), "{values}");
    }
    let own = "rules: {runbookUrl: 'https://m.example.org/runbooks'}";
    for values in [
        OPERATOR.replacen("monitoring: {", &format!("monitoring: {{{own}, "), 1),
        OPERATOR.replacen("monitoring: {", "monitoring: {rules: {enabled: false}, ", 1),
    ] {
        assert!(!notes(&values).contains(way), "{values}");
    }
    let plain = notes("");
    assert!(!plain.contains(way) && plain.contains("docs/INSTALL.md#plain-prometheus"), "{plain}");
}

/// In a namespace where nothing is let out that no policy names, the Jobs ask the API servers as the daemon does; Helm makes the policy before them.
#[test]
fn uninstalling_is_let_out_as_the_daemon_is() {
    let Some(helm) = Helm::find() else { return };
    let policies = |values: &str| {
        let objects = helm.objects(values);
        let jobs = of_kind(&objects, "Job");
        assert_eq!(jobs.len(), 2, "{values}");
        let selects = |policy: &Value, pod: &Value| {
            let labels = policy["spec"]["podSelector"]["matchLabels"].as_object().unwrap();
            labels.iter().all(|(label, value)| pod["labels"][label] == *value)
        };
        let of_pod = |pod: &Value| -> Vec<Value> {
            of_kind(&objects, "NetworkPolicy").into_iter().filter(|policy| selects(policy, pod)).cloned().collect()
        };
        let observe = of_kind(&objects, "Deployment")[0];
        let daemon = of_pod(&observe["spec"]["template"]["metadata"]);
        let jobs = jobs.iter().map(|job| (job["metadata"].clone(), of_pod(&job["spec"]["template"]["metadata"])));
        (daemon, jobs.collect::<Vec<_>>())
    };
    let (daemon, jobs) =
        policies(&format!("{ROLES}networkPolicy: {{restrictEgress: true, apiServerPorts: [443, 8443]}}"));
    for (job, found) in jobs {
        let [policy] = &found[..] else { panic!("{found:?}") };
        assert_eq!(policy["spec"]["egress"], daemon[0]["spec"]["egress"]);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        let (of_policy, of_job) = (&policy["metadata"]["annotations"], &job["annotations"]);
        let weight = |annotations: &Value| annotations["helm.sh/hook-weight"].as_str().unwrap().parse::<i32>().unwrap();
        assert!(weight(of_policy) < weight(of_job));
        assert!(of_policy["helm.sh/hook"].as_str().unwrap().contains(of_job["helm.sh/hook"].as_str().unwrap()));
        assert!(of_policy["helm.sh/hook-delete-policy"].as_str().unwrap().contains("hook-succeeded"));
    }
    for values in [ROLES, &format!("{ROLES}networkPolicy: {{enabled: false, restrictEgress: true}}")] {
        assert!(policies(values).1.iter().all(|(_, found)| found.is_empty()), "nobody is kept in: {values}");
    }
}

#[test]
fn the_exporters_recording_rules_come_where_they_are_asked_for() {
    let Some(helm) = Helm::find() else { return };
    let objects = helm.objects(INSIGHT);
    let found = of_kind(&objects, "VMRule");
    let file = std::fs::read_to_string(root().join("alerts/x509-certificate-exporter.rules.yaml")).unwrap();
    let source: Value = serde_saphyr::from_str(&file).unwrap();
    assert_eq!((found.len(), &found[1]["spec"]), (2, &source));
    assert_eq!(found[1]["metadata"]["labels"], found[0]["metadata"]["labels"], "Insight finds both");
    assert_eq!(of_kind(&helm.objects(OPERATOR), "PrometheusRule").len(), 1, "nobody else has them");
}

#[test]
fn with_tls_everybody_comes_by_https_and_verifies_who_answers() {
    let Some(helm) = Helm::find() else { return };
    for values in [SECURE.to_owned(), SECURE.replace("operator: prometheus", "operator: victoriametrics")] {
        let objects = helm.objects(&values);
        for deployment in of_kind(&objects, "Deployment") {
            let container = &deployment["spec"]["template"]["spec"]["containers"][0];
            for probe in ["livenessProbe", "readinessProbe"] {
                assert_eq!(container[probe]["httpGet"]["scheme"], "HTTPS", "{}", name(deployment));
            }
        }
        let scrape =
            objects.iter().find(|one| matches!(one["kind"].as_str(), Some("ServiceMonitor" | "VMServiceScrape")));
        let endpoint = &scrape.unwrap()["spec"]["endpoints"][0];
        let ca = json!({ "secret": { "name": "meshcert-tls", "key": "ca.crt" } });
        let verified = json!({ "ca": ca, "serverName": "meshcert-observe.meshcert.svc" });
        assert_eq!((&endpoint["scheme"], &endpoint["tlsConfig"]), (&json!("https"), &verified));
        let maps = of_kind(&objects, "ConfigMap");
        let config = maps.iter().find(|map| map["metadata"]["name"] == "meshcert-webhook").unwrap();
        let config: Value = serde_saphyr::from_str(config["data"]["meshcert.yaml"].as_str().unwrap()).unwrap();
        let from = json!({ "url": "https://meshcert-observe.meshcert.svc:9794", "caFile": "/etc/meshcert/tls/ca.crt" });
        assert_eq!(config["webhook"]["meshesFrom"], from);
    }
    // Plain Prometheus goes by annotations.
    let plain = helm.objects(&SECURE.replace("operator: prometheus", "operator: none"));
    for deployment in of_kind(&plain, "Deployment") {
        let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/scheme"], "https", "{}", name(deployment));
    }
    // Another release's observe pods are whatever they are.
    let elsewhere = helm.template(&SECURE.replace("webhook: {", "webhook: {meshesFrom: {url: 'http://other:9794'}, "));
    assert!(elsewhere.contains("url: http://other:9794") && !elsewhere.contains("caFile: /etc/meshcert/tls"));
}

#[test]
fn both_operators_get_the_same_and_find_the_same_services() {
    let Some(helm) = Helm::find() else { return };
    let prometheus = helm.objects(OPERATOR);
    let victoria = helm.objects(&OPERATOR.replace("operator: prometheus", "operator: victoriametrics"));
    for (one, other) in [("PrometheusRule", "VMRule"), ("ServiceMonitor", "VMServiceScrape")] {
        let (one, other) = (of_kind(&prometheus, one), of_kind(&victoria, other));
        assert_eq!((one.len(), other.len()), (1, 1));
        assert_eq!((&one[0]["spec"], &one[0]["metadata"]), (&other[0]["spec"], &other[0]["metadata"]));
        assert_eq!(one[0]["metadata"]["labels"]["release"], "kps");
    }
    // Insight takes one kind of each, and what carries its labels.
    let insight = helm.objects(&OPERATOR.replace("operator: prometheus", "operator: insight"));
    for (kind, like) in [("ServiceMonitor", &prometheus), ("VMRule", &victoria)] {
        let (one, like) = (of_kind(&insight, kind), of_kind(like, kind));
        assert_eq!((one.len(), &one[0]["spec"]), (1, &like[0]["spec"]));
        assert_eq!(one[0]["metadata"]["labels"]["operator.insight.io/managed-by"], "insight");
    }
    let maps = of_kind(&insight, "ConfigMap");
    let dashboards = maps.iter().filter(|map| map["metadata"]["labels"]["operator.insight.io/dashboard"] == "true");
    assert!(dashboards.clone().count() > 0);
    assert!(dashboards.into_iter().all(|map| map["metadata"]["labels"]["operator.insight.io/managed-by"] == "insight"));
    // Each process is scraped once: through one Service of the monitor's labels.
    for (values, wanted) in [(OPERATOR, 3), (COMBINED, 1)] {
        let objects = helm.objects(values);
        let services = of_kind(&objects, "Service");
        let metrics = services.iter().filter(|service| service["metadata"]["labels"]["meshcert.dev/metrics"] == "true");
        assert_eq!(metrics.clone().count(), wanted, "{values}");
        for service in metrics {
            assert!(service["spec"]["ports"].as_array().unwrap().iter().any(|port| port["name"] == "metrics"));
        }
        for service in services {
            let deployments = of_kind(&objects, "Deployment");
            let selected =
                deployments.iter().filter(|one| one["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]);
            assert_eq!(selected.count(), 1, "{}", name(service));
        }
    }
}

#[test]
fn dashboards_come_as_config_maps_for_the_sidecar_with_the_limits_of_the_alerts() {
    let Some(helm) = Helm::find() else { return };
    let files = std::fs::read_dir(root().join("deploy/chart/files/dashboards")).into_iter().flatten().count();
    let objects = objects(&helm.template(OPERATOR));
    let maps: Vec<_> = of_kind(&objects, "ConfigMap")
        .into_iter()
        .filter(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1")
        .collect();
    assert_eq!(maps.len(), files);
    for map in maps {
        assert_eq!(map["metadata"]["namespace"], "grafana");
        for (file, text) in map["data"].as_object().unwrap() {
            let _: Value =
                serde_json::from_str(text.as_str().unwrap()).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
    }
    let bare = helm.objects("monitoring: {dashboards: {enabled: true, labels: {grafana_dashboard: null}}}");
    assert_eq!(of_kind(&bare, "ConfigMap").len(), files + 1, "without the label there are the dashboards still");
    let text = helm.template(&OPERATOR.replace("mode: approve", "mode: approve, renewBefore: 45d"));
    let seconds = |days: i64| format!("\"value\": {}", days * 86_400);
    assert!(text.contains(&seconds(45)) && text.contains(&seconds(7)) && !text.contains(&seconds(30)));
    assert!(text.contains("< 3888000 >= 604800") && !text.contains("2592000"), "queries too");
    // The one may be what the other was.
    let short = "mode: approve, renewBefore: 7d, urgentBefore: 1d";
    let rules = "monitoring: {rules: {criticalBefore: 2d},";
    let text = helm.template(&OPERATOR.replace("mode: approve", short).replacen("monitoring: {", rules, 1));
    assert!(text.contains("< 7 * 86400") && text.contains("< 2 * 86400"), "rules");
    assert!(
        text.contains("< 604800 >= 172800") && text.contains(&seconds(7)) && text.contains(&seconds(2)),
        "dashboards"
    );
}
