//! The controller of Jobs, and of what is left of them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::demo::kubeadm::{self, Ended};
use crate::demo::store::{Dependents, Key};
use crate::demo::workloads::{Controllers, Pods, container, pod_key};
use crate::time::UnixTime;

/// One step of a Job: a pod, its end, the Job's end, its removal; whether there is more to do.
pub(super) async fn step(controllers: &Controllers, key: &Key, job: &Value, pods: &Pods) -> bool {
    let now = controllers.clock.now();
    if let Some(ended) = ended_at(job) {
        let Some(ttl) = job["spec"]["ttlSecondsAfterFinished"].as_i64() else { return false };
        if ended.seconds_until(now) >= ttl {
            // Whoever was faster did the same.
            let _ = controllers.store.delete(key, Dependents::Go, |_| Ok(()));
        }
        return ended.seconds_until(now) < ttl;
    }
    let created = job["metadata"]["creationTimestamp"].as_str().and_then(UnixTime::parse_rfc_3339).unwrap_or(now);
    let deadline = job["spec"]["activeDeadlineSeconds"].as_i64();
    if deadline.is_some_and(|deadline| created.seconds_until(now) > deadline) {
        for pod in &pods.0 {
            let _ = controllers.store.delete(&pod_key(&key.1, &pod.value), Dependents::Go, |_| Ok(()));
        }
        fail(controllers, key, created, "DeadlineExceeded", "Job was active longer than specified deadline");
        return false;
    }
    let Some(pod) = pods.0.first() else {
        // The real controller is refused a pod whose account is not there, and tries again.
        let account = job["spec"]["template"]["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        let account_key = ("/serviceaccounts".into(), Arc::clone(&key.1), account.into());
        if account != "default" && controllers.store.get(&account_key).is_none() {
            return true;
        }
        let name = format!("{}-{:05x}", key.2, created.0 & 0xf_ffff);
        controllers.create_pod(key, job, &name, &job["spec"]["template"], "job");
        controllers.set_status(key, json!({ "startTime": now.to_string(), "active": 1 }));
        return true;
    };
    if pod.value["status"]["phase"] != "Running" {
        // With a deadline it is looked at until then.
        return deadline.is_some();
    }
    let (store, running) = (Arc::clone(&controllers.store), Arc::clone(&pod.value));
    let run = tokio::task::spawn_blocking(move || kubeadm::run(&store, &running, now)).await;
    let Ended { code, message } = match run {
        Ok(ended) => ended.unwrap_or(Ended { code: 0, message: String::new() }),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    let (phase, reason) = if code == 0 { ("Succeeded", "Completed") } else { ("Failed", "Error") };
    let state = json!({ "terminated": { "exitCode": code, "reason": reason, "message": message } });
    let status = json!({
        "phase": phase, "podIP": pod.value["status"]["podIP"],
        "conditions": [{ "type": "Ready", "status": "False", "reason": "PodCompleted" }],
        "containerStatuses": [container(&pod.value, false, &state)],
    });
    controllers.set_status(&pod_key(&key.1, &pod.value), status);
    if code != 0 {
        fail(controllers, key, created, "BackoffLimitExceeded", "Job has reached the specified backoff limit");
        return true;
    }
    let condition = json!({ "type": "Complete", "status": "True", "lastTransitionTime": now.to_string() });
    let status = json!({ "startTime": created.to_string(), "completionTime": now.to_string(), "succeeded": 1, "conditions": [condition] });
    controllers.set_status(key, status);
    true
}

fn fail(controllers: &Controllers, key: &Key, created: UnixTime, reason: &str, message: &str) {
    let now = controllers.clock.now().to_string();
    let condition =
        json!({ "type": "Failed", "status": "True", "lastTransitionTime": now, "reason": reason, "message": message });
    controllers.set_status(key, json!({ "startTime": created.to_string(), "failed": 1, "conditions": [condition] }));
}

/// When it has ended, well or not.
fn ended_at(job: &Value) -> Option<UnixTime> {
    let conditions = job["status"]["conditions"].as_array()?;
    let ended = conditions
        .iter()
        .find(|one| matches!(one["type"].as_str(), Some("Complete" | "Failed")) && one["status"] == "True")?;
    ended["lastTransitionTime"].as_str().and_then(UnixTime::parse_rfc_3339)
}
