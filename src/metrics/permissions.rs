//! Rights that this process has and should not have.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::metrics::family;

/// A right that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// Cluster.
    pub cluster: Arc<str>,
    /// Namespace; `None` for all.
    pub namespace: Option<String>,
    /// The role of this process that must do without it.
    pub role: &'static str,
    /// Resource.
    pub resource: &'static str,
    /// Verb.
    pub verb: &'static str,
}

/// Which of the rights that were asked for are granted.
#[derive(Debug, Default)]
pub struct PermissionMetrics(Mutex<BTreeMap<Permission, bool>>);

impl PermissionMetrics {
    /// What was found.
    pub fn set(&self, found: BTreeMap<Permission, bool>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

/// Reads the state at every scrape.
#[derive(Debug)]
pub(super) struct PermissionCollector(pub(super) Arc<PermissionMetrics>);

impl Collector for PermissionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let found = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = found.iter().map(|(permission, granted)| {
            let Permission { cluster, namespace, role, resource, verb } = permission;
            let labels = [
                ("mesh_cluster", &**cluster),
                ("mesh_namespace", namespace.as_deref().unwrap_or("*")),
                ("role", role),
                ("resource", resource),
                ("verb", verb),
            ];
            (labels, ConstGauge::new(u32::from(*granted)))
        });
        let help = "1 for a right that the process has and its role should not have, 0 for one that it rightly lacks.";
        family(&mut encoder, "meshcert_excess_permission", help, None, series)
    }
}
