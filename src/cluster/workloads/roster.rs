//! The workloads, pods and Services of a namespace, read once for all its meshes: a look at a thousand of them costs as many requests as there are pages.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use crate::cluster::api::{Api, ApiError, ErrorKind};
use crate::cluster::workloads::objects::{PodObject, ServiceObject, WorkloadObject};
use crate::rollout::{Kind, Serves, Target, Workload};

/// What a namespace holds.
pub struct Roster {
    workloads: [BTreeMap<String, WorkloadObject>; Kind::ALL.len()],
    services: BTreeMap<String, ServiceObject>,
    pods: Vec<PodObject>,
    /// Positions in `pods` by label and value.
    labelled: BTreeMap<(String, String), Vec<usize>>,
    /// Why the Services could not be read, where they may not be: then the pods' own words and the usual ports count.
    pub services_withheld: Option<String>,
}

impl Api {
    /// Reads a namespace.
    ///
    /// # Errors
    /// A request failed.
    pub async fn roster(&self, namespace: &str) -> Result<Roster, ApiError> {
        let by_name = |objects: Vec<WorkloadObject>| -> BTreeMap<String, WorkloadObject> {
            objects.into_iter().map(|object| (object.metadata.name.clone(), object)).collect()
        };
        let mut workloads = [const { BTreeMap::new() }; Kind::ALL.len()];
        for (kind, found) in Kind::ALL.into_iter().zip(&mut workloads) {
            *found = by_name(self.all(&format!("/apis/apps/v1/namespaces/{namespace}/{}", kind.plural())).await?);
        }
        let pods: Vec<PodObject> = self.all(&format!("/api/v1/namespaces/{namespace}/pods")).await?;
        let services = self.all::<ServiceObject>(&format!("/api/v1/namespaces/{namespace}/services")).await;
        let (services, services_withheld) = match services {
            Ok(services) => (services, None),
            Err(error) if error.kind == ErrorKind::Forbidden => (Vec::new(), Some(error.message)),
            Err(error) => return Err(error),
        };
        let mut labelled: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
        for (position, pod) in pods.iter().enumerate() {
            for (key, value) in &pod.metadata.labels {
                labelled.entry((key.clone(), value.clone())).or_default().push(position);
            }
        }
        let services = services.into_iter().map(|service| (service.metadata.name.clone(), service)).collect();
        Ok(Roster { workloads, services, pods, labelled, services_withheld })
    }

    /// All items of a list; a cluster that does not know the kind has none.
    async fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ApiError> {
        match self.list(path).await {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }
}

impl Roster {
    /// A mesh's workloads that serve certificates, tier by tier; those that are missing are left out.
    pub fn serving(&self, mesh: &str, tiers: &[Vec<Target>]) -> Vec<Vec<Workload>> {
        let serving = |target: &&Target| target.serves != Serves::Nothing;
        let found = |target: &Target| self.workload(&target.name.replace("{mesh}", mesh), target);
        tiers.iter().map(|tier| tier.iter().filter(serving).filter_map(found).collect()).collect()
    }

    fn workload(&self, name: &str, target: &Target) -> Option<Workload> {
        let mut kinds = Kind::ALL.into_iter().zip(&self.workloads);
        let (kind, object) = kinds.find_map(|(kind, known)| known.get(name).map(|object| (kind, object)))?;
        let services: Vec<_> = object.service_names().filter_map(|name| self.services.get(name)).collect();
        let selector = &object.spec.selector;
        let pods = self.candidates(object).map(|position| &self.pods[position]);
        let pods = pods.filter(|pod| selector.matches(&pod.metadata.labels));
        Some(object.read(target, kind, &services, pods))
    }

    /// Positions of the pods that have the rarest of the wanted labels; all pods where none is wanted.
    fn candidates(&self, object: &WorkloadObject) -> Box<dyn Iterator<Item = usize> + '_> {
        let labels = object.spec.selector.match_labels.iter();
        let pods = |(key, value): (&String, &String)| {
            self.labelled.get(&(key.clone(), value.clone())).map(Vec::as_slice).unwrap_or_default()
        };
        match labels.map(pods).min_by_key(|pods| pods.len()) {
            Some(rarest) => Box::new(rarest.iter().copied()),
            None => Box::new(0..self.pods.len()),
        }
    }
}
