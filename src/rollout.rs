//! Workloads that use a mesh's certificates, and how far the restart of one is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::UnixTime;

mod members;

pub use members::{Health, Members};

/// Annotation of a pod template: the digest of the certificates for which it was restarted.
pub const DIGEST_ANNOTATION: &str = "meshcert.dev/certificates-digest";
/// The annotation that `kubectl rollout restart` sets, which people look for.
pub const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// Annotation of a StatefulSet: the partition that it had before the restart stepped it.
pub const PARTITION_BEFORE: &str = "meshcert.dev/partition-before";

/// A workload that is restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// Name template; `{mesh}` stands for the mesh's id.
    pub name: String,
    /// What it serves.
    #[serde(default)]
    pub serves: Serves,
    /// Serves all meshes of the cluster: restarted last in its tier, once for all certificates that are waiting.
    #[serde(default)]
    pub shared: bool,
    /// May be absent.
    #[serde(default)]
    pub optional: bool,
}

/// What the pods of a workload serve, for the proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Serves {
    /// Nothing that shows the mesh's certificates.
    #[default]
    Nothing,
    /// The hosted API.
    KubeApiserver,
    /// etcd.
    Etcd,
}

impl Serves {
    /// Whether its pods are members that need a majority of themselves, so that they are restarted one by one.
    pub fn is_clustered(self) -> bool {
        self == Self::Etcd
    }

    /// What listens in its pods.
    pub fn listeners(self) -> &'static [Listener] {
        match self {
            Self::Nothing => &[],
            Self::KubeApiserver => &[Listener::KubeApiserver],
            Self::Etcd => &[Listener::EtcdClient, Listener::EtcdPeer],
        }
    }
}

/// What listens on a port of a pod and shows a certificate there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The hosted API.
    KubeApiserver,
    /// etcd, for its clients.
    EtcdClient,
    /// etcd, for its other members.
    EtcdPeer,
}

impl Listener {
    /// Its port where the cluster says nothing else.
    pub fn usual_port(self) -> u16 {
        match self {
            Self::KubeApiserver => 6443,
            Self::EtcdClient => 2379,
            Self::EtcdPeer => 2380,
        }
    }
}

/// How the pods of a cluster are reached for the proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Reach {
    /// Directly with the service account of a pod of the cluster, else by port-forward.
    #[default]
    Auto,
    /// By the pods' addresses.
    Direct,
    /// Through the cluster's API server, which needs the right to `pods/portforward`.
    PortForward,
}

/// The tiers that are restarted one after the other.
pub fn default_tiers() -> Vec<Vec<Target>> {
    let target = |name: &str, serves, shared| Target { name: name.to_owned(), serves, shared, optional: shared };
    vec![
        vec![target("{mesh}-etcd", Serves::Etcd, false)],
        vec![target("{mesh}-hosted-apiserver", Serves::KubeApiserver, false)],
        vec![target("istiod-{mesh}-hosted", Serves::Nothing, false)],
        vec![target("mspider-mcpc-ckube-remote", Serves::Nothing, true)],
    ]
}

/// Kinds of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` DaemonSet.
    DaemonSet,
}

impl Kind {
    /// All, in the order in which a name is looked for.
    pub const ALL: [Self; 3] = [Self::StatefulSet, Self::Deployment, Self::DaemonSet];

    /// The kind's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StatefulSet => "StatefulSet",
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
        }
    }

    /// The resource's plural.
    pub fn plural(self) -> &'static str {
        match self {
            Self::StatefulSet => "statefulsets",
            Self::Deployment => "deployments",
            Self::DaemonSet => "daemonsets",
        }
    }
}

/// A workload as it was seen, with its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What it is configured as.
    pub target: Target,
    /// Kind.
    pub kind: Kind,
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// Whether the status is about the present spec.
    pub observed: bool,
    /// Replicas that are wanted.
    pub wanted: u32,
    /// Replicas of the newest template.
    pub updated: u32,
    /// Replicas that are available.
    pub available: u32,
    /// Replicas there are.
    pub replicas: u32,
    /// [`DIGEST_ANNOTATION`] of its pod template.
    pub digest: Option<String>,
    /// [`RESTARTED_AT`] of its pod template.
    pub restarted_at: Option<UnixTime>,
    /// `rollingUpdate.partition` of a StatefulSet.
    pub partition: u32,
    /// [`PARTITION_BEFORE`].
    pub partition_before: Option<u32>,
    /// Replaces no pod by itself (`OnDelete`).
    pub on_delete: bool,
    /// A Deployment whose rollout somebody has paused.
    pub paused: bool,
    /// A StatefulSet whose newest revision is not that of all its pods yet.
    pub revised: bool,
    /// Its pods.
    pub pods: Vec<Pod>,
}

/// A pod of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Address, once it has one.
    pub ip: Option<String>,
    /// Where it listens, as its Service and its containers say.
    pub ports: Vec<(Listener, u16)>,
    /// When it was created, by the API server's clock.
    pub created: UnixTime,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// [`DIGEST_ANNOTATION`].
    pub digest: Option<String>,
    /// What it says of itself as a member of a cluster.
    pub health: Health,
    /// Why it does not start, does not work, or cannot be asked, in words.
    pub problem: Option<String>,
}

/// How far the restart of a workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its template does not ask for these certificates yet.
    NotBegun,
    /// It goes on; in words, what is waited for.
    Rolling(String),
    /// A StatefulSet's next member may go: the partition to set, or to restore.
    Partition(u32),
    /// A pod that its controller does not replace: its name and uid.
    DeletePod(String, String),
    /// Every pod is new and ready.
    Done,
}

impl Pod {
    /// The port on which this listens.
    pub fn port(&self, listener: Listener) -> u16 {
        let said = self.ports.iter().find(|(known, _)| *known == listener);
        said.map_or(listener.usual_port(), |(_, port)| *port)
    }

    fn ordinal(&self) -> u32 {
        self.name.rsplit('-').next().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

impl Workload {
    /// Whether its members are restarted one by one, by a partition of ours.
    pub fn is_stepped(&self) -> bool {
        self.kind == Kind::StatefulSet && self.target.serves.is_clustered() && self.wanted > 1 && !self.on_delete
    }

    /// How somebody holds its rollout back, in words; `None` where nobody does. What we step ourselves holds nothing.
    pub fn held_back(&self) -> Option<String> {
        let Self { kind, name, partition, .. } = self;
        let (kind, is_theirs) = (kind.as_str(), self.partition_before.is_none() && !self.on_delete);
        if self.paused {
            return Some(format!("{kind} {name} is paused, so that no pod would be replaced; resume it first"));
        }
        if !is_theirs || *partition == 0 || self.wanted == 0 {
            return None;
        }
        let what = if self.revised {
            "keeps a newer revision from its pods, which a restart would let out"
        } else if !self.is_stepped() {
            "would keep pods from being replaced"
        } else {
            return None;
        };
        Some(format!(
            "the partition {partition} of {kind} {name} {what}; finish or undo that rollout, and set it to 0, first"
        ))
    }

    /// Whether a pod was started for these certificates: by its annotation, or because another controller rewrites the template and it is newer than they are.
    fn is_new(&self, pod: &Pod, digest: &str, since: UnixTime) -> bool {
        pod.digest.as_deref() == Some(digest) || (self.digest.as_deref() != Some(digest) && pod.created > since)
    }

    /// Whether every pod was started for the certificates.
    pub fn is_all_new(&self, digest: &str, since: UnixTime) -> bool {
        self.pods.iter().all(|pod| self.is_new(pod, digest, since))
    }

    /// How far it is on its way to pods that were started for the certificates with this digest, in force since `since`.
    /// `members` says how those of a cluster are.
    pub fn progress(&self, digest: &str, since: UnixTime, members: Members) -> Progress {
        let is_new = |pod: &Pod| self.is_new(pod, digest, since);
        // Whoever is newer than the commit needs no restart, ready or not; where no pod is there, all that come are.
        let all_new = self.is_all_new(digest, since);
        // What is shared somebody else may be restarting now: once is enough.
        let is_restarted = self.target.shared && !self.is_settled() && self.restarted_at.is_some_and(|at| at > since);
        let by_another = all_new || is_restarted;
        if self.digest.as_deref() != Some(digest) && !by_another {
            return Progress::NotBegun;
        }
        if self.wanted == 0 && self.pods.is_empty() {
            // Whoever comes later is not to meet a partition that was meant for others.
            return self.partition_before.map_or(Progress::Done, Progress::Partition);
        }
        if !self.observed {
            return Progress::Rolling("its controller has not seen the change yet".to_owned());
        }
        // Nobody else goes while a member is on its way out.
        if let Some(leaving) = self.pods.iter().find(|pod| pod.deleting) {
            return Progress::Rolling(format!("{} is ending", leaving.name));
        }
        let stale: Vec<&Pod> = self.pods.iter().filter(|pod| !is_new(pod) && !pod.deleting).collect();
        let fresh_ready = self.pods.iter().filter(|pod| is_new(pod)).all(|pod| pod.ready && !pod.deleting);
        // A controller does not replace a member that is down with the old certificates (OrderedReady), and it will not come up by waiting.
        if self.kind == Kind::StatefulSet {
            let is_down = |pod: &&&Pod| !pod.ready && (self.on_delete || self.partition <= pod.ordinal());
            let mut stays = None;
            for down in stale.iter().filter(is_down) {
                match self.needed(down, members) {
                    None => return Progress::DeletePod(down.name.clone(), down.uid.clone()),
                    Some(words) => stays = Some(words),
                }
            }
            if let Some(words) = stays {
                return Progress::Rolling(words);
            }
        }
        let missing = (self.pods.len() as u32) < self.wanted;
        let may_go = !missing
            && match members {
                Members::Healthy => fresh_ready,
                Members::Unhealthy | Members::Unknown => false,
                Members::Lost => true,
            };
        if let Some(before) = self.partition_before
            && may_go
        {
            match stale.iter().max_by_key(|pod| pod.ordinal()) {
                Some(next) if next.ordinal() < self.partition => {
                    let stays = self.needed(next, members).map(Progress::Rolling);
                    return stays.unwrap_or(Progress::Partition(next.ordinal()));
                }
                None if fresh_ready => return Progress::Partition(before),
                _ => {}
            }
        }
        if self.on_delete
            && may_go
            && let Some(next) = stale.iter().max_by_key(|pod| (!pod.works(), pod.ordinal()))
        {
            let stays = self.needed(next, members).map(Progress::Rolling);
            return stays.unwrap_or_else(|| Progress::DeletePod(next.name.clone(), next.uid.clone()));
        }
        if all_new && self.is_settled() && self.partition_before.is_none() {
            return Progress::Done;
        }
        let said = |ready: bool| {
            let mut said = self.pods.iter().filter(move |pod| pod.ready == ready);
            said.find_map(|pod| pod.problem.as_ref().map(|why| format!("{}: {why}", pod.name)))
        };
        let problem = said(false).or_else(|| self.held_back()).map(|why| format!("; {why}"));
        let unknown = (members == Members::Unknown).then(|| {
            let why = said(true).map(|why| format!(" ({why})")).unwrap_or_default();
            let silent = self.pods.iter().any(|pod| pod.health == Health::Unknown);
            let words =
                if silent { "its members' health cannot be asked from here" } else { "no member says that it works" };
            format!("; {words}{why}")
        });
        Progress::Rolling(format!(
            "{} of {} pods are new, {} available{}",
            self.pods.iter().filter(|pod| is_new(pod)).count(),
            self.wanted,
            self.available,
            problem.or(unknown).unwrap_or_default()
        ))
    }

    /// Why a member may not go, in words: without it etcd would have no quorum. `None` where it may: enough others work, or the quorum is lost already.
    fn needed(&self, next: &Pod, members: Members) -> Option<String> {
        if self.target.serves != Serves::Etcd {
            return None;
        }
        let quorum = self.wanted as usize / 2 + 1;
        let others = || self.pods.iter().filter(|pod| pod.uid != next.uid);
        let working = others().filter(|pod| pod.works()).count();
        // Of one or two none can be spared: what can be had is that the other one works.
        let enough = working >= quorum.min(self.wanted.saturating_sub(1) as usize);
        // Who says that it works says so of the quorum. Where nobody can be asked, readiness counts, as long as nobody is new and still starting.
        let works = self.pods.iter().any(|pod| pod.health == Health::Works);
        let counted = self.pods.iter().filter(|pod| pod.may_count()).count();
        let lost = members == Members::Lost || members == Members::Healthy && !works && counted < quorum;
        if enough || lost {
            return None;
        }
        let failing = others().find(|pod| !pod.works());
        let why = failing.map(|pod| format!("; {} {}", pod.name, pod.problem.as_deref().unwrap_or("does not work")));
        Some(format!(
            "{} stays, or the quorum is lost: {working} of the {} others work{}",
            next.name,
            self.wanted.saturating_sub(1),
            why.unwrap_or_default()
        ))
    }

    /// Whether it is a hosted API of which there is to be nothing, so that nothing could be proven.
    pub fn is_off(&self) -> bool {
        self.wanted == 0 && self.target.serves == Serves::KubeApiserver
    }

    /// What of it does not work, in words; `None` where all of it does.
    pub fn unready(&self) -> Option<String> {
        let Self { kind, name, available, wanted, .. } = self;
        if self.is_off() {
            return Some(format!("{} {name} is scaled to 0, so nothing could be proven", kind.as_str()));
        }
        let failing = self.pods.iter().find(|pod| !pod.ready && !pod.deleting);
        if self.available >= self.wanted && failing.is_none() {
            return None;
        }
        let why = failing.map(|pod| format!(", {} {}", pod.name, pod.problem.as_deref().unwrap_or("is not ready")));
        Some(format!("{} {name}: {available} of {wanted} pods work{}", kind.as_str(), why.unwrap_or_default()))
    }

    /// What remains of stepping its members one by one where that does not come to its end; empty where nothing does.
    pub fn stays_stepped(&self) -> String {
        let Self { name, partition, partition_before, .. } = self;
        partition_before.map_or_else(String::new, |before| {
            format!("; the partition of {name} stays at {partition} until a renewal restarts it, it was {before}")
        })
    }

    /// Whether all replicas are there, of the newest template and available, and no other pod is left.
    fn is_settled(&self) -> bool {
        let counted = self.replicas == self.wanted && self.available >= self.wanted;
        let updated = self.updated >= self.wanted || self.on_delete;
        self.observed
            && counted
            && updated
            && self.pods.len() as u32 == self.wanted
            && self.pods.iter().all(|pod| pod.ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE: UnixTime = UnixTime(1000);

    fn mk_pod(ordinal: u32, digest: Option<&str>, ready: bool) -> Pod {
        Pod {
            name: format!("m-etcd-{ordinal}"),
            uid: format!("u{ordinal}"),
            ip: None,
            ports: Vec::new(),
            created: UnixTime(500),
            ready,
            deleting: false,
            digest: digest.map(str::to_owned),
            health: Health::Unknown,
            problem: None,
        }
    }

    fn mk_workload(pods: Vec<Pod>) -> Workload {
        let wanted = pods.len() as u32;
        Workload {
            target: default_tiers()[0][0].clone(),
            kind: Kind::StatefulSet,
            name: "m-etcd".to_owned(),
            uid: "w".to_owned(),
            resource_version: "1".to_owned(),
            observed: true,
            wanted,
            updated: wanted,
            available: wanted,
            replicas: wanted,
            digest: Some("d".to_owned()),
            restarted_at: None,
            partition: 0,
            partition_before: None,
            on_delete: false,
            paused: false,
            revised: false,
            pods,
        }
    }

    #[test]
    fn a_partition_holds_back_what_is_not_stepped_and_what_is_newer() {
        let one = |partition, revised| Workload { partition, revised, ..mk_workload(vec![mk_pod(0, None, true)]) };
        let words = |workload: Workload| workload.held_back().unwrap_or_default();
        assert_eq!(words(one(0, true)), "", "an ordinary rollout");
        assert!(words(one(1, false)).contains("would keep pods from being replaced"));
        let three = |partition, revised| {
            let pods = (0..3).map(|ordinal| mk_pod(ordinal, None, true)).collect();
            Workload { partition, revised, ..mk_workload(pods) }
        };
        assert_eq!(words(three(3, false)), "", "we step it, and put it back");
        assert!(words(three(2, true)).contains("partition 2 of StatefulSet m-etcd keeps a newer revision"));
        assert_eq!(words(Workload { partition_before: Some(0), ..three(2, true) }), "", "our own stepping");
        assert!(words(Workload { paused: true, ..three(0, false) }).contains("is paused"));
    }

    #[test]
    fn it_is_done_when_every_pod_is_new_and_ready() {
        let done = mk_workload(vec![mk_pod(0, Some("d"), true)]);
        assert_eq!(done.progress("d", SINCE, Members::Healthy), Progress::Done);
        assert_eq!(done.progress("e", SINCE, Members::Healthy), Progress::NotBegun);
        for change in [
            |w: &mut Workload| w.observed = false,
            |w: &mut Workload| w.available = 0,
            |w: &mut Workload| w.updated = 0,
            |w: &mut Workload| w.pods[0].digest = None,
            |w: &mut Workload| w.pods[0].ready = false,
            |w: &mut Workload| w.pods.push(mk_pod(1, None, true)),
        ] {
            let mut workload = done.clone();
            change(&mut workload);
            assert!(matches!(workload.progress("d", SINCE, Members::Healthy), Progress::Rolling(_)), "{workload:?}");
        }
    }

    #[test]
    fn a_restart_by_somebody_else_after_the_commit_is_as_good() {
        let mut foreign = mk_workload(vec![mk_pod(0, None, true)]);
        foreign.digest = None;
        assert_eq!(foreign.progress("d", SINCE, Members::Healthy), Progress::NotBegun);
        foreign.pods[0].created = UnixTime(1001);
        assert_eq!(foreign.progress("d", SINCE, Members::Healthy), Progress::Done);
    }

    #[test]
    fn pods_that_are_newer_than_the_commit_are_awaited_whoever_started_them() {
        let mut rewritten = mk_workload(vec![mk_pod(0, None, false)]);
        (rewritten.digest, rewritten.available) = (None, 0);
        rewritten.pods[0].created = UnixTime(1001);
        let is_awaited = |workload: &Workload| {
            assert!(matches!(workload.progress("d", SINCE, Members::Healthy), Progress::Rolling(_)), "{workload:?}");
        };
        is_awaited(&rewritten);
        is_awaited(&Workload { pods: Vec::new(), ..rewritten.clone() });
        rewritten.pods.push(mk_pod(1, None, true));
        assert_eq!(rewritten.progress("d", SINCE, Members::Healthy), Progress::NotBegun, "only one of two was drained");
    }

    #[test]
    fn members_go_one_by_one_and_only_when_those_before_are_healthy() {
        let mut etcd = mk_workload((0..3).map(|n| mk_pod(n, None, true)).collect());
        (etcd.partition, etcd.partition_before) = (3, Some(0));
        assert_eq!(etcd.progress("d", SINCE, Members::Healthy), Progress::Partition(2));
        etcd.partition = 2;
        assert!(
            matches!(etcd.progress("d", SINCE, Members::Healthy), Progress::Rolling(_)),
            "the controller replaces the third"
        );
        etcd.pods[2] = mk_pod(2, Some("d"), false);
        assert!(matches!(etcd.progress("d", SINCE, Members::Healthy), Progress::Rolling(_)));
        etcd.pods[2].ready = true;
        assert!(matches!(etcd.progress("d", SINCE, Members::Unhealthy), Progress::Rolling(_)), "ready is not healthy");
        assert_eq!(etcd.progress("d", SINCE, Members::Healthy), Progress::Partition(1));
        etcd.pods = (0..3).map(|n| mk_pod(n, Some("d"), true)).collect();
        etcd.partition = 0;
        assert_eq!(
            etcd.progress("d", SINCE, Members::Healthy),
            Progress::Partition(0),
            "what it had before is restored"
        );
    }

    #[test]
    fn what_is_shared_and_on_its_way_for_another_renewal_is_not_begun_again() {
        let mut shared = mk_workload(vec![mk_pod(0, None, true)]);
        (shared.kind, shared.digest) = (Kind::Deployment, Some("another renewal's".to_owned()));
        (shared.target.shared, shared.restarted_at) = (true, Some(SINCE.plus(1)));
        let progress = |workload: &Workload| workload.progress("d", SINCE, Members::Healthy);
        assert_eq!(progress(&shared), Progress::NotBegun, "settled, with old pods: that restart was another one");
        shared.observed = false;
        assert!(matches!(progress(&shared), Progress::Rolling(_)), "the others' restart is awaited");
        assert_eq!(progress(&Workload { restarted_at: Some(SINCE), ..shared.clone() }), Progress::NotBegun);
        shared.target.shared = false;
        assert_eq!(progress(&shared), Progress::NotBegun, "what is the mesh's own has no other renewal");
    }

    #[test]
    fn a_member_that_is_down_with_old_certificates_is_not_waited_for() {
        let mut etcd = mk_workload((0..3).map(|n| mk_pod(n, None, false)).collect());
        (etcd.partition, etcd.partition_before) = (0, Some(0));
        for members in [Members::Lost, Members::Healthy] {
            let gone = Progress::DeletePod("m-etcd-0".to_owned(), "u0".to_owned());
            assert_eq!(etcd.progress("d", SINCE, members), gone, "{members:?}");
        }
    }

    #[test]
    fn nobody_goes_without_whom_the_quorum_would_be_lost() {
        let mk_etcd = |renewed: &[u32], down: u32| {
            let pod = |n| mk_pod(n, renewed.contains(&n).then_some("d"), n != down);
            let mut etcd = mk_workload((0..3).map(pod).collect());
            (etcd.partition, etcd.partition_before) = (3 - renewed.len() as u32, Some(0));
            etcd
        };
        let rolling = |etcd: &Workload, members, words: &str| match etcd.progress("d", SINCE, members) {
            Progress::Rolling(said) => assert!(said.contains(words), "{said}"),
            other => panic!("{other:?}"),
        };
        rolling(&mk_etcd(&[], 0), Members::Healthy, "m-etcd-2 stays, or the quorum is lost: 1 of the 2 others work");
        rolling(&mk_etcd(&[2], 0), Members::Healthy, "m-etcd-1 stays, or the quorum is lost");
        let one_down = mk_etcd(&[2], 1);
        assert_eq!(one_down.progress("d", SINCE, Members::Healthy), Progress::Partition(1), "it is missed by nobody");

        let mut sick = mk_etcd(&[2], 9);
        sick.pods[0].health = Health::Fails;
        rolling(&sick, Members::Healthy, "m-etcd-0 does not work");
        (sick.partition_before, sick.on_delete) = (None, true);
        let gone = Progress::DeletePod("m-etcd-0".to_owned(), "u0".to_owned());
        assert_eq!(sick.progress("d", SINCE, Members::Healthy), gone, "who does not work goes first");

        let mut starting = mk_etcd(&[2], 1);
        (starting.partition_before, starting.on_delete, starting.pods[2].ready) = (None, true, false);
        rolling(&starting, Members::Unknown, "m-etcd-1 stays");
        for (pod, health) in starting.pods.iter_mut().zip([Health::Works, Health::Works, Health::Fails]) {
            pod.health = health;
        }
        rolling(&starting, Members::Unhealthy, "m-etcd-1 stays");
    }

    #[test]
    fn a_partition_is_restored_where_all_were_scaled_away() {
        let mut none = mk_workload(Vec::new());
        (none.partition, none.partition_before) = (2, Some(1));
        assert_eq!(none.progress("d", SINCE, Members::Healthy), Progress::Partition(1));
        none.partition_before = None;
        assert_eq!(none.progress("d", SINCE, Members::Healthy), Progress::Done);
    }

    #[test]
    fn of_two_members_one_goes_while_the_other_works() {
        let mut etcd = mk_workload((0..2).map(|n| mk_pod(n, None, true)).collect());
        (etcd.partition, etcd.partition_before) = (2, Some(0));
        assert_eq!(etcd.progress("d", SINCE, Members::Healthy), Progress::Partition(1));
    }

    #[test]
    fn nobody_else_goes_while_a_member_is_ending() {
        let mut etcd = mk_workload((0..3).map(|n| mk_pod(n, None, true)).collect());
        (etcd.partition, etcd.partition_before) = (2, Some(0));
        etcd.pods[2].deleting = true;
        assert!(matches!(etcd.progress("d", SINCE, Members::Healthy), Progress::Rolling(_)));
        (etcd.partition_before, etcd.on_delete) = (None, true);
        assert!(matches!(etcd.progress("d", SINCE, Members::Lost), Progress::Rolling(_)));
    }

    #[test]
    fn where_the_quorum_is_lost_the_rest_goes_at_once() {
        let mut etcd = mk_workload((0..3).map(|n| mk_pod(n, (n == 2).then_some("d"), n != 2)).collect());
        (etcd.partition, etcd.partition_before) = (2, Some(0));
        assert!(matches!(etcd.progress("d", SINCE, Members::Unhealthy), Progress::Rolling(_)));
        assert_eq!(etcd.progress("d", SINCE, Members::Lost), Progress::Partition(1));
    }
}
