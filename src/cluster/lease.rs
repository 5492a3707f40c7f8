//! Leases: locks that a renewal holds until it ends, and leadership that runs out.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::api::{Api, ApiError};
use crate::time::UnixTime;

/// Name of the Lease of a cluster's leader.
pub const LEADER: &str = "meshcert-leader";
/// Before the mesh's id: the Lease that keeps two renewals of a mesh apart.
pub const LOCK_PREFIX: &str = "meshcert-mesh-";
/// Before a number: a place among the renewals that may be under way at the same time.
pub const SLOT_PREFIX: &str = "meshcert-slot-";

/// A Lease as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredLease {
    /// `spec.holderIdentity`; empty: nobody.
    pub holder: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

fn collection(namespace: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
}

fn path(namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection(namespace))
}

impl Api {
    /// A Lease.
    ///
    /// # Errors
    /// The request failed.
    pub async fn lease(&self, namespace: &str, name: &str) -> Result<Option<StoredLease>, ApiError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let lease: Option<Value> = self.get(&path(namespace, name)).await?;
        Ok(lease.map(|lease| StoredLease {
            holder: text(&lease["spec"]["holderIdentity"]),
            resource_version: text(&lease["metadata"]["resourceVersion"]),
        }))
    }

    /// The names of meshcert's Leases in a namespace.
    ///
    /// # Errors
    /// The request failed.
    pub async fn own_leases(&self, namespace: &str) -> Result<Vec<String>, ApiError> {
        let leases: Vec<Value> = self.list(&collection(namespace)).await?;
        let names = leases.iter().filter_map(|lease| lease["metadata"]["name"].as_str());
        let own = |name: &&str| *name == LEADER || name.starts_with(LOCK_PREFIX) || name.starts_with(SLOT_PREFIX);
        Ok(names.filter(own).map(str::to_owned).collect())
    }

    /// Deletes a Lease, whoever holds it.
    ///
    /// # Errors
    /// The request failed.
    pub async fn delete_lease(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        self.delete(&path(namespace, name), None).await
    }

    /// Writes a Lease's holder, if it still is as it was seen (`None`: absent).
    ///
    /// # Errors
    /// The request failed; a conflict where somebody was faster.
    pub async fn hold_lease(
        &self,
        namespace: &str,
        name: &str,
        seen: Option<&str>,
        holder: Option<&str>,
    ) -> Result<(), ApiError> {
        self.write_lease(namespace, name, seen, &json!({ "holderIdentity": holder })).await
    }

    /// Writes a sign of life of the leader's, or of who wants to be it, as [`Api::hold_lease`] does. After `duration` without another it leads no more.
    ///
    /// # Errors
    /// As [`Api::hold_lease`].
    pub async fn lead(
        &self,
        namespace: &str,
        seen: Option<&str>,
        identity: &str,
        now: UnixTime,
        duration: Duration,
    ) -> Result<(), ApiError> {
        // RFC 3339 with microseconds.
        let renewed = now.to_string().replace('Z', ".000000Z");
        let seconds = duration.as_secs().max(1);
        let spec = json!({ "holderIdentity": identity, "renewTime": renewed, "leaseDurationSeconds": seconds });
        self.write_lease(namespace, LEADER, seen, &spec).await
    }

    async fn write_lease(&self, namespace: &str, name: &str, seen: Option<&str>, spec: &Value) -> Result<(), ApiError> {
        match seen {
            Some(version) => {
                let patch = json!({ "metadata": { "resourceVersion": version }, "spec": spec });
                self.merge(&path(namespace, name), &patch).await
            }
            None => {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": { "name": name, "namespace": namespace }, "spec": spec,
                });
                self.create(&collection(namespace), &lease).await.map(drop)
            }
        }
    }
}
