//! The controller of Jobs.

use serde_json::{Value, json};

use crate::demo::store::Key;
use crate::demo::workloads::{Controllers, Pods, pod_key};
use crate::time::UnixTime;

/// One step of a Job: a pod, its end, the Job's end; whether there is more to do.
pub(super) async fn step(controllers: &Controllers, key: &Key, job: &Value, pods: &Pods) -> bool {
    if job["status"]["completionTime"].is_string() || has_failed(job) {
        return false;
    }
    let now = controllers.clock.now();
    let created = job["metadata"]["creationTimestamp"].as_str().and_then(UnixTime::parse_rfc_3339).unwrap_or(now);
    let deadline = job["spec"]["activeDeadlineSeconds"].as_i64();
    if deadline.is_some_and(|deadline| created.seconds_until(now) > deadline) {
        let condition = json!({ "type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "Job was active longer than specified deadline" });
        controllers
            .set_status(key, json!({ "startTime": created.to_string(), "failed": 1, "conditions": [condition] }));
        return false;
    }
    let Some(pod) = pods.0.first() else {
        let name = format!("{}-{:05x}", key.2, created.0 & 0xf_ffff);
        controllers.create_pod(key, job, &name, &job["spec"]["template"], "job");
        controllers.set_status(key, json!({ "startTime": now.to_string(), "active": 1 }));
        return true;
    };
    match pod.value["status"]["phase"].as_str() {
        Some("Running") => {
            let done = json!({ "phase": "Succeeded", "podIP": pod.value["status"]["podIP"], "conditions": [{ "type": "Ready", "status": "False", "reason": "PodCompleted" }] });
            controllers.set_status(&pod_key(&key.1, &pod.value), done);
            let condition = json!({ "type": "Complete", "status": "True" });
            let status = json!({ "startTime": created.to_string(), "completionTime": now.to_string(), "succeeded": 1, "conditions": [condition] });
            controllers.set_status(key, status);
            false
        }
        // With a deadline it is looked at until then.
        _ => deadline.is_some(),
    }
}

fn has_failed(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Failed" && condition["status"] == "True")
}
