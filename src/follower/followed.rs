//! What is known of all renewals at a moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::cluster::renewal_watch::{MOST_RENEWALS, worth};
use crate::cluster::renewals::Unreadable;
use crate::renewal::Renewal;
use crate::time::UnixTime;

/// A renewal, and the cluster in which it is.
#[derive(Clone, Debug)]
pub struct Known {
    /// The value of `mesh_cluster`.
    pub cluster: Arc<str>,
    /// The renewal; the same `Arc` as long as it did not change.
    pub renewal: Arc<Renewal>,
}

/// How well the renewals of a source can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceHealth {
    /// The value of `mesh_cluster`.
    pub cluster: Arc<str>,
    /// The namespace; `None` for all.
    pub namespace: Option<Arc<str>>,
    /// Whether a full list was completed: before it, nothing is known.
    pub listed: bool,
    /// When it last answered.
    pub last_success: Option<UnixTime>,
    /// What failed last and what to do, while it cannot be read.
    pub failure: Option<String>,
    /// Whether it holds more renewals than are kept; some that have ended are left out: of which nothing came first, then the oldest.
    pub cut_off: bool,
    /// Those that cannot be read, by namespace and name; what was read of them last is among the renewals.
    pub unreadable: BTreeMap<(String, String), Unreadable>,
}

/// Everything that is known at a moment; it never changes.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// All renewals, by cluster, namespace and name.
    pub renewals: Vec<Known>,
    /// All sources.
    pub sources: Vec<SourceHealth>,
}

/// What the followers remember, and the present [`View`] of it.
#[derive(Debug)]
pub struct Followed {
    sources: Mutex<BTreeMap<Arc<str>, Vec<Remembered>>>,
    view: ArcSwap<View>,
    changes: watch::Sender<u64>,
}

/// One source.
#[derive(Debug)]
pub(super) struct Remembered {
    health: SourceHealth,
    renewals: BTreeMap<(String, String), Arc<Renewal>>,
}

impl Default for Followed {
    fn default() -> Self {
        Self { sources: Mutex::default(), view: ArcSwap::default(), changes: watch::Sender::new(0) }
    }
}

impl Followed {
    /// The present state.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Announces changes; the number has no meaning but to differ.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn add(&self, cluster: &Arc<str>, namespaces: &[Option<Arc<str>>]) {
        let source = |namespace: &Option<Arc<str>>| Remembered {
            health: SourceHealth {
                cluster: Arc::clone(cluster),
                namespace: namespace.clone(),
                listed: false,
                last_success: None,
                failure: None,
                cut_off: false,
                unreadable: BTreeMap::new(),
            },
            renewals: BTreeMap::new(),
        };
        self.alter(|sources| sources.insert(Arc::clone(cluster), namespaces.iter().map(source).collect()));
    }

    pub(super) fn remove(&self, cluster: &str) {
        self.alter(|sources| sources.remove(cluster));
    }

    pub(super) fn change(&self, cluster: &str, index: usize, change: impl FnOnce(&mut Remembered)) {
        self.alter(|sources| sources.get_mut(cluster).and_then(|sources| sources.get_mut(index)).map(change));
    }

    fn alter<R>(&self, alter: impl FnOnce(&mut BTreeMap<Arc<str>, Vec<Remembered>>) -> R) {
        // Held until the view is stored, so that two sources cannot overwrite each other's.
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        alter(&mut sources);
        let mut view = View::default();
        for source in sources.values().flatten() {
            let known = |renewal: &Arc<Renewal>| Known {
                cluster: Arc::clone(&source.health.cluster),
                renewal: Arc::clone(renewal),
            };
            view.renewals.extend(source.renewals.values().map(known));
            view.sources.push(source.health.clone());
        }
        self.view.store(Arc::new(view));
        drop(sources);
        self.changes.send_modify(|number| *number += 1);
    }
}

impl SourceHealth {
    /// Whether all of it can be read, as far as is known.
    pub fn is_readable(&self) -> bool {
        self.failure.is_none() && self.unreadable.is_empty()
    }
}

impl Remembered {
    /// Takes a full list in place of all that was known; what did not change stays the same `Arc`.
    pub(super) fn list(&mut self, renewals: Vec<Renewal>, unreadable: Vec<Unreadable>, cut_off: bool, now: UnixTime) {
        self.health.unreadable.clear();
        let mut before = std::mem::take(&mut self.renewals);
        for renewal in renewals {
            let key = (renewal.namespace.clone(), renewal.name.clone());
            let same = before.remove(&key).filter(|known| **known == renewal);
            self.renewals.insert(key, same.unwrap_or_else(|| Arc::new(renewal)));
        }
        for one in unreadable {
            let key = (one.namespace.clone(), one.name.clone());
            if let Some(known) = before.remove(&key) {
                self.renewals.insert(key, known);
            }
            self.lose(one, now);
        }
        self.health.listed = true;
        self.health.cut_off = cut_off;
        self.shrink();
        self.succeed(now);
    }

    pub(super) fn apply(&mut self, renewal: Renewal, now: UnixTime) {
        let key = (renewal.namespace.clone(), renewal.name.clone());
        self.health.unreadable.remove(&key);
        self.renewals.insert(key, Arc::new(renewal));
        self.shrink();
        self.succeed(now);
    }

    /// Takes one that cannot be read: what was read of it last stays, unless that was about another one of its name.
    pub(super) fn lose(&mut self, unreadable: Unreadable, now: UnixTime) {
        let key = (unreadable.namespace.clone(), unreadable.name.clone());
        self.renewals.retain(|known, renewal| *known != key || unreadable.may_own(&renewal.uid));
        self.health.unreadable.insert(key, unreadable);
        self.succeed(now);
    }

    pub(super) fn delete(&mut self, namespace: &str, name: &str, now: UnixTime) {
        let key = (namespace.to_owned(), name.to_owned());
        self.health.unreadable.remove(&key);
        self.renewals.remove(&key);
        self.succeed(now);
    }

    pub(super) fn succeed(&mut self, now: UnixTime) {
        self.health.last_success = Some(now);
        self.health.failure = None;
    }

    /// What was known stays: old news with their age are better than none.
    pub(super) fn fail(&mut self, message: &str) {
        self.health.failure = Some(message.to_owned());
    }

    /// Forgets some of those that have ended, as a list passes them over.
    fn shrink(&mut self) {
        while self.renewals.len() > MOST_RENEWALS {
            let ended = self.renewals.iter().filter(|(_, renewal)| !renewal.is_under_way());
            let Some((key, _)) = ended.min_by_key(|(_, renewal)| worth(renewal)) else { return };
            let key = key.clone();
            self.renewals.remove(&key);
            self.health.cut_off = true;
        }
    }
}

impl View {
    /// The renewal of each mesh that counts, by cluster, namespace and mesh id: one that is under way, else the newest of which something came.
    pub fn by_mesh(&self) -> BTreeMap<(&str, &str, &str), &Arc<Renewal>> {
        let mut counts: BTreeMap<_, &Arc<Renewal>> = BTreeMap::new();
        for Known { cluster, renewal } in self.renewals.iter().filter(|known| !known.renewal.status.is_moot()) {
            let known = counts.entry((&**cluster, &*renewal.namespace, &*renewal.spec.mesh_id)).or_insert(renewal);
            if known.rank() < renewal.rank() {
                *known = renewal;
            }
        }
        counts
    }

    /// What is in the way of reading the renewals of a namespace, if anything is.
    pub fn obstacle(&self, cluster: &str, namespace: &str) -> Option<&str> {
        self.source(cluster, namespace)?.failure.as_deref()
    }

    /// Those of a namespace that cannot be read: of which mesh they are nobody knows.
    pub fn unreadable(&self, cluster: &str, namespace: &str) -> impl Iterator<Item = &Unreadable> {
        let all = self.source(cluster, namespace).into_iter().flat_map(|source| source.unreadable.values());
        all.filter(move |one| one.namespace == namespace)
    }

    fn source(&self, cluster: &str, namespace: &str) -> Option<&SourceHealth> {
        let about = |source: &&SourceHealth| {
            *source.cluster == *cluster && source.namespace.as_deref().is_none_or(|name| name == namespace)
        };
        self.sources.iter().find(about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::renewal::{Phase, Spec, Status};

    const NOW: UnixTime = UnixTime(1_795_465_260);

    fn mk_renewal(name: &str, mesh: &str, phase: Phase, created: i64) -> Renewal {
        Renewal {
            name: name.to_owned(),
            namespace: "istio-system".to_owned(),
            created: Some(NOW.plus(created)),
            spec: Spec { mesh_id: mesh.to_owned(), ..Spec::default() },
            status: Status { phase, cleaned_up: phase.is_terminal(), ..Status::default() },
            ..Renewal::default()
        }
    }

    fn mk_followed() -> Followed {
        let followed = Followed::default();
        followed.add(&"cp-1".into(), &[Some("istio-system".into())]);
        followed
    }

    fn names(view: &View) -> Vec<&str> {
        view.renewals.iter().map(|known| &*known.renewal.name).collect()
    }

    #[test]
    fn a_list_replaces_what_was_known_and_keeps_what_did_not_change() {
        let followed = mk_followed();
        let list = |renewals| followed.change("cp-1", 0, |source| source.list(renewals, vec![], false, NOW));
        assert!(!followed.view().sources[0].listed, "before the first list nothing is known");
        list(vec![mk_renewal("a-1", "a", Phase::Pending, 0), mk_renewal("b-1", "b", Phase::Pending, 0)]);
        let before = followed.view();
        list(vec![mk_renewal("a-1", "a", Phase::Pending, 0), mk_renewal("c-1", "c", Phase::Pending, 0)]);
        let after = followed.view();
        assert_eq!((names(&before), names(&after)), (vec!["a-1", "b-1"], vec!["a-1", "c-1"]));
        assert!(Arc::ptr_eq(&before.renewals[0].renewal, &after.renewals[0].renewal));
        followed.change("cp-1", 0, |source| source.delete("istio-system", "a-1", NOW));
        assert_eq!(names(&followed.view()), ["c-1"]);
        followed.remove("cp-1");
        assert!(followed.view().renewals.is_empty() && followed.view().sources.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_named_beside_what_was_read_of_it_last() {
        let followed = mk_followed();
        let mk_unreadable = |name: &str, uid: &str| Unreadable {
            name: name.to_owned(),
            namespace: "istio-system".to_owned(),
            uid: uid.to_owned(),
            why: "no moment".to_owned(),
        };
        let change = |change: &dyn Fn(&mut Remembered)| {
            followed.change("cp-1", 0, |source| change(source));
            let view = followed.view();
            let unreadable = view.unreadable("cp-1", "istio-system").map(|one| one.name.clone()).collect::<Vec<_>>();
            (names(&view).join(" "), unreadable.join(" "))
        };
        let readable = || Renewal { uid: "a".to_owned(), ..mk_renewal("a-1", "a", Phase::Pending, 0) };
        let lists = |renewals: &[Renewal], unreadable: &[Unreadable], source: &mut Remembered| {
            source.list(renewals.to_vec(), unreadable.to_vec(), false, NOW);
        };
        let both = |renewals: &str, unreadable: &str| (renewals.to_owned(), unreadable.to_owned());
        assert_eq!(change(&|source| lists(&[readable()], &[mk_unreadable("b-1", "b")], source)), both("a-1", "b-1"));
        assert_eq!(change(&|source| source.lose(mk_unreadable("a-1", "a"), NOW)), both("a-1", "a-1 b-1"));
        assert_eq!(change(&|source| lists(&[], &[mk_unreadable("a-1", "a")], source)), both("a-1", "a-1"));
        assert_eq!(change(&|source| source.apply(readable(), NOW)), both("a-1", ""));
        assert_eq!(change(&|source| source.lose(mk_unreadable("a-1", "another"), NOW)), both("", "a-1"));
        assert_eq!(change(&|source| source.delete("istio-system", "a-1", NOW)), both("", ""));
    }

    #[test]
    fn a_failure_is_said_and_takes_nothing_away() {
        let followed = mk_followed();
        followed.change("cp-1", 0, |source| source.apply(mk_renewal("a-1", "a", Phase::Pending, 0), NOW));
        followed.change("cp-1", 0, |source| source.fail("it is forbidden"));
        let view = followed.view();
        assert_eq!((names(&view), view.obstacle("cp-1", "istio-system")), (vec!["a-1"], Some("it is forbidden")));
        assert_eq!((view.obstacle("cp-1", "elsewhere"), view.obstacle("cp-2", "istio-system")), (None, None));
        followed.change("cp-1", 0, |source| source.succeed(NOW));
        assert_eq!(followed.view().obstacle("cp-1", "istio-system"), None);
    }

    #[test]
    fn of_a_meshs_renewals_the_one_under_way_counts_else_the_newest() {
        let followed = mk_followed();
        let moot = |name, mesh, phase, reason: &str| {
            let mut renewal = mk_renewal(name, mesh, phase, 90);
            renewal.status.reason = reason.to_owned();
            renewal
        };
        let renewals = vec![
            mk_renewal("a-1", "a", Phase::Restarting, 0),
            mk_renewal("a-2", "a", Phase::Superseded, 60),
            mk_renewal("b-1", "b", Phase::Succeeded, 60),
            mk_renewal("b-2", "b", Phase::Failed, 0),
            moot("b-3", "b", Phase::Refused, "NotDue"),
            moot("b-4", "b", Phase::Superseded, "AlreadyRunning"),
            moot("c-1", "c", Phase::Refused, "NotDue"),
        ];
        followed.change("cp-1", 0, |source| source.list(renewals, vec![], false, NOW));
        let view = followed.view();
        let counts: Vec<_> = view.by_mesh().into_iter().map(|((_, _, mesh), one)| (mesh, &*one.name)).collect();
        assert_eq!(counts, [("a", "a-1"), ("b", "b-1")]);
    }

    #[test]
    fn beyond_the_limit_the_oldest_that_ended_are_forgotten() {
        let followed = mk_followed();
        let ended = (0..MOST_RENEWALS as i64).map(|i| mk_renewal(&format!("r-{i:05}"), "a", Phase::Succeeded, i));
        let mut all = vec![mk_renewal("running", "b", Phase::Staging, -1)];
        all.extend(ended);
        followed.change("cp-1", 0, |source| source.list(all, vec![], false, NOW));
        let view = followed.view();
        assert_eq!((view.renewals.len(), view.sources[0].cut_off), (MOST_RENEWALS, true));
        assert!(names(&view).contains(&"running") && !names(&view).contains(&"r-00000"));
        // Whoever asks in vain, thousands of times, displaces only what was asked for in vain.
        for number in 0..3 {
            let mut moot = mk_renewal(&format!("moot-{number}"), "c", Phase::Refused, 1_000_000 + number);
            moot.status.reason = "NotDue".to_owned();
            followed.change("cp-1", 0, |source| source.apply(moot, NOW));
        }
        let view = followed.view();
        assert!(view.renewals.len() == MOST_RENEWALS && names(&view).contains(&"r-00001"), "{:?}", names(&view)[0]);
    }
}
