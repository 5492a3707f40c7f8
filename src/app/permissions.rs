//! Whether this process has rights that its roles must do without: a mistake in RBAC is seen before somebody else finds it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use crate::app::acting::Roles;
use crate::app::clusters::{Plane, Ways, places};
use crate::cluster::api::Api;
use crate::cluster::connect::connect;
use crate::config::{Config, ConfigError};
use crate::metrics::permissions::{Permission, PermissionMetrics};
use crate::requests::Place;

/// API group, resource and verb.
type Right = (&'static str, &'static str, &'static str);

/// Rights that a role must not have in a cluster.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Check {
    place: Place,
    plane: Plane,
    without: Vec<Right>,
}

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(600);
/// After a look that a cluster did not answer.
const AGAIN: Duration = Duration::from_secs(60);

/// Replacing certificates is for `act` alone.
const WRITING: [Right; 4] =
    [("", "secrets", "create"), ("", "secrets", "update"), ("", "secrets", "patch"), ("", "secrets", "delete")];
/// Reading certificates is for those who watch.
const READING: [Right; 3] = [("", "secrets", "get"), ("", "secrets", "list"), ("", "secrets", "watch")];
/// Who may ask is not who may approve.
const APPROVING: [Right; 2] =
    [("meshcert.dev", "certificaterenewals", "update"), ("meshcert.dev", "certificaterenewals", "patch")];

/// What is to be looked at; nothing in a process that acts.
///
/// # Errors
/// A kubeconfig is missing.
pub(super) fn checks(config: &Config, ways: &Ways, roles: Roles) -> Result<Vec<Check>, ConfigError> {
    let mut all = Vec::new();
    if roles.act {
        return Ok(all);
    }
    let watching = if roles.observe { places(config, ways, Plane::Observe)? } else { Vec::new() };
    if roles.webhook {
        for place in places(config, ways, Plane::Webhook)? {
            let watches = watching.contains(&place);
            let reading = READING.into_iter().filter(|_| !watches);
            let without = WRITING.into_iter().chain(APPROVING).chain(reading).collect();
            all.push(Check { place, plane: Plane::Webhook, without });
        }
    }
    all.extend(watching.into_iter().map(|place| Check { place, plane: Plane::Observe, without: WRITING.to_vec() }));
    Ok(all)
}

/// Looks now and now and then.
pub(super) async fn watch(checks: Vec<Check>, metrics: Arc<PermissionMetrics>) {
    let mut known: BTreeMap<Permission, bool> = BTreeMap::new();
    loop {
        let mut all_answered = true;
        for check in &checks {
            match check.look().await {
                Ok(found) => {
                    say_new(&known, &found);
                    known.extend(found);
                }
                Err(error) => {
                    warn!(cluster = %check.place.name, error, "cannot ask what this process may do");
                    all_answered = false;
                }
            }
        }
        metrics.set(known.clone());
        sleep(if all_answered { INTERVAL } else { AGAIN }).await;
    }
}

fn say_new(known: &BTreeMap<Permission, bool>, found: &BTreeMap<Permission, bool>) {
    let new = found.iter().filter(|(permission, granted)| **granted && known.get(permission) != Some(&true));
    let mut together: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for (Permission { cluster, namespace, role, resource, verb }, _) in new {
        together.entry((cluster, namespace, role, resource)).or_default().push(verb);
    }
    for ((cluster, namespace, role, resource), verbs) in together {
        let (namespace, verbs) = (namespace.as_deref().unwrap_or("*"), verbs.join(","));
        warn!(%cluster, namespace, role, resource, verbs, "this process has rights that its role must not have: take them away");
    }
}

impl Check {
    async fn look(&self) -> Result<BTreeMap<Permission, bool>, String> {
        let api = Api::new(connect(&self.place.connection).await.map_err(|error| error.message)?);
        let namespaces = match &self.place.namespaces {
            Some(all) => all.iter().cloned().map(Some).collect(),
            None => vec![None],
        };
        let mut found = BTreeMap::new();
        for namespace in namespaces {
            for (group, resource, verb) in &self.without {
                let granted = api.may(namespace.as_deref(), group, resource, verb).await;
                let permission = Permission {
                    cluster: Arc::clone(&self.place.name),
                    namespace: namespace.clone(),
                    role: self.plane.as_str(),
                    resource,
                    verb,
                };
                found.insert(permission, granted.map_err(|error| error.message)?);
            }
        }
        Ok(found)
    }
}
