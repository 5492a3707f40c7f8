//! The servers of one pod of a hosted mesh, whoever runs the pod: the embedded API, or a test on a real one whose pods are fake.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::demo::hosted_api::{self, Identity, Server};
use crate::demo::store::Store;
use crate::ports::Clock;

/// Ports by the names that containers give them: of the hosted API, and of etcd's clients and members with the names of their certificates.
pub(super) const API_PORT: (&str, u16) = ("https", 6443);
pub(super) const ETCD_PORTS: [(&str, u16); 2] = [("client", 2379), ("peer", 2380)];
const ETCD_CERTIFICATES: [&str; 2] = ["server", "peer"];

/// A Secret's data.
pub type Data = BTreeMap<String, Vec<u8>>;

/// What a mesh's hosted API stores; it outlives its pods, as etcd's volume does.
#[derive(Clone)]
pub struct Hosted(Arc<Store>);

impl Hosted {
    /// That of a new mesh.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let store = Arc::new(Store::new(clock));
        for name in ["default", "kube-system", "istio-system"] {
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name }, "status": { "phase": "Active" } });
            // The store is new: nothing is there already.
            let _ = store.create(("/namespaces".into(), "".into(), name.into()), namespace);
        }
        Self(store)
    }
}

/// Shows, on each of the pod's ports, what its Secrets held when it was made.
pub struct StandIn(Vec<((&'static str, u16), Arc<Server>)>);

impl StandIn {
    /// For a pod of the hosted API that mounts this `{mesh}-kube-certs`.
    ///
    /// # Errors
    /// An entry is missing or cannot be loaded: the pod would not start.
    pub fn kube_apiserver(kube: &Data, hosted: &Hosted, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let server = hosted_api::kube_apiserver(
            Identity::read(kube, "apiserver")?,
            entry(kube, "ca.crt")?,
            entry(kube, "apiserver-etcd-client.crt")?,
            Arc::clone(&hosted.0),
            clock,
        )?;
        Ok(Self(vec![(API_PORT, Arc::new(server))]))
    }

    /// For a pod of etcd that mounts this `{mesh}-etcd-certs`.
    ///
    /// # Errors
    /// An entry is missing or cannot be loaded: the pod would not start.
    pub fn etcd(etcd: &Data, clock: &Arc<dyn Clock>) -> anyhow::Result<Self> {
        let ca = entry(etcd, "ca.crt")?;
        let servers = ETCD_PORTS.into_iter().zip(ETCD_CERTIFICATES).map(|(port, name)| {
            let server = hosted_api::etcd(Identity::read(etcd, name)?, ca, Arc::clone(clock))?;
            Ok((port, Arc::new(server)))
        });
        Ok(Self(servers.collect::<anyhow::Result<_>>()?))
    }

    /// Names and usual numbers of its ports.
    pub(super) fn ports(&self) -> impl Iterator<Item = (&'static str, u16)> {
        self.0.iter().map(|(port, _)| *port)
    }

    /// Its servers, each on the listener of its port, until they are aborted.
    pub(super) fn serve(self, listeners: Vec<TcpListener>) -> impl Iterator<Item = impl Future<Output = ()>> {
        listeners.into_iter().zip(self.0).map(|(listener, (_, server))| server.serve(listener))
    }

    /// Answers a connection to the port of this name, until the client ends it.
    pub async fn answer(&self, port: &str, stream: TcpStream) {
        if let Some((_, server)) = self.0.iter().find(|((name, _), _)| *name == port) {
            server.answer(stream).await;
        }
    }
}

fn entry<'a>(data: &'a Data, key: &str) -> anyhow::Result<&'a [u8]> {
    data.get(key).map(Vec::as_slice).with_context(|| format!("the Secret has no {key}"))
}
