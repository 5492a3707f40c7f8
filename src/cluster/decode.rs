//! From the bytes of a list page or watch line to [`RawSecret`]s, without ever holding what is not wanted.
//!
//! Pages are asked for in protobuf: kube-apiserver writes it many times as fast as JSON, and entries stand there as they are instead of in base64. What has no
//! protobuf, such as the embedded API, answers in JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::cert::parse::{MAX_ENTRY_BYTES, TooLargeOrInvalid};
use crate::secret::{Class, NotRead, RawEntry, RawSecret, SecretMeta, SecretRef, Selection, is_private_key};

mod json;
pub(super) mod protobuf;

/// A decoded page of a list.
pub struct Page {
    /// The Secrets that are read.
    pub secrets: Vec<RawSecret>,
    /// `metadata.resourceVersion`, from which to watch.
    pub resource_version: String,
    /// `metadata.continue` where there is a next page.
    pub next: Option<String>,
}

/// A Secret, whether it is read or not.
pub struct Explained {
    /// Its metadata.
    pub meta: SecretMeta,
    /// All its keys.
    pub keys: Vec<Box<str>>,
    /// What is read of it, or why it is not.
    pub secret: Result<RawSecret, NotRead>,
}

/// A decoded line of a watch.
pub(super) enum Line {
    Applied(SecretRef, Option<RawSecret>, String),
    Deleted(SecretRef, String),
    Bookmark(String),
    /// An ERROR event: HTTP-like code and the server's words.
    Error(u16, String),
}

/// Where an answer is not what a Kubernetes API sends. Never what stands there: it may be a Secret's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecodable(String);

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<serde_json::Error> for Undecodable {
    fn from(error: serde_json::Error) -> Self {
        Self(format!("line {}, column {}", error.line(), error.column()))
    }
}

/// Decodes a page.
///
/// # Errors
/// It is no list of Secrets.
pub fn page(bytes: &[u8], selection: &Selection) -> Result<Page, Undecodable> {
    let List { metadata, items } = list(bytes)?;
    let items = items.unwrap_or_default();
    Ok(Page {
        secrets: items.into_iter().filter_map(|item| item.wanted(selection).1).collect(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        next: metadata.next.filter(|token| !token.is_empty()),
    })
}

/// The `continue` token, read from the beginning of a page: it stands before the items, so that the next page can be asked for while this one is decoded.
pub(super) fn peek_continue(bytes: &[u8]) -> Option<String> {
    match protobuf::object(bytes) {
        Some(object) => protobuf::peek_continue(object),
        None => json::peek_continue(bytes),
    }
}

/// Decodes the first Secret of a page with the reasons for reading it or not.
pub(super) fn explained(bytes: &[u8], selection: &Selection) -> Result<Option<Explained>, Undecodable> {
    let Some(item) = list(bytes)?.items.unwrap_or_default().into_iter().next() else { return Ok(None) };
    let (meta, data) = item.split();
    let keys = data.0.iter().map(|(key, _)| key.as_ref().into()).collect();
    let secret = selection.classify(&meta).map(|class| {
        let entries = read(data, selection, &class);
        RawSecret { meta: meta.clone(), class, entries }
    });
    Ok(Some(Explained { meta, keys, secret }))
}

/// Decodes a line of a watch.
pub(super) fn line(bytes: &[u8], selection: &Selection) -> Result<Line, Undecodable> {
    json::line(bytes, selection)
}

fn list(bytes: &[u8]) -> Result<List<'_>, Undecodable> {
    match protobuf::object(bytes) {
        Some(object) => protobuf::list(object),
        None => Ok(serde_json::from_slice(bytes)?),
    }
}

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<Item<'a>>>,
}

#[derive(Default, Deserialize)]
struct ListMeta {
    #[serde(rename = "resourceVersion")]
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Default, Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(rename = "type", borrow, default)]
    secret_type: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Data<'a>,
}

#[derive(Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(rename = "resourceVersion", borrow, default)]
    resource_version: Cow<'a, str>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Paused,
}

/// The only annotation that is read. The others are skipped: `last-applied-configuration` repeats the whole Secret.
#[derive(Default)]
struct Paused(bool);

/// Entries, borrowed from the page; of those of private keys nothing but the name.
#[derive(Default)]
struct Data<'a>(Vec<(Cow<'a, str>, Option<Value<'a>>)>);

/// What stands in an entry.
enum Value<'a> {
    Base64(Cow<'a, str>),
    Plain(&'a [u8]),
}

impl<'a> Data<'a> {
    /// Adds an entry; that of a private key without its value.
    fn push(&mut self, key: Cow<'a, str>, value: Value<'a>) {
        let value = (!is_private_key(&key)).then_some(value);
        self.0.push((key, value));
    }
}

impl Item<'_> {
    fn reference(&self) -> SecretRef {
        SecretRef { namespace: Arc::from(&*self.metadata.namespace), name: Arc::from(&*self.metadata.name) }
    }

    fn wanted(self, selection: &Selection) -> (SecretRef, Option<RawSecret>) {
        let reference = self.reference();
        let (meta, data) = self.split();
        let Ok(class) = selection.classify(&meta) else { return (reference, None) };
        let entries = read(data, selection, &class);
        (reference, Some(RawSecret { meta, class, entries }))
    }
}

impl<'a> Item<'a> {
    fn split(self) -> (SecretMeta, Data<'a>) {
        let reference = self.reference();
        let Meta { uid, resource_version, labels, annotations: Paused(paused), .. } = self.metadata;
        let meta = SecretMeta {
            reference,
            uid: uid.into(),
            resource_version: resource_version.into(),
            secret_type: self.secret_type.into(),
            labels: labels.unwrap_or_default(),
            paused,
        };
        (meta, self.data)
    }
}

fn read(data: Data<'_>, selection: &Selection, class: &Class) -> Vec<RawEntry> {
    let wanted = data.0.into_iter().filter(|(key, _)| selection.reads_key(class, key));
    wanted.filter_map(|(key, value)| Some((key.into(), value?.decode()))).collect()
}

impl Value<'_> {
    fn decode(&self) -> Result<Zeroizing<Vec<u8>>, TooLargeOrInvalid> {
        let size = match self {
            Self::Base64(text) => text.len() / 4 * 3,
            Self::Plain(bytes) => bytes.len(),
        };
        if size > MAX_ENTRY_BYTES {
            return Err(TooLargeOrInvalid::TooLarge);
        }
        let bytes = match self {
            Self::Base64(text) => STANDARD.decode(&**text).map_err(|_| TooLargeOrInvalid::Invalid)?,
            Self::Plain(bytes) => bytes.to_vec(),
        };
        Ok(Zeroizing::new(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Naming;

    fn mk_selection() -> Selection {
        Selection { mesh_namespaces: None, naming: Naming::default(), rules: Vec::new() }
    }

    const ITEM: &str = r#"{"metadata":{"name":"a-kube-certs","namespace":"n","uid":"u","resourceVersion":"7","labels":null,
        "annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"x\":\"\"}","meshcert.dev/paused":"true"},
        "managedFields":[{"f":{}}]},"type":"Opaque","data":{"ca.crt":"eA==","ca.key":"a2V5","bad.crt":"*","sa.pub":"eA=="}}"#;

    #[test]
    fn a_page_yields_the_wanted_entries_alone() {
        let other = ITEM.replace("a-kube-certs", "web");
        let text = format!(
            r#"{{"kind":"SecretList","metadata":{{"resourceVersion":"9","continue":"t0","remainingItemCount":1}},"items":[{ITEM},{other}]}}"#
        );
        assert_eq!(peek_continue(text.as_bytes()), Some("t0".to_owned()));
        let page = page(text.as_bytes(), &mk_selection()).unwrap();
        assert_eq!(page.secrets.len(), 1);
        assert_eq!((page.resource_version.as_str(), page.next.as_deref()), ("9", Some("t0")));
        let secret = &page.secrets[0];
        assert!(secret.meta.paused && matches!(secret.class, Class::Mesh(..)));
        let keys: Vec<_> = secret.entries.iter().map(|(key, bytes)| (&**key, bytes.is_ok())).collect();
        assert_eq!(keys, [("ca.crt", true), ("bad.crt", false)]);
    }

    #[test]
    fn empty_pages_and_secrets_without_data_are_fine() {
        for text in [
            r#"{"metadata":{},"items":null}"#,
            r#"{"metadata":{},"items":[]}"#,
            r#"{"metadata":{},"items":[{"metadata":{}}]}"#,
            r#"{"metadata":{},"items":[{"metadata":{"annotations":null},"data":null}]}"#,
        ] {
            assert!(page(text.as_bytes(), &mk_selection()).unwrap().secrets.is_empty());
            assert_eq!(peek_continue(text.as_bytes()), None);
        }
        for text in ["", "{", "[]", "\u{1}"] {
            assert!(page(text.as_bytes(), &mk_selection()).is_err());
        }
    }

    #[test]
    fn watch_lines_are_told_apart() {
        let read = |text: String| line(text.as_bytes(), &mk_selection()).unwrap();
        assert!(
            matches!(read(format!(r#"{{"type":"ADDED","object":{ITEM}}}"#)), Line::Applied(_, Some(_), version) if version == "7")
        );
        assert!(
            matches!(read(format!(r#"{{"type":"DELETED","object":{ITEM}}}"#)), Line::Deleted(name, _) if &*name.name == "a-kube-certs")
        );
        let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Secret","metadata":{"resourceVersion":"12","creationTimestamp":null}}}"#;
        assert!(matches!(read(bookmark.to_owned()), Line::Bookmark(version) if version == "12"));
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}"#;
        assert!(matches!(read(gone.to_owned()), Line::Error(410, _)));
    }
}
