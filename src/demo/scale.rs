//! The `scale` subresource: an object's replicas as an `autoscaling/v1` Scale.

use serde_json::{Value, json};

use crate::demo::call::Call;
use crate::demo::status::Failure;

impl Call {
    /// Whether its resource can be scaled.
    pub(super) fn has_scale(&self) -> bool {
        self.kind.group == "apps" && self.kind.plural != "daemonsets"
    }
}

/// The Scale that stands for a workload.
pub(super) fn view(workload: &Value) -> Value {
    let metadata = &workload["metadata"];
    let kept: Value = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
        .into_iter()
        .map(|field| (field.to_owned(), metadata[field].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept,
        "spec": { "replicas": workload["spec"]["replicas"] }, "status": { "replicas": workload["status"]["replicas"].as_u64().unwrap_or(0) },
    })
}

/// The replicas that a Scale asks for.
pub(super) fn replicas(scale: &Value) -> Result<Value, Failure> {
    let replicas = &scale["spec"]["replicas"];
    if replicas.as_u64().is_none() {
        return Err(Failure::invalid("spec.replicas: Invalid value: must be a number of at least 0"));
    }
    Ok(replicas.clone())
}
