//! Label selectors: as a query for the API server, and against labels that are at hand.

use serde::Deserialize;

use crate::cluster::workloads::objects::{Map, or_default};
use crate::name::Encoded;

/// A workload's `spec.selector`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Selector {
    #[serde(deserialize_with = "or_default")]
    pub(super) match_labels: Map,
    #[serde(deserialize_with = "or_default")]
    match_expressions: Vec<Expression>,
}

#[derive(Debug, Deserialize)]
struct Expression {
    key: String,
    operator: String,
    #[serde(default, deserialize_with = "or_default")]
    values: Vec<String>,
}

impl Selector {
    /// For `labelSelector=`, encoded.
    pub(super) fn query(&self) -> String {
        let mut terms: Vec<String> = self.match_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        for Expression { key, operator, values } in &self.match_expressions {
            let values = values.join(",");
            terms.push(match operator.as_str() {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "DoesNotExist" => format!("!{key}"),
                _ => key.clone(),
            });
        }
        Encoded(&terms.join(",")).to_string()
    }

    /// Whether these labels are meant.
    pub(super) fn matches(&self, labels: &Map) -> bool {
        let equal = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        equal
            && self.match_expressions.iter().all(|Expression { key, operator, values }| {
                let label = labels.get(key);
                let listed = label.is_some_and(|label| values.contains(label));
                match operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "DoesNotExist" => label.is_none(),
                    _ => label.is_some(),
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_selector() -> Selector {
        let both = json!({ "matchLabels": { "app": "a" }, "matchExpressions": [{ "key": "x", "operator": "NotIn", "values": ["1", "2"] }] });
        serde_json::from_value(both).unwrap()
    }

    #[test]
    fn a_selector_is_a_query() {
        assert_eq!(mk_selector().query(), "app%3Da%2Cx%20notin%20%281%2C2%29");
    }

    #[test]
    fn a_selector_means_the_same_pods_here_as_at_the_api_server() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let selector = mk_selector();
        assert!(selector.matches(&labels(&[("app", "a")])));
        assert!(selector.matches(&labels(&[("app", "a"), ("x", "3")])));
        assert!(!selector.matches(&labels(&[("app", "a"), ("x", "2")])));
        assert!(!selector.matches(&labels(&[("app", "b")])));
        for (operator, present, absent) in
            [("In", true, false), ("Exists", true, false), ("DoesNotExist", false, true), ("NotIn", false, true)]
        {
            let one = json!({ "matchExpressions": [{ "key": "x", "operator": operator, "values": ["1"] }] });
            let selector: Selector = serde_json::from_value(one).unwrap();
            assert_eq!(selector.matches(&labels(&[("x", "1")])), present, "{operator}");
            assert_eq!(selector.matches(&labels(&[])), absent, "{operator}");
        }
    }
}
