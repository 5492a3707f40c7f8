//! Alertmanager's webhook payload, version 4: which meshes it is about.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// A notification, as far as it matters; unknown fields are normal.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    version: String,
    #[serde(default)]
    truncated_alerts: u64,
    alerts: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
struct Alert {
    status: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// How alerts name their mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Alerts that may ask.
    pub alert_names: Vec<String>,
    /// Label of the cluster, the namespace, the mesh's id.
    pub labels: [String; 3],
}

/// A part of all meshes: what is `None` matches any.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// The cluster's name.
    pub cluster: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The mesh's id.
    pub mesh: Option<String>,
}

/// A body that will never work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNotification {
    /// No JSON of the right shape.
    #[error("the body is no Alertmanager notification: {0}")]
    Shape(String),
    /// Another version.
    #[error("the notification's version is {0:?}, and only \"4\" is known")]
    Version(String),
}

impl Notification {
    /// Reads a body.
    ///
    /// # Errors
    /// It is no notification of version 4.
    pub fn read(body: &[u8]) -> Result<Self, InvalidNotification> {
        let read: Self = serde_json::from_slice(body).map_err(|error| InvalidNotification::Shape(error.to_string()))?;
        if read.version == "4" { Ok(read) } else { Err(InvalidNotification::Version(read.version)) }
    }

    /// The meshes that firing, allowed alerts are about, each once. An alert without a mesh's id, and alerts that were cut off, mean every mesh.
    pub fn selectors(&self, mapping: &Mapping) -> Vec<Selector> {
        let allowed = |alert: &&Alert| {
            alert.status == "firing"
                && alert.labels.get("alertname").is_some_and(|name| mapping.alert_names.contains(name))
        };
        let mut found: Vec<Selector> =
            self.alerts.iter().filter(allowed).map(|alert| selector(alert, mapping)).collect();
        if self.truncated_alerts > 0 {
            found = vec![Selector::default()];
        }
        found.sort();
        found.dedup();
        found
    }
}

fn selector(alert: &Alert, mapping: &Mapping) -> Selector {
    let label = |name: &String| alert.labels.get(name).filter(|value| !value.is_empty()).cloned();
    let [cluster, namespace, mesh] = &mapping.labels;
    match label(mesh) {
        Some(mesh) => Selector { cluster: label(cluster), namespace: label(namespace), mesh: Some(mesh) },
        None => Selector::default(),
    }
}

impl Selector {
    /// Whether a mesh is meant.
    pub fn matches(&self, cluster: &str, namespace: &str, mesh: &str) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.cluster, cluster) && is(&self.namespace, namespace) && is(&self.mesh, mesh)
    }
}

/// `CLUSTER/NAMESPACE/ID`, `*` for what is not said. Labels may hold anything.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part =
            |part: &Option<String>| part.as_deref().unwrap_or("*").escape_debug().take(LONGEST).collect::<String>();
        write!(f, "{}/{}/{}", part(&self.cluster), part(&self.namespace), part(&self.mesh))
    }
}

/// Of a label that is shown; no name is longer.
const LONGEST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping() -> Mapping {
        let labels = ["mesh_cluster", "mesh_namespace", "mesh_id"].map(str::to_owned);
        Mapping { alert_names: vec!["Expiration".to_owned()], labels }
    }

    fn selectors(alerts: &str, truncated: u64) -> Vec<Selector> {
        let body =
            format!(r#"{{"version":"4","status":"firing","new":1,"truncatedAlerts":{truncated},"alerts":[{alerts}]}}"#);
        Notification::read(body.as_bytes()).unwrap().selectors(&mapping())
    }

    #[test]
    fn firing_alerts_of_the_list_name_their_meshes_once() {
        let alert = r#"{"status":"firing","labels":{"alertname":"Expiration","mesh_cluster":"c","mesh_id":"m"}}"#;
        let other = r#"{"status":"firing","labels":{"alertname":"Other","mesh_id":"x"}}"#;
        let resolved = r#"{"status":"resolved","labels":{"alertname":"Expiration","mesh_id":"y"}}"#;
        let found = selectors(&[alert, other, resolved, alert].join(","), 0);
        assert_eq!(found, [Selector { cluster: Some("c".to_owned()), namespace: None, mesh: Some("m".to_owned()) }]);
        assert!(found[0].matches("c", "anywhere", "m") && !found[0].matches("d", "anywhere", "m"));
        assert_eq!(selectors(resolved, 0), []);
    }

    #[test]
    fn alerts_without_a_mesh_and_those_cut_off_mean_every_mesh() {
        let nameless = r#"{"status":"firing","labels":{"alertname":"Expiration","mesh_cluster":"c"}}"#;
        assert_eq!(selectors(nameless, 0), [Selector::default()]);
        assert_eq!(selectors("", 3), [Selector::default()]);
    }

    #[test]
    fn what_is_no_notification_is_refused() {
        assert!(matches!(Notification::read(b"{}"), Err(InvalidNotification::Shape(_))));
        assert!(matches!(Notification::read(br#"{"version":"5","alerts":[]}"#), Err(InvalidNotification::Version(_))));
    }
}
