//! What holds in every world that the protocol may find itself in, whether a run leads there or not.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use meshcert::cert::issue::KeyType;
use meshcert::clock::SystemClock;
use meshcert::cluster::api::Api;
use meshcert::demo::{self, Options, Scenario};
use meshcert::job::{JobObject, JobPod, JobState, PodState, SeenJob};
use meshcert::material::{Material, MeshSecrets, StoredSecret, assemble, overlay};
use meshcert::mesh::{HostedMesh, MeshKey, Naming, SecretRole};
use meshcert::native;
use meshcert::plan::Plan;
use meshcert::policy::{Circumstances, Engine, Mode, Policy};
use meshcert::ports::Clock;
use meshcert::renewal::observed::{Holder, Lease, Observed, Refusal, Unproven};
use meshcert::renewal::step::{Effect, Hindrance, Next, prevented, step};
use meshcert::renewal::{Digests, Intent, JobRecord, Phase, Renewal, ReplacedLeaf, Status, StepRecord, Tier};
use meshcert::rollout::{Health, Kind, Members, Pod, Progress, Serves, Target, Workload};
use meshcert::time::{DAY, UnixTime};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const NAMESPACE: &str = "istio-system";
const MESH: &str = "expiring-1";

/// Made once: keys take their time.
struct Fixture {
    now: UnixTime,
    live: MeshSecrets,
    before: [Material; 3],
    /// Passes the audit.
    good: [Material; 3],
    /// Passes too; somebody else's.
    foreign: [Material; 3],
    /// Renewed, and every key is another certificate's.
    bad: [Material; 3],
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let live = runtime.block_on(async {
        let options = Options {
            scenario: Scenario::Expiring,
            meshes: Some(1),
            listen: "127.0.0.1:0".parse().unwrap(),
            pace: Duration::from_millis(5),
            clock: Arc::new(SystemClock),
        };
        let demo = demo::start(options).await.unwrap();
        let api = Api::new(kube::Client::new(demo.router(), NAMESPACE));
        api.mesh_secrets(NAMESPACE, &Naming::default().secret_names(&MESH.parse().unwrap())).await.unwrap()
    });
    let now = SystemClock.now();
    let mesh = assemble(&Naming::default(), &key(), &live);
    let make =
        || SecretRole::ALL.map(|role| native::renew(&mesh, &live, role, &policy(), now, &mut rand::rng()).unwrap());
    let (good, foreign) = (make(), make());
    let mut bad = good.clone();
    for (mixed, other) in bad.iter_mut().zip(&foreign) {
        for (name, bytes) in other.entries().filter(|(name, _)| name.ends_with(".key")) {
            mixed.insert(name, bytes.to_vec().into());
        }
    }
    let before = SecretRole::ALL.map(|role| native::written(&mesh, &live, role));
    Fixture { now, live, before, good, foreign, bad }
});

fn key() -> MeshKey {
    MeshKey { namespace: NAMESPACE.into(), id: MESH.parse().unwrap() }
}

fn policy() -> Policy {
    Policy { mode: Mode::Auto, ..Policy::default() }
}

/// What a Secret or a copy of it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    Before,
    Good,
    Foreign,
    Bad,
}

impl Content {
    fn of(self, role: SecretRole) -> Material {
        let all = match self {
            Self::Before => &FIXTURE.before,
            Self::Good => &FIXTURE.good,
            Self::Foreign => &FIXTURE.foreign,
            Self::Bad => &FIXTURE.bad,
        };
        all[role as usize].clone()
    }

    fn digests(self) -> Digests {
        Digests::over(SecretRole::ALL.map(|role| self.of(role)).each_ref())
    }
}

/// The live Secrets with these contents, and the mesh that they make; each is put together once, for signatures are verified.
fn live_with(contents: [Content; 3]) -> (MeshSecrets, HostedMesh) {
    type Known = BTreeMap<[Content; 3], (MeshSecrets, HostedMesh)>;
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    let make = || {
        let mut secrets = overlay(&FIXTURE.live, &SecretRole::ALL.map(|role| contents[role as usize].of(role)));
        secrets.iter_mut().flatten().for_each(|secret| "7".clone_into(&mut secret.resource_version));
        let mesh = assemble(&Naming::default(), &key(), &secrets);
        (secrets, mesh)
    };
    KNOWN.lock().unwrap().entry(contents).or_insert_with(make).clone()
}

/// The plan for the mesh as it was.
fn plan(engine: Engine) -> Plan {
    static KNOWN: LazyLock<[Plan; 2]> = LazyLock::new(|| {
        let (_, mesh) = live_with([Content::Before; 3]);
        [Engine::Native, Engine::Job].map(|engine| Plan::make("uid", &mesh, &[], &policy_of(engine), FIXTURE.now))
    });
    KNOWN[engine as usize].clone()
}

fn policy_of(engine: Engine) -> Policy {
    Policy { engine, key_type: (engine == Engine::Job).then_some(KeyType::Rsa2048), ..policy() }
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![Just(Content::Before), Just(Content::Good), Just(Content::Foreign), Just(Content::Bad)]
}

fn three<T: std::fmt::Debug + Clone>(one: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = [T; 3]> {
    [one.clone(), one.clone(), one]
}

fn often<T: std::fmt::Debug + Clone + 'static>(value: T, rarely: T) -> impl Strategy<Value = T> + Clone {
    prop_oneof![4 => Just(value), 1 => Just(rarely)]
}

fn holder() -> impl Strategy<Value = Holder> + Clone {
    prop_oneof![3 => Just(Holder::Mine), 1 => Just(Holder::Free), 1 => Just(Holder::Other)]
}

fn seen_job() -> impl Strategy<Value = SeenJob> {
    let state = prop_oneof![
        Just(JobState::Running),
        Just(JobState::Complete),
        Just(JobState::Failed("DeadlineExceeded".to_owned()))
    ];
    let job = (state, often("uid", "another"), any::<bool>(), 0_i64..2000).prop_map(|(state, owner, deleting, age)| {
        let created = FIXTURE.now.plus(-age);
        JobObject { uid: "job".to_owned(), renewal_uid: owner.to_owned(), created, deleting, state }
    });
    let state = prop_oneof![
        Just(PodState::Waiting),
        Just(PodState::Running),
        Just(PodState::Succeeded(String::new())),
        Just(PodState::Failed(1, "no".to_owned())),
        Just(PodState::CannotStart("ErrImagePull".to_owned())),
        Just(PodState::Unschedulable("0/1".to_owned())),
    ];
    let pod = (state, any::<bool>(), 0_i64..2000).prop_map(|(state, deleting, age)| {
        let created = FIXTURE.now.plus(-age);
        JobPod { name: "pod".to_owned(), uid: "pod".to_owned(), created, deleting, state }
    });
    (prop::option::of(job), prop::option::of(pod))
        .prop_map(|(job, pod)| SeenJob { job, pods: pod.into_iter().collect() })
}

fn status(phases: &[Phase]) -> impl Strategy<Value = Status> + use<> {
    let phase = prop::sample::select(phases.to_vec());
    let target = prop::option::weighted(0.8, content());
    let intents = prop::collection::vec(
        (0_usize..3, 1_u32..9, often("7", "6")).prop_map(|(role, times, version)| Intent {
            name: FIXTURE.live[role].as_ref().unwrap().name.clone(),
            resource_version: version.to_owned(),
            times,
        }),
        0..4,
    );
    let reason = prop_oneof![Just("x"), Just("ForeignOwner"), Just("Coalescing")];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let job = prop::option::of((any::<bool>(), 0_i64..2000));
    (phase, target, intents, reason, flags, 1_u32..8, job, (0_i64..2000, 0_u32..5), prop::option::of(-9_i64..9))
        .prop_map(
            |(
                phase,
                target,
                commits,
                reason,
                (has_before, committed, back, cleaned_up),
                attempt,
                job,
                (age, tier),
                retry,
            )| {
                let since = FIXTURE.now.plus(-age);
                Status {
                    phase,
                    reason: reason.to_owned(),
                    attempt,
                    phase_since: Some(since),
                    next_attempt_at: retry.filter(|_| phase.is_terminal()).map(|seconds| FIXTURE.now.plus(seconds)),
                    before: has_before.then(|| Content::Before.digests()),
                    target: target.map(Content::digests),
                    staged_attempt: Some(attempt),
                    commits,
                    committed_at: committed.then_some(since),
                    rolling_back: back,
                    tier: Some(Tier { index: tier, since }),
                    cleaned_up,
                    job: job.map(|(completed, age)| JobRecord {
                        name: meshcert::job::name(MESH, "uid", attempt),
                        asked_at: FIXTURE.now.plus(-age),
                        completed_at: completed.then_some(since),
                        said: String::new(),
                        repairs: Vec::new(),
                    }),
                    observed_generation: 1,
                    ..Status::default()
                }
            },
        )
}

fn workload() -> impl Strategy<Value = Workload> {
    (any::<bool>(), any::<bool>(), 0_u32..4, any::<bool>()).prop_map(|(new, ready, wanted, shared)| {
        let digest = new.then(|| Content::Good.digests().combined());
        let pod = |ordinal| Pod {
            name: format!("w-{ordinal}"),
            uid: format!("w-{ordinal}"),
            ip: None,
            ports: Vec::new(),
            created: FIXTURE.now,
            ready,
            deleting: false,
            digest: digest.clone(),
            health: Default::default(),
            problem: None,
        };
        Workload {
            target: Target { name: "w".to_owned(), serves: Default::default(), shared, optional: false },
            kind: Kind::StatefulSet,
            name: "w".to_owned(),
            uid: "w".to_owned(),
            resource_version: "3".to_owned(),
            observed: true,
            wanted,
            updated: wanted,
            available: if ready { wanted } else { 0 },
            replicas: wanted,
            digest: digest.clone(),
            restarted_at: None,
            partition: 0,
            partition_before: None,
            on_delete: false,
            paused: false,
            revised: false,
            pods: (0..wanted).map(pod).collect(),
        }
    })
}

/// etcd in any state, where a restart for the good certificates has begun.
fn etcd() -> impl Strategy<Value = Workload> {
    let health = prop_oneof![Just(Health::Works), Just(Health::Fails), Just(Health::Alone), Just(Health::Unknown)];
    let pod = (any::<bool>(), often(true, false), health);
    let stepped = prop::option::of(0_u32..6);
    (workload(), prop::collection::vec(pod, 2..6), stepped).prop_map(|(model, pods, stepped)| {
        let digest = Some(Content::Good.digests().combined());
        let member = |(ordinal, (new, ready, health))| Pod {
            name: format!("w-{ordinal}"),
            uid: format!("w-{ordinal}"),
            ip: None,
            ports: Vec::new(),
            created: FIXTURE.now.plus(-9),
            ready,
            deleting: false,
            digest: digest.clone().filter(|_| new),
            health,
            problem: None,
        };
        let pods: Vec<Pod> = pods.into_iter().enumerate().map(member).collect();
        let wanted = pods.len() as u32;
        Workload {
            target: Target { serves: Serves::Etcd, shared: false, ..model.target },
            wanted,
            updated: wanted,
            replicas: wanted,
            available: pods.iter().filter(|pod| pod.ready).count() as u32,
            digest: digest.clone(),
            partition: stepped.unwrap_or(0),
            partition_before: stepped.map(|_| 0),
            on_delete: stepped.is_none(),
            paused: false,
            revised: false,
            pods,
            ..model
        }
    })
}

fn copy(content: Option<(Content, bool)>, role: SecretRole) -> Option<StoredSecret> {
    let (content, immutable) = content?;
    Some(StoredSecret {
        name: format!("copy-{}", role.as_str()),
        uid: "copy".to_owned(),
        resource_version: "5".to_owned(),
        immutable,
        paused: false,
        material: content.of(role),
    })
}

/// Any world, likely or not.
fn world() -> impl Strategy<Value = Observed> {
    world_in(&Phase::ALL)
}

/// Any in which the renewal is in one of these phases.
fn world_in(phases: &[Phase]) -> impl Strategy<Value = Observed> + use<> {
    let staged = prop::option::weighted(0.8, (content(), often(true, false)));
    let backups = prop::option::weighted(0.8, often(Content::Before, Content::Foreign));
    let places = (
        three(prop_oneof![3 => Just(Content::Before), 2 => Just(Content::Good), 1 => content()].boxed()),
        three(staged.boxed()),
        three(backups),
    );
    let engine = prop_oneof![Just(Engine::Native), Just(Engine::Job)];
    let renewal = (
        status(phases),
        any::<bool>(),
        often(false, true),
        often(false, true),
        often(false, true),
        often(1_i64, 2),
        prop::option::of(engine),
        often("", "another"),
    );
    let leases = (holder(), holder());
    let circumstances =
        (often(false, true), any::<bool>(), often(20_i64, 400), any::<bool>(), often(Mode::Auto, Mode::Approve));
    let members =
        prop_oneof![Just(Members::Healthy), Just(Members::Unhealthy), Just(Members::Lost), Just(Members::Unknown)];
    let refusal = prop_oneof![Just(None), Just(Some(Refusal::OfNew)), Just(Some(Refusal::Unclear))];
    let proof = prop::option::of(prop::option::of(refusal));
    let around = (
        prop::collection::vec(prop::collection::vec(prop_oneof![workload(), etcd()], 0..2), 0..3),
        proof,
        seen_job(),
        any::<bool>(),
        members,
        any::<bool>(),
    );
    (places, renewal, leases, circumstances, around).prop_map(|(places, renewal, leases, circumstances, around)| {
        let (live, staged, backups) = places;
        let (mut status, finalizer, deleting, rollback, force, generation, engine, request_name) = renewal;
        let (paused, same_leaves, days, ends_soon, mode) = circumstances;
        let (tiers, proof, job, others_under_way, members, has_copies) = around;
        request_name.clone_into(&mut status.request_name);
        status.plan = engine.map(plan);
        if let Some(leaf) = status.plan.as_mut().and_then(|plan| plan.leaves.first_mut()).filter(|_| ends_soon) {
            leaf.ends_at = FIXTURE.now.plus(DAY - 1);
        }
        let (secrets, mesh) = live_with(live);
        let (_, former) = live_with([Content::Before; 3]);
        let shown = if same_leaves { &mesh } else { &former };
        status.certificates = shown
            .leaves()
            .map(|leaf| ReplacedLeaf {
                secret: shown.secret_names[leaf.secret_role as usize].to_string(),
                key: leaf.key.to_string(),
                serial_number: leaf.certificate.serial_number.to_string(),
            })
            .collect();
        let lease =
            |name: &str, holder| Lease { name: name.to_owned(), holder, resource_version: Some("2".to_owned()) };
        let mut renewal = Renewal {
            name: "r".to_owned(),
            namespace: NAMESPACE.to_owned(),
            uid: "uid".to_owned(),
            resource_version: "9".to_owned(),
            generation,
            deleting,
            finalizer,
            status,
            ..Renewal::default()
        };
        renewal.spec.mesh_id = MESH.to_owned();
        (renewal.spec.rollback, renewal.spec.force) = (rollback, force);
        Observed {
            renewal,
            about: Circumstances {
                expiration: Some(FIXTURE.now.plus(days * DAY)),
                paused,
                forced: force,
                ..Circumstances::default()
            },
            policy: Policy { mode, ..policy_of(engine.unwrap_or_default()) },
            mesh,
            secrets,
            tiers: Ok(tiers),
            obstacles: Vec::new(),
            watched_since: FIXTURE.now.plus(if same_leaves { -DAY } else { 0 }),
            server_clock: None,
            backups: SecretRole::ALL.map(|role| backups[role as usize].map(|content| content.of(role))),
            staged: SecretRole::ALL.map(|role| copy(staged[role as usize], role)),
            job,
            staged_names: has_copies.then(|| "copy-kube-certs".to_owned()).into_iter().collect(),
            lock: lease("lock", leases.0),
            slots: vec![lease("slot", leases.1)],
            others_under_way,
            members,
            proof: proof.map(|unproven| {
                unproven.map(|refusal| Unproven { message: "x".to_owned(), refusal }).into_iter().collect()
            }),
        }
    })
}

/// Entries that no renewal writes.
fn is_sacred(key: &str) -> bool {
    key.starts_with("ca.") || key.starts_with("sa.") || key.contains("-ca.")
}

fn is(content: Content, staged: &MeshSecrets) -> bool {
    SecretRole::ALL.into_iter().all(|role| {
        staged[role as usize].as_ref().is_some_and(|copy| copy.immutable && copy.material == content.of(role))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_member_that_is_ready_goes_while_a_quorum_could_be_lost(etcd in etcd(), ended in any::<bool>()) {
        let digest = Content::Good.digests().combined();
        let members = Members::of(&etcd.pods.iter().collect::<Vec<_>>(), &digest, ended);
        let goes = |pod: &&Pod| match etcd.progress(&digest, FIXTURE.now, members) {
            Progress::DeletePod(_, uid) => pod.uid == uid,
            Progress::Partition(partition) => {
                let is_stale = pod.digest.as_ref() != Some(&digest);
                is_stale && (partition..etcd.partition).any(|ordinal| pod.name == format!("w-{ordinal}"))
            }
            _ => false,
        };
        let going: Vec<&Pod> = etcd.pods.iter().filter(goes).collect();
        prop_assert!(going.len() < 2, "one by one");
        for gone in going.into_iter().filter(|pod| pod.ready) {
            let quorum = etcd.pods.len() / 2 + 1;
            let count = |filter: &dyn Fn(&&Pod) -> bool| etcd.pods.iter().filter(filter).count();
            let does_its_part = |pod: &&Pod| pod.health == Health::Works || pod.ready && pod.health == Health::Unknown;
            let others = count(&|pod| pod.uid != gone.uid && does_its_part(pod));
            let works = count(&|pod| pod.health == Health::Works);
            let may_count = count(&|pod| pod.ready && pod.health != Health::Alone);
            let is_lost = works == 0 && may_count < quorum;
            prop_assert!(others >= quorum.min(etcd.pods.len() - 1) || is_lost, "{} of {etcd:#?}", gone.name);
        }
    }

    #[test]
    fn a_status_fits_into_an_object_however_long_an_answer_is(mut seen in world()) {
        let phase = seen.renewal.status.phase;
        seen.renewal.status.steps =
            vec![StepRecord { name: phase, attempt: 1, started_at: FIXTURE.now, finished_at: None, result: String::new() }];
        let told = "é".repeat(50_000);
        for hindrance in [Hindrance::Forbidden, Hindrance::Rejected, Hindrance::Unavailable] {
            if let Next::Journal(after) | Next::Note(after) = prevented(&seen, hindrance, &told, FIXTURE.now) {
                prop_assert!(serde_json::to_vec(&after).unwrap().len() < 64 << 10);
            }
        }
    }

    #[test]
    fn in_every_world_one_thing_is_done_and_it_is_an_allowed_one(seen in world()) {
        let next = step(&seen, FIXTURE.now);
        prop_assert_eq!(&next, &step(&seen, FIXTURE.now), "the same world, the same decision");
        let status = &seen.renewal.status;
        match next {
            Next::Act(effect) => allowed(&seen, &effect)?,
            Next::Journal(after) => turned(&seen, &after)?,
            Next::Note(after) => {
                turned(&seen, &after)?;
                prop_assert_eq!(after.phase, status.phase, "what waits stays where it is");
            }
            Next::Wait => {}
        }
        let settled = status.phase.is_terminal() && status.cleaned_up && status.next_attempt_at.is_none_or(|at| at > FIXTURE.now)
            && seen.renewal.generation == status.observed_generation && !seen.renewal.wants_back()
            // Other certificates than those that were asked for are looked at again.
            && status.request_name.is_empty();
        if settled {
            prop_assert!(matches!(step(&seen, FIXTURE.now), Next::Wait), "what has ended rests");
        }
    }
}

/// Whether a mutation is one that this world allows.
fn allowed(seen: &Observed, effect: &Effect) -> Result<(), TestCaseError> {
    let status = &seen.renewal.status;
    let phase = status.phase;
    // Before the first write it may begin anew, and leaves nothing behind then.
    let has_begun = !status.commits.is_empty() || status.rolling_back;
    let starts_over = phase < Phase::Committing || phase == Phase::Committing && !has_begun;
    match effect {
        Effect::Commit { name, resource_version, material } => {
            prop_assert_eq!(phase, Phase::Committing);
            prop_assert_eq!(seen.lock.holder, Holder::Mine);
            prop_assert!(seen.renewal.finalizer, "it cannot vanish in the middle");
            let role = SecretRole::ALL
                .into_iter()
                .find(|role| seen.mesh.secret_names[*role as usize].as_ref() == name)
                .unwrap();
            prop_assert!(material.entries().all(|(key, _)| !is_sacred(key)), "{material:?}");
            let digests = if status.rolling_back { &status.before } else { &status.target };
            prop_assert_eq!(
                digests.as_ref().unwrap().of(role),
                material.digest(),
                "what was journalled, and nothing else"
            );
            prop_assert!(
                status
                    .commits
                    .iter()
                    .any(|intent| intent.name == *name && intent.resource_version == *resource_version)
            );
            if !status.rolling_back {
                prop_assert!(material != &Content::Bad.of(role), "what the audit objects to is never written");
            }
        }
        Effect::BackUp { material, .. } | Effect::PrepareCopy { material, .. } => {
            prop_assert!(phase < Phase::Auditing);
            prop_assert!(material.entries().all(|(key, _)| !is_sacred(key)), "{material:?}");
        }
        Effect::Stage { name, .. } | Effect::Seal { name, .. } => {
            prop_assert_eq!(phase, Phase::Staging);
            prop_assert!(seen.mesh.secret_names.iter().all(|live| **live != **name));
            if matches!(effect, Effect::Seal { .. }) {
                prop_assert!(seen.job.job.is_none() && seen.job.pods.is_empty(), "nobody writes it any more");
            }
        }
        Effect::StartJob(_) => {
            prop_assert_eq!(phase, Phase::Staging);
            prop_assert_eq!(&seen.job, &SeenJob::default(), "one Job at a time, and no pod of another");
            prop_assert!(seen.staged.iter().all(Option::is_some));
        }
        Effect::DeleteJob { uid, .. } => {
            let job = seen.job.job.as_ref().unwrap();
            prop_assert!(job.uid == *uid && job.renewal_uid == "uid", "another's Job is left alone");
        }
        Effect::DeletePod { uid, .. } if phase == Phase::Staging => {
            prop_assert!(seen.job.pods.iter().any(|pod| pod.uid == *uid) && seen.job.job.is_none());
        }
        Effect::Restart { .. } | Effect::SetPartition { .. } | Effect::DeletePod { .. } => {
            prop_assert_eq!(phase, Phase::Restarting);
            prop_assert!(status.committed_at.is_some());
        }
        Effect::DeleteCopy(name) => {
            prop_assert!(phase == Phase::Staging || phase.is_terminal() || starts_over);
            prop_assert!(seen.mesh.secret_names.iter().all(|live| **live != **name));
        }
        Effect::SetFinalizer(true) => {
            prop_assert!((Phase::Committing..=Phase::Verifying).contains(&phase) && !seen.renewal.deleting);
        }
        Effect::SetFinalizer(false) => {
            prop_assert!(phase.is_terminal() && !seen.renewal.is_partial() || starts_over);
        }
        Effect::TakeLease(_) => prop_assert!(!phase.is_terminal()),
        Effect::ReleaseLease(lease) => prop_assert_eq!(lease.holder, Holder::Mine),
    }
    Ok(())
}

/// The arrows of the diagram in docs/RENEWAL.md.
fn drawn() -> &'static BTreeSet<(Phase, Phase)> {
    static DRAWN: LazyLock<BTreeSet<(Phase, Phase)>> = LazyLock::new(|| {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/RENEWAL.md")).unwrap();
        let diagram = page.split("```").find(|part| part.starts_with("mermaid")).unwrap();
        let phase = |name: &str| Phase::ALL.into_iter().find(|phase| phase.as_str() == name.trim());
        let arrows = diagram.lines().filter_map(|line| line.split(':').next()?.split_once(" --> "));
        arrows.filter_map(|(from, to)| Some((phase(from)?, phase(to)?))).collect()
    });
    &DRAWN
}

/// What the sentence below the diagram says instead.
fn is_said(from: Phase, to: Phase) -> bool {
    match to {
        Phase::Pending | Phase::Preflight => (Phase::BackingUp..=Phase::Committing).contains(&from),
        Phase::Failed => (Phase::BackingUp..=Phase::Verifying).contains(&from),
        Phase::Superseded => !from.is_terminal(),
        _ => false,
    }
}

#[test]
fn every_arrow_of_the_diagram_is_gone_somewhere() {
    let mut runner = TestRunner::deterministic();
    for from in Phase::ALL {
        let mut wanted: Vec<Phase> = drawn().iter().filter(|arrow| arrow.0 == from).map(|arrow| arrow.1).collect();
        let worlds = world_in(&[from]);
        for _ in 0..20_000 {
            if wanted.is_empty() {
                break;
            }
            let seen = worlds.new_tree(&mut runner).unwrap().current();
            if let Next::Journal(after) = step(&seen, FIXTURE.now) {
                wanted.retain(|phase| *phase != after.phase);
            }
        }
        assert_eq!(wanted, [], "from {from:?}");
    }
}

/// Whether a change of the journal is one that this world allows.
fn turned(seen: &Observed, after: &Status) -> Result<(), TestCaseError> {
    let status = &seen.renewal.status;
    let (from, to) = (status.phase, after.phase);
    // What has ended may look here as none does that came to its end.
    if !from.is_terminal() && from != to {
        prop_assert!(drawn().contains(&(from, to)) || is_said(from, to), "{from:?} to {to:?} is not in the diagram");
    }
    if from == Phase::Auditing && to == Phase::Committing {
        prop_assert!(
            is(Content::Good, &seen.staged) || is(Content::Foreign, &seen.staged),
            "only a clean set is committed"
        );
        prop_assert_eq!(after.target.as_ref(), status.target.as_ref());
        prop_assert!(
            seen.proof.as_ref().is_some_and(|proof| proof.iter().all(|one| one.refusal.is_none())),
            "and only after it was asked whether the new credentials are taken"
        );
    }
    if to == Phase::Auditing && from != Phase::Auditing {
        prop_assert!(
            seen.staged.iter().all(|copy| copy.as_ref().is_some_and(|copy| copy.immutable)),
            "what is judged cannot change"
        );
        prop_assert!(seen.job.job.is_none() && seen.job.pods.is_empty());
    }
    if from == Phase::Verifying && to == Phase::Committing {
        let ends = status.plan.iter().flat_map(|plan| &plan.leaves).map(|leaf| leaf.ends_at);
        prop_assert!(ends.min().is_some_and(|end| FIXTURE.now.seconds_until(end) >= DAY), "back only to what lasts");
        prop_assert!(seen.proof.iter().flatten().any(|one| one.refusal == Some(Refusal::OfNew)), "back only on proof");
    }
    // From the first commit on there is no way back to where a person would be asked.
    if !status.commits.is_empty() && (Phase::Committing..=Phase::Verifying).contains(&from) {
        prop_assert!(to >= Phase::Committing, "{from:?} to {to:?}");
    }
    if seen.renewal.is_partial() && from != to {
        prop_assert!(to >= Phase::Committing, "half of it is written: {from:?} to {to:?}");
    }
    if to == Phase::Succeeded {
        prop_assert!(
            from == Phase::Succeeded || (from == Phase::Verifying && seen.proof == Some(Vec::new())),
            "nothing succeeds unproven"
        );
    }
    if from.is_terminal() && to != from {
        prop_assert!(status.cleaned_up, "what was taken is given back first");
    }
    Ok(())
}
