//! Jobs that make new material, and their pods.

use serde_json::{Value, json};

use crate::cluster::api::{Api, ApiError, ErrorKind};
use crate::cluster::workloads::problem;
use crate::job::{JobObject, JobPod, JobState, PodState, RENEWAL_UID, SeenJob, tail};
use crate::name::Encoded;
use crate::time::UnixTime;

fn collection(namespace: &str) -> String {
    format!("/apis/batch/v1/namespaces/{namespace}/jobs")
}

fn path(namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection(namespace))
}

/// The query for what is labelled with a renewal's UID.
pub(super) fn of_renewal(uid: &str) -> String {
    format!("labelSelector={}", Encoded(&format!("{RENEWAL_UID}={uid}")))
}

impl Api {
    /// A renewal's Job of this name, and the pods of all its Jobs.
    ///
    /// # Errors
    /// A request failed.
    pub async fn job(&self, namespace: &str, name: &str, renewal_uid: &str) -> Result<SeenJob, ApiError> {
        let job: Option<Value> = self.get(&path(namespace, name)).await?;
        let pods = format!("/api/v1/namespaces/{namespace}/pods?{}", of_renewal(renewal_uid));
        let pods: Vec<Value> = self.list(&pods).await?;
        Ok(SeenJob { job: job.as_ref().map(read_job), pods: pods.iter().map(read_pod).collect() })
    }

    /// Whether a Job of this name exists and has not ended.
    ///
    /// # Errors
    /// The request failed.
    pub async fn is_job_active(&self, namespace: &str, name: &str) -> Result<bool, ApiError> {
        let job: Option<Value> = self.get(&path(namespace, name)).await?;
        Ok(job.is_some_and(|job| state(&job) == JobState::Running))
    }

    /// Creates a Job.
    ///
    /// # Errors
    /// The request failed; [`ErrorKind::Conflict`] where it exists.
    pub async fn create_job(&self, namespace: &str, job: &Value) -> Result<(), ApiError> {
        self.create(&collection(namespace), job).await.map(drop)
    }

    /// Deletes a Job, and its pods with it.
    ///
    /// # Errors
    /// The request failed.
    pub async fn delete_job(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ApiError> {
        // Without a word about them, the API leaves a Job's pods behind.
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "preconditions": { "uid": uid },
        });
        self.delete_with(&path(namespace, name), &options).await
    }

    /// Whether a service account is there; `None` where meshcert may not look.
    ///
    /// # Errors
    /// The request failed.
    pub async fn has_service_account(&self, namespace: &str, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get::<Value>(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}")).await {
            Ok(account) => Ok(Some(account.is_some())),
            Err(error) if error.kind == ErrorKind::Forbidden => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn moment(metadata: &Value) -> UnixTime {
    metadata["creationTimestamp"].as_str().and_then(UnixTime::parse_rfc_3339).unwrap_or(UnixTime(0))
}

fn read_job(job: &Value) -> JobObject {
    let metadata = &job["metadata"];
    JobObject {
        uid: text(&metadata["uid"]),
        renewal_uid: text(&metadata["labels"][RENEWAL_UID]),
        created: moment(metadata),
        deleting: metadata["deletionTimestamp"].is_string(),
        state: state(job),
    }
}

fn state(job: &Value) -> JobState {
    let conditions = job["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_true = |kind: &str| conditions.iter().find(|one| one["type"] == kind && one["status"] == "True");
    if is_true("Complete").is_some() {
        return JobState::Complete;
    }
    match is_true("Failed") {
        Some(failed) => JobState::Failed(tail(&format!("{}: {}", text(&failed["reason"]), text(&failed["message"])))),
        None => JobState::Running,
    }
}

fn read_pod(pod: &Value) -> JobPod {
    let metadata = &pod["metadata"];
    JobPod {
        name: text(&metadata["name"]),
        uid: text(&metadata["uid"]),
        created: moment(metadata),
        deleting: metadata["deletionTimestamp"].is_string(),
        state: pod_state(&pod["status"]),
    }
}

fn pod_state(status: &Value) -> PodState {
    let container = &status["containerStatuses"][0];
    let ended = &container["state"]["terminated"];
    let said = tail(&text(&ended["message"]));
    match status["phase"].as_str() {
        Some("Succeeded") => PodState::Succeeded(said),
        Some("Failed") => {
            // Evicted, or ended by its deadline: the pod says why, not the container.
            let said = if said.is_empty() {
                tail(&format!("{} {}", text(&status["reason"]), text(&status["message"])))
            } else {
                said
            };
            PodState::Failed(ended["exitCode"].as_i64().unwrap_or(-1), said)
        }
        Some("Running") => PodState::Running,
        _ => {
            let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
            let unscheduled = conditions.iter().any(|one| one["type"] == "PodScheduled" && one["status"] == "False");
            match problem(status) {
                Some(why) if unscheduled => PodState::Unschedulable(why),
                Some(why) => PodState::CannotStart(why),
                None => PodState::Waiting,
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_read_as_the_kubelet_writes_it() {
        let waiting = |reason: &str| json!({ "phase": "Pending", "containerStatuses": [{ "state": { "waiting": { "reason": reason, "message": "x" } } }] });
        let ended = |phase: &str, code: i64, message: &str| {
            let ended = json!({ "terminated": { "exitCode": code, "reason": "Error", "message": message } });
            json!({ "phase": phase, "containerStatuses": [{ "state": ended }] })
        };
        let unscheduled = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1" }] });
        for (status, state) in [
            (json!({ "phase": "Pending" }), PodState::Waiting),
            (waiting("ContainerCreating"), PodState::Waiting),
            (waiting("ErrImagePull"), PodState::CannotStart("ErrImagePull x".to_owned())),
            (waiting("CreateContainerConfigError"), PodState::CannotStart("CreateContainerConfigError x".to_owned())),
            (unscheduled, PodState::Unschedulable("Unschedulable: 0/1".to_owned())),
            (json!({ "phase": "Running" }), PodState::Running),
            (ended("Succeeded", 0, ""), PodState::Succeeded(String::new())),
            (ended("Failed", 3, "no"), PodState::Failed(3, "no".to_owned())),
            (
                json!({ "phase": "Failed", "reason": "Evicted", "message": "low on memory" }),
                PodState::Failed(-1, "Evicted low on memory".to_owned()),
            ),
        ] {
            assert_eq!(pod_state(&status), state, "{status}");
        }
    }

    #[test]
    fn a_job_has_ended_when_a_condition_is_true() {
        let job = |kind: &str, status: &str| json!({ "status": { "conditions": [{ "type": kind, "status": status, "reason": "R", "message": "m" }] } });
        assert_eq!(state(&json!({})), JobState::Running);
        assert_eq!(state(&job("Complete", "True")), JobState::Complete);
        assert_eq!(state(&job("Failed", "False")), JobState::Running);
        assert_eq!(state(&job("Failed", "True")), JobState::Failed("R: m".to_owned()));
        // Before its pods are gone a failing Job says only that it is going to fail.
        assert_eq!(state(&job("FailureTarget", "True")), JobState::Running);
    }
}
