//! Where the webhook asks: for which meshes, on which cluster, many at a time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cluster::api::{Api, ApiError, ErrorKind};
use crate::cluster::connect::{Connection, connect};
use crate::mesh::HostedMesh;
use crate::notification::Selector;
use crate::ports::{Clock, SourceError, SourceErrorReason};
use crate::renewal::{Renewal, Spec, Trigger, name_for};
use crate::requests::told::BriefMesh;
use crate::requests::{Asked, Certainty, ask_among};
use crate::time::UnixTime;

/// A mesh that may be asked for.
#[derive(Clone)]
pub enum Known {
    /// This process sees its certificates.
    Seen(Arc<HostedMesh>),
    /// Another process does, and tells.
    Told(Arc<BriefMesh>),
}

/// What is known at one moment.
pub struct Facts {
    /// Whether it is all there is, and of now.
    pub complete: bool,
    /// The meshes of each cluster.
    pub meshes: BTreeMap<Arc<str>, Vec<Known>>,
}

/// Tells what is known of the clusters of these names, or why nothing is.
pub type Knowledge = Arc<dyn Fn(&[Arc<str>]) -> Result<Facts, String> + Send + Sync>;

/// A cluster in which renewals are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The cluster's name.
    pub name: Arc<str>,
    /// How it is reached.
    pub connection: Connection,
    /// Namespaces of hosted meshes; `None` for all. In no other one anything is asked for.
    pub namespaces: Option<Vec<String>>,
}

/// To a cluster: found by one at a time, without keeping up those to others.
type Way = Arc<tokio::sync::Mutex<Option<(Connection, Api)>>>;

/// Knows the meshes and how their clusters are reached.
pub struct Desk {
    knowledge: Knowledge,
    clock: Arc<dyn Clock>,
    places: ArcSwap<Vec<Place>>,
    renew_before: AtomicI64,
    ways: Mutex<BTreeMap<Arc<str>, Way>>,
}

/// The answer for one mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Asked.
    Asked(Asked),
    /// Nothing ends within `renewBefore`, whatever the alert says.
    NotDue,
    /// No such mesh is known, and not every cluster can be read now.
    Unknown,
    /// It could not be stored.
    Unavailable {
        /// What was asked and answered, in words.
        why: String,
        /// The same for whoever asked, where it does not pass by itself.
        told: Option<String>,
    },
}

/// Requests to the API of one namespace at a time.
const AT_ONCE: usize = 8;

impl Desk {
    /// With no cluster yet.
    pub fn new(knowledge: Knowledge, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (places, renew_before, ways) = (ArcSwap::default(), AtomicI64::new(0), Mutex::default());
        Arc::new(Self { knowledge, clock, places, renew_before, ways })
    }

    /// Takes the clusters, and `renewBefore` in seconds.
    pub fn set(&self, places: Vec<Place>, renew_before: i64) {
        self.places.store(Arc::new(places));
        self.renew_before.store(renew_before, Ordering::Relaxed);
    }

    /// Asks for every mesh that is meant and due; the answers by mesh as `CLUSTER/NAMESPACE/ID`. A selector that matches no mesh means all, if all are known; else it is
    /// answered that its mesh is not, and the others are asked for.
    ///
    /// # Errors
    /// Nothing is known of any mesh, in words; nothing was asked then.
    pub async fn ask_for(self: &Arc<Self>, selectors: &[Selector]) -> Result<Vec<(String, Answer)>, String> {
        let places = self.places.load_full();
        let names: Vec<Arc<str>> = places.iter().map(|place| Arc::clone(&place.name)).collect();
        let facts = (self.knowledge)(&names)?;
        let of_place = |place: &Place| facts.meshes.get(&place.name).into_iter().flatten();
        let all = places.iter().flat_map(|place| of_place(place).map(move |mesh| (place, mesh)));
        let all: Vec<(&Place, &Known)> = all.filter(|(place, mesh)| place.holds(mesh.namespace())).collect();
        let matches = |selector: &Selector, place: &Place, mesh: &Known| {
            selector.matches(&place.name, mesh.namespace(), mesh.id())
        };
        let is_lost = |selector: &&Selector| !all.iter().any(|(place, mesh)| matches(selector, place, mesh));
        let lost: Vec<&Selector> = selectors.iter().filter(is_lost).collect();
        let means_all = facts.complete && !lost.is_empty();
        let now = self.clock.now();
        let mut answers = Vec::new();
        if !facts.complete {
            answers.extend(lost.iter().map(|selector| (selector.to_string(), Answer::Unknown)));
        }
        let mut due: BTreeMap<(&str, &str), Vec<Known>> = BTreeMap::new();
        for (place, mesh) in &all {
            if !means_all && !selectors.iter().any(|selector| matches(selector, place, mesh)) {
                continue;
            }
            if self.is_due(mesh, now) {
                due.entry((&place.name, mesh.namespace())).or_default().push((*mesh).clone());
            } else {
                answers.push((mesh.title(&place.name), Answer::NotDue));
            }
        }
        let certainty = if facts.complete { Certainty::Current } else { Certainty::Doubtful };
        let mut asking = JoinSet::new();
        for ((name, namespace), meshes) in due {
            let place = places.iter().find(|place| *place.name == *name).cloned();
            let place = place.ok_or_else(|| format!("{name} is no configured cluster"))?;
            asking.spawn(Arc::clone(self).ask_in(place, namespace.to_owned(), meshes, certainty));
        }
        while let Some(asked) = asking.join_next().await {
            answers.extend(asked.map_err(|_| "asking failed; the log says why".to_owned())?);
        }
        answers.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(answers)
    }

    fn is_due(&self, mesh: &Known, now: UnixTime) -> bool {
        mesh.expiration().is_some_and(|end| now.seconds_until(end) < self.renew_before.load(Ordering::Relaxed))
    }

    /// Asks for meshes of one namespace: its renewals are listed once.
    async fn ask_in(
        self: Arc<Self>,
        place: Place,
        namespace: String,
        meshes: Vec<Known>,
        certainty: Certainty,
    ) -> Vec<(String, Answer)> {
        let unavailable = |why: Answer| {
            let each = meshes.iter().map(|mesh| (mesh.title(&place.name), why.clone()));
            each.collect()
        };
        let api = match self.api(&place).await {
            Ok(api) => api,
            Err(error) => return unavailable(Answer::Unavailable { why: error.message, told: None }),
        };
        let renewals: Arc<[Renewal]> = match api.renewals(&namespace).await {
            Ok((renewals, _)) => renewals.into(),
            Err(error) => return unavailable(Answer::failed(error)),
        };
        let width = Arc::new(Semaphore::new(AT_ONCE));
        let mut asking = JoinSet::new();
        for mesh in &meshes {
            let (api, mesh, renewals, width) = (api.clone(), mesh.clone(), Arc::clone(&renewals), Arc::clone(&width));
            let title = mesh.title(&place.name);
            asking.spawn(async move {
                // It is never closed.
                let _permit = width.acquire().await;
                let spec = Spec { mesh_id: mesh.id().to_owned(), trigger: Trigger::Alert, ..Spec::default() };
                let asked = ask_among(&api, &renewals, mesh.namespace(), &mesh.renewal_name(), &spec, certainty).await;
                (title, asked.map_or_else(Answer::failed, Answer::Asked))
            });
        }
        asking.join_all().await
    }

    /// The API of a place. Whoever asks may give up in the middle: the way to it is found all the same, and the next one has it.
    async fn api(&self, place: &Place) -> Result<Api, SourceError> {
        let way = Arc::clone(
            self.ways.lock().unwrap_or_else(PoisonError::into_inner).entry(Arc::clone(&place.name)).or_default(),
        );
        let mut way = way.lock_owned().await;
        if let Some((known, api)) = &*way
            && *known == place.connection
        {
            return Ok(api.clone());
        }
        let connection = place.connection.clone();
        let connecting = tokio::spawn(async move {
            let api = Api::new(connect(&connection).await?);
            *way = Some((connection, api.clone()));
            Ok(api)
        });
        let failed = |_| SourceError {
            reason: SourceErrorReason::Kubeconfig,
            message: "connecting failed; the log says why".to_owned(),
        };
        connecting.await.map_err(failed)?
    }
}

impl Answer {
    fn failed(ApiError { kind, message: why }: ApiError) -> Self {
        let told = match kind {
            // The right, without who lacks it.
            ErrorKind::Forbidden => why.split(": ").next().map(str::to_owned),
            ErrorKind::NotFound => {
                Some("the cluster has no CustomResourceDefinition of meshcert, or not the namespace".to_owned())
            }
            ErrorKind::Invalid => Some(why.clone()),
            ErrorKind::Conflict | ErrorKind::Unavailable => None,
        };
        Self::Unavailable { why, told }
    }
}

impl Place {
    fn holds(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|all| all.iter().any(|name| name == namespace))
    }
}

impl Known {
    fn namespace(&self) -> &str {
        match self {
            Self::Seen(mesh) => &mesh.key.namespace,
            Self::Told(mesh) => &mesh.namespace,
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Seen(mesh) => mesh.key.id.as_str(),
            Self::Told(mesh) => &mesh.id,
        }
    }

    fn expiration(&self) -> Option<UnixTime> {
        match self {
            Self::Seen(mesh) => mesh.expiration,
            Self::Told(mesh) => mesh.expiration,
        }
    }

    fn renewal_name(&self) -> String {
        match self {
            Self::Seen(mesh) => name_for(mesh),
            Self::Told(mesh) => mesh.renewal_name.clone(),
        }
    }

    fn title(&self, cluster: &str) -> String {
        format!("{cluster}/{}/{}", self.namespace(), self.id())
    }
}
