//! The resources that the embedded API serves.

use std::sync::LazyLock;

use serde_json::{Value, json};

/// A resource as discovery describes it.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) kind: String,
    pub(super) short: Vec<String>,
    pub(super) namespaced: bool,
    /// Has a `status` subresource: writes to the object leave its status alone, and the other way round.
    pub(super) status: bool,
    /// Printer columns of a custom resource: name, type, JSON path, priority (above 0: `-o wide` alone).
    pub(super) columns: Vec<(String, String, String, i64)>,
}

/// The resource by which others are defined.
pub(super) const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// Group, plural, kind, short name, namespaced, status.
const RESOURCES: [(&str, &str, &str, &str, bool, bool); 15] = [
    ("", "namespaces", "Namespace", "ns", false, true),
    ("", "nodes", "Node", "no", false, true),
    ("", "secrets", "Secret", "", true, false),
    ("", "configmaps", "ConfigMap", "cm", true, false),
    ("", "pods", "Pod", "po", true, true),
    ("", "services", "Service", "svc", true, true),
    ("", "serviceaccounts", "ServiceAccount", "sa", true, false),
    ("", "events", "Event", "ev", true, false),
    ("apps", "deployments", "Deployment", "deploy", true, true),
    ("apps", "statefulsets", "StatefulSet", "sts", true, true),
    ("apps", "daemonsets", "DaemonSet", "ds", true, true),
    ("apps", "replicasets", "ReplicaSet", "rs", true, true),
    ("batch", "jobs", "Job", "", true, true),
    ("coordination.k8s.io", "leases", "Lease", "", true, false),
    ("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition", "crd", false, true),
];

/// The resources that are always there.
pub(super) static BUILT_IN: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let kind = |(group, plural, kind, short, namespaced, status): (&str, &str, &str, &str, bool, bool)| Kind {
        group: group.to_owned(),
        version: "v1".to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        kind: kind.to_owned(),
        short: Some(short.to_owned()).filter(|short| !short.is_empty()).into_iter().collect(),
        namespaced,
        status,
        columns: Vec::new(),
    };
    RESOURCES.into_iter().map(kind).collect()
});

/// The served versions of a CustomResourceDefinition.
pub(super) fn custom(definition: &Value) -> Vec<Kind> {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names = &spec["names"];
    let versions = spec["versions"].as_array().into_iter().flatten().filter(|version| version["served"] == true);
    versions
        .map(|version| Kind {
            group: text(&spec["group"]),
            version: text(&version["name"]),
            plural: text(&names["plural"]),
            singular: text(&names["singular"]),
            kind: text(&names["kind"]),
            short: names["shortNames"].as_array().into_iter().flatten().map(text).collect(),
            namespaced: spec["scope"] == "Namespaced",
            status: version["subresources"].get("status").is_some(),
            columns: version["additionalPrinterColumns"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|column| {
                    let [name, kind, path] = ["name", "type", "jsonPath"].map(|field| text(&column[field]));
                    (name, kind, path, column["priority"].as_i64().unwrap_or(0))
                })
                .collect(),
        })
        .collect()
}

impl Kind {
    /// `group/plural`, under which its objects are stored.
    pub(super) fn resource(&self) -> String {
        format!("{}/{}", self.group, self.plural)
    }

    /// Whether field selectors may name a field: those with text for a value of the few that the real API server knows of each resource.
    pub(super) fn selects_by(&self, field: &str) -> bool {
        let own: &[&str] = match self.resource().as_str() {
            "/secrets" => &["type"],
            "/namespaces" => &["status.phase"],
            "/services" => &["spec.clusterIP", "spec.type"],
            "/pods" => &[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "status.nominatedNodeName",
                "status.phase",
                "status.podIP",
            ],
            "/events" => &[
                "involvedObject.apiVersion",
                "involvedObject.fieldPath",
                "involvedObject.kind",
                "involvedObject.name",
                "involvedObject.namespace",
                "involvedObject.resourceVersion",
                "involvedObject.uid",
                "reason",
                "reportingComponent",
                "type",
            ],
            _ => &[],
        };
        matches!(field, "metadata.name" | "metadata.namespace") || own.contains(&field)
    }

    /// `v1`, `apps/v1`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The entries of an APIResourceList: the resource and its subresources.
    pub(super) fn discovery(&self) -> Vec<Value> {
        let mut all = vec![json!({
            "name": self.plural, "singularName": self.singular, "namespaced": self.namespaced, "kind": self.kind,
            "shortNames": self.short,
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        })];
        if self.status {
            all.push(json!({
                "name": format!("{}/status", self.plural), "singularName": "", "namespaced": self.namespaced,
                "kind": self.kind, "verbs": ["get", "patch", "update"],
            }));
        }
        if self.group == "apps" && self.plural != "daemonsets" {
            all.push(json!({
                "name": format!("{}/scale", self.plural), "singularName": "", "namespaced": true, "kind": "Scale",
                "group": "autoscaling", "version": "v1", "verbs": ["get", "patch", "update"],
            }));
        }
        all
    }
}
