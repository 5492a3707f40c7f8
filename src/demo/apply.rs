//! Server-side apply: each manager's fields, what goes when it no longer names them, and who is in the way. A list is one field.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::demo::status::Failure;
use crate::demo::store::metadata;

type Path = Vec<String>;

/// What names an object, or is the server's: nobody's field.
const NOT_MANAGED: [&[&str]; 7] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "creationTimestamp"],
];

/// Who applies, and whether what others named is taken over.
pub(super) struct Applier<'a> {
    pub(super) manager: &'a str,
    pub(super) api_version: &'a str,
    pub(super) force: bool,
}

impl Applier<'_> {
    /// The object with what is applied. What this manager applied before and does not any more is gone, unless another one named it too.
    ///
    /// # Errors
    /// Another manager applied a field that would change.
    pub(super) fn apply(&self, current: &Value, applied: &Value) -> Result<Value, Failure> {
        let fields = fields(applied);
        let mut managers = managers(current);
        let former = managers.remove(self.manager).unwrap_or_default();
        for (other, theirs) in &mut managers {
            let changes = |path: &&Path| at(current, path) != at(applied, path);
            let contested: Vec<Path> = fields.intersection(theirs).filter(changes).cloned().collect();
            if let Some(field) = contested.first().filter(|_| !self.force) {
                let message =
                    format!("Apply failed: .{} was applied by {other:?}; force takes it over", field.join("."));
                return Err(Failure::new(StatusCode::CONFLICT, "Conflict", message));
            }
            theirs.retain(|path| !contested.contains(path));
        }
        let mut value = current.clone();
        json_patch::merge(&mut value, applied);
        let is_named = |path: &Path| managers.values().chain([&fields]).flatten().any(|named| named.starts_with(path));
        for path in former.iter().filter(|path| !is_named(path)) {
            remove(&mut value, path);
        }
        managers.insert(self.manager.to_owned(), fields);
        let entries: Vec<Value> = managers.iter().map(|(manager, fields)| self.entry(manager, fields)).collect();
        metadata(&mut value).insert("managedFields".to_owned(), entries.into());
        Ok(value)
    }

    fn entry(&self, manager: &str, fields: &BTreeSet<Path>) -> Value {
        let mut tree = json!({});
        for path in fields {
            path.iter().fold(&mut tree, |tree, name| &mut tree[format!("f:{name}")]);
        }
        json!({ "manager": manager, "operation": "Apply", "apiVersion": self.api_version, "fieldsType": "FieldsV1", "fieldsV1": closed(tree) })
    }
}

/// A tree whose leaves are empty objects.
fn closed(tree: Value) -> Value {
    match tree {
        Value::Object(tree) => tree.into_iter().map(|(name, below)| (name, closed(below))).collect(),
        _ => Value::Object(Map::new()),
    }
}

/// The fields that each manager applied last.
fn managers(object: &Value) -> BTreeMap<String, BTreeSet<Path>> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let named = entries.filter_map(|entry| Some((entry["manager"].as_str()?.to_owned(), &entry["fieldsV1"])));
    named
        .map(|(manager, tree)| {
            let paths = leaves(tree).into_iter();
            let plain = |name: String| name.strip_prefix("f:").unwrap_or(&name).to_owned();
            (manager, paths.map(|path| path.into_iter().map(plain).collect()).collect())
        })
        .collect()
}

fn fields(applied: &Value) -> BTreeSet<Path> {
    leaves(applied).into_iter().filter(|path| !path.is_empty() && !NOT_MANAGED.contains(&&*names(path))).collect()
}

fn names(path: &Path) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

/// The paths to what is no object, or an empty one.
fn leaves(value: &Value) -> Vec<Path> {
    let Some(object) = value.as_object().filter(|object| !object.is_empty()) else { return vec![Path::new()] };
    let below = |(name, value): (&String, &Value)| {
        let name = name.clone();
        leaves(value).into_iter().map(move |path| [vec![name.clone()], path].concat())
    };
    object.iter().flat_map(below).collect()
}

fn at<'a>(value: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

/// Removes a field, and the objects that it leaves empty.
fn remove(value: &mut Value, path: &[String]) {
    let (Some(object), Some((name, rest))) = (value.as_object_mut(), path.split_first()) else { return };
    if let Some(below) = object.get_mut(name).filter(|_| !rest.is_empty()) {
        remove(below, rest);
        if below.as_object().is_none_or(|below| !below.is_empty()) {
            return;
        }
    }
    object.remove(name);
}
