//! What this process may do, as the API server says it.

use serde_json::json;

use crate::cluster::api::{Api, ApiError};

impl Api {
    /// Whether this process may do `verb` on a resource, in a namespace or in all. Every authenticated account may ask this of itself.
    ///
    /// # Errors
    /// The request failed.
    pub async fn may(
        &self,
        namespace: Option<&str>,
        group: &str,
        resource: &str,
        verb: &str,
    ) -> Result<bool, ApiError> {
        let attributes =
            json!({ "namespace": namespace.unwrap_or_default(), "group": group, "resource": resource, "verb": verb });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": attributes },
        });
        let answer = self.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await?;
        Ok(answer["status"]["allowed"] == true)
    }
}
