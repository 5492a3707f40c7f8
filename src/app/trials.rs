//! A kubeconfig that stands in the place of another is tried before it is used, beside everything else: its exec plugin may take its time, or never end.

use std::collections::BTreeMap;
use std::future::pending;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::app::clusters::{Goal, Ways};
use crate::cluster::connect::{Connection, connect};
use crate::ports::SourceError;
use crate::tasks::resume_panic;

/// Between two trials of what was refused and has not changed: each may run a program.
const AGAIN: Duration = Duration::from_secs(60);

/// The trials of what stands where a way is in force.
#[derive(Default)]
pub(super) struct Trials {
    all: BTreeMap<Goal, Trial>,
    running: JoinSet<(Goal, Connection, Result<(), SourceError>)>,
}

struct Trial {
    way: Connection,
    /// When it is tried, unless it works.
    due: Instant,
    /// Of the last time; pending before the end of the first one.
    outcome: Poll<Result<(), SourceError>>,
}

impl Trials {
    /// Keeps the former way wherever what stands in its place has not proved usable, as where a file is half written or leads elsewhere: whoever is connected stays
    /// so. Answers whether all that stands there is in force, or the first error; pending where that is not known yet.
    pub(super) fn keep(&mut self, ways: &mut Ways, former: &Ways) -> Poll<Result<(), SourceError>> {
        self.all.retain(|goal, trial| ways.0.get(goal) == Some(&trial.way));
        let mut kept = Poll::Ready(Ok(()));
        for (goal, way) in &mut ways.0 {
            let Some(known) = former.0.get(goal).filter(|known| way.replaces(known)) else { continue };
            let outcome = self.outcome(goal, way, known);
            if outcome != Poll::Ready(Ok(())) {
                way.clone_from(known);
                if !matches!(kept, Poll::Ready(Err(_))) {
                    kept = outcome;
                }
            }
        }
        kept
    }

    /// Waits until a trial has ended.
    pub(super) async fn ended(&mut self) {
        match self.running.join_next().await {
            Some(Ok((goal, way, outcome))) => {
                if let Some(trial) = self.all.get_mut(&goal).filter(|trial| trial.way == way) {
                    trial.outcome = Poll::Ready(outcome);
                }
            }
            Some(Err(error)) => resume_panic(error),
            None => pending().await,
        }
    }

    /// How the trial of what stands in the place of a known way goes; begins it when it is due.
    fn outcome(&mut self, goal: &Goal, way: &Connection, known: &Connection) -> Poll<Result<(), SourceError>> {
        let now = Instant::now();
        let first = || Trial { way: way.clone(), due: now, outcome: Poll::Pending };
        let trial = self.all.entry(goal.clone()).or_insert_with(first);
        if now >= trial.due && trial.outcome != Poll::Ready(Ok(())) {
            trial.due = now + AGAIN;
            let (goal, way, known) = (goal.clone(), way.clone(), known.clone());
            self.running.spawn(async move { (goal, way, connect(&known).await.map(drop)) });
        }
        trial.outcome.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::clusters::Plane;

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_tried_again_when_it_has_changed_and_else_rarely() {
        let folder = tempfile::TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let with = |user: &str| {
            let text = format!(
                "{{apiVersion: v1, kind: Config, current-context: c, users: [{{name: me, user: {{{user}}}}}], \
                 clusters: [{{name: one, cluster: {{server: 'http://127.0.0.1:1'}}}}], \
                 contexts: [{{name: c, context: {{cluster: one, user: me}}}}]}}"
            );
            std::fs::write(at("config"), text).unwrap();
            Ways([((Plane::Observe, "one".to_owned()), Connection::file(at("config"), None))].into())
        };
        let runs = || std::fs::read_to_string(at("runs")).map_or(0, |runs| runs.lines().count());
        let former = with("token: first");
        let plugin = format!("echo run >> '{}'; exit 1", at("runs").display());
        let refused = format!(
            "exec: {{command: sh, args: ['-c', \"{plugin}\"], apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never}}"
        );
        let mut trials = Trials::default();
        let keep = |trials: &mut Trials, user: &str| {
            let mut ways = with(user);
            let kept = trials.keep(&mut ways, &former);
            (kept.map(|kept| kept.is_ok()), ways == former)
        };
        assert_eq!(keep(&mut trials, &refused), (Poll::Pending, true));
        trials.ended().await;
        for _ in 0..3 {
            assert_eq!(keep(&mut trials, &refused), (Poll::Ready(false), true));
        }
        assert_eq!((runs(), trials.running.len()), (1, 0));
        tokio::time::advance(AGAIN).await;
        assert_eq!(keep(&mut trials, &refused), (Poll::Ready(false), true), "as long as nothing else is known");
        trials.ended().await;
        assert_eq!(runs(), 2);
        assert_eq!(keep(&mut trials, "token: second"), (Poll::Pending, true));
        trials.ended().await;
        assert_eq!(keep(&mut trials, "token: second"), (Poll::Ready(true), false));
        assert_eq!(keep(&mut trials, "token: first"), (Poll::Ready(true), true));
        assert_eq!(trials.running.len(), 0);
    }
}
