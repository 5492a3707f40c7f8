//! Hosted meshes by the hundred: kwok plays their nodes and kubelets, and what listens behind their pods' addresses is the embedded API's.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, WatchEvent, WatchParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use meshcert::clock::SystemClock;
use meshcert::cluster::api::Api;
use meshcert::demo::{Data, Hosted, Options, Scenario, StandIn};
use meshcert::ports::Clock;
use meshcert::renewal::{GROUP, PLURAL, VERSION};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use crate::cluster::{apply, define, kubectl, log, state, succeeded};
use crate::support::daemon::Process;
use crate::support::tools;

pub const NAMESPACE: &str = "fleet";
/// A node takes 110 pods, a mesh has three.
const MESHES_PER_NODE: usize = 25;
/// Of the fake pods; everything in it is this machine's, as if it were routed to the pods.
const ADDRESSES: &str = "10.90.0.0/16";
/// The pods' ports by their names. The node's own API server and etcd have the usual ones.
const PORTS: [(&str, u16); 3] = [("https", 16443), ("client", 12379), ("peer", 12380)];
/// What kwok does with them.
const STAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/kwok-stages.yaml");
/// Objects that are created at the same time.
const ABREAST: usize = 16;

/// The meshes with all that plays their parts.
pub struct Fleet {
    api: Api,
    pods: Arc<Pods>,
    kwok: Process,
    _tasks: JoinSet<()>,
}

/// What listens behind the pods' addresses.
struct Pods {
    answering: Mutex<HashMap<IpAddr, Arc<StandIn>>>,
    /// Meshes whose pods go on showing what their predecessors showed.
    stubborn: Mutex<HashSet<String>>,
}

impl Fleet {
    /// Makes the meshes of `demo --scenario fleet`, of which three in ten are due, and waits until all their pods are ready.
    pub async fn make(meshes: usize) -> Self {
        define();
        apply(&nodes(meshes.div_ceil(MESHES_PER_NODE)));
        let kwok = play();
        succeeded(
            &Command::new("ip").args(["route", "replace", "local", ADDRESSES, "dev", "lo"]).output().unwrap(),
            "ip",
        );
        let api = connect(Kubeconfig::read_from(state().join("kubeconfig")).unwrap()).await;
        copy(&api, meshes).await;
        let pods = Arc::new(Pods { answering: Mutex::default(), stubborn: Mutex::default() });
        let mut tasks = JoinSet::new();
        for (name, port) in PORTS {
            let listener = TcpListener::bind(("0.0.0.0", port)).await.unwrap();
            tasks.spawn(Arc::clone(&pods).listen(name, listener));
        }
        let changes = watch(&mut tasks, kube::Api::namespaced(api.client().clone(), NAMESPACE));
        tasks.spawn(Arc::clone(&pods).follow(changes, api.clone()));
        let mut fleet = Self { api, pods, kwok, _tasks: tasks };
        fleet.wait_for_pods(2 * meshes).await;
        fleet
    }

    /// Waits until something listens for so many pods, and all workloads are available.
    async fn wait_for_pods(&mut self, count: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
        loop {
            let listening = self.pods.answering.lock().unwrap().len();
            // One list: kubectl asks for each of thousands.
            let deployments: Vec<Value> = self.api.list(&path).await.unwrap();
            let available = |one: &&Value| one["status"]["availableReplicas"] == one["spec"]["replicas"];
            let (available, all) = (deployments.iter().filter(available).count(), deployments.len());
            if listening >= count && available == all {
                return;
            }
            let there = format!("{listening} of {count} pods listen, {available} of {all} Deployments are available");
            assert_eq!(self.kwok.0.try_wait().unwrap(), None, "kwok runs; see its log");
            assert!(tokio::time::Instant::now() < deadline, "{there}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// From now on new pods of these meshes show the certificates of their predecessors.
    pub fn make_stubborn(&self, meshes: &[String]) {
        self.pods.stubborn.lock().unwrap().extend(meshes.iter().cloned());
    }

    /// The renewals.
    pub fn renewals(&self) -> kube::Api<DynamicObject> {
        let kind =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, "CertificateRenewal"), PLURAL);
        kube::Api::namespaced_with(self.api.client().clone(), NAMESPACE, &kind)
    }

    /// Which version of each Secret is stored, by name.
    pub async fn versions(&self) -> BTreeMap<String, String> {
        let secrets: Vec<Value> = self.api.list(&format!("/api/v1/namespaces/{NAMESPACE}/secrets")).await.unwrap();
        let versions = secrets.iter().map(|secret| &secret["metadata"]);
        versions.map(|one| (text(&one["name"]), text(&one["resourceVersion"]))).collect()
    }
}

impl Pods {
    /// Hands each connection to the pod whose address it came to.
    async fn listen(self: Arc<Self>, port: &'static str, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let address = stream.local_addr().unwrap().ip();
            let answering = self.answering.lock().unwrap().get(&address).cloned();
            // Without one it is closed: nothing listens there.
            if let Some(stand_in) = answering {
                tokio::spawn(async move { stand_in.answer(port, stream).await });
            }
        }
    }

    /// Has something listen for every new pod, with what its mesh's Secret holds at that moment.
    async fn follow(self: Arc<Self>, mut changes: UnboundedReceiver<Pod>, api: Api) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (mut seen, mut hosted, mut former) = (HashSet::new(), HashMap::new(), HashMap::new());
        while let Some(pod) = changes.recv().await {
            let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
            let (Some(address), Some(serves)) = (address, pod.annotations().get("demo.meshcert.dev/serves")) else {
                continue;
            };
            if pod.metadata.deletion_timestamp.is_some() || !seen.insert(pod.uid().unwrap()) {
                continue;
            }
            let mesh = pod.labels()["mesh"].as_str();
            let role = (mesh.to_owned(), serves.clone());
            let stubborn = self.stubborn.lock().unwrap().contains(mesh);
            let stand_in = match former.get(&role) {
                Some(former) if stubborn => Arc::clone(former),
                _ if serves == "etcd" => {
                    Arc::new(StandIn::etcd(&secret(&api, mesh, "etcd-certs").await, &clock).unwrap())
                }
                _ => {
                    let hosted = hosted.entry(mesh.to_owned()).or_insert_with(|| Hosted::new(Arc::clone(&clock)));
                    let data = secret(&api, mesh, "kube-certs").await;
                    Arc::new(StandIn::kube_apiserver(&data, hosted, Arc::clone(&clock)).unwrap())
                }
            };
            former.insert(role, Arc::clone(&stand_in));
            self.answering.lock().unwrap().insert(address.parse().unwrap(), stand_in);
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

async fn connect(kubeconfig: Kubeconfig) -> Api {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Api::new(kube::Client::try_from(config).unwrap())
}

async fn secret(api: &Api, mesh: &str, name: &str) -> Data {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{mesh}-{name}");
    let secret: Value = api.get(&path).await.unwrap().unwrap();
    let data = secret["data"].as_object().unwrap();
    data.iter().map(|(key, value)| (key.clone(), STANDARD.decode(value.as_str().unwrap()).unwrap())).collect()
}

/// The objects of a kind in the fleet's namespace as they are, and each whenever it changes; sometimes again.
pub fn watch<K>(tasks: &mut JoinSet<()>, objects: kube::Api<K>) -> UnboundedReceiver<K>
where
    K: Clone + Debug + DeserializeOwned + Send + 'static,
{
    let (sender, shown) = unbounded_channel();
    tasks.spawn(async move {
        // The server ends a watch now and then.
        while !sender.is_closed() {
            let list = objects.list(&ListParams::default()).await.unwrap();
            let version = list.metadata.resource_version.unwrap();
            list.items.into_iter().for_each(|object| drop(sender.send(object)));
            let mut changes = pin!(objects.watch(&WatchParams::default(), &version).await.unwrap());
            while let Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) = changes.next().await {
                let _ = sender.send(object);
            }
        }
    });
    shown
}

/// Nodes on which only who tolerates it lands.
fn nodes(count: usize) -> String {
    let node = |number: usize| {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("fake-{number}"), "labels": { "meshcert.test/fake": "true" } },
            "spec": { "taints": [{ "key": "meshcert.test/fake", "effect": "NoSchedule" }] }
        })
    };
    json!({ "apiVersion": "v1", "kind": "List", "items": (0..count).map(node).collect::<Vec<_>>() }).to_string()
}

/// kwok, on the fake nodes alone.
fn play() -> Process {
    let log = std::fs::File::create(log("kwok.log")).unwrap();
    let child = Command::new(tools::built("kwok").unwrap())
        .args([
            "--kubeconfig",
            &state().join("kubeconfig").display().to_string(),
            "--cidr",
            ADDRESSES,
            "--config",
            STAGES,
        ])
        .args([
            "--manage-nodes-with-label-selector",
            "meshcert.test/fake=true",
            "--node-lease-duration-seconds",
            "40",
            "-v",
            "WARN",
        ])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Process(child)
}

/// Copies the embedded API's fleet to the real one.
async fn copy(real: &Api, meshes: usize) {
    let options = Options {
        scenario: Scenario::Fleet,
        meshes: Some(meshes),
        listen: "127.0.0.1:0".parse().unwrap(),
        pace: Duration::ZERO,
        clock: Arc::new(SystemClock),
    };
    let demo = meshcert::demo::start(options).await.unwrap();
    let embedded = connect(Kubeconfig::from_yaml(&demo.kubeconfig()).unwrap()).await;
    kubectl(&["create", "namespace", NAMESPACE]);
    for (version, kind) in [("v1", "Secret"), ("apps/v1", "Deployment"), ("apps/v1", "StatefulSet")] {
        let group = if version == "v1" { "/api" } else { "/apis" };
        let path = |namespace| format!("{group}/{version}/namespaces/{namespace}/{}s", kind.to_lowercase());
        let path_there = path(NAMESPACE);
        let (mut creating, abreast) = (JoinSet::new(), Arc::new(Semaphore::new(ABREAST)));
        for object in embedded.list::<Value>(&path("istio-system")).await.unwrap() {
            let object = adapted(version, kind, object);
            let (real, path, abreast) = (real.clone(), path_there.clone(), Arc::clone(&abreast));
            creating.spawn(async move {
                let _permit = abreast.acquire().await.unwrap();
                real.create(&path, &object).await.unwrap();
            });
        }
        creating.join_all().await;
    }
}

/// The object as somebody would write it anew, for fake nodes and with the fake pods' ports.
fn adapted(version: &str, kind: &str, mut object: Value) -> Value {
    let mut new = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": object["metadata"]["name"] } });
    for field in ["type", "data", "spec"] {
        if let Some(value) = object.get_mut(field) {
            new[field] = value.take();
        }
    }
    let Some(pod) = new.pointer_mut("/spec/template/spec") else { return new };
    pod["nodeSelector"] = json!({ "meshcert.test/fake": "true" });
    pod["tolerations"] = json!([{ "key": "meshcert.test/fake", "operator": "Exists" }]);
    pod["automountServiceAccountToken"] = json!(false);
    for port in pod["containers"][0]["ports"].as_array_mut().into_iter().flatten() {
        let number = PORTS.iter().find(|(name, _)| port["name"] == *name).unwrap().1;
        port["containerPort"] = json!(number);
    }
    new
}
