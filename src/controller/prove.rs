//! The proof: what every endpoint serves, and whether the hosted API can be used with the stored credentials.

use std::net::{IpAddr, SocketAddr};

use http::{Method, StatusCode};
use serde_json::json;

use crate::admin::AdminKubeconfig;
use crate::cert::Certificate;
use crate::cert::chain::details;
use crate::material::MeshSecrets;
use crate::mesh::{Component, HostedMesh, SecretRole};
use crate::probe::{self, Credentials, ProbeError};
use crate::renewal::observed::Unproven;
use crate::rollout::{Members, Pod, Serves, Workload};

/// What is created and deleted in the hosted API to prove that it can be written.
const CANARY: &str = "meshcert-canary";
const CANARIES: &str = "/api/v1/namespaces/default/configmaps";

/// One endpoint, asked.
pub(super) struct Endpoint {
    /// `POD:PORT`.
    pub(super) name: String,
    /// What it showed.
    pub(super) served: Result<Certificate, ProbeError>,
    /// Whether that is not what is stored.
    pub(super) stale: bool,
}

/// Asks every endpoint of a mesh's workloads.
pub(super) async fn endpoints(mesh: &HostedMesh, tiers: &[Vec<Workload>]) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for workload in tiers.iter().flatten() {
        for (port, component) in ports(workload.target.serves) {
            for pod in &workload.pods {
                let stored = mesh.certificates.iter().find(|found| found.component == *component);
                let served = match address(pod, *port) {
                    Some(address) => probe::served(address, &workload.name).await,
                    None => Err(ProbeError { message: format!("{} has no address yet", pod.name), refused: false }),
                };
                let stale = match (&served, stored) {
                    (Ok(served), Some(stored)) => served.fingerprint != stored.certificate.fingerprint,
                    _ => false,
                };
                found.push(Endpoint { name: format!("{}:{port}", pod.name), served, stale });
            }
        }
    }
    found
}

/// What is not proven yet.
pub(super) async fn unproven(mesh: &HostedMesh, secrets: &MeshSecrets, tiers: &[Vec<Workload>]) -> Vec<Unproven> {
    let mut unproven: Vec<Unproven> = endpoints(mesh, tiers).await.into_iter().filter_map(objection).collect();
    let apis = pods(tiers, Serves::KubeApiserver);
    if apis.is_empty() {
        let message = "no pod of the hosted API is there to be asked".to_owned();
        unproven.push(Unproven { message, refused: false });
    }
    for (_, pod) in apis {
        let Some(address) = address(pod, API_PORT) else { continue };
        if let Err(error) = log_in(address, secrets).await {
            unproven.push(Unproven { message: format!("login: {}", error.message), refused: error.refused });
        }
    }
    unproven
}

fn objection(endpoint: Endpoint) -> Option<Unproven> {
    match endpoint.served {
        Err(error) => Some(Unproven { message: error.message, refused: error.refused }),
        Ok(served) if endpoint.stale => {
            let message = format!(
                "{} serves another certificate than the stored one, which ends at {}",
                endpoint.name, served.not_after
            );
            Some(Unproven { message, refused: false })
        }
        Ok(_) => None,
    }
}

/// How etcd's members are, of which those with this digest are new.
pub(super) async fn members(
    mesh: &HostedMesh,
    secrets: &MeshSecrets,
    tiers: &[Vec<Workload>],
    digest: &str,
) -> Members {
    let (mut new_work, mut old_works, mut new_works) = (true, false, false);
    for (workload, pod) in pods(tiers, Serves::Etcd) {
        let healthy = match address(pod, ETCD_PORT) {
            Some(address) => etcd_answers(address, &server_name(mesh, workload), secrets).await,
            None => false,
        };
        if pod.digest.as_deref() == Some(digest) {
            new_work &= healthy;
            new_works |= healthy;
        } else {
            old_works |= healthy;
        }
    }
    match (new_work, old_works || new_works) {
        (true, _) => Members::Healthy,
        (false, true) => Members::Unhealthy,
        (false, false) => Members::Lost,
    }
}

/// A name that etcd's certificate holds: which one does not matter here.
fn server_name(mesh: &HostedMesh, workload: &Workload) -> String {
    let server = mesh.certificates.iter().find(|found| found.component == Component::EtcdServer);
    let names = server.and_then(|found| found.certificate.der.as_deref()).map(details).unwrap_or_default();
    names.dns_names.into_iter().chain(names.ip_addresses).next().unwrap_or_else(|| workload.name.clone())
}

fn pods(tiers: &[Vec<Workload>], serves: Serves) -> Vec<(&Workload, &Pod)> {
    let workloads = tiers.iter().flatten().filter(|workload| workload.target.serves == serves);
    workloads.flat_map(|workload| workload.pods.iter().map(move |pod| (workload, pod))).collect()
}

const API_PORT: u16 = 6443;
const ETCD_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;

fn ports(serves: Serves) -> &'static [(u16, Component)] {
    match serves {
        Serves::Nothing => &[],
        Serves::KubeApiserver => &[(API_PORT, Component::Apiserver)],
        Serves::Etcd => &[(ETCD_PORT, Component::EtcdServer), (ETCD_PEER_PORT, Component::EtcdPeer)],
    }
}

fn address(pod: &Pod, port: u16) -> Option<SocketAddr> {
    let ip: IpAddr = pod.ip.as_deref()?.parse().ok()?;
    (!pod.deleting).then(|| SocketAddr::new(ip, port))
}

async fn etcd_answers(address: SocketAddr, name: &str, secrets: &MeshSecrets) -> bool {
    let Some(etcd) = &secrets[SecretRole::EtcdCerts as usize] else { return false };
    let [Some(ca), Some(certificate), Some(key)] =
        ["ca.crt", "healthcheck-client.crt", "healthcheck-client.key"].map(|entry| etcd.material.get(entry))
    else {
        return false;
    };
    let answer =
        probe::request(address, name, &Credentials { ca, certificate, key }, (Method::GET, "/health", None)).await;
    answer.is_ok_and(|(status, body)| {
        let health: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        status == StatusCode::OK && (health["health"] == "true" || health["health"] == true)
    })
}

/// Logs in as the admin kubeconfig says, but at this address; creates an object and deletes it.
async fn log_in(address: SocketAddr, secrets: &MeshSecrets) -> Result<(), ProbeError> {
    let unusable = |message: String| ProbeError { message, refused: false };
    let secret = secrets[SecretRole::AdminKubeconfig as usize]
        .as_ref()
        .ok_or_else(|| unusable("the admin kubeconfig is missing".to_owned()))?;
    let admin = secret.material.entries().find_map(|(_, bytes)| AdminKubeconfig::read(bytes).ok());
    let admin = admin.ok_or_else(|| unusable("the admin kubeconfig cannot be read".to_owned()))?;
    let name = admin.tls_server_name.as_deref().unwrap_or_else(|| admin.host_and_port().0);
    let credentials = Credentials { ca: &admin.ca, certificate: &admin.certificate, key: &admin.key };
    let one = format!("{CANARIES}/{CANARY}");
    let canary = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": CANARY } }).to_string();
    let (created, _) = probe::request(address, name, &credentials, (Method::POST, CANARIES, Some(canary))).await?;
    // One that is there already was left by a proof that was interrupted.
    expect("creating a canary object", created, &[StatusCode::CREATED, StatusCode::OK, StatusCode::CONFLICT])?;
    let (deleted, _) = probe::request(address, name, &credentials, (Method::DELETE, &one, None)).await?;
    expect("deleting the canary object", deleted, &[StatusCode::OK, StatusCode::ACCEPTED, StatusCode::NOT_FOUND])
}

fn expect(what: &str, status: StatusCode, fine: &[StatusCode]) -> Result<(), ProbeError> {
    if fine.contains(&status) {
        return Ok(());
    }
    // The Subject is kept: what it may not do now, it might not do before.
    let refused = status == StatusCode::UNAUTHORIZED;
    Err(ProbeError { message: format!("{what}: the hosted API answered {status}"), refused })
}
