//! Requests, taken apart.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use crate::demo::api::Api;
use crate::demo::kinds::Kind;
use crate::demo::status::Failure;
use crate::demo::store::Key;

/// A request, taken apart.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
    pub(super) query: BTreeMap<String, String>,
    pub(super) form: Form,
}

/// What is shown of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Everything.
    Whole,
    /// A line of a table.
    Table,
    /// Their metadata alone.
    Metadata,
}

impl Form {
    /// The one that is asked for first.
    pub(super) fn of(accept: &str) -> Self {
        let first = accept.split(',').next().unwrap_or_default();
        match first {
            _ if first.contains("as=Table") => Self::Table,
            _ if first.contains("as=PartialObjectMetadata") => Self::Metadata,
            _ => Self::Whole,
        }
    }
}

impl Api {
    /// Takes a request's path and query apart.
    pub(super) fn call(&self, segments: &[&str], query: &str) -> Result<Call, Failure> {
        let unknown =
            || Failure::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource");
        let (group, version, rest) = match segments {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(unknown()),
        };
        // `namespaces/NAME/status` is a namespace's subresource, not a resource called status.
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if !matches!(*plural, "status" | "finalize") => {
                (Some((*namespace).to_owned()), [&[*plural], rest].concat())
            }
            rest => (None, rest.to_vec()),
        };
        let plural = rest.first().ok_or_else(unknown)?;
        let served = |kind: &Kind| kind.group == group && kind.version == version && kind.plural == *plural;
        let kind = self.kind(served).ok_or_else(unknown)?;
        if rest.len() > 3 || (namespace.is_some() && !kind.namespaced) {
            return Err(unknown());
        }
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Ok(Call {
            kind,
            namespace,
            name: rest.get(1).map(|name| (*name).to_owned()),
            subresource: rest.get(2).map(|name| (*name).to_owned()),
            query: query.collect(),
            form: Form::Whole,
        })
    }
}

impl Call {
    /// Where the object is stored.
    pub(super) fn key(&self) -> Result<Key, Failure> {
        if self.kind.namespaced && self.namespace.is_none() {
            return Err(Failure::bad_request("a namespace is required in the path"));
        }
        let namespace = self.namespace.clone().unwrap_or_default();
        Ok((self.kind.resource().into(), namespace.into(), self.name.clone().unwrap_or_default().into()))
    }

    /// Whether a parameter is true.
    pub(super) fn is(&self, parameter: &str) -> bool {
        self.query.get(parameter).is_some_and(|value| matches!(value.as_str(), "true" | "1"))
    }

    /// Whether nothing is to be changed.
    pub(super) fn dry(&self) -> bool {
        self.query.get("dryRun").is_some_and(|value| value == "All")
    }

    /// The object in a body, of this call's kind.
    pub(super) fn object(&self, body: &[u8]) -> Result<Value, Failure> {
        // The fixed beginning of Kubernetes' own protobuf, which some of kubectl's generators send.
        if body.starts_with(b"k8s\0") {
            return Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UnsupportedMediaType",
                "the embedded API takes JSON, not protobuf; use kubectl create ... --dry-run=client -o json | kubectl create -f -",
            ));
        }
        let mut value: Value = serde_json::from_slice(body)
            .map_err(|error| Failure::bad_request(format!("the body is no JSON object: {error}")))?;
        if !value.is_object() {
            return Err(Failure::bad_request("the body is no JSON object"));
        }
        let said = value["kind"].as_str().unwrap_or_default();
        if !said.is_empty() && said != self.kind.kind && self.subresource.is_none() {
            return Err(Failure::bad_request(format!(
                "the object is a {said}, the path is that of a {}",
                self.kind.kind
            )));
        }
        value["kind"] = json!(self.kind.kind);
        value["apiVersion"] = json!(self.kind.api_version());
        Ok(value)
    }
}

/// Decodes `%XX` and `+` of a query (the WHATWG's form encoding).
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped =
            bytes.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
