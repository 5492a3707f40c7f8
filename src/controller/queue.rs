//! Which renewals are looked at: those that only wait for others take turns, or a fleet of them would ask the API server for the same answer every second.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::cluster::lease::StoredLease;
use crate::controller::look::is_alive;
use crate::controller::{Acting, Actor};
use crate::follower::Unreadable;
use crate::policy::Policy;
use crate::renewal::{COALESCING, NO_SLOT, Phase, Renewal, SECRET_MISSING};
use crate::time::UnixTime;

/// All that a renewal may wait for, as long as others are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// A slot.
    Slot,
    /// That others of its namespace come as far as the workloads that they share.
    Others,
}

impl Wait {
    /// What this one waits for.
    pub(super) fn of(renewal: &Renewal) -> Option<Self> {
        match renewal.status.reason.as_str() {
            NO_SLOT => Some(Self::Slot),
            COALESCING => Some(Self::Others),
            _ => None,
        }
    }
}

/// Idle looks between two at a renewal that waits for a person, the clock or others.
const DOZE: u32 = 6;

/// How soon a renewal is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sleep {
    /// With the next look.
    Awake,
    /// When its time comes, when it has changed, or when there is room for it.
    Light,
    /// When its time comes or when it has changed: whoever cannot be looked at keeps nobody from his turn.
    Deep,
}

/// Renewals that wait, by uid: as they were, until when, and how deeply.
#[derive(Default)]
pub(super) struct Dozing(Mutex<BTreeMap<String, (String, Instant, Sleep)>>);

impl Dozing {
    fn of(&self, renewal: &Renewal, now: Instant) -> Sleep {
        let dozing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match dozing.get(&renewal.uid) {
            Some((version, until, sleep)) if *version == renewal.resource_version && now < *until => *sleep,
            _ => Sleep::Awake,
        }
    }

    fn put(&self, renewal: &Renewal, now: Instant, until: Instant, sleep: Sleep) {
        let mut dozing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those whose time has come are forgotten.
        dozing.retain(|_, (_, until, _)| now < *until);
        dozing.insert(renewal.uid.clone(), (renewal.resource_version.clone(), until, sleep));
    }
}

impl Actor {
    /// Looks at a renewal again later.
    pub(super) fn doze(&self, renewal: &Renewal, sleep: Sleep) {
        let now = Instant::now();
        self.dozing.put(renewal, now, now + self.acting.timing.idle * DOZE, sleep);
    }

    /// Those whose turn it is; of one that cannot be read any more nobody knows what it needs.
    pub(super) async fn in_turn(&self, all: &[Arc<Renewal>], unreadable: &[&Unreadable]) -> Vec<Arc<Renewal>> {
        let (now, moment) = (self.around.clock.now(), Instant::now());
        let unfinished: Vec<(&Arc<Renewal>, Sleep)> = all
            .iter()
            .filter(|renewal| !has_rest(renewal, &self.acting.policy, now))
            .filter(|renewal| !unreadable.iter().any(|one| one.uid == renewal.uid))
            .map(|renewal| (renewal, self.dozing.of(renewal, moment)))
            .collect();
        let slots = self.acting.policy.max_concurrent;
        let mut rooms = BTreeMap::new();
        for (renewal, wait) in unfinished.iter().filter_map(|(renewal, _)| Some((renewal, Wait::of(renewal)?))) {
            let place = (renewal.namespace.as_str(), wait);
            if let Entry::Vacant(entry) = rooms.entry(place) {
                entry.insert(match wait {
                    Wait::Slot => self.free_slots(&renewal.namespace, all).await,
                    Wait::Others => room_behind_others(all, &renewal.namespace, slots as usize),
                });
            }
        }
        let chosen = choose(&unfinished, slots as usize, |namespace, wait| *rooms.get(&(namespace, wait))?);
        chosen.into_iter().map(|position| Arc::clone(unfinished[position].0)).collect()
    }

    /// How many slots of a namespace seem to be free, if any is.
    async fn free_slots(&self, namespace: &str, all: &[Arc<Renewal>]) -> Option<usize> {
        let Acting { policy, timing, .. } = &self.acting;
        // Whoever looks at one that waits says what is wrong.
        let slots = self.slots.of(&self.api, namespace, policy.max_concurrent, timing.busy).await.ok()?;
        let is_held = |lease: &StoredLease| is_alive(&lease.holder, all.iter().map(AsRef::as_ref));
        let free = slots.iter().filter(|(_, stored)| !stored.as_ref().is_some_and(is_held)).count();
        (free > 0).then_some(free)
    }
}

/// Whether there is nothing to do about it until its time comes, or a person changes it.
fn has_rest(renewal: &Renewal, policy: &Policy, now: UnixTime) -> bool {
    renewal.status.phase.is_terminal()
        && renewal.status.cleaned_up
        && renewal.next_attempt_at(policy).is_none_or(|at| at > now)
        && !renewal.is_asked()
}

/// Positions of those that are looked at: all that are awake, but of those that wait in a namespace only those for which there is `room`. As long as there is none
/// (`None`), something else may have come of them: those that are awake, as many at a time as there are slots. Whoever is in the middle of something comes first, then
/// whoever ends first.
fn choose(renewals: &[(&Arc<Renewal>, Sleep)], slots: usize, room: impl Fn(&str, Wait) -> Option<usize>) -> Vec<usize> {
    let mut chosen = Vec::new();
    let mut waiting: BTreeMap<(&str, Wait), Vec<usize>> = BTreeMap::new();
    for (position, (renewal, sleep)) in renewals.iter().enumerate() {
        match Wait::of(renewal) {
            Some(wait) => waiting.entry((&renewal.namespace, wait)).or_default().push(position),
            None if *sleep == Sleep::Awake => chosen.push(position),
            None => {}
        }
    }
    for ((namespace, wait), mut positions) in waiting {
        let room = room(namespace, wait);
        let deepest = if room.is_some() { Sleep::Light } else { Sleep::Awake };
        positions.retain(|position| renewals[*position].1 <= deepest);
        positions.sort_by_key(|position| urgency(renewals[*position].0));
        chosen.extend(positions.into_iter().take(room.unwrap_or(slots)));
    }
    chosen
}

/// How many of a namespace may go on to the workloads that all share: `None` while somebody is on his way to them, and then as many at a time as there are slots, for
/// a fleet that is proven at once has no time to answer.
fn room_behind_others(all: &[Arc<Renewal>], namespace: &str, slots: usize) -> Option<usize> {
    let here = || all.iter().filter(|renewal| renewal.namespace == namespace);
    let proving = here().filter(|renewal| renewal.status.phase == Phase::Verifying).count();
    (!here().any(|renewal| comes_this_far(renewal))).then(|| slots.saturating_sub(proving))
}

/// Whether a renewal is on its way to the shared workloads, as far as that lies with it.
pub(super) fn comes_this_far(renewal: &Renewal) -> bool {
    let phase = renewal.status.phase;
    let earlier = (Phase::BackingUp..Phase::Restarting).contains(&phase) && renewal.status.reason != SECRET_MISSING;
    earlier || phase == Phase::Restarting && renewal.status.reason != COALESCING
}

fn urgency(renewal: &Renewal) -> (bool, Option<UnixTime>, &str) {
    let ends_at = renewal.status.plan.iter().flat_map(|plan| &plan.leaves).map(|leaf| leaf.ends_at).min();
    (renewal.status.phase == Phase::BackingUp, ends_at, &renewal.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::issue::KeyType;
    use crate::plan::{Plan, PlannedLeaf};
    use crate::policy::Engine;
    use crate::renewal::Status;

    fn mk_renewal(name: &str, namespace: &str, phase: Phase, reason: &str, ends_at: i64) -> Renewal {
        let leaf = PlannedLeaf {
            secret: String::new(),
            key: String::new(),
            serial_number: String::new(),
            subject: String::new(),
            names: Vec::new(),
            usages: Vec::new(),
            ca: String::new(),
            key_type: KeyType::EcdsaP256,
            ends_at: UnixTime(ends_at),
            next_ends_at: UnixTime(0),
        };
        let plan = Plan {
            digest: String::new(),
            engine: Engine::Native,
            image: None,
            service_account: None,
            engine_reason: String::new(),
            leaves: vec![leaf],
            restarts: Vec::new(),
            ends_at: UnixTime(0),
        };
        let status = Status { phase, reason: reason.to_owned(), plan: Some(plan), ..Status::default() };
        Renewal { name: name.to_owned(), namespace: namespace.to_owned(), status, ..Renewal::default() }
    }

    #[test]
    fn the_most_urgent_of_those_that_wait_are_looked_at_and_everyone_else() {
        let waiting = |name, ends_at| mk_renewal(name, "a", Phase::BackingUp, "NoSlot", ends_at);
        let all = [
            waiting("late", 30),
            waiting("soon", 10),
            waiting("sooner", 5),
            mk_renewal("elsewhere", "b", Phase::BackingUp, "NoSlot", 90),
            mk_renewal("working", "a", Phase::Restarting, "Restarting", 40),
            mk_renewal("half", "a", Phase::Committing, "NoSlot", 40),
        ]
        .map(Arc::new);
        let names = |sleeps: [Sleep; 6], slots, room: Option<usize>| {
            let all: Vec<_> = all.iter().zip(sleeps).collect();
            let chosen = choose(&all, slots, |namespace, _| room.filter(|_| namespace == "a"));
            chosen.into_iter().map(|position| all[position].0.name.as_str()).collect::<Vec<_>>()
        };
        let awake = [Sleep::Awake; 6];
        assert_eq!(names(awake, 1, None), ["working", "half", "elsewhere"]);
        assert_eq!(names(awake, 3, None), ["working", "half", "sooner", "soon", "elsewhere"]);
        assert_eq!(names(awake, 1, Some(4)), ["working", "half", "sooner", "soon", "late", "elsewhere"]);
        let mut sleeps = [Sleep::Light; 6];
        assert_eq!(names(sleeps, 3, None), Vec::<&str>::new());
        assert_eq!(names(sleeps, 3, Some(2)), ["half", "sooner"]);
        // The most urgent one cannot be looked at, and keeps nobody from his turn.
        sleeps[5] = Sleep::Deep;
        assert_eq!(names(sleeps, 3, Some(2)), ["sooner", "soon"]);
    }

    #[test]
    fn what_all_share_is_come_to_in_waves_once_nobody_is_on_his_way_to_it() {
        let mk = |phase, reason, count: usize| (0..count).map(move |_| Arc::new(mk_renewal("", "a", phase, reason, 0)));
        let coalescing = || mk(Phase::Restarting, "Coalescing", 9);
        let room =
            |others: Vec<Arc<Renewal>>| room_behind_others(&coalescing().chain(others).collect::<Vec<_>>(), "a", 4);
        assert_eq!(room(Vec::new()), Some(4));
        assert_eq!(room(mk(Phase::Verifying, "", 3).collect()), Some(1));
        assert_eq!(room(mk(Phase::Verifying, "", 5).collect()), Some(0));
        for (phase, reason) in
            [(Phase::BackingUp, "NoSlot"), (Phase::Committing, ""), (Phase::Restarting, "Restarting")]
        {
            assert_eq!(room(mk(phase, reason, 1).collect()), None, "{phase:?}");
        }
        for phase in [Phase::Pending, Phase::AwaitingApproval, Phase::Succeeded, Phase::Failed] {
            assert_eq!(room(mk(phase, "", 5).collect()), Some(4), "{phase:?}");
        }
        assert_eq!(
            room(mk(Phase::Committing, "SecretMissing", 1).collect()),
            Some(4),
            "a person has to restore it first"
        );
        let elsewhere = mk_renewal("", "b", Phase::Committing, "", 0);
        assert_eq!(room(vec![Arc::new(elsewhere)]), Some(4));
    }
}
