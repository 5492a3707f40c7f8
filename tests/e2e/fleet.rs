//! Many meshes that are due at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Client;
use crate::cluster::{Daemon, TOKEN, apply, figure, kubectl, notify, requests, state};
use crate::fake::{Fleet, NAMESPACE, watch};

/// policy.maxConcurrent.
const SLOTS: usize = 16;
/// More than these would be a regression; docs/PERFORMANCE.md has what was measured.
const REQUESTS_PER_RENEWAL: usize = 1_000;
const PEAK_MEMORY: u64 = 200_000_000;
/// kube-apiserver's processor time is counted in these.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where a renewal is.
#[derive(Clone, Debug, Default, PartialEq)]
struct Place {
    phase: String,
    tier: u64,
    reason: String,
}

/// What is seen of the renewals by watching them.
#[derive(Default)]
struct Seen {
    places: BTreeMap<String, Place>,
    /// The most that were at work on what only one mesh has, at the same time.
    most: usize,
}

impl Place {
    /// Whether it needs one of the slots: from staging until only what all meshes share is left.
    fn is_at_work(&self) -> bool {
        match self.phase.as_str() {
            "Staging" | "Auditing" | "Committing" => true,
            "Restarting" => self.tier < 3,
            _ => false,
        }
    }
}

type Watched = Arc<Mutex<Seen>>;

/// Follows the renewals for as long as the tasks live.
fn follow(tasks: &mut tokio::task::JoinSet<()>, fleet: &Fleet) -> Watched {
    let watched = Watched::default();
    let writing = Arc::clone(&watched);
    let mut changes = watch(tasks, fleet.renewals());
    tasks.spawn(async move {
        while let Some(renewal) = changes.recv().await {
            let (spec, status) = (&renewal.data["spec"], &renewal.data["status"]);
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let tier = status["tier"]["index"].as_u64().unwrap_or_default();
            let place = Place { phase: text(&status["phase"]), tier, reason: text(&status["reason"]) };
            let mut seen = writing.lock().unwrap();
            seen.places.insert(text(&spec["meshId"]), place);
            seen.most = seen.most.max(seen.places.values().filter(|place| place.is_at_work()).count());
        }
    });
    watched
}

/// Waits until the renewals of these meshes are where they should be.
async fn wait(watched: &Watched, meshes: &[String], seconds: u64, what: &str, is_there: impl Fn(&Place) -> bool) {
    let start = Instant::now();
    loop {
        let places: BTreeMap<String, Place> = watched.lock().unwrap().places.clone();
        let missing: Vec<_> = meshes
            .iter()
            .map(|mesh| (mesh, places.get(mesh).cloned().unwrap_or_default()))
            .filter(|(_, place)| !is_there(place))
            .collect();
        if missing.is_empty() {
            return;
        }
        let shown = &missing[..missing.len().min(10)];
        assert!(start.elapsed().as_secs() < seconds, "{what}: {} are not after {seconds} s: {shown:?}", missing.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Meshes to make.
fn meshes() -> usize {
    std::env::var("E2E_MESHES").map_or(200, |number| number.parse().unwrap())
}

/// As `meshcert::demo` makes them: three in ten.
fn is_due(number: usize) -> bool {
    number % 10 < 3
}

/// As `meshcert::demo` makes those that are not due.
fn days_left(number: usize) -> usize {
    60 + number % 300
}

fn named(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("fleet-{number}")).collect()
}

/// Whose Secret it is.
fn mesh_of(secret: &str) -> Option<&str> {
    ["-kube-certs", "-etcd-certs", "-apiserver-admin-kubeconfig"].iter().find_map(|end| secret.strip_suffix(end))
}

/// Meshes of which a Secret has changed.
fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> BTreeSet<String> {
    let changed = before.iter().filter(|(name, version)| after.get(*name) != Some(version));
    changed.filter_map(|(name, _)| mesh_of(name)).map(str::to_owned).collect()
}

/// Asks with kubectl, although nothing is due: to insist is to change what was created.
fn insist(meshes: &[String]) {
    let one = |mesh: &String, force: bool| {
        format!(
            "apiVersion: meshcert.dev/v1alpha1\nkind: CertificateRenewal\nmetadata: {{name: insisted-{mesh}, namespace: {NAMESPACE}}}\nspec: {{meshId: {mesh}, force: {force}}}\n"
        )
    };
    for force in [false, true] {
        apply(&meshes.iter().map(|mesh| one(mesh, force)).collect::<Vec<_>>().join("---\n"));
    }
}

/// Processor time of kube-apiserver so far, in seconds.
fn apiserver_seconds() -> f64 {
    let pid = std::fs::read_to_string(state().join("run/kube-apiserver.pid")).unwrap();
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap();
    // User and system time are the 12th and 13th field behind the name.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS_PER_SECOND
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the cluster of `make e2e-fleet`"]
async fn a_storm_renews_what_is_due_and_leaves_the_rest_alone() {
    let total = meshes();
    let making = Instant::now();
    let fleet = Fleet::make(total).await;
    figure("fleet: meshes made (s)", &format!("{total} in {}", making.elapsed().as_secs()));
    let due = named((1..=total).filter(|number| is_due(*number)));
    let policy = format!("mode: auto, maxConcurrent: {SLOTS}, stopAfterFailures: 3, verifyDeadline: 20s");
    let before = fleet.versions().await;

    // Whoever acts would ask for all that is due: it is to be the flood, so nobody acts before.
    let asking = Daemon::shipped(NAMESPACE, "observe,webhook", &policy);
    let flood = Instant::now();
    // Twice, as from a pair of Alertmanagers; and again until it is taken, as they do.
    for _ in 0..2 {
        while notify(&Client::default(), &asking.address, TOKEN, NAMESPACE, &due).await.is_none() {
            assert!(flood.elapsed().as_secs() < 120, "the flood is taken");
        }
    }
    figure("fleet: the flood is stored (s)", &flood.elapsed().as_secs().to_string());
    let asked =
        kubectl(&["-n", NAMESPACE, "get", "crn", "-o", "jsonpath={range .items[*]}{.spec.meshId}{\"\\n\"}{end}"]);
    let mut asked: Vec<&str> = asked.lines().collect();
    asked.sort_unstable();
    let mut expected: Vec<&str> = due.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(asked, expected, "one renewal for each mesh that is due");

    let mut tasks = tokio::task::JoinSet::new();
    let watched = follow(&mut tasks, &fleet);
    let account = format!("system:serviceaccount:{NAMESPACE}:meshcert");
    let (requests_before, _) = requests(&account);
    let processor_before = apiserver_seconds();
    let storm = Instant::now();
    let acting = Daemon::shipped(NAMESPACE, "act", &policy);
    wait(&watched, &due, 900, "proven", |place| {
        assert!(!matches!(place.phase.as_str(), "Failed" | "Refused" | "RolledBack"), "{place:?}");
        place.phase == "Succeeded"
    })
    .await;
    let seconds = storm.elapsed().as_secs_f64();
    let processor = apiserver_seconds() - processor_before;
    let (requests_after, refused) = requests(&account);
    let each = (requests_after - requests_before) / due.len();
    let peak = acting.peak_memory();
    let most = watched.lock().unwrap().most;
    figure("fleet: all proven (s)", &format!("{} in {seconds:.0}, at most {most} at work at once", due.len()));
    figure("fleet: requests per renewal", &each.to_string());
    figure(
        "fleet: peak of the resident memory, who acts and who asks (MB)",
        &format!("{} {}", peak / 1_000_000, asking.peak_memory() / 1_000_000),
    );
    figure("fleet: share of two cores that kube-apiserver took (%)", &format!("{:.0}", 50.0 * processor / seconds));
    assert!(most <= SLOTS && 2 * most > SLOTS.min(due.len()), "{most} at work at once, of {SLOTS}");
    assert_eq!(refused, 0, "the rights that docs/OPERATIONS.md lists are enough");
    assert!(each < REQUESTS_PER_RENEWAL, "{each} requests per renewal");
    assert!(peak < PEAK_MEMORY, "{peak} bytes");
    let renewed = fleet.versions().await;
    assert_eq!(changed(&before, &renewed), due.iter().cloned().collect(), "those that were due, and no other");
    let attempts = kubectl(&["-n", NAMESPACE, "get", "crn", "-o", "jsonpath={.items[*].status.attempt}"]);
    assert!(attempts.split(' ').all(|attempt| attempt == "1"), "{attempts}");

    // Those that end within 64 days, or did when they were made, are due now, and their pods go on with what they had: failures.
    drop(acting);
    let within = |days: usize| named((1..=total).filter(|number| !is_due(*number) && days_left(*number) <= days));
    let (stubborn, others, again) = (within(64), within(67), named([10]));
    let others: Vec<String> = others.into_iter().filter(|mesh| !stubborn.contains(mesh)).collect();
    fleet.make_stubborn(&stubborn);
    let policy = format!("mode: auto, maxConcurrent: {SLOTS}, stopAfterFailures: 1, verifyDeadline: 20s");
    let acting = Daemon::shipped(NAMESPACE, "observe,act", &format!("{policy}, renewBefore: 64d"));
    wait(&watched, &stubborn, 180, "unproven", |place| place.phase == "Failed" && place.reason == "Unproven").await;
    drop(acting);
    // After that nobody else is begun, and who was renewed a moment ago is not renewed again, whoever insists.
    let stopped = fleet.versions().await;
    insist(&again);
    let _acting = Daemon::shipped(NAMESPACE, "observe,act", &format!("{policy}, renewBefore: 67d"));
    wait(&watched, &others, 120, "stopped", |place| place.phase == "Pending" && place.reason == "BreakerOpen").await;
    wait(&watched, &again, 60, "cooling down", |place| place.phase == "Pending" && place.reason == "Cooldown").await;
    assert_eq!(changed(&stopped, &fleet.versions().await), BTreeSet::new(), "nothing more was written");
}
