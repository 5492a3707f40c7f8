//! What a phase has to have proven.

use crate::cluster::api::ApiError;
use crate::controller::look::backups_of;
use crate::controller::{Actor, login, prove};
use crate::material::overlay;
use crate::renewal::Phase;
use crate::renewal::observed::{Observed, Unproven};
use crate::renewal::step::is_about_to_commit;
use crate::rollout::Workload;
use crate::time::UnixTime;

impl Actor {
    /// What is not proven yet, where the phase asks: of the staged credentials, once, before the first write; then of what is stored.
    pub(super) async fn proof(&self, seen: &Observed, now: UnixTime) -> Result<Option<Vec<Unproven>>, ApiError> {
        let tiers = seen.tiers.as_deref().unwrap_or_default();
        Ok(match seen.renewal.status.phase {
            Phase::Auditing if is_about_to_commit(seen, now) => Some(self.of_staged(seen, tiers).await),
            Phase::Verifying => Some(self.of_stored(seen, tiers, now).await?),
            _ => None,
        })
    }

    /// The pods run with the former certificates: under the same CA they take new ones too.
    async fn of_staged(&self, seen: &Observed, tiers: &[Vec<Workload>]) -> Vec<Unproven> {
        let namespace = &*seen.mesh.key.namespace;
        let staged = overlay(&seen.secrets, &seen.sealed().map(Option::unwrap_or_default));
        login::not_logged_in(&self.way, namespace, &staged, Some(&seen.secrets), tiers).await
    }

    async fn of_stored(
        &self,
        seen: &Observed,
        tiers: &[Vec<Workload>],
        now: UnixTime,
    ) -> Result<Vec<Unproven>, ApiError> {
        let Observed { renewal, mesh, secrets, .. } = seen;
        let namespace = &*mesh.key.namespace;
        // Before that it only waits, whatever is refused.
        let mut former = None;
        if !renewal.status.rolling_back && seen.proof_is_overdue(now) {
            let copies = self.api.copies_of(namespace, &renewal.uid).await?;
            former = Some(overlay(secrets, &backups_of(renewal, copies).map(Option::unwrap_or_default)));
        }
        Ok(prove::unproven(&self.way, mesh, secrets, former.as_ref(), tiers).await)
    }
}
