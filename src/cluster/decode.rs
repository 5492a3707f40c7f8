//! From the bytes of a list page or watch line to [`RawSecret`]s, without ever holding what is not wanted.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::cert::parse::{MAX_ENTRY_BYTES, TooLargeOrInvalid};
use crate::secret::{Class, NotRead, RawEntry, RawSecret, SecretMeta, SecretRef, Selection};

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

/// Decodes a page.
///
/// # Errors
/// It is no list of Secrets.
pub fn page(bytes: &[u8], selection: &Selection) -> Result<Page, serde_json::Error> {
    let List { metadata, items } = serde_json::from_slice(bytes)?;
    let items = items.unwrap_or_default();
    Ok(Page {
        secrets: items.into_iter().filter_map(|item| item.wanted(selection).1).collect(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        next: metadata.next.filter(|token| !token.is_empty()),
    })
}

/// The `continue` token, read from the beginning of a page: it stands before the items, so that the next page can be asked for while this one is decoded.
pub(super) fn peek_continue(bytes: &[u8]) -> Option<String> {
    let head = &bytes[..bytes.len().min(16 << 10)];
    let head = &head[..memchr::memmem::find(head, b"\"items\"")?];
    let rest = &head[memchr::memmem::find(head, b"\"continue\":\"")? + b"\"continue\":\"".len()..];
    let token = &rest[..rest.iter().position(|byte| *byte == b'"')?];
    // A token with an escape is left to the decoder.
    if token.is_empty() || token.contains(&b'\\') {
        return None;
    }
    String::from_utf8(token.to_vec()).ok()
}

/// Decodes the first Secret of a page with the reasons for reading it or not.
pub(super) fn explained(bytes: &[u8], selection: &Selection) -> Result<Option<Explained>, serde_json::Error> {
    let List { items, .. } = serde_json::from_slice(bytes)?;
    let Some(item) = items.unwrap_or_default().into_iter().next() else { return Ok(None) };
    let (meta, data) = item.split();
    let keys = data.0.iter().map(|(key, _)| key.as_ref().into()).collect();
    let secret = selection.classify(&meta).map(|class| {
        let entries = read(data, selection, &class);
        RawSecret { meta: meta.clone(), class, entries }
    });
    Ok(Some(Explained { meta, keys, secret }))
}

/// Decodes a line of a watch.
pub(super) fn line(bytes: &[u8], selection: &Selection) -> Result<Line, serde_json::Error> {
    let Event { kind, object } = serde_json::from_slice(bytes)?;
    if kind == "ERROR" {
        let Status { code, message } = serde_json::from_str(object.get())?;
        return Ok(Line::Error(code, message));
    }
    let item: Item<'_> = serde_json::from_str(object.get())?;
    let version = item.metadata.resource_version.to_string();
    Ok(match &*kind {
        "BOOKMARK" => Line::Bookmark(version),
        "DELETED" => Line::Deleted(item.reference(), version),
        _ => {
            let (reference, secret) = item.wanted(selection);
            Line::Applied(reference, secret, version)
        }
    })
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

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(rename = "type", borrow, default)]
    secret_type: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Data<'a>,
}

#[derive(Deserialize)]
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

/// Entries still in base64, borrowed from the page; of those of private keys nothing but the name.
#[derive(Default)]
struct Data<'a>(Vec<(Cow<'a, str>, Option<Text<'a>>)>);

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

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
    wanted.filter_map(|(key, text)| Some((key.into(), decode(&text?.0)))).collect()
}

fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, TooLargeOrInvalid> {
    if text.len() / 4 * 3 > MAX_ENTRY_BYTES {
        return Err(TooLargeOrInvalid::TooLarge);
    }
    STANDARD.decode(text).map(Zeroizing::new).map_err(|_| TooLargeOrInvalid::Invalid)
}

impl<'de> Deserialize<'de> for Paused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Paused;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("annotations")
            }

            fn visit_unit<E>(self) -> Result<Paused, E> {
                Ok(Paused(false))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Paused, A::Error> {
                let mut paused = false;
                while let Some(key) = map.next_key::<Text<'_>>()? {
                    if key.0 == "meshcert.dev/paused" {
                        paused = map.next_value::<Text<'_>>()?.0 != "false";
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Paused(paused))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Data<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Data<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a Secret's data")
            }

            fn visit_unit<E>(self) -> Result<Data<'de>, E> {
                Ok(Data::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
                    if key.ends_with(".key") {
                        map.next_value::<IgnoredAny>()?;
                        entries.push((key, None));
                        continue;
                    }
                    let value = map.next_value::<Option<Text<'de>>>()?.unwrap_or(Text(Cow::Borrowed("")));
                    entries.push((key, Some(value)));
                }
                Ok(Data(entries))
            }
        }
        deserializer.deserialize_any(Reader)
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
