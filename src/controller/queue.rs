//! Which renewals are looked at: those that wait for a slot take turns, or a fleet of them would ask the API server for the same answer every second.

use std::collections::BTreeMap;

use crate::renewal::{NO_SLOT, Phase, Renewal};
use crate::time::UnixTime;

/// Positions of those that are looked at: all but those that wait for a slot, of which there are as many in each namespace as there are slots. Whoever is in the
/// middle of something comes first, then whoever ends first.
pub(super) fn in_turn(renewals: &[&Renewal], slots: u32) -> Vec<usize> {
    let mut chosen = Vec::new();
    let mut waiting: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (position, renewal) in renewals.iter().enumerate() {
        if waits(renewal) {
            waiting.entry(&renewal.namespace).or_default().push(position);
        } else {
            chosen.push(position);
        }
    }
    for positions in waiting.values_mut() {
        positions.sort_by_key(|position| urgency(renewals[*position]));
        chosen.extend(positions.iter().take(slots as usize));
    }
    chosen
}

/// Whether all that a renewal waits for is a slot.
pub(super) fn waits(renewal: &Renewal) -> bool {
    renewal.status.reason == NO_SLOT
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
        ];
        let names = |slots| {
            let all: Vec<&Renewal> = all.iter().collect();
            in_turn(&all, slots).into_iter().map(|position| all[position].name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(names(1), ["working", "half", "elsewhere"]);
        assert_eq!(names(3), ["working", "half", "sooner", "soon", "elsewhere"]);
    }
}
