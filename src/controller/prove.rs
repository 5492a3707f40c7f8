//! The proof: what every endpoint serves, and whether the hosted API can be used with the stored credentials.

use std::time::Duration;

use futures_util::FutureExt;
use http::{Method, StatusCode};
use serde_json::json;

use crate::admin::AdminKubeconfig;
use crate::cert::Certificate;
use crate::cert::chain::details;
use crate::controller::reach::{Way, abreast};
use crate::material::MeshSecrets;
use crate::mesh::{Component, HostedMesh, SecretRole};
use crate::native::Obstacle;
use crate::probe::{self, Credentials, Fault, Line, ProbeError, Session};
use crate::renewal::observed::Unproven;
use crate::rollout::{Health, Listener, Members, Pod, Serves, Workload};

/// Endpoints of a mesh that are asked at the same time.
pub(super) const ABREAST: usize = 8;
/// Longer than etcd's members take to elect a leader.
const ELECTION: Duration = Duration::from_secs(3);
/// What is created and deleted in the hosted API to prove that it can be written.
const CANARY: &str = "meshcert-canary";
const CANARIES: &str = "/api/v1/namespaces/default/configmaps";

/// A port of a pod that shows a certificate.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// The pod.
    pub(super) pod: Pod,
    /// What listens there.
    pub(super) listener: Listener,
    /// A name of the server; which one does not matter where the certificate is only looked at.
    server: String,
}

impl Spot {
    fn new(workload: &Workload, pod: &Pod, listener: Listener) -> Self {
        Self { pod: pod.clone(), listener, server: workload.name.clone() }
    }

    pub(super) fn port(&self) -> u16 {
        self.pod.port(self.listener)
    }

    /// `POD:PORT`.
    pub(super) fn name(&self) -> String {
        format!("{}:{}", self.pod.name, self.port())
    }

    async fn open(&self, way: &Way, namespace: &str) -> Result<Line, ProbeError> {
        way.open(namespace, &self.pod, self.port()).await
    }

    /// What it shows.
    pub(super) async fn served(&self, way: &Way, namespace: &str) -> Result<Certificate, ProbeError> {
        probe::served(self.open(way, namespace).await?, &self.server).await
    }

    /// The certificate that it should show.
    pub(super) fn stored<'a>(&self, mesh: &'a HostedMesh) -> Option<&'a Certificate> {
        let component = match self.listener {
            Listener::KubeApiserver => Component::Apiserver,
            Listener::EtcdClient => Component::EtcdServer,
            Listener::EtcdPeer => Component::EtcdPeer,
        };
        mesh.certificates.iter().find(|found| found.component == component).map(|found| &found.certificate)
    }
}

/// Every endpoint of a mesh's workloads.
pub(super) fn spots(tiers: &[Vec<Workload>]) -> Vec<Spot> {
    let mut found = Vec::new();
    for workload in tiers.iter().flatten() {
        for listener in workload.target.serves.listeners() {
            found.extend(workload.pods.iter().map(|pod| Spot::new(workload, pod, *listener)));
        }
    }
    found
}

/// What would keep a renewal from being proven, whatever became of it.
pub(super) async fn bar(way: &Way, namespace: &str, tiers: &[Vec<Workload>]) -> Option<Obstacle> {
    let spot = spots(tiers).into_iter().find(|spot| is_there(&spot.pod))?;
    let message = way.bar(namespace, &spot.pod, spot.port()).await?;
    Some(Obstacle { reason: "Unreachable", message: format!("nothing could be proven: {message}") })
}

/// What is not proven yet.
pub(super) async fn unproven(
    way: &Way,
    mesh: &HostedMesh,
    secrets: &MeshSecrets,
    tiers: &[Vec<Workload>],
) -> Vec<Unproven> {
    let namespace = &*mesh.key.namespace;
    let asked = spots(tiers).into_iter().map(|spot| objection(way, mesh, spot).boxed());
    let shown = abreast(ABREAST, asked.collect()).await;
    let mut unproven: Vec<Unproven> = shown.into_iter().flatten().collect();
    let apis = listening(tiers, Serves::KubeApiserver, Listener::KubeApiserver);
    if apis.is_empty() {
        let message = "no pod of the hosted API is there to be asked".to_owned();
        unproven.push(Unproven { message, refused: false });
    }
    let logins = logins(way, namespace, secrets, &apis).await.into_iter();
    unproven.extend(logins.filter_map(Result::err).map(|error| unproven_by("login: ", error)));
    unproven
}

/// Whether a hosted API can be used with the admin kubeconfig of these Secrets.
pub(super) async fn is_usable(way: &Way, namespace: &str, secrets: &MeshSecrets, tiers: &[Vec<Workload>]) -> bool {
    let apis = listening(tiers, Serves::KubeApiserver, Listener::KubeApiserver);
    logins(way, namespace, secrets, &apis).await.iter().any(Result::is_ok)
}

/// Logs in to each hosted API that is there: one that is ending, or has no address yet, is none.
async fn logins(way: &Way, namespace: &str, secrets: &MeshSecrets, apis: &[Spot]) -> Vec<Result<(), ProbeError>> {
    let apis = apis.iter().filter(|api| is_there(&api.pod));
    let logins = apis.map(|api| async { log_in(api.open(way, namespace).await?, secrets).await }.boxed()).collect();
    abreast(ABREAST, logins).await
}

fn unproven_by(what: &str, error: ProbeError) -> Unproven {
    Unproven { message: format!("{what}{}", error.message), refused: error.fault == Fault::Certificate }
}

async fn objection(way: &Way, mesh: &HostedMesh, spot: Spot) -> Option<Unproven> {
    match spot.served(way, &mesh.key.namespace).await {
        Err(error) => Some(unproven_by("", error)),
        Ok(served) if spot.stored(mesh).is_some_and(|stored| stored.fingerprint != served.fingerprint) => {
            let message = format!(
                "{} serves another certificate than the stored one, which ends at {}",
                spot.name(),
                served.not_after
            );
            Some(Unproven { message, refused: false })
        }
        Ok(_) => None,
    }
}

/// Asks etcd's members how they are; those with this digest are new.
pub(super) async fn members(
    way: &Way,
    mesh: &HostedMesh,
    secrets: &MeshSecrets,
    tiers: &mut [Vec<Workload>],
    digest: &str,
) -> Members {
    let members = listening(tiers, Serves::Etcd, Listener::EtcdClient);
    // One alone goes without asking.
    if members.len() < 2 {
        return Members::Healthy;
    }
    let ask = || async {
        let asked = members.iter().map(|member| health(way, mesh, secrets, member).boxed()).collect();
        let health = abreast(ABREAST, asked).await;
        let is_new = |member: &Spot| member.pod.digest.as_deref() == Some(digest);
        members.iter().map(is_new).zip(health).collect::<Vec<_>>()
    };
    let mut all = ask().await;
    // While they elect a leader nobody works, and nothing is lost.
    if judge(&all) == Members::Lost {
        tokio::time::sleep(ELECTION).await;
        all = ask().await;
    }
    for (member, (_, health)) in members.iter().zip(&all) {
        let mut pods = tiers.iter_mut().flatten().flat_map(|workload| &mut workload.pods);
        if let Some(pod) = pods.find(|pod| pod.uid == member.pod.uid) {
            pod.health = *health;
        }
    }
    judge(&all)
}

/// What follows from members, of which some are new.
fn judge(members: &[(bool, Health)]) -> Members {
    let any = |health| members.iter().any(|(_, known)| *known == health);
    let new = |health| members.contains(&(true, health));
    match (new(Health::Fails), new(Health::Unknown)) {
        // One that cannot be asked may well be the one that keeps the quorum.
        _ if any(Health::Fails) && !any(Health::Works) && !any(Health::Unknown) => Members::Lost,
        (false, false) => Members::Healthy,
        (true, _) if any(Health::Works) => Members::Unhealthy,
        _ => Members::Unknown,
    }
}

async fn health(way: &Way, mesh: &HostedMesh, secrets: &MeshSecrets, member: &Spot) -> Health {
    let asked = async {
        let line = member.open(way, &mesh.key.namespace).await?;
        etcd_answers(line, &server_name(mesh, member), secrets).await
    };
    match asked.await {
        Ok(true) => Health::Works,
        Err(error) if error.fault == Fault::Way => Health::Unknown,
        Ok(false) | Err(_) => Health::Fails,
    }
}

/// A name that etcd's certificate holds: which one does not matter here.
fn server_name(mesh: &HostedMesh, member: &Spot) -> String {
    let server = mesh.certificates.iter().find(|found| found.component == Component::EtcdServer);
    let names = server.and_then(|found| found.certificate.der.as_deref()).map(details).unwrap_or_default();
    names.dns_names.into_iter().chain(names.ip_addresses).next().unwrap_or_else(|| member.server.clone())
}

fn listening(tiers: &[Vec<Workload>], serves: Serves, listener: Listener) -> Vec<Spot> {
    let workloads = tiers.iter().flatten().filter(|workload| workload.target.serves == serves);
    workloads.flat_map(|workload| workload.pods.iter().map(move |pod| Spot::new(workload, pod, listener))).collect()
}

fn is_there(pod: &Pod) -> bool {
    pod.ip.is_some() && !pod.deleting
}

async fn etcd_answers(line: Line, name: &str, secrets: &MeshSecrets) -> Result<bool, ProbeError> {
    let Some(etcd) = &secrets[SecretRole::EtcdCerts as usize] else { return Ok(false) };
    let [Some(ca), Some(certificate), Some(key)] =
        ["ca.crt", "healthcheck-client.crt", "healthcheck-client.key"].map(|entry| etcd.material.get(entry))
    else {
        return Ok(false);
    };
    let mut session = Session::open(line, name, &Credentials { ca, certificate, key }).await?;
    let (status, body) = session.send(Method::GET, "/health", None).await?;
    let health: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(status == StatusCode::OK && (health["health"] == "true" || health["health"] == true))
}

/// Logs in as the admin kubeconfig says, but at this end of a line; creates an object and deletes it.
async fn log_in(line: Line, secrets: &MeshSecrets) -> Result<(), ProbeError> {
    let secret = secrets[SecretRole::AdminKubeconfig as usize]
        .as_ref()
        .ok_or_else(|| ProbeError::of_endpoint("the admin kubeconfig is missing"))?;
    let admin = secret.material.entries().find_map(|(_, bytes)| AdminKubeconfig::read(bytes).ok());
    let admin = admin.ok_or_else(|| ProbeError::of_endpoint("the admin kubeconfig cannot be read"))?;
    let name = admin.tls_server_name.as_deref().unwrap_or_else(|| admin.host_and_port().0);
    let credentials = Credentials { ca: &admin.ca, certificate: &admin.certificate, key: &admin.key };
    let mut session = Session::open(line, name, &credentials).await?;
    let one = format!("{CANARIES}/{CANARY}");
    let canary = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": CANARY } }).to_string();
    let (created, _) = session.send(Method::POST, CANARIES, Some(canary)).await?;
    // One that is there already was left by a proof that was interrupted.
    expect("creating a canary object", created, &[StatusCode::CREATED, StatusCode::OK, StatusCode::CONFLICT])?;
    let (deleted, _) = session.send(Method::DELETE, &one, None).await?;
    expect("deleting the canary object", deleted, &[StatusCode::OK, StatusCode::ACCEPTED, StatusCode::NOT_FOUND])
}

fn expect(what: &str, status: StatusCode, fine: &[StatusCode]) -> Result<(), ProbeError> {
    if fine.contains(&status) {
        return Ok(());
    }
    // The Subject is kept: what it may not do now, it might not do before.
    let fault = if status == StatusCode::UNAUTHORIZED { Fault::Certificate } else { Fault::Endpoint };
    Err(ProbeError { message: format!("{what}: the hosted API answered {status}"), fault })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_lost_only_where_every_member_was_asked() {
        use Health::{Fails, Unknown, Works};
        for (members, verdict) in [
            (vec![], Members::Healthy),
            (vec![(false, Fails), (false, Unknown)], Members::Healthy),
            (vec![(false, Fails), (false, Fails)], Members::Lost),
            (vec![(true, Works), (false, Fails)], Members::Healthy),
            (vec![(true, Fails), (false, Works)], Members::Unhealthy),
            (vec![(true, Fails), (false, Fails)], Members::Lost),
            (vec![(true, Fails), (false, Unknown)], Members::Unknown),
            (vec![(true, Unknown), (false, Works)], Members::Unknown),
            (vec![(true, Unknown), (false, Unknown)], Members::Unknown),
        ] {
            assert_eq!(judge(&members), verdict, "{members:?}");
        }
    }
}
