//! Asking for a renewal: whoever asks for the same certificates gets the same object.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use crate::cluster::api::{Api, ApiError, ErrorKind};
use crate::cluster::connect::{Connection, connect};
use crate::mesh::HostedMesh;
use crate::notification::Selector;
use crate::ports::{Clock, SourceError};
use crate::renewal::{Phase, Renewal, Spec, Trigger, name_for};

/// The observed meshes of a cluster, by its name, at any time.
pub type Meshes = Arc<dyn Fn(&str) -> Vec<Arc<HostedMesh>> + Send + Sync>;

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A renewal was made.
    Created(String),
    /// There is one already, in this phase.
    Exists(String, Phase),
    /// The one that there is, is being deleted: ask again later.
    Deleting(String),
}

/// Beyond so many renewals of the same certificates somebody restores old ones in a loop.
const MOST_REPEATS: u32 = 20;

/// Asks for the renewal of a mesh's present certificates.
///
/// # Errors
/// The request failed, nothing is known to be stored.
pub async fn ask(api: &Api, mesh: &HostedMesh, trigger: Trigger, force: bool) -> Result<Asked, ApiError> {
    let namespace = &mesh.key.namespace;
    // Whoever asks while a renewal is under way gets that one, whatever certificates are in force half-way.
    let (renewals, _) = api.renewals(namespace).await?;
    let of_mesh = |renewal: &&Renewal| renewal.spec.mesh_id == mesh.key.id.as_str() && renewal.is_under_way();
    if let Some(running) = renewals.iter().find(of_mesh) {
        return Ok(Asked::Exists(running.name.clone(), running.status.phase));
    }
    let base = name_for(mesh);
    let spec = Spec { mesh_id: mesh.key.id.to_string(), trigger, force, ..Spec::default() };
    for number in 1..=MOST_REPEATS {
        let name = if number == 1 { base.clone() } else { format!("{base}-r{number}") };
        if api.create_renewal(namespace, &name, &spec).await? {
            return Ok(Asked::Created(name));
        }
        match api.renewal(namespace, &name).await? {
            None => return Ok(Asked::Deleting(name)),
            Some(known) if known.deleting => return Ok(Asked::Deleting(name)),
            // These certificates are in force again although they were replaced: somebody restored them. Or the name is another mesh's.
            Some(known) if known.spec.mesh_id != spec.mesh_id || is_done_with(&known) => {}
            Some(known) => return Ok(Asked::Exists(name, known.status.phase)),
        }
    }
    let message = format!(
        "{base} was renewed {MOST_REPEATS} times and its certificates are in force again: look who restores them"
    );
    Err(ApiError { kind: ErrorKind::Invalid, message })
}

/// Whether a renewal replaced its certificates, or was rolled back by a person: in both cases another one is meant.
fn is_done_with(known: &Renewal) -> bool {
    match known.status.phase {
        Phase::Succeeded | Phase::Superseded => true,
        Phase::RolledBack => known.spec.rollback,
        _ => false,
    }
}

/// Where renewals are asked for: knows the meshes and how their clusters are reached.
pub struct Desk {
    meshes: Meshes,
    clock: Arc<dyn Clock>,
    clusters: ArcSwap<Vec<(Arc<str>, Connection)>>,
    renew_before: AtomicI64,
    apis: Mutex<BTreeMap<Arc<str>, (Connection, Api)>>,
}

/// The answer for one mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Asked.
    Asked(Asked),
    /// Nothing ends within `renewBefore`, whatever the alert says.
    NotDue,
    /// It could not be stored; in words.
    Unavailable(String),
}

impl Desk {
    /// With no cluster yet.
    pub fn new(meshes: Meshes, clock: Arc<dyn Clock>) -> Self {
        Self { meshes, clock, clusters: ArcSwap::default(), renew_before: AtomicI64::new(0), apis: Mutex::default() }
    }

    /// Takes the clusters, and `renewBefore` in seconds.
    pub fn set(&self, clusters: Vec<(Arc<str>, Connection)>, renew_before: i64) {
        self.clusters.store(Arc::new(clusters));
        self.renew_before.store(renew_before, Ordering::Relaxed);
    }

    /// Asks for every mesh that is meant and due, by mesh as `CLUSTER/NAMESPACE/ID`; a selector that matches no mesh means all. Whether there was one.
    pub async fn ask_for(&self, selectors: &[Selector]) -> (Vec<(String, Answer)>, bool) {
        let clusters = self.clusters.load_full();
        let all: Vec<(&Arc<str>, &Connection, Arc<HostedMesh>)> = clusters
            .iter()
            .flat_map(|(name, connection)| (self.meshes)(name).into_iter().map(move |mesh| (name, connection, mesh)))
            .collect();
        let matches = |selector: &Selector, cluster: &str, mesh: &HostedMesh| {
            selector.matches(cluster, &mesh.key.namespace, mesh.key.id.as_str())
        };
        let lost =
            selectors.iter().any(|selector| !all.iter().any(|(cluster, _, mesh)| matches(selector, cluster, mesh)));
        let mut answers = Vec::new();
        for (cluster, connection, mesh) in &all {
            if lost || selectors.iter().any(|selector| matches(selector, cluster, mesh)) {
                let name = format!("{cluster}/{}/{}", mesh.key.namespace, mesh.key.id);
                answers.push((name, self.ask_one(cluster, connection, mesh).await));
            }
        }
        (answers, lost)
    }

    async fn ask_one(&self, cluster: &Arc<str>, connection: &Connection, mesh: &HostedMesh) -> Answer {
        let now = self.clock.now();
        if mesh.expiration.is_none_or(|end| now.seconds_until(end) >= self.renew_before.load(Ordering::Relaxed)) {
            return Answer::NotDue;
        }
        let api = match self.api(cluster, connection).await {
            Ok(api) => api,
            Err(error) => return Answer::Unavailable(error.message),
        };
        match ask(&api, mesh, Trigger::Alert, false).await {
            Ok(asked) => Answer::Asked(asked),
            Err(error) => Answer::Unavailable(error.message),
        }
    }

    async fn api(&self, cluster: &Arc<str>, connection: &Connection) -> Result<Api, SourceError> {
        let mut apis = self.apis.lock().await;
        if let Some((known, api)) = apis.get(cluster)
            && known == connection
        {
            return Ok(api.clone());
        }
        let api = Api::new(connect(connection).await?);
        apis.insert(Arc::clone(cluster), (connection.clone(), api.clone()));
        Ok(api)
    }
}
