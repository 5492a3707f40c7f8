//! What the dashboards have in common: how meshes are chosen, when something is late, what a phase is called.

use meshcert::renewal::Phase;
use serde_json::Value;

use crate::grafana::{Column, Panel, Steps, annotation, variable};

/// Chosen meshes, several at a time.
pub const CHOSEN: &str = r#"mesh_cluster=~"$mesh_cluster", mesh_namespace=~"$mesh_namespace", mesh_id=~"$mesh_id""#;
/// The one chosen mesh.
pub const ONE: &str = r#"mesh_cluster="$mesh_cluster", mesh_namespace="$mesh_namespace", mesh_id="$mesh_id""#;
/// The chosen replicas of meshcert.
pub const REPLICAS: &str = r#"job=~"$job", instance=~"$instance""#;
/// A mesh's identity: replicas export the same series.
pub const MESH: &str = "mesh_cluster, mesh_namespace, mesh_id";
/// The moment that counts.
pub const SIGNAL: &str = "meshcert_hosted_kube_api_certificate_expiration_timestamp_seconds";

pub const ENDED: &str = "dark-red";
pub const CRITICAL: &str = "red";
pub const WARNING: &str = "orange";
pub const FINE: &str = "green";
const BUSY: &str = "blue";
const OVER: &str = "text";

/// When the rules begin to warn, in seconds before an end.
pub struct Limits {
    pub warning: i64,
    pub critical: i64,
    pub ca: i64,
}

impl Limits {
    /// Takes them from the expressions of the rules.
    pub fn of(rules: &Value) -> Self {
        let limit = |alert: &str, severity: &str| {
            let groups = rules["groups"].as_array().unwrap().iter();
            let mut rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
            let is = |rule: &&Value| {
                rule["alert"] == alert && rule["labels"]["severity"] == severity && rule["labels"]["expired"].is_null()
            };
            let expr = rules.find(is).unwrap()["expr"].as_str().unwrap();
            let days = expr.split("time() < ").nth(1).unwrap().split(" * 86400").next().unwrap();
            days.parse::<i64>().unwrap() * 86_400
        };
        Self {
            warning: limit("MspiderHostedKubeAPICertExpiration", "warning"),
            critical: limit("MspiderHostedKubeAPICertExpiration", "critical"),
            ca: limit("MeshcertCAEndsSoon", "warning"),
        }
    }

    /// Colours of the time that is left to a mesh or a leaf.
    pub fn left(&self) -> Steps {
        vec![(None, ENDED), (Some(0), CRITICAL), (Some(self.critical), WARNING), (Some(self.warning), FINE)]
    }

    /// Colours of the time that is left to a CA.
    pub fn ca_left(&self) -> Steps {
        vec![(None, ENDED), (Some(0), WARNING), (Some(self.ca), FINE)]
    }
}

/// Something that should not be.
pub fn none_wanted(colour: &'static str) -> Steps {
    vec![(None, FINE), (Some(1), colour)]
}

/// A plain number.
pub fn neutral() -> Steps {
    vec![(None, BUSY)]
}

/// A gauge that is the same on every replica, for each mesh.
pub fn per_mesh(aggregate: &str, metric: &str, chosen: &str, labels: &[&str]) -> String {
    per_mesh_where(aggregate, metric, chosen, labels, "")
}

/// The same, of the series that match.
pub fn per_mesh_where(aggregate: &str, metric: &str, chosen: &str, labels: &[&str], matcher: &str) -> String {
    let identity = [&[MESH], labels].concat().join(", ");
    let matchers: Vec<&str> = [chosen, matcher].into_iter().filter(|text| !text.is_empty()).collect();
    format!("{aggregate} by ({identity}) ({metric}{{{}}})", matchers.join(", "))
}

/// The first end of each component with this role. Where series that have ended are not told, a certificate is described twice for minutes.
pub fn first_ends(by: &str, chosen: &str, role: &str) -> String {
    format!(
        r#"min by ({by}) (
  meshcert_certificate_not_after_timestamp_seconds{{{chosen}}}
    * on ({MESH}, secret, key, position, instance) group_left (component)
    max by ({MESH}, secret, key, position, instance, component) (meshcert_certificate_info{{{chosen}, role="{role}"}})
)"#
    )
}

/// How many, 0 where there is none; nothing ("No data") where no meshcert is scraped, for then nobody knows.
pub fn count(of: &str) -> String {
    format!("count({of}) or 0 * count(meshcert_build_info)")
}

/// Endpoints that serve another certificate than the stored one, or one that has ended.
pub fn stale(chosen: &str) -> String {
    let stale = per_mesh("max", "meshcert_served_certificate_stale", chosen, &["endpoint"]);
    let ends = per_mesh("min", "meshcert_served_certificate_not_after_timestamp_seconds", chosen, &["endpoint"]);
    format!("{stale} == 1\nor\n{ends} - time() <= 0")
}

/// Endpoints that answer no handshake.
pub fn silent(chosen: &str) -> String {
    format!("{} == 0", per_mesh("max", "meshcert_served_certificate_probe_success", chosen, &["endpoint"]))
}

/// Both.
pub fn stale_or_silent(chosen: &str) -> String {
    format!("{}\nor\n{}", stale(chosen), silent(chosen))
}

/// How many these are.
pub fn old_or_silent_endpoints(chosen: &str) -> Panel {
    Panel::stat(
        "Old or silent endpoints",
        "Endpoints that serve another certificate than the stored one or one that has ended, or answer no TLS handshake.",
        3,
        &count(&stale_or_silent(chosen)),
    )
    .colours(&none_wanted(WARNING))
    .runbook("MeshcertServedCertificateStale")
    .runbook("MeshcertEndpointUnreachable")
}

/// How many of the sources that match are unseen; what was known of them before is shown as if it were of now.
pub fn sources_down(matcher: &str) -> Panel {
    Panel::stat(
        "Sources down",
        "Sources that no replica can read: certificates there may end unseen, and all else still shows what was known before.",
        3,
        &count(&format!("max by (source) (meshcert_source_up{{{matcher}}}) == 0")),
    )
    .colours(&none_wanted(CRITICAL))
    .runbook("MeshcertSourceDown")
}

/// The phase of each mesh's newest renewal as a number: its place in the protocol.
pub fn phase_number(chosen: &str) -> String {
    let terms = Phase::ALL.iter().enumerate().map(|(index, phase)| {
        let matcher = format!(r#"phase="{}""#, phase.as_str());
        format!("{index} * {}", per_mesh_where("max", "meshcert_renewal_phase", chosen, &[], &matcher))
    });
    terms.collect::<Vec<_>>().join("\nor\n")
}

/// What the numbers of [`phase_number`] mean, with colours.
pub fn phases() -> Vec<(i64, &'static str, &'static str)> {
    let colour = |phase: Phase| match phase {
        Phase::Succeeded => FINE,
        Phase::Failed | Phase::RolledBack => CRITICAL,
        Phase::Refused | Phase::AwaitingApproval => WARNING,
        Phase::Superseded => OVER,
        Phase::Pending => "light-blue",
        Phase::Preflight | Phase::BackingUp | Phase::Staging | Phase::Auditing => BUSY,
        Phase::Committing | Phase::Restarting | Phase::Verifying => "purple",
    };
    (0..).zip(Phase::ALL).map(|(index, phase)| (index, phase.as_str(), colour(phase))).collect()
}

/// Cluster, namespace and mesh.
pub fn mesh_variables(several: bool) -> Vec<Value> {
    let is = if several { "=~" } else { "=" };
    let cluster = format!(r#"mesh_cluster{is}"$mesh_cluster""#);
    let namespace = format!(r#"{cluster}, mesh_namespace{is}"$mesh_namespace""#);
    vec![
        variable("mesh_cluster", "Cluster", "meshcert_hosted_mesh_info", several),
        variable("mesh_namespace", "Namespace", &format!("meshcert_hosted_mesh_info{{{cluster}}}"), several),
        variable("mesh_id", "Mesh", &format!("meshcert_hosted_mesh_info{{{namespace}}}"), several),
    ]
}

/// Marks where renewals ended.
pub fn renewals_ended(chosen: &str) -> Vec<Value> {
    let at = |matcher: &str| {
        let last = per_mesh_where("max", "meshcert_last_renewal_timestamp_seconds", chosen, &["outcome"], matcher);
        format!("{last} * 1000")
    };
    vec![
        annotation("Renewed", FINE, &at(r#"outcome="Succeeded""#)),
        annotation("Not renewed", CRITICAL, &at(r#"outcome!="Succeeded""#)),
    ]
}

/// The columns that name a mesh; the name leads to its dashboard.
pub fn mesh_columns() -> Vec<Column> {
    let there = "/d/meshcert-mesh?var-mesh_cluster=${__data.fields.Cluster}&var-mesh_namespace=${__data.fields.Namespace}&var-mesh_id=${__data.fields.Mesh}&${page:queryparam}&${datasource:queryparam}&${__url_time_range}";
    vec![
        Column::new("mesh_id", "Mesh").link("This mesh", there).width(220),
        Column::new("mesh_cluster", "Cluster").width(140),
        Column::new("mesh_namespace", "Namespace").width(140),
    ]
}
