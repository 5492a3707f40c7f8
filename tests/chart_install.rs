//! The chart on a real API server, by the real Helm: installed, upgraded, uninstalled. Nothing runs there, so the test plays the Jobs' part: with the real
//! program and the rights that the Job's account really has.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::helm::{CHART, Helm, objects, of_kind, root};
use support::real_api::RealApi;
use support::tools;

const NAMESPACE: &str = "meshcert";
const MESHES: &str = "istio-system";

struct Cluster {
    helm: Helm,
    api: RealApi,
}

impl Cluster {
    fn start() -> Option<Self> {
        let cluster = Self { helm: Helm::find()?, api: RealApi::start()? };
        cluster.api.kubectl(&["create", "namespace", MESHES]);
        Some(cluster)
    }

    fn try_helm(&self, arguments: &[&str]) -> Output {
        self.helm.command().env("KUBECONFIG", &self.api.kubeconfig).args(arguments).output().unwrap()
    }

    /// What Helm says; it must succeed.
    fn helm(&self, arguments: &[&str]) -> String {
        let output = self.try_helm(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "helm {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    fn install(&self, sets: &[&str]) -> String {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        self.helm(
            &[&["upgrade", "--install", "--reset-values", "meshcert", CHART, "-n", NAMESPACE, "--create-namespace"][..], &sets].concat(),
        )
    }

    fn may(&self, account: &str, verb: &str, resource: &str, namespace: &str) -> bool {
        let account = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
        // Behind a slash kubectl expects a name.
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let part = format!("--subresource={part}");
        let output = self.api.try_kubectl(&["auth", "can-i", verb, resource, &part, "-n", namespace, &account]);
        let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(matches!(&*answer, "yes" | "no"), "{answer} {}", String::from_utf8_lossy(&output.stderr));
        answer == "yes"
    }

    /// Kind, namespace and name of everything that there is, but for what the server makes by itself.
    fn everything(&self) -> BTreeSet<String> {
        let kinds = self.api.kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
        let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        let columns = "custom-columns=A:.kind,B:.metadata.namespace,C:.metadata.name";
        let found = self.api.kubectl(&["get", &kinds.join(","), "-A", "--no-headers", "-o", columns]);
        found.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// As whoever acts would, once it has ended.
    fn end_renewal(&self) {
        let free = r#"{"metadata":{"finalizers":[]}}"#;
        self.api.kubectl(&["patch", "certificaterenewal", "demo-1", "-n", MESHES, "--type=merge", "-p", free]);
    }

    /// Lets namespaces go that are being deleted, as their controller would once they are empty.
    fn end_namespaces(&self) {
        let found: Value = serde_json::from_str(&self.api.kubectl(&["get", "namespaces", "-o", "json"])).unwrap();
        for namespace in found["items"].as_array().unwrap().iter().filter(|one| one["status"]["phase"] == "Terminating")
        {
            let name = namespace["metadata"]["name"].as_str().unwrap();
            self.api.kubectl(&[
                "delete",
                "configmaps,secrets,serviceaccounts,services,deployments,networkpolicies,poddisruptionbudgets",
                "--all",
                "-n",
                name,
            ]);
            let mut gone = namespace.clone();
            gone["spec"]["finalizers"] = json!([]);
            self.api
                .kubectl_with(&gone.to_string(), &["replace", "--raw", &format!("/api/v1/namespaces/{name}/finalize")]);
        }
    }

    /// Runs the Jobs that there are, as a node would, until `work` is done; what `work` returns, and what the Jobs said.
    fn with_jobs_run<T>(&self, work: impl FnOnce() -> T) -> (T, String) {
        let (done, said) = (AtomicBool::new(false), Mutex::new(String::new()));
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let jobs: Value =
                        serde_json::from_str(&self.api.kubectl(&["get", "jobs", "-n", NAMESPACE, "-o", "json"]))
                            .unwrap();
                    for job in
                        jobs["items"].as_array().unwrap().iter().filter(|job| job["status"]["conditions"].is_null())
                    {
                        said.lock().unwrap().push_str(&self.run_job(job));
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            // Also when it panics, or the other thread would wait for ever.
            struct Done<'a>(&'a AtomicBool);
            impl Drop for Done<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _done = Done(&done);
            work()
        });
        (result, said.into_inner().unwrap())
    }

    /// The Job's command with the configuration and the kubeconfigs that it mounts and the token of its account; then its end in its status, as the controller writes it.
    fn run_job(&self, job: &Value) -> String {
        let (name, pod) = (job["metadata"]["name"].as_str().unwrap(), &job["spec"]["template"]["spec"]);
        let policies =
            ["get", "networkpolicies", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=uninstall", "-o", "name"];
        let let_out = format!("{name} is let out by {}", self.api.kubectl(&policies));
        let map = pod["volumes"][0]["configMap"]["name"].as_str().unwrap();
        let mut config =
            self.api.kubectl(&["get", "configmap", map, "-n", NAMESPACE, "-o", r"jsonpath={.data.meshcert\.yaml}"]);
        let account = self.api.kubeconfig_of(NAMESPACE, pod["serviceAccountName"].as_str().unwrap());
        config = config.replace("inCluster: true", &format!("kubeconfig: {}", account.display()));
        for volume in pod["volumes"].as_array().unwrap().iter().filter(|volume| volume["secret"].is_object()) {
            let secret = volume["secret"]["secretName"].as_str().unwrap();
            let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
            let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]).unwrap();
            let mounted = self.api.folder.path().join(secret);
            let text =
                self.api.kubectl(&["get", "secret", secret, "-n", NAMESPACE, "-o", "jsonpath={.data.kubeconfig}"]);
            std::fs::write(&mounted, STANDARD.decode(text).unwrap()).unwrap();
            let path = format!("{}/kubeconfig", mount["mountPath"].as_str().unwrap());
            config = config.replace(&path, &mounted.display().to_string());
        }
        let file = self.api.folder.path().join(format!("{name}.yaml"));
        std::fs::write(&file, config).unwrap();
        let arguments = pod["containers"][0]["args"].as_array().unwrap().iter().map(|one| one.as_str().unwrap());
        let arguments =
            arguments.map(|one| one.replace("/etc/meshcert/config/meshcert.yaml", &file.display().to_string()));
        let output = Command::new(env!("CARGO_BIN_EXE_meshcert")).args(arguments).output().unwrap();
        let now = job["metadata"]["creationTimestamp"].clone();
        let condition = |kind: &str| json!({ "type": kind, "status": "True", "reason": "Test", "lastProbeTime": now, "lastTransitionTime": now });
        let status = if output.status.success() {
            json!({ "startTime": now, "completionTime": now, "succeeded": 1, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")] })
        } else {
            json!({ "startTime": now, "failed": 1, "conditions": [condition("FailureTarget"), condition("Failed")] })
        };
        let patch = json!({ "status": status }).to_string();
        self.api.kubectl(&[
            "patch",
            "job",
            name,
            "-n",
            NAMESPACE,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ]);
        let_out + &String::from_utf8_lossy(&output.stdout) + &String::from_utf8_lossy(&output.stderr)
    }
}

const ROLES: [&str; 3] = ["webhook.enabled=true", "act.enabled=true", "policy.mode=approve"];

#[test]
fn the_accounts_of_a_release_may_do_what_their_roles_need_and_nothing_else() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.install(&ROLES);
    let verbs = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
    let resources = [
        "secrets",
        "configmaps",
        "pods",
        "pods/exec",
        "pods/portforward",
        "services",
        "pods/log",
        "events",
        "serviceaccounts/token",
        "deployments.apps",
        "statefulsets.apps",
        "jobs.batch",
        "leases.coordination.k8s.io",
        "certificaterenewals.meshcert.dev",
        "certificaterenewals.meshcert.dev/status",
        "roles.rbac.authorization.k8s.io",
    ];
    let writes = "get list watch create patch delete";
    let wanted = |account: &str, resource: &str| match (account, resource) {
        ("meshcert-observe", "secrets" | "certificaterenewals.meshcert.dev") => "list watch",
        ("meshcert-webhook", "certificaterenewals.meshcert.dev") => "get list create",
        ("meshcert-act", "secrets") => writes,
        ("meshcert-act", "certificaterenewals.meshcert.dev") => "get list watch create patch",
        ("meshcert-act", "certificaterenewals.meshcert.dev/status") => "update",
        ("meshcert-act", "leases.coordination.k8s.io") => "get create patch",
        ("meshcert-act", "deployments.apps" | "statefulsets.apps") => "get list patch",
        ("meshcert-act", "services") => "get list",
        ("meshcert-act", "jobs.batch") => "get",
        ("meshcert-act", "pods") => "list delete",
        ("meshcert-act", "events") => "create",
        _ => "",
    };
    for account in ["meshcert-observe", "meshcert-webhook", "meshcert-act"] {
        for resource in resources {
            let found: Vec<&str> =
                verbs.into_iter().filter(|verb| cluster.may(account, verb, resource, MESHES)).collect();
            assert_eq!(found.join(" "), wanted(account, resource), "{account}: {resource}");
        }
        for namespace in [NAMESPACE, "kube-system"] {
            assert!(!cluster.may(account, "list", "secrets", namespace), "{account} in {namespace}");
        }
    }

    // The same by tokens that the server issued.
    let as_account = |account: &str, arguments: &[&str]| {
        let kubeconfig = cluster.api.kubeconfig_of(NAMESPACE, account);
        Command::new(tools::kubectl())
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("-n")
            .arg(MESHES)
            .args(arguments)
            .env("HOME", cluster.api.folder.path())
            .output()
            .unwrap()
    };
    let refused = as_account("meshcert-webhook", &["get", "secrets"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("forbidden"));
    let listed = as_account("meshcert-observe", &["get", "secrets"]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let kubeconfig = cluster.api.kubeconfig_of(NAMESPACE, "meshcert-observe");
    let status = Command::new(env!("CARGO_BIN_EXE_meshcert"))
        .arg("status")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

#[test]
fn the_server_takes_all_that_is_rendered_and_admits_its_pods_as_restricted() {
    let Some(cluster) = Cluster::start() else { return };
    let said = cluster.install(&ROLES);
    assert!(said.contains("meshcert-act (act)") && said.contains("helm -n meshcert uninstall meshcert"), "{said}");
    cluster.api.kubectl(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"]);
    let rendered = objects(&cluster.helm(&["get", "manifest", "meshcert", "-n", NAMESPACE]));
    let deployments = of_kind(&rendered, "Deployment");
    assert_eq!(deployments.len(), 3);
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod" });
    for deployment in deployments {
        let template = &deployment["spec"]["template"];
        pod["metadata"] = template["metadata"].clone();
        pod["metadata"]["name"] = deployment["metadata"]["name"].clone();
        pod["spec"] = template["spec"].clone();
        cluster.api.kubectl_with(&pod.to_string(), &["create", "--dry-run=server", "-n", NAMESPACE]);
    }
    pod["spec"]["containers"][0]["securityContext"]["capabilities"] = json!({ "add": ["NET_ADMIN"] });
    let refused = cluster.api.try_kubectl_with(&pod.to_string(), &["create", "--dry-run=server", "-n", NAMESPACE]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("violates PodSecurity"), "the server looks");

    // The plain manifests are taken too, over what Helm has installed.
    for file in ["observe", "renew"] {
        let path = root().join(format!("deploy/manifests/{file}.yaml"));
        let path = path.display().to_string();
        cluster.api.kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            &path,
        ]);
    }
}

#[test]
fn an_upgrade_keeps_the_token_and_takes_away_what_is_no_longer_asked_for() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.install(&ROLES);
    let token =
        || cluster.api.kubectl(&["get", "secret", "meshcert-webhook", "-n", NAMESPACE, "-o", "jsonpath={.data.token}"]);
    let first = token();
    assert!(first.len() >= 64, "48 characters, encoded");
    let all = cluster.everything();
    cluster.install(&ROLES);
    assert_eq!(token(), first, "an upgrade makes no new token");
    let again: BTreeSet<_> = cluster.everything().into_iter().filter(|one| !one.contains("sh.helm.release")).collect();
    assert_eq!(again, all.into_iter().filter(|one| !one.contains("sh.helm.release")).collect());

    cluster.with_jobs_run(|| cluster.install(&[]));
    let left = cluster.everything();
    for gone in ["meshcert-webhook", "meshcert-act"] {
        let found: Vec<_> = left.iter().filter(|one| one.ends_with(gone)).collect();
        assert_eq!(found, Vec::<&String>::new());
    }
    assert!(left.iter().any(|one| one == &format!("Deployment {NAMESPACE} meshcert-observe")));
}

#[test]
fn the_commands_of_the_manual_work_in_their_order() {
    let Some(cluster) = Cluster::start() else { return };
    let Some(other) = RealApi::start() else { return };
    other.kubectl(&["create", "namespace", MESHES]);
    cluster.api.knows("cp-2", &other);
    let definitions = root().join(".cache/schemas/definitions");
    let definitions = definitions.display().to_string();
    cluster.api.kubectl(&["create", "-f", &definitions]);
    // Helm remembers which kinds there are.
    cluster.api.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", &definitions]);
    let folder = tempfile::TempDir::new().unwrap();
    for name in ["deploy", "alerts"] {
        std::os::unix::fs::symlink(root().join(name), folder.path().join(name)).unwrap();
    }
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_meshcert")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{}:{path}", root().join(".cache/bin").display(), program.display());

    let page = std::fs::read_to_string(root().join("docs/INSTALL.md")).unwrap();
    let file = |name: &str, start: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, example(&page, start)).unwrap();
        path
    };
    let values = folder.path().join("meshcert-values.yaml");
    // What the file says of a thing, by its first line; a later example of the same thing is another choice.
    let mut parts: BTreeMap<&str, &str> = BTreeMap::new();
    let mut commands = 0;
    for fence in page.split("\n```").skip(1).step_by(2) {
        let (language, text) = fence.split_once('\n').unwrap();
        let first = text.lines().next().unwrap_or_default();
        if language == "yaml" && ["cluster:", "policy:", "extraClusters:", "monitoring:"].contains(&first) {
            parts.insert(first, text);
            std::fs::write(&values, parts.values().map(|part| format!("{part}\n")).collect::<String>()).unwrap();
        }
        if language != "sh" {
            continue;
        }
        commands += 1;
        let (output, said) = cluster.with_jobs_run(|| {
            let mut shell = cluster.api.command(std::path::Path::new("bash"));
            shell.args(["-euo", "pipefail", "-c", text]).current_dir(folder.path()).env("PATH", &path).output().unwrap()
        });
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}{told}{said}");
        if parts.contains_key("monitoring:") && text.starts_with("helm upgrade") {
            let manifest = cluster.helm(&["get", "manifest", "meshcert", "-n", NAMESPACE]);
            for kind in ["kind: ServiceMonitor", "kind: PrometheusRule", "meshcert-dashboard"] {
                let is_other = kind.ends_with("PrometheusRule") && parts["monitoring:"].contains("insight");
                assert!(is_other || manifest.contains(kind), "{text}leaves no {kind}");
            }
        }
        cluster.end_namespaces();
    }
    assert!(commands >= 8, "the page has commands");
    let left = cluster.everything();
    let ours: Vec<_> = left.iter().filter(|one| one.contains("meshcert")).collect();
    assert_eq!(ours, Vec::<&String>::new(), "after the last command nothing is left");
    assert_eq!(std::fs::read(folder.path().join("meshcert-token")).unwrap().len(), 48);

    // The configuration of a plain Prometheus reads the rules that the commands wrote.
    let rules = std::fs::read_to_string(folder.path().join("meshcert.rules.yaml")).unwrap();
    assert!(
        !rules.contains("://github.com") && !rules.contains("dashboard_url: '/d/"),
        "every link leads into the house"
    );
    let Some(promtool) = tools::promtool() else { return };
    let mut check = Command::new(promtool);
    let check = check.args(["check", "config"]).arg(file("prometheus.yaml", "rule_files:")).output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success() && said.contains("1 rule files found"), "{said}");
}

/// The example of a page that begins with a line.
fn example<'a>(page: &'a str, start: &str) -> &'a str {
    let mut all = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    all.find(|text| text.starts_with(start)).unwrap()
}

#[test]
fn a_plain_prometheus_finds_every_pod_once_as_the_manual_has_it() {
    let (Some(cluster), Some(promtool)) = (Cluster::start(), tools::promtool()) else { return };
    cluster.install(&ROLES);
    let release = |what: &str| objects(&cluster.helm(&["get", what, "meshcert", "-n", NAMESPACE]));
    let (manifest, hooks) = (release("manifest"), release("hooks"));
    let owners = of_kind(&manifest, "Deployment").into_iter().chain(of_kind(&hooks, "Job"));
    for (number, owner) in owners.enumerate() {
        let mut pod = owner["spec"]["template"].clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = owner["metadata"]["name"].clone();
        // The account of the Jobs is there only with them.
        pod["spec"]["serviceAccountName"] = json!("meshcert-act");
        cluster.api.kubectl_with(&pod.to_string(), &["create", "-n", NAMESPACE]);
        let address = format!("192.0.2.{number}");
        let status = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] } });
        let (name, status) = (owner["metadata"]["name"].as_str().unwrap(), status.to_string());
        cluster.api.kubectl(&["patch", "pod", name, "-n", NAMESPACE, "--subresource=status", "-p", &status]);
    }

    let ours = |arguments: &[&str]| cluster.api.kubectl(&[&["-n", NAMESPACE, "create"], arguments].concat());
    ours(&["serviceaccount", "prometheus"]);
    ours(&["role", "prometheus", "--verb=list,watch", "--resource=pods"]);
    ours(&["rolebinding", "prometheus", "--role=prometheus", &format!("--serviceaccount={NAMESPACE}:prometheus")]);
    let page = std::fs::read_to_string(root().join("docs/INSTALL.md")).unwrap();
    let mut config: Value = serde_saphyr::from_str(example(&page, "rule_files:")).unwrap();
    config["rule_files"] = json!([]);
    let kubeconfig = cluster.api.kubeconfig_of(NAMESPACE, "prometheus");
    config["scrape_configs"][0]["kubernetes_sd_configs"][0]["kubeconfig_file"] = json!(kubeconfig);
    let file = cluster.api.folder.path().join("prometheus.yaml");
    // JSON is YAML.
    std::fs::write(&file, config.to_string()).unwrap();

    let wanted = ["act", "observe", "webhook"].map(|role| format!("meshcert {NAMESPACE} meshcert-{role} 9794"));
    // It looks for as long as it is told to.
    for seconds in [2, 4, 8, 16, 32] {
        let mut look = Command::new(&promtool);
        look.args(["check", "service-discovery", "--timeout", &format!("{seconds}s")]).arg(&file).arg("meshcert");
        let found = look.output().unwrap();
        let found: Vec<Value> = serde_json::from_slice(&found.stdout).unwrap_or_default();
        if found.len() < 6 {
            continue;
        }
        let outline = |labels: &Value| {
            let text = |label: &str| labels[label].as_str().unwrap_or_default();
            let (_, port) = text("instance").split_once(':')?;
            Some(format!("{} {} {} {port}", text("job"), text("namespace"), text("pod")))
        };
        let mut kept: Vec<String> = found.iter().filter_map(|target| outline(&target["labels"])).collect();
        kept.sort();
        assert_eq!(kept, wanted, "{found:#?}");
        return;
    }
    panic!("the three metrics ports, the webhook's and the two Jobs' pods were never seen");
}

const RENEWAL: &str = "
apiVersion: meshcert.dev/v1alpha1
kind: CertificateRenewal
metadata: {name: demo-1, namespace: istio-system, finalizers: [meshcert.dev/commit]}
spec: {meshId: demo}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: meshcert-leader, namespace: istio-system}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: meshcert-mesh-demo, namespace: istio-system}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: meshcert-slot-0, namespace: istio-system}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: of-another, namespace: istio-system}
---
apiVersion: v1
kind: Secret
metadata: {name: demo-1-kube-backup, namespace: istio-system}
type: meshcert.dev/backup
";

#[test]
fn uninstalling_is_refused_while_a_renewal_is_under_way_and_leaves_only_what_it_says() {
    let Some(cluster) = Cluster::start() else { return };
    let before = cluster.everything();
    cluster.install(&[&ROLES[..], &["networkPolicy.restrictEgress=true"]].concat());
    cluster.api.kubectl_with(RENEWAL, &["create"]);

    let uninstall = ["uninstall", "meshcert", "-n", NAMESPACE, "--timeout", "120s"];
    let (refused, said) = cluster.with_jobs_run(|| cluster.try_helm(&uninstall));
    assert!(!refused.status.success());
    assert!(said.contains("the renewal istio-system/demo-1 in cluster default is under way (Pending)"), "{said}");
    assert!(said.contains("kubectl -n istio-system get certificaterenewals demo-1 --watch"), "{said}");
    let still = cluster.everything();
    assert!(still.contains(&format!("Deployment {NAMESPACE} meshcert-act")), "all is as it was");

    cluster.end_renewal();
    let (done, said) = cluster.with_jobs_run(|| cluster.try_helm(&uninstall));
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(
        said.contains("no renewal is under way") && said.contains("removed Lease istio-system/meshcert-slot-0"),
        "{said}"
    );
    for job in ["check", "clean"] {
        let policy =
            format!("meshcert-uninstall-{job} is let out by networkpolicy.networking.k8s.io/meshcert-uninstall");
        assert!(said.contains(&policy), "{said}");
    }

    let after = cluster.everything();
    let left: BTreeSet<&str> = after.difference(&before).map(String::as_str).collect();
    let wanted = [
        "CertificateRenewal istio-system demo-1",
        "CustomResourceDefinition <none> certificaterenewals.meshcert.dev",
        "Lease istio-system of-another",
        "Namespace <none> meshcert",
        "Secret istio-system demo-1-kube-backup",
    ];
    let own: BTreeSet<&str> = left.into_iter().filter(|one| !one.starts_with("APIService")).collect();
    assert_eq!(own, wanted.into());

    // And it can come back.
    cluster.install(&ROLES);
}

#[test]
fn an_upgrade_that_ends_acting_is_refused_while_a_renewal_is_under_way_and_leaves_no_lease() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.install(&ROLES);
    cluster.api.kubectl_with(RENEWAL, &["create"]);
    let upgrade = ["upgrade", "--reset-values", "meshcert", CHART, "-n", NAMESPACE, "--timeout", "120s"];
    let (refused, said) = cluster.with_jobs_run(|| cluster.try_helm(&upgrade));
    assert!(!refused.status.success());
    assert!(said.contains("the renewal istio-system/demo-1 in cluster default is under way (Pending)"), "{said}");
    assert!(cluster.everything().contains(&format!("Deployment {NAMESPACE} meshcert-act")), "all is as it was");

    cluster.end_renewal();
    let (done, said) = cluster.with_jobs_run(|| cluster.try_helm(&upgrade));
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    let left = cluster.everything();
    let left = |text: &str| left.iter().filter(|one| one.contains(text)).collect::<Vec<_>>();
    assert_eq!(
        (left("Lease istio-system"), left("meshcert-act")),
        (vec![&"Lease istio-system of-another".to_owned()], vec![])
    );
    assert_eq!((left("uninstall"), left("Deployment").len()), (vec![], 1));
    // Nobody acted: nobody is asked.
    cluster.helm(&[&upgrade[..], &["--set", "webhook.enabled=true"]].concat());
}

#[test]
fn uninstalling_asks_the_further_clusters_too() {
    let (Some(cluster), Some(other)) = (Cluster::start(), RealApi::start()) else { return };
    other.kubectl(&["create", "namespace", MESHES]);
    other.kubectl_with(&serde_json::to_string(&meshcert::crd::definition()).unwrap(), &["create"]);
    other.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/certificaterenewals.meshcert.dev"]);
    other.kubectl_with(RENEWAL, &["create"]);
    cluster.install(
        &[
            &ROLES[..],
            &["extraClusters[0].name=cp-2", "extraClusters[0].kubeconfigSecrets.act=cp-2-act"],
            &["extraClusters[0].kubeconfigSecrets.observe=cp-2-observe"],
        ]
        .concat(),
    );
    let kubeconfig = format!("--from-file=kubeconfig={}", other.kubeconfig.display());
    cluster.api.kubectl(&["create", "secret", "generic", "cp-2-act", "-n", NAMESPACE, &kubeconfig]);

    let uninstall = vec!["uninstall", "meshcert", "-n", NAMESPACE, "--timeout", "120s"];
    let mut end_acting =
        vec!["upgrade", "--reset-then-reuse-values", "meshcert", CHART, "-n", NAMESPACE, "--timeout", "120s"];
    // Also where nothing is acted on beside it.
    end_acting.extend([
        "--set",
        "act.enabled=false,webhook.enabled=false,policy.mode=observe",
        "--set-json",
        "cluster.namespaces=[]",
    ]);
    for command in [&end_acting, &uninstall] {
        let (refused, said) = cluster.with_jobs_run(|| cluster.try_helm(command));
        assert!(!refused.status.success(), "{said}{}", String::from_utf8_lossy(&refused.stdout));
        let why = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("the renewal istio-system/demo-1 in cluster cp-2 is under way (Pending)"), "{said}{why}");
    }

    other.kubectl(&["delete", "certificaterenewal", "demo-1", "-n", MESHES, "--wait=false"]);
    let free = r#"{"metadata":{"finalizers":[]}}"#;
    other.kubectl(&["patch", "certificaterenewal", "demo-1", "-n", MESHES, "--type=merge", "-p", free]);
    let (done, said) = cluster.with_jobs_run(|| cluster.try_helm(&uninstall));
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("removed Lease istio-system/meshcert-leader in cluster cp-2"), "{said}");
    assert_eq!(other.kubectl(&["get", "leases", "-n", MESHES, "-o", "name"]), "lease.coordination.k8s.io/of-another\n");
}
