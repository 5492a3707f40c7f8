//! What is known of the members of a cluster, and whether they have a quorum.

use crate::rollout::Pod;

/// How a member of a cluster is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It says that it works, which etcd's members say only where there is a quorum.
    Works,
    /// It says that it does not, or Kubernetes does: whether there is a quorum is not said.
    Fails,
    /// It is part of no quorum: it says so itself, or shows a certificate that has ended, with which no other member talks to it.
    Alone,
    /// It was not asked, or could not be, which says nothing about it.
    #[default]
    Unknown,
}

/// How the members of a cluster are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Members {
    /// Those that are new work, or there is nothing to ask.
    #[default]
    Healthy,
    /// One that is new does not work, while old ones do: it is waited for.
    Unhealthy,
    /// The quorum is lost already, and nothing is gained by waiting.
    Lost,
    /// One that is new could not be asked, or whether any works: it is waited for.
    Unknown,
}

impl Pod {
    /// Whether it does its part in a cluster: as it says itself, else as far as its readiness tells.
    pub(super) fn works(&self) -> bool {
        match self.health {
            Health::Works => true,
            Health::Fails | Health::Alone => false,
            Health::Unknown => self.ready,
        }
    }

    /// Whether it may be part of a quorum, for all that is known.
    pub(super) fn may_count(&self) -> bool {
        match self.health {
            Health::Works => true,
            Health::Alone => false,
            Health::Fails | Health::Unknown => self.ready,
        }
    }
}

impl Members {
    /// What follows from members that were asked; those with this digest are new. `ended`: so have the certificates with which the others talk to each other.
    pub fn of(pods: &[&Pod], digest: &str, ended: bool) -> Self {
        let any = |health| pods.iter().any(|pod| pod.health == health);
        let new = |health| pods.iter().any(|pod| pod.health == health && pod.digest.as_deref() == Some(digest));
        let counted = pods.iter().filter(|pod| pod.may_count()).count();
        // Without their certificates members make no new connection: that cannot be waited for, and where none of them says how it is, Kubernetes does.
        let by_readiness = ended && !any(Health::Works);
        let least = if by_readiness { pods.len() / 2 + 1 } else { 1 };
        match (new(Health::Fails) || new(Health::Alone), new(Health::Unknown)) {
            // One Ready member that cannot be asked, or says nothing of the quorum, may well be the one that keeps it.
            _ if !pods.is_empty() && counted < least => Self::Lost,
            (false, false) => Self::Healthy,
            (false, true) if by_readiness => Self::Healthy,
            (true, _) if any(Health::Works) => Self::Unhealthy,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixTime;

    fn mk_pod(new: bool, ready: bool, health: Health) -> Pod {
        Pod {
            name: "m-etcd-0".to_owned(),
            uid: "u".to_owned(),
            ip: None,
            ports: Vec::new(),
            created: UnixTime(0),
            ready,
            deleting: false,
            digest: new.then(|| "d".to_owned()),
            health,
            problem: None,
        }
    }

    #[test]
    fn a_quorum_is_lost_only_where_no_member_can_be_part_of_one() {
        use Health::{Alone, Fails, Unknown, Works};
        const NEW: bool = true;
        const OLD: bool = false;
        let up = |new, health| mk_pod(new, true, health);
        let down = |new, health| mk_pod(new, false, health);
        for (pods, verdict, once_ended) in [
            (vec![], Members::Healthy, Members::Healthy),
            // None of them is Ready, or says that it is part of a quorum.
            (vec![down(OLD, Fails), down(OLD, Fails)], Members::Lost, Members::Lost),
            (vec![up(OLD, Alone), up(OLD, Alone)], Members::Lost, Members::Lost),
            (vec![down(NEW, Fails), up(OLD, Alone), up(OLD, Alone)], Members::Lost, Members::Lost),
            // One that is Ready and says nothing, or nothing of the quorum, may keep it.
            (vec![up(OLD, Unknown), up(OLD, Unknown)], Members::Healthy, Members::Healthy),
            (vec![down(NEW, Fails), up(OLD, Unknown), up(OLD, Unknown)], Members::Unknown, Members::Unknown),
            (vec![down(NEW, Fails), up(OLD, Fails), up(OLD, Fails)], Members::Unknown, Members::Unknown),
            (vec![up(NEW, Fails), up(OLD, Fails)], Members::Unknown, Members::Unknown),
            (vec![up(NEW, Alone), up(OLD, Unknown)], Members::Unknown, Members::Lost),
            (vec![down(OLD, Fails), up(OLD, Unknown)], Members::Healthy, Members::Lost),
            (vec![down(NEW, Fails), down(OLD, Fails), up(OLD, Unknown)], Members::Unknown, Members::Lost),
            // Whoever says that it works says so of the quorum.
            (vec![up(NEW, Works), up(OLD, Alone)], Members::Healthy, Members::Healthy),
            (vec![down(NEW, Fails), up(OLD, Works)], Members::Unhealthy, Members::Unhealthy),
            (vec![down(OLD, Works), down(NEW, Alone)], Members::Unhealthy, Members::Unhealthy),
            // One that is new and cannot be asked is waited for.
            (vec![up(NEW, Unknown), up(OLD, Works)], Members::Unknown, Members::Unknown),
            (vec![up(NEW, Unknown), up(OLD, Unknown)], Members::Unknown, Members::Healthy),
        ] {
            let all: Vec<&Pod> = pods.iter().collect();
            assert_eq!(Members::of(&all, "d", false), verdict, "{pods:?}");
            assert_eq!(Members::of(&all, "d", true), once_ended, "ended: {pods:?}");
        }
    }
}
