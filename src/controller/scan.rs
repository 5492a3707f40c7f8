//! What the leader does beside renewals, every minute: asks for what is due, removes what is left over, looks at what endpoints serve.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{info, warn};

use crate::cluster::api::ApiError;
use crate::cluster::material::{BACKUP, STAGED};
use crate::controller::Actor;
use crate::mesh::HostedMesh;
use crate::policy::Mode;
use crate::renewal::{Renewal, Trigger};
use crate::requests::{Asked, ask};

impl Actor {
    /// Asks for what is due, removes what is left over, looks at what endpoints serve.
    pub(super) async fn scan(&self) {
        let meshes = (self.around.meshes)(&self.acting.name);
        let ours =
            |mesh: &&Arc<HostedMesh>| self.acting.namespaces.iter().any(|namespace| **namespace == *mesh.key.namespace);
        let meshes: Vec<&Arc<HostedMesh>> = meshes.iter().filter(ours).collect();
        for mesh in &meshes {
            if let Err(error) = self.ask_if_due(mesh).await {
                warn!(mesh = %mesh.key.id, %error, "cannot ask for a renewal");
            }
        }
        if let Err(error) = self.tidy().await {
            warn!(cluster = %self.acting.name, %error, "cannot look for left-over copies");
        }
        self.sweep(&meshes).await;
    }

    async fn ask_if_due(&self, mesh: &HostedMesh) -> Result<(), ApiError> {
        let now = self.around.clock.now();
        let due = mesh.expiration.is_some_and(|end| now.seconds_until(end) < self.acting.policy.renew_before);
        if !due || self.acting.policy.mode == Mode::Observe {
            return Ok(());
        }
        if let Asked::Created(name) = ask(&self.api, mesh, Trigger::Schedule, false).await? {
            info!(cluster = %self.acting.name, mesh = %mesh.key.id, renewal = name, "due: asked for a renewal");
        }
        Ok(())
    }

    /// Removes staged copies whose renewal is gone, and backups beyond those that are kept.
    async fn tidy(&self) -> Result<(), ApiError> {
        for namespace in &self.acting.namespaces {
            let (renewals, unreadable) = self.api.renewals(namespace).await?;
            if !unreadable.is_empty() {
                continue;
            }
            for copy in self.api.copies(namespace, STAGED).await? {
                if !renewals.iter().any(|renewal| renewal.uid == copy.renewal_uid) {
                    info!(namespace, name = copy.name, "removing a staged copy whose renewal is gone");
                    self.api.delete_copy(namespace, &copy.name).await?;
                }
            }
            self.prune_backups(namespace, &renewals).await?;
        }
        Ok(())
    }

    async fn prune_backups(&self, namespace: &str, renewals: &[Renewal]) -> Result<(), ApiError> {
        let mut by_mesh: BTreeMap<String, Vec<(String, String, String)>> = BTreeMap::new();
        for backup in self.api.copies(namespace, BACKUP).await? {
            by_mesh.entry(backup.mesh).or_default().push((backup.created, backup.renewal_uid, backup.name));
        }
        for backups in by_mesh.values_mut() {
            backups.sort_by(|a, b| b.cmp(a));
            let mut kept: Vec<&str> = Vec::new();
            for (_, uid, name) in &*backups {
                let referenced = renewals.iter().any(|renewal| renewal.uid == *uid && renewal.is_under_way());
                if kept.contains(&uid.as_str()) || referenced {
                    continue;
                }
                if kept.len() < self.acting.policy.backups {
                    kept.push(uid);
                    continue;
                }
                info!(namespace, name, "removing an old backup");
                self.api.delete_copy(namespace, name).await?;
            }
        }
        Ok(())
    }
}
