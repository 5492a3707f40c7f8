//! What listens for the pods of hosted meshes: TLS servers that show the certificates which the pod's Secrets held when it started.
//!
//! A renewal without a restart is therefore seen to be stale, as with a Secret mounted by `subPath`, which never changes in a running pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::demo::forward::Nodes;
use crate::demo::stand_in::{Data, Hosted, StandIn};
use crate::demo::store::{Key, Store};
use crate::demo::workloads::pod_key;
use crate::ports::Clock;

/// The annotation of a pod template that says what its pods serve: `kube-apiserver` or `etcd`.
pub(super) const SERVES: &str = "demo.meshcert.dev/serves";
/// The annotation of a pod template that says `hidden` where the pods' addresses lead nowhere, as they do outside a cluster.
const ADDRESS: &str = "demo.meshcert.dev/address";
/// Every pod gets an address of its own below 127.64.0.0/10, as it would have in a cluster.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([127, 64, 0, 0]);
const ADDRESSES: u32 = 1 << 22;
/// No embedded cluster listens below 127.128.0.0/10: what stands there in place of an address leads nowhere.
const HIDDEN: u32 = u32::from_be_bytes([127, 128, 0, 0]) - FIRST_ADDRESS;

/// The running servers.
pub(super) struct Endpoints {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    nodes: Arc<Nodes>,
    running: BTreeMap<String, Running>,
    /// By mesh.
    hosted: BTreeMap<String, Hosted>,
    next: u32,
}

struct Running {
    pod: Key,
    tasks: Vec<AbortHandle>,
}

impl Endpoints {
    pub(super) fn new(store: Arc<Store>, clock: Arc<dyn Clock>, nodes: Arc<Nodes>) -> Self {
        // Embedded clusters beside each other begin in different places; a taken address is passed over anyway.
        let next = std::process::id().wrapping_mul(2_654_435_761) % ADDRESSES;
        Self { store, clock, nodes, running: BTreeMap::new(), hosted: BTreeMap::new(), next }
    }

    /// Starts what a pod serves and returns the address that its status shows.
    ///
    /// # Errors
    /// A Secret that it mounts is missing or cannot be loaded.
    pub(super) async fn start(&mut self, pod: &Value) -> anyhow::Result<String> {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let stand_in = match pod["metadata"]["annotations"][SERVES].as_str() {
            Some("kube-apiserver") => Some(self.kube_apiserver(pod)?),
            Some("etcd") => Some(StandIn::etcd(&self.mounted(pod, "etcd-certs")?, &self.clock)?),
            _ => None,
        };
        let (address, tasks) = match stand_in {
            Some(stand_in) => self.listen_for(pod, stand_in).await?,
            None => (self.next_address(), Vec::new()),
        };
        self.nodes.runs(&uid, address);
        let hidden = pod["metadata"]["annotations"][ADDRESS] == "hidden";
        let shown = if hidden { Ipv4Addr::from(u32::from(address) + HIDDEN) } else { address };
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        self.running.insert(uid, Running { pod: pod_key(&namespace.into(), pod), tasks });
        Ok(shown.to_string())
    }

    /// Ends the servers of pods that are gone.
    pub(super) fn stop_those_without_pod(&mut self) {
        let alive: BTreeSet<String> = self
            .store
            .list("/pods", None)
            .objects
            .iter()
            .filter_map(|(_, pod)| pod.value["metadata"]["uid"].as_str().map(str::to_owned))
            .collect();
        self.running.retain(|uid, running| {
            let keep = alive.contains(uid);
            if !keep {
                tracing::debug!(pod = &*running.pod.2, "the pod's servers end");
                running.tasks.iter().for_each(AbortHandle::abort);
                self.nodes.ended(uid);
            }
            keep
        });
    }

    fn kube_apiserver(&mut self, pod: &Value) -> anyhow::Result<StandIn> {
        let kube = self.mounted(pod, "kube-certs")?;
        let mesh = pod["metadata"]["labels"]["mesh"].as_str().unwrap_or_default().to_owned();
        let clock = &self.clock;
        let hosted = self.hosted.entry(mesh).or_insert_with(|| Hosted::new(Arc::clone(clock)));
        StandIn::kube_apiserver(&kube, hosted, Arc::clone(clock))
    }

    async fn listen_for(&mut self, pod: &Value, stand_in: StandIn) -> anyhow::Result<(Ipv4Addr, Vec<AbortHandle>)> {
        let ports: Vec<u16> = stand_in.ports().map(|usual| port(pod, usual)).collect();
        let (address, listeners) = self.listen(&ports).await?;
        Ok((address, stand_in.serve(listeners).map(|server| tokio::spawn(server).abort_handle()).collect()))
    }

    /// The data of the Secret that a pod mounts as the volume of this name.
    fn mounted(&self, pod: &Value, volume: &str) -> anyhow::Result<Data> {
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let name = volumes
            .filter(|one| one["name"] == volume)
            .find_map(|one| one["secret"]["secretName"].as_str())
            .with_context(|| format!("the pod has no volume {volume}"))?;
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let key = ("/secrets".into(), namespace.into(), name.into());
        let secret = self.store.get(&key).with_context(|| format!("Secret {namespace}/{name} is missing"))?;
        let data = secret.value["data"].as_object().into_iter().flatten();
        data.map(|(key, value)| Ok((key.clone(), STANDARD.decode(value.as_str().unwrap_or_default())?))).collect()
    }

    fn next_address(&mut self) -> Ipv4Addr {
        self.next = (self.next + 1) % ADDRESSES;
        Ipv4Addr::from(FIRST_ADDRESS + self.next)
    }

    /// Listens on the ports at one free address.
    async fn listen(&mut self, ports: &[u16]) -> anyhow::Result<(Ipv4Addr, Vec<TcpListener>)> {
        let mut last = None;
        for _ in 0..64 {
            let address = self.next_address();
            let mut listeners = Vec::new();
            for port in ports {
                match TcpListener::bind(SocketAddr::new(IpAddr::V4(address), *port)).await {
                    Ok(listener) => listeners.push(listener),
                    Err(error) => last = Some(error),
                }
            }
            if listeners.len() == ports.len() {
                return Ok((address, listeners));
            }
        }
        let error = last.map_or_else(|| "all are taken".to_owned(), |error| error.to_string());
        anyhow::bail!("cannot listen below 127.64.0.0/10: {error}")
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        self.running.values().flat_map(|running| &running.tasks).for_each(AbortHandle::abort);
    }
}

/// The number of a named port of the pod's containers.
fn port(pod: &Value, (name, usual): (&str, u16)) -> u16 {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let said = ports.find(|port| port["name"] == name).and_then(|port| port["containerPort"].as_u64());
    said.and_then(|number| u16::try_from(number).ok()).unwrap_or(usual)
}
