//! docs/METRICS.md and the code name the same metrics, with the same types and labels.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used, reason = "a test may")]

#[path = "support/values.rs"]
mod values;

use std::collections::{BTreeMap, BTreeSet};

use meshcert::metrics::Metrics;
use meshcert::metrics::exposition::Exposition;
use meshcert::metrics::family::Format;
use meshcert::metrics::listeners::Listener;
use meshcert::metrics::permissions::Permission;
use values::*;

type Catalogue = BTreeMap<String, (String, BTreeSet<String>)>;

/// From rows such as `| ``name`` | gauge | ``a``, ``b`` | meaning |`; a label in parentheses is there in some cases only.
fn documented() -> Catalogue {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, name, kind, labels, meaning, _] = cells[..] else { panic!("five bars in {row}") };
        assert!(!meaning.is_empty(), "{row}");
        let labels = labels.split(',').map(|label| label.trim().trim_matches(['`', '(', ')']).to_owned());
        (name.trim_matches('`').to_owned(), (kind.to_owned(), labels.filter(|label| !label.is_empty()).collect()))
    })
    .collect()
}

/// From what is really exported, in the classic format: its types are those of the samples.
fn exported() -> Catalogue {
    let fleet = mk_fleet();
    let part = Exposition::default().render(&fleet, Format::Classic, NOW);
    let metrics = Metrics::new(Told::new(fleet), Some(mk_renewals()));
    metrics.listeners().loaded(Listener::Main, NOW);
    let permission =
        Permission { cluster: "cp-1".into(), namespace: None, role: "webhook", resource: "secrets", verb: "list" };
    metrics.permissions().set([(permission, true)].into());
    let tail = metrics.tail(&part, Format::Classic);
    let mut text: Vec<u8> = part.segments.iter().flat_map(|segment| segment.inflate()).collect();
    text.extend_from_slice(&tail.text);
    let mut all = Catalogue::new();
    for line in String::from_utf8(text).unwrap().lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            all.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let (name, labels) = line.split_once('{').unwrap_or_else(|| line.split_once(' ').unwrap());
            // The samples of a histogram have names of their own, and a label that is not said.
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .filter(|name| all.contains_key(*name));
            let labels = label_names(labels).filter(|label| family.is_none() || label != "le");
            all.get_mut(family.unwrap_or(name)).unwrap().1.extend(labels);
        }
    }
    all
}

fn label_names(labels: &str) -> impl Iterator<Item = String> {
    let names = regex::Regex::new(r#"([a-zA-Z_0-9]+)="(?:[^"\\]|\\.)*""#).unwrap();
    names.captures_iter(labels).map(|found| found[1].to_owned()).collect::<Vec<_>>().into_iter()
}

#[test]
fn every_metric_is_documented_as_it_is_and_nothing_else_is() {
    let (documented, exported) = (documented(), exported());
    for (name, what) in &exported {
        assert_eq!(documented.get(name), Some(what), "docs/METRICS.md on {name}");
    }
    for name in documented.keys() {
        assert!(exported.contains_key(name), "docs/METRICS.md documents {name}, which is not exported");
    }
}
