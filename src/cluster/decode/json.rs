//! Pages and lines in JSON.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::cluster::decode::{Data, Item, Line, Paused, Undecodable, Value};
use crate::secret::{PAUSED, Selection, is_private_key, pauses};

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
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

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

pub(super) fn line(bytes: &[u8], selection: &Selection) -> Result<Line, Undecodable> {
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
                let mut paused = Paused::default();
                while let Some(key) = map.next_key::<Text<'_>>()? {
                    if key.0 == PAUSED {
                        paused = Paused(pauses(&map.next_value::<Text<'_>>()?.0));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(paused)
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
                let mut data = Data::default();
                while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
                    let value = if is_private_key(&key) {
                        map.next_value::<IgnoredAny>()?;
                        Cow::default()
                    } else {
                        map.next_value::<Option<Text<'de>>>()?.map(|text| text.0).unwrap_or_default()
                    };
                    data.push(key, Value::Base64(value));
                }
                Ok(data)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}
