//! The objects of the embedded API, their versions, and what happened to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::body::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::demo::status::Failure;
use crate::ports::Clock;

/// Changes that are remembered; a watch from before them is told 410.
const HISTORY: usize = 4096;

/// Where an object lives: resource (`group/plural`), namespace (empty for none), name.
pub(super) type Key = (Arc<str>, Arc<str>, Arc<str>);

/// A version of an object: its value, and its JSON as lists hold it, without kind and version.
#[derive(Clone)]
pub(super) struct Object {
    pub(super) value: Arc<Value>,
    pub(super) listed: Bytes,
}

impl Object {
    /// Its whole JSON.
    pub(super) fn json(&self) -> Bytes {
        let (kind, version) = (&self.value["kind"], &self.value["apiVersion"]);
        let head = format!(r#"{{"kind":{kind},"apiVersion":{version},"#);
        // What is listed has metadata at least.
        [head.as_bytes(), &self.listed[1..]].concat().into()
    }
}

/// What happened to an object.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) key: Key,
    /// The version before; a selector may have matched it.
    pub(super) before: Option<Object>,
    /// The version after; `None` where it was deleted.
    pub(super) after: Option<Object>,
}

/// All objects.
pub(super) struct Store {
    inner: Mutex<Inner>,
    clock: Arc<dyn Clock>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Key, Object>,
    history: VecDeque<Change>,
    version: u64,
    uids: u64,
}

/// What becomes of the objects that belong to a deleted one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dependents {
    /// They go too.
    Go,
    /// They stay, and belong to nobody.
    Stay,
}

/// Objects of a resource at one moment.
pub(super) struct Listing {
    pub(super) objects: Vec<(Key, Object)>,
    pub(super) version: u64,
}

impl Store {
    /// An empty store.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { inner: Mutex::default(), clock, version: watch::Sender::new(0) }
    }

    /// Announces each new version.
    pub(super) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(super) fn get(&self, key: &Key) -> Option<Object> {
        self.lock().objects.get(key).cloned()
    }

    /// All objects of a resource, in a namespace or in all.
    pub(super) fn list(&self, resource: &str, namespace: Option<&str>) -> Listing {
        let inner = self.lock();
        let start: Key = (resource.into(), namespace.unwrap_or_default().into(), "".into());
        let objects = inner
            .objects
            .range(start..)
            .take_while(|((kind, place, _), _)| {
                **kind == *resource && namespace.is_none_or(|wanted| **place == *wanted)
            })
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        Listing { objects, version: inner.version }
    }

    /// The changes after a version; `None` where they are no longer remembered.
    pub(super) fn since(&self, version: u64) -> Option<(Vec<Change>, u64)> {
        let inner = self.lock();
        let oldest = inner.history.front().map_or(inner.version + 1, |change| change.version);
        if version > inner.version || version + 1 < oldest {
            return None;
        }
        let first = inner.history.partition_point(|change| change.version <= version);
        Some((inner.history.range(first..).cloned().collect(), inner.version))
    }

    /// Creates an object; its metadata is completed.
    pub(super) fn create(&self, key: Key, mut value: Value) -> Result<Object, Failure> {
        let mut inner = self.lock();
        if inner.objects.contains_key(&key) {
            return Err(Failure::already_exists(&key));
        }
        inner.uids += 1;
        let uid = format!("00000000-0000-4000-8000-{:012x}", inner.uids);
        let metadata = metadata(&mut value);
        metadata.insert("uid".to_owned(), json!(uid));
        metadata.insert("creationTimestamp".to_owned(), json!(self.clock.now().to_string()));
        if counts_generations(&key.0) {
            metadata.insert("generation".to_owned(), json!(1));
        }
        metadata.remove("deletionTimestamp");
        Ok(self.put(&mut inner, key, value))
    }

    /// Replaces an object by what `change` makes of it, under the lock: nothing comes in between. A value that comes out equal is no change.
    pub(super) fn update(
        &self,
        key: &Key,
        change: impl FnOnce(&Value) -> Result<Value, Failure>,
    ) -> Result<Object, Failure> {
        let mut inner = self.lock();
        let before = inner.objects.get(key).cloned().ok_or_else(|| Failure::not_found(key))?;
        let mut value = change(&before.value)?;
        let old = &before.value["metadata"];
        // A Deployment's annotations are copied to its ReplicaSets: its controller has to look at it again.
        let copied = &*key.0 == "apps/deployments" && value["metadata"]["annotations"] != old["annotations"];
        let grows = copied || value.get("spec") != before.value.get("spec");
        let metadata = metadata(&mut value);
        for fixed in ["uid", "creationTimestamp", "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"]
        {
            match old.get(fixed) {
                Some(kept) => metadata.insert(fixed.to_owned(), kept.clone()),
                None => metadata.remove(fixed),
            };
        }
        if let Some(generation) = old["generation"].as_u64() {
            metadata.insert("generation".to_owned(), json!(generation + u64::from(grows)));
        }
        let finalizers = metadata.get("finalizers").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
        if metadata.contains_key("deletionTimestamp") && !finalizers {
            self.remove(&mut inner, key);
            return Ok(before);
        }
        if value == *before.value {
            return Ok(before);
        }
        Ok(self.put(&mut inner, key.clone(), value))
    }

    /// Deletes an object, or marks it where finalizers hold it.
    pub(super) fn delete(
        &self,
        key: &Key,
        dependents: Dependents,
        allowed: impl FnOnce(&Value) -> Result<(), Failure>,
    ) -> Result<Object, Failure> {
        let mut inner = self.lock();
        let object = inner.objects.get(key).cloned().ok_or_else(|| Failure::not_found(key))?;
        allowed(&object.value)?;
        let finalizers = &object.value["metadata"]["finalizers"];
        if finalizers.as_array().is_some_and(|all| !all.is_empty()) {
            let mut value = Value::clone(&object.value);
            if value["metadata"]["deletionTimestamp"].is_string() {
                return Ok(object);
            }
            let generation = value["metadata"]["generation"].as_u64();
            let metadata = metadata(&mut value);
            metadata.insert("deletionTimestamp".to_owned(), json!(self.clock.now().to_string()));
            metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(0));
            if let Some(generation) = generation {
                metadata.insert("generation".to_owned(), json!(generation + 1));
            }
            return Ok(self.put(&mut inner, key.clone(), value));
        }
        self.remove(&mut inner, key);
        let uid = object.value["metadata"]["uid"].clone();
        match dependents {
            Dependents::Go => self.remove_owned(&mut inner, &uid),
            Dependents::Stay => self.release_owned(&mut inner, &uid),
        }
        Ok(object)
    }

    /// What belonged to a deleted object belongs to nobody.
    fn release_owned(&self, inner: &mut Inner, owner: &Value) {
        for key in Self::owned(inner, owner) {
            let Some(object) = inner.objects.get(&key).cloned() else { continue };
            let mut value = Value::clone(&object.value);
            metadata(&mut value).remove("ownerReferences");
            self.put(inner, key, value);
        }
    }

    fn owned(inner: &Inner, owner: &Value) -> Vec<Key> {
        let is_owned = |object: &Object| {
            let owners = object.value["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|all| all.iter().any(|reference| reference["uid"] == *owner))
        };
        inner.objects.iter().filter(|(_, object)| is_owned(object)).map(|(key, _)| key.clone()).collect()
    }

    /// What the garbage collector does: what belongs to a deleted object goes with it.
    fn remove_owned(&self, inner: &mut Inner, owner: &Value) {
        for key in Self::owned(inner, owner) {
            if let Some(object) = self.remove(inner, &key) {
                let uid = object.value["metadata"]["uid"].clone();
                self.remove_owned(inner, &uid);
            }
        }
    }

    fn put(&self, inner: &mut Inner, key: Key, mut value: Value) -> Object {
        inner.version += 1;
        metadata(&mut value).insert("resourceVersion".to_owned(), json!(inner.version.to_string()));
        let fields = value.as_object().into_iter().flatten();
        let listed: BTreeMap<_, _> =
            fields.filter(|(field, _)| !matches!(field.as_str(), "kind" | "apiVersion")).collect();
        let listed = Bytes::from(json!(listed).to_string());
        let object = Object { value: Arc::new(value), listed };
        let before = inner.objects.insert(key.clone(), object.clone());
        self.remember(inner, Change { version: inner.version, key, before, after: Some(object.clone()) });
        object
    }

    fn remove(&self, inner: &mut Inner, key: &Key) -> Option<Object> {
        let object = inner.objects.remove(key)?;
        inner.version += 1;
        self.remember(
            inner,
            Change { version: inner.version, key: key.clone(), before: Some(object.clone()), after: None },
        );
        Some(object)
    }

    fn remember(&self, inner: &mut Inner, change: Change) {
        if inner.history.len() == HISTORY {
            inner.history.pop_front();
        }
        self.version.send_replace(change.version);
        inner.history.push_back(change);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is made whole before anything can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object's metadata, made where it is missing.
pub(super) fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    let metadata = &mut value["metadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata.as_object_mut().unwrap_or_else(|| unreachable!("it was made an object above"))
}

/// Whether objects of a resource count how often what they ask for was changed.
fn counts_generations(resource: &str) -> bool {
    !matches!(
        resource,
        "/namespaces"
            | "/nodes"
            | "/secrets"
            | "/configmaps"
            | "/services"
            | "/serviceaccounts"
            | "/events"
            | "coordination.k8s.io/leases"
    )
}
