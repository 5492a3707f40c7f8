//! What there is: versions, groups, resources.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::demo::api::Api;
use crate::demo::kinds::{self, Kind};
use crate::demo::openapi;

impl Api {
    /// All resources, the custom ones included.
    fn kinds(&self) -> Vec<Kind> {
        kinds::BUILT_IN.iter().cloned().chain(self.custom_kinds()).collect()
    }

    /// The first resource of which this holds.
    pub(super) fn kind(&self, wanted: impl Fn(&Kind) -> bool) -> Option<Kind> {
        let built_in = kinds::BUILT_IN.iter().find(|kind| wanted(kind)).cloned();
        built_in.or_else(|| self.custom_kinds().into_iter().find(wanted))
    }

    fn custom_kinds(&self) -> Vec<Kind> {
        let definitions = self.store.list(kinds::DEFINITIONS, None);
        definitions.objects.iter().flat_map(|(_, object)| kinds::custom(&object.value)).collect()
    }

    /// The document that a discovery path stands for.
    pub(super) fn discovery(&self, segments: &[&str]) -> Option<Value> {
        let resources = |group: &str, version: &str| {
            let kinds = self.kinds();
            let of_group = kinds.iter().filter(|kind| kind.group == group && kind.version == version);
            let resources: Vec<Value> = of_group.flat_map(Kind::discovery).collect();
            let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            let list =
                json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources });
            (!resources.is_empty()).then_some(list)
        };
        match segments {
            ["version"] => {
                Some(json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.0+meshcert", "platform": "embedded" }))
            }
            ["healthz" | "livez" | "readyz"] => Some(json!("ok")),
            ["api"] => Some(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })),
            ["api", version] => resources("", version),
            ["apis"] => {
                let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
                for kind in self.kinds().into_iter().filter(|kind| !kind.group.is_empty()) {
                    let version = json!({ "groupVersion": kind.api_version(), "version": kind.version });
                    let versions = groups.entry(kind.group).or_default();
                    if !versions.contains(&version) {
                        versions.push(version);
                    }
                }
                let groups: Vec<Value> = groups
                    .into_iter()
                    .map(|(name, versions)| json!({ "name": name, "preferredVersion": versions[0], "versions": versions }))
                    .collect();
                Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
            }
            ["apis", group, version] => resources(group, version),
            ["openapi", rest @ ..] => openapi::document(&self.kinds(), rest),
            _ => None,
        }
    }
}
