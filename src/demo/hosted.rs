//! The meshes of each scenario, and what else lives in a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::anyhow;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::demo::Scenario;
use crate::demo::admission::complete;
use crate::demo::endpoints::SERVES;
use crate::demo::kinds;
use crate::demo::pki::{Pki, Validity, kubeconfig, self_signed};
use crate::demo::stand_in::{API_PORT, ETCD_PORTS};
use crate::demo::store::Store;
use crate::time::{DAY, UnixTime};

/// Namespace of the meshes.
const NAMESPACE: &str = "istio-system";
/// Meshes of a fleet, if not said otherwise.
const FLEET: usize = 100;
/// Leaves live a year, as kubeadm's.
const LIFETIME: i64 = 365 * DAY;

/// What is wrong with a mesh beside its age.
#[derive(Clone, Copy)]
enum Fault {
    None,
    EtcdSecretMissing,
    CorruptBlock,
    LeafMissing,
    WrongCa,
    WrongServer,
    UnreadableKubeconfig,
}

/// A mesh to make: id, days left, fault.
type Plan = (String, i64, Fault);

/// Fills the store; how many meshes were made.
pub(super) fn fill(store: &Store, scenario: Scenario, meshes: Option<usize>, now: UnixTime) -> anyhow::Result<usize> {
    for namespace in ["default", "kube-system", NAMESPACE, "shop"] {
        put(
            store,
            "/namespaces",
            "",
            namespace,
            json!({ "apiVersion": "v1", "kind": "Namespace", "status": { "phase": "Active" } }),
        )?;
    }
    let plans = plans(scenario, meshes);
    for plan in &plans {
        put_mesh(store, plan, now)?;
    }
    put_others(store, now)?;
    // As which the documented Job runs.
    put(store, "/serviceaccounts", NAMESPACE, "mspider-mcpc", json!({ "apiVersion": "v1", "kind": "ServiceAccount" }))?;
    // The first is shared by all meshes; the second belongs to another role and is never touched.
    for name in ["mspider-mcpc-ckube-remote", "istiod"] {
        put_workload(store, "Deployment", name, None, &json!([]))?;
    }
    Ok(plans.len())
}

fn plans(scenario: Scenario, meshes: Option<usize>) -> Vec<Plan> {
    let plan = |id: &str, days, fault| (id.to_owned(), days, fault);
    let alike = |count: usize, name: &str, days: i64| {
        let count = meshes.unwrap_or(count);
        (1..=count).map(|n| (format!("{name}-{n}"), days, Fault::None)).collect()
    };
    let distinct = match scenario {
        Scenario::Mixed => vec![
            plan("hosted-demo", 20, Fault::None),
            plan("hosted-critical", 2, Fault::None),
            plan("hosted-expired", -2, Fault::None),
            plan("hosted-healthy", 330, Fault::None),
            plan("hosted-incomplete", 300, Fault::EtcdSecretMissing),
            plan("hosted-broken", 250, Fault::CorruptBlock),
        ],
        Scenario::Broken => vec![
            plan("corrupt-block", 250, Fault::CorruptBlock),
            plan("leaf-missing", 250, Fault::LeafMissing),
            plan("secret-missing", 250, Fault::EtcdSecretMissing),
            plan("unreadable-kubeconfig", 250, Fault::UnreadableKubeconfig),
            plan("wrong-ca", 250, Fault::WrongCa),
            plan("wrong-server", 250, Fault::WrongServer),
        ],
        Scenario::Healthy => return alike(3, "healthy", 330),
        Scenario::Expiring => return alike(3, "expiring", 20),
        Scenario::Expired => return alike(3, "expired", -2),
        Scenario::Fleet => {
            let days = |n: usize| if n % 10 < 3 { 5 + (n % 20) as i64 } else { 60 + (n % 300) as i64 };
            return (1..=meshes.unwrap_or(FLEET)).map(|n| (format!("fleet-{n}"), days(n), Fault::None)).collect();
        }
    };
    match meshes {
        None => distinct,
        // More than there are kinds: the kinds again, numbered.
        Some(count) => (0..count)
            .map(|n| {
                let (id, days, fault) = &distinct[n % distinct.len()];
                let id = if n < distinct.len() { id.clone() } else { format!("{id}-{}", n / distinct.len() + 1) };
                (id, *days, *fault)
            })
            .collect(),
    }
}

fn put_mesh(store: &Store, (id, days, fault): &Plan, now: UnixTime) -> anyhow::Result<()> {
    let not_after = now.plus(days * DAY);
    let validity = Validity { not_before: not_after.plus(-LIFETIME), not_after };
    let Pki { mut kube, mut etcd, kubeconfig: mut config } = Pki::new(id, NAMESPACE, validity)?;
    match fault {
        Fault::None | Fault::EtcdSecretMissing => {}
        Fault::CorruptBlock => {
            let good = etcd.get("peer.crt").cloned().unwrap_or_default();
            etcd.insert(
                "peer.crt".to_owned(),
                format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            );
        }
        Fault::LeafMissing => drop(kube.remove("front-proxy-client.crt")),
        Fault::WrongCa => {
            // What a CA that was made anew without renewing its leaves looks like.
            let stranger = Pki::new(id, NAMESPACE, validity)?;
            etcd.extend(stranger.etcd.into_iter().filter(|(key, _)| key.starts_with("ca.")));
        }
        Fault::WrongServer => config = config.replace(&format!("{id}-hosted-apiserver"), "elsewhere.example"),
        Fault::UnreadableKubeconfig => config.truncate(config.len() / 2),
    }
    let secret = |name: String, data: BTreeMap<String, String>| {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": encoded(&data) });
        put(store, "/secrets", NAMESPACE, &name, secret)
    };
    secret(format!("{id}-kube-certs"), kube)?;
    if !matches!(fault, Fault::EtcdSecretMissing) {
        secret(format!("{id}-etcd-certs"), etcd)?;
    }
    secret(format!("{id}-apiserver-admin-kubeconfig"), BTreeMap::from([("config".to_owned(), config)]))?;
    put_workloads(store, id)
}

/// What runs for a mesh, and must start anew when its certificates were renewed.
fn put_workloads(store: &Store, id: &str) -> anyhow::Result<()> {
    let (api, etcd) = (format!("{id}-hosted-apiserver"), format!("{id}-etcd"));
    put_service(store, &api, &[API_PORT])?;
    put_service(store, &etcd, &ETCD_PORTS)?;
    let kube_certs = json!([{ "name": "kube-certs", "secret": { "secretName": format!("{id}-kube-certs") } }]);
    let etcd_certs = json!([{ "name": "etcd-certs", "secret": { "secretName": format!("{id}-etcd-certs") } }]);
    let none = json!([]);
    put_workload(store, "StatefulSet", &etcd, Some((id, "etcd")), &etcd_certs)?;
    put_workload(store, "Deployment", &api, Some((id, "kube-apiserver")), &kube_certs)?;
    put_workload(store, "Deployment", &format!("istiod-{id}-hosted"), None, &none)
}

/// A Service that leads to the workload of its name, by the names of its containers' ports.
fn put_service(store: &Store, name: &str, ports: &[(&str, u16)]) -> anyhow::Result<()> {
    let ports: Vec<Value> =
        ports.iter().map(|(name, port)| json!({ "name": name, "port": port, "targetPort": name })).collect();
    let spec = json!({ "selector": { "app": name }, "ports": ports });
    put(store, "/services", NAMESPACE, name, json!({ "apiVersion": "v1", "kind": "Service", "spec": spec }))
}

fn put_workload(
    store: &Store,
    kind: &str,
    name: &str,
    serves: Option<(&str, &str)>,
    volumes: &Value,
) -> anyhow::Result<()> {
    let labels = json!({ "app": name, "mesh": serves.map(|(mesh, _)| mesh) });
    let annotations = json!({ SERVES: serves.map(|(_, what)| what) });
    let ports: Vec<Value> = match serves {
        Some((_, "etcd")) => ETCD_PORTS.as_slice(),
        Some(_) => &[API_PORT],
        None => &[],
    }
    .iter()
    .map(|(name, port)| json!({ "name": name, "containerPort": port }))
    .collect();
    let container =
        json!({ "name": "main", "image": format!("demo.meshcert.dev/{}:1", kind.to_lowercase()), "ports": ports });
    let spec = json!({
        "replicas": 1, "selector": { "matchLabels": { "app": name } }, "serviceName": name,
        "template": { "metadata": { "labels": without_null(labels), "annotations": without_null(annotations) }, "spec": { "containers": [container], "volumes": volumes } },
    });
    let plural = format!("apps/{}s", kind.to_lowercase());
    put(store, &plural, NAMESPACE, name, json!({ "apiVersion": "apps/v1", "kind": kind, "spec": spec }))
}

fn without_null(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    value
}

/// What meshcert passes over, or counts only if a rule asks for it.
fn put_others(store: &Store, now: UnixTime) -> anyhow::Result<()> {
    let validity = Validity { not_before: now.plus(-DAY), not_after: now.plus(90 * DAY) };
    for name in ["web", "api"] {
        let (certificate, key) = self_signed(&format!("{name}.shop.example"), validity)?;
        let data = BTreeMap::from([("tls.crt".to_owned(), certificate), ("tls.key".to_owned(), key)]);
        let secret =
            json!({ "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": encoded(&data) });
        put(store, "/secrets", "shop", name, secret)?;
    }
    let (certificate, key) = self_signed("somebody", validity)?;
    let config = kubeconfig("https://127.0.0.1:6443", &certificate, &(certificate.clone(), key));
    let release = json!({ "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1", "data": { "release": STANDARD.encode(config) } });
    put(store, "/secrets", NAMESPACE, "sh.helm.release.v1.mspider.v1", release)
}

fn encoded(data: &BTreeMap<String, String>) -> Value {
    data.iter().map(|(key, text)| (key.clone(), json!(STANDARD.encode(text)))).collect()
}

fn put(store: &Store, resource: &str, namespace: &str, name: &str, mut object: Value) -> anyhow::Result<()> {
    if let Some(kind) = kinds::BUILT_IN.iter().find(|kind| kind.resource() == resource) {
        complete(kind, &mut object);
    }
    object["metadata"] = json!({ "name": name });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    let key = (Arc::from(resource), Arc::from(namespace), Arc::from(name));
    store.create(key, object).map(drop).map_err(|failure| anyhow!("{}", failure.body()["message"]))
}
