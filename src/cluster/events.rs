//! Kubernetes Events about renewals.

use serde_json::json;

use crate::cluster::api::{Api, ApiError};
use crate::renewal::{GROUP, Renewal, VERSION};
use crate::time::UnixTime;

impl Api {
    /// Tells people, who look with `kubectl describe`, what happened to a renewal.
    ///
    /// # Errors
    /// The request failed.
    pub async fn tell(
        &self,
        renewal: &Renewal,
        warning: bool,
        reason: &str,
        message: &str,
        now: UnixTime,
    ) -> Result<(), ApiError> {
        let Renewal { name, namespace, uid, .. } = renewal;
        let note: String = message.chars().take(1000).collect();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": { "generateName": format!("{}.", name.chars().take(200).collect::<String>()), "namespace": namespace },
            "involvedObject": { "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "CertificateRenewal", "name": name, "namespace": namespace, "uid": uid },
            "type": if warning { "Warning" } else { "Normal" }, "reason": reason, "message": note,
            "source": { "component": "meshcert" }, "reportingComponent": "meshcert", "reportingInstance": "meshcert",
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        self.create(&format!("/api/v1/namespaces/{namespace}/events"), &event).await.map(drop)
    }
}
