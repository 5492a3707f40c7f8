//! The proof: what every endpoint serves, and whether the hosted API can be used with the stored credentials.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Method, StatusCode};

use crate::cert::Certificate;
use crate::controller::login::not_logged_in;
use crate::controller::reach::{Way, abreast};
use crate::material::MeshSecrets;
use crate::mesh::{Component, HostedMesh, SecretRole};
use crate::native::Obstacle;
use crate::probe::{self, Credentials, Line, ProbeError, Session};
use crate::renewal::observed::Unproven;
use crate::rollout::{Health, Listener, Members, Pod, Serves, Workload};
use crate::time::UnixTime;

/// Endpoints of a mesh that are asked at the same time.
pub(super) const ABREAST: usize = 8;
/// Longer than etcd's members take to elect a leader, and how often they are asked again meanwhile.
const ELECTION: Duration = Duration::from_secs(6);
const ASKED_AGAIN: u32 = 2;
/// An alarm is about what is stored, not about the quorum. Older members ignore this.
const HEALTH: &str = "/health?exclude=NOSPACE";
/// What can be shown to etcd, in this order.
const ETCD_CLIENTS: [(SecretRole, &str); 2] =
    [(SecretRole::EtcdCerts, "healthcheck-client"), (SecretRole::KubeCerts, "apiserver-etcd-client")];

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

    pub(super) async fn open(&self, way: &Way, namespace: &str) -> Result<Line, ProbeError> {
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
    Some(unreachable(&message))
}

fn unreachable(why: &str) -> Obstacle {
    Obstacle { reason: "Unreachable", message: format!("nothing could be proven: {why}") }
}

/// Which listeners of Ready pods none can be reached by their addresses, so that nothing could be proven of them.
pub(super) async fn out_of_reach(way: &Way, namespace: &str, tiers: &[Vec<Workload>]) -> Option<Obstacle> {
    if !matches!(way, Way::Direct) {
        return None;
    }
    let spots = spots(tiers).into_iter().filter(|spot| is_there(&spot.pod) && spot.pod.ready);
    let tried = spots.map(|spot| {
        async move {
            let failed = spot.open(way, namespace).await.err();
            ((spot.server, spot.listener.usual_port()), failed)
        }
        .boxed()
    });
    let mut reached: BTreeMap<_, Result<(), String>> = BTreeMap::new();
    for (listener, failed) in abreast(ABREAST, tried.collect()).await {
        match failed {
            Some(error) => drop(reached.entry(listener).or_insert(Err(error.message))),
            None => drop(reached.insert(listener, Ok(()))),
        }
    }
    let failed: Vec<String> = reached.into_values().filter_map(Result::err).collect();
    let remedy = "let meshcert through to the pods (NetworkPolicy; the targetPort of the Service), or set reach: portForward, or insist with spec.force";
    (!failed.is_empty()).then(|| unreachable(&format!("{}; {remedy}", failed.join("; "))))
}

/// What is not proven yet; for what the former credentials are there, see [`not_logged_in`].
pub(super) async fn unproven(
    way: &Way,
    mesh: &HostedMesh,
    secrets: &MeshSecrets,
    former: Option<&MeshSecrets>,
    tiers: &[Vec<Workload>],
) -> Vec<Unproven> {
    let namespace = &*mesh.key.namespace;
    let asked = spots(tiers).into_iter().map(|spot| objection(way, mesh, spot).boxed());
    let shown = abreast(ABREAST, asked.collect()).await;
    let mut unproven: Vec<Unproven> = shown.into_iter().flatten().collect();
    unproven.extend(not_logged_in(way, namespace, secrets, former, tiers).await);
    unproven
}

async fn objection(way: &Way, mesh: &HostedMesh, spot: Spot) -> Option<Unproven> {
    match spot.served(way, &mesh.key.namespace).await {
        // Without credentials none can be refused.
        Err(error) => Some(Unproven { message: error.message, refusal: None }),
        Ok(served) if spot.stored(mesh).is_some_and(|stored| stored.fingerprint != served.fingerprint) => {
            let message = format!(
                "{} serves another certificate than the stored one, which ends at {}",
                spot.name(),
                served.not_after
            );
            Some(Unproven { message, refusal: None })
        }
        Ok(_) => None,
    }
}

/// Asks etcd's members how they are; those with this digest are new, and the former certificates end at `former_end`.
pub(super) async fn members(
    way: &Way,
    mesh: &HostedMesh,
    secrets: &MeshSecrets,
    tiers: &mut [Vec<Workload>],
    (digest, former_end): (&str, Option<UnixTime>),
    now: UnixTime,
) -> Members {
    let members = listening(tiers, Serves::Etcd, Listener::EtcdClient);
    // One alone goes without asking.
    if members.len() < 2 {
        return Members::Healthy;
    }
    let ended = former_end.is_some_and(|end| end <= now);
    let mut asked_again = 0;
    loop {
        let asked = members.iter().map(|member| answer(way, mesh, secrets, member, now).boxed()).collect();
        let answers = abreast(ABREAST, asked).await;
        for (member, answer) in members.iter().zip(&answers) {
            let mut pods = tiers.iter_mut().flatten().flat_map(|workload| &mut workload.pods);
            if let Some(pod) = pods.find(|pod| pod.uid == member.pod.uid) {
                pod.health = answer.health(pod.ready);
                pod.problem = answer.why().filter(|_| pod.ready).map(str::to_owned).or(member.pod.problem.clone());
            }
        }
        let pods: Vec<&Pod> = tiers
            .iter()
            .flatten()
            .filter(|workload| workload.target.serves == Serves::Etcd)
            .flat_map(|workload| &workload.pods)
            .collect();
        let verdict = Members::of(&pods, digest, ended);
        // While enough of them elect a leader nobody works, and nothing is lost.
        let electing = answers.iter().filter(|answer| matches!(answer, Answer::NoLeader)).count();
        if verdict != Members::Lost || electing <= members.len() / 2 || asked_again == ASKED_AGAIN {
            return verdict;
        }
        asked_again += 1;
        tokio::time::sleep(ELECTION / ASKED_AGAIN).await;
    }
}

/// What is known after a member was asked how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// There is a quorum.
    Works,
    /// There is no leader.
    NoLeader,
    /// Something else is wrong with it, in its own words.
    Fails(String),
    /// It could not say how it is, and shows a certificate that has ended.
    Ended,
    /// It could not be asked; why.
    Unknown(String),
}

impl Answer {
    /// What etcd's `/health` says; nothing where that is no such answer.
    fn read(status: StatusCode, body: &[u8]) -> Option<Self> {
        let said: serde_json::Value = serde_json::from_slice(body).ok()?;
        let healthy = said["health"].as_bool().or_else(|| said["health"].as_str()?.parse().ok())?;
        Some(match said["reason"].as_str().unwrap_or_default() {
            _ if healthy && status == StatusCode::OK => Self::Works,
            reason if reason.starts_with("ALARM") => Self::Works,
            "RAFT NO LEADER" => Self::NoLeader,
            "" => Self::Fails("says that it is not healthy".to_owned()),
            reason => Self::Fails(reason.to_owned()),
        })
    }

    /// What it says of a pod. Of one that could not be asked Kubernetes alone tells something.
    fn health(&self, ready: bool) -> Health {
        match self {
            Self::Works => Health::Works,
            Self::NoLeader | Self::Ended => Health::Alone,
            Self::Unknown(_) if ready => Health::Unknown,
            Self::Fails(_) | Self::Unknown(_) => Health::Fails,
        }
    }

    /// What is wrong, in words.
    fn why(&self) -> Option<&str> {
        match self {
            Self::Works => None,
            Self::NoLeader => Some("has no leader"),
            Self::Ended => Some("shows a certificate that has ended"),
            Self::Fails(why) | Self::Unknown(why) => Some(why),
        }
    }
}

async fn answer(way: &Way, mesh: &HostedMesh, secrets: &MeshSecrets, member: &Spot, now: UnixTime) -> Answer {
    let namespace = &*mesh.key.namespace;
    let asked = async {
        let line = member.open(way, namespace).await?;
        etcd_answers(line, &server_name(mesh, member), secrets).await
    };
    let error = match asked.await {
        Ok(answer) => return answer,
        Err(error) => error,
    };
    // That a certificate has ended is seen without any right to ask. Among each other members show the one for peers, which some networks hide.
    let peer = Spot { listener: Listener::EtcdPeer, ..member.clone() };
    let (peer, client) = futures_util::join!(peer.served(way, namespace), member.served(way, namespace));
    match peer.or(client) {
        Ok(shown) if shown.not_after <= now => Answer::Ended,
        _ => Answer::Unknown(error.message),
    }
}

/// A name that etcd's certificate holds: which one does not matter here.
fn server_name(mesh: &HostedMesh, member: &Spot) -> String {
    let server = mesh.certificates.iter().find(|found| found.component == Component::EtcdServer);
    let names = server.map(|found| found.certificate.details()).unwrap_or_default();
    let name = names.dns_names.into_iter().chain(names.ip_addresses).next();
    // No server is called `*`, but any label stands for it.
    name.map_or_else(|| member.server.clone(), |name| name.replacen('*', "any", 1))
}

pub(super) fn listening(tiers: &[Vec<Workload>], serves: Serves, listener: Listener) -> Vec<Spot> {
    let workloads = tiers.iter().flatten().filter(|workload| workload.target.serves == serves);
    workloads.flat_map(|workload| workload.pods.iter().map(move |pod| Spot::new(workload, pod, listener))).collect()
}

pub(super) fn is_there(pod: &Pod) -> bool {
    pod.ip.is_some() && !pod.deleting
}

async fn etcd_answers(line: Line, name: &str, secrets: &MeshSecrets) -> Result<Answer, ProbeError> {
    let entry = |role: SecretRole, entry: &str| secrets[role as usize].as_ref()?.material.get(entry);
    let pair = |(role, name): (SecretRole, &str)| {
        Some((entry(role, &format!("{name}.crt"))?, entry(role, &format!("{name}.key"))?))
    };
    let ca = entry(SecretRole::EtcdCerts, "ca.crt").ok_or_else(|| ProbeError::of_endpoint("etcd's CA is missing"))?;
    let (certificate, key) = ETCD_CLIENTS
        .into_iter()
        .find_map(pair)
        .ok_or_else(|| ProbeError::of_endpoint("there is no client certificate for etcd"))?;
    let mut session = Session::open(line, name, &Credentials { ca, certificate, key }).await?;
    let (status, body) = session.send(Method::GET, HEALTH, None).await?;
    Answer::read(status, &body).ok_or_else(|| ProbeError::of_endpoint(format!("/health answered {status}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_member_that_says_so_has_no_leader() {
        let read = |status, body: &str| Answer::read(status, body.as_bytes());
        let (fine, failing) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
        for (status, body, answer) in [
            (fine, r#"{"health":"true","reason":""}"#, Some(Answer::Works)),
            (fine, r#"{"health":true}"#, Some(Answer::Works)),
            (failing, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n", Some(Answer::NoLeader)),
            // The quorum is there, the disk is full.
            (failing, r#"{"health":"false","reason":"ALARM NOSPACE"}"#, Some(Answer::Works)),
            (
                failing,
                r#"{"health":"false","reason":"RANGE ERROR:etcdserver: request timed out"}"#,
                Some(Answer::Fails("RANGE ERROR:etcdserver: request timed out".to_owned())),
            ),
            // etcd 3.4 gives no reason.
            (failing, r#"{"health":"false"}"#, Some(Answer::Fails("says that it is not healthy".to_owned()))),
            (StatusCode::NOT_FOUND, "404 page not found", None),
            (fine, r#"{"status":"ok"}"#, None),
        ] {
            assert_eq!(read(status, body), answer, "{body}");
        }
    }

    #[tokio::test]
    async fn what_meshcert_lacks_is_no_answer_of_a_member() {
        let (stream, _other) = tokio::io::duplex(64);
        let line = Line { stream: Box::new(stream), endpoint: "m-etcd-0".to_owned() };
        let error = etcd_answers(line, "m-etcd", &MeshSecrets::default()).await.unwrap_err();
        assert_eq!(error.message, "etcd's CA is missing");
        let unknown = Answer::Unknown(error.message);
        assert_eq!(
            (unknown.health(true), unknown.health(false)),
            (Health::Unknown, Health::Fails),
            "as Kubernetes says"
        );
    }
}
