//! One pass over a renewal: a look, a decision, and at most one mutation.

use std::sync::Arc;

use tracing::info;

use crate::cluster::api::{ApiError, ErrorKind};
use crate::cluster::lease::SLOT_PREFIX;
use crate::controller::queue::{Sleep, Wait};
use crate::controller::{Actor, act, hindrance};
use crate::mesh::MeshKey;
use crate::renewal::observed::Observed;
use crate::renewal::step::{Effect, Next, prevented, step, unseen};
use crate::renewal::{Phase, Renewal, Status};
use crate::time::UnixTime;

/// What came of a pass.
pub(super) enum Passed {
    /// Something was written: the next pass follows at once.
    Moved,
    /// It waits in the middle.
    Waits,
    /// There is nothing to do.
    Rests,
}

impl Actor {
    /// One look and at most one mutation.
    pub(super) async fn pass(&self, key: &MeshKey, known: &Renewal, all: &[Arc<Renewal>]) -> Result<Passed, ApiError> {
        let stored = self.api.renewal(&key.namespace, &known.name).await?;
        // Another one of its name may be about another mesh.
        let Some(renewal) = stored.filter(|stored| stored.uid == known.uid) else { return Ok(Passed::Rests) };
        let now = self.around.clock.now();
        let seen = match self.look(key, &renewal, all).await {
            Ok(seen) => seen,
            Err(error) => {
                if error.kind == ErrorKind::Forbidden
                    && let Next::Note(status) = unseen(&renewal, &error.message)
                {
                    self.api.write_status(&renewal, &status).await?;
                }
                return Err(error);
            }
        };
        match step(&seen, now) {
            Next::Journal(status) => self.journal(&seen, &status).await,
            Next::Note(status) => self.note(&seen.renewal, &status).await,
            Next::Act(effect) => self.carry_out(key, &seen, effect, now).await,
            Next::Wait => Ok(self.wait(&seen.renewal)),
        }
    }

    /// Writes the journal, and tells of a new phase.
    async fn journal(&self, seen: &Observed, status: &Status) -> Result<Passed, ApiError> {
        self.api.write_status(&seen.renewal, status).await?;
        if status.phase != seen.renewal.status.phase {
            if matches!(status.phase, Phase::Succeeded | Phase::RolledBack) {
                self.learn_proof(seen);
            }
            self.entered(&seen.renewal, status.phase, &status.reason, &status.message).await;
        }
        Ok(Passed::Moved)
    }

    /// Writes what is waited for, and tells of it where a person is to know.
    async fn note(&self, renewal: &Renewal, status: &Status) -> Result<Passed, ApiError> {
        self.api.write_status(renewal, status).await?;
        if status.reason != renewal.status.reason && renewal.status.phase.is_held(&status.reason) {
            self.tell(renewal, false, &status.reason, &status.message).await;
        }
        Ok(self.wait(renewal))
    }

    /// Has nothing to do, and looks again soon or later.
    fn wait(&self, renewal: &Renewal) -> Passed {
        let phase = renewal.status.phase;
        let busy = phase >= Phase::BackingUp && !phase.is_terminal();
        if !busy || Wait::of(renewal).is_some() {
            self.doze(renewal, Sleep::Light);
        }
        if busy { Passed::Waits } else { Passed::Rests }
    }

    /// Carries out the one mutation, or journals why it cannot be.
    async fn carry_out(
        &self,
        key: &MeshKey,
        seen: &Observed,
        effect: Effect,
        now: UnixTime,
    ) -> Result<Passed, ApiError> {
        let what = act::words(&effect);
        let moves_slot = matches!(&effect, Effect::TakeLease(lease) | Effect::ReleaseLease(lease) if lease.name.starts_with(SLOT_PREFIX));
        let done = act::act(&self.api, seen, effect, now).await;
        if moves_slot {
            self.slots.forget(&key.namespace).await;
        }
        match done {
            Ok(()) => {
                info!(cluster = %self.acting.name, mesh = %key.id, renewal = seen.renewal.name, "{what}");
                Ok(Passed::Moved)
            }
            Err(act::Failure::Engine(status)) => self.journal(seen, &status).await,
            Err(act::Failure::Api(error)) => self.hindered(seen, error, now).await,
        }
    }

    /// What the API server's refusal means: an end is journalled; anything else stays an error, which may be waited for in words.
    async fn hindered(&self, seen: &Observed, error: ApiError, now: UnixTime) -> Result<Passed, ApiError> {
        let Some(hindrance) = hindrance(&error) else { return Err(error) };
        match prevented(seen, hindrance, &error.message, now) {
            Next::Journal(status) => return self.journal(seen, &status).await,
            Next::Note(status) => self.api.write_status(&seen.renewal, &status).await?,
            Next::Act(_) | Next::Wait => {}
        }
        Err(error)
    }
}
