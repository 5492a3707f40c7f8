//! Pages in protobuf, as far as they are read: field numbers are those of `generated.proto` in k8s.io/api/core/v1 and k8s.io/apimachinery, the encoding that of
//! protobuf.dev/programming-guides/encoding. Unknown fields are passed over, as it demands.

use std::borrow::Cow;

use crate::cluster::decode::{Item, List, ListMeta, Meta, Paused, Undecodable, Value};
use crate::secret::{PAUSED, pauses};

/// What asks for it, and for JSON where there is none.
pub(in crate::cluster) const ACCEPT: &str = "application/vnd.kubernetes.protobuf, application/json";

/// What every answer in protobuf begins with; no JSON does.
const MAGIC: &[u8] = b"k8s\0";

/// A message's fields, in the order in which they stand there.
struct Fields<'a>(&'a [u8]);

/// Number and bytes of a field. All that are read are strings, bytes or messages.
type Field<'a> = (u64, &'a [u8]);

/// The object in the envelope `runtime.Unknown`, if this is protobuf.
pub(super) fn object(bytes: &[u8]) -> Option<&[u8]> {
    Fields(bytes.strip_prefix(MAGIC)?).flatten().find_map(|(number, bytes)| (number == 2).then_some(bytes))
}

/// A SecretList.
pub(super) fn list(bytes: &[u8]) -> Result<List<'_>, Undecodable> {
    let (mut metadata, mut items) = (ListMeta::default(), Vec::new());
    for field in Fields(bytes) {
        match field? {
            (1, bytes) => metadata = list_meta(bytes)?,
            (2, bytes) => items.push(secret(bytes)?),
            _ => {}
        }
    }
    Ok(List { metadata, items: Some(items) })
}

pub(super) fn peek_continue(object: &[u8]) -> Option<String> {
    let (number, metadata) = Fields(object).next()?.ok()?;
    list_meta(metadata).ok()?.next.filter(|token| number == 1 && !token.is_empty())
}

/// The message of a `Status`, which is what refusals are.
pub(in crate::cluster) fn status_message(bytes: &[u8]) -> Option<String> {
    let message = Fields(object(bytes)?).flatten().find_map(|(number, bytes)| (number == 3).then_some(bytes));
    Some(String::from_utf8_lossy(message?).into_owned())
}

fn list_meta(bytes: &[u8]) -> Result<ListMeta, Undecodable> {
    let mut metadata = ListMeta::default();
    for field in Fields(bytes) {
        match field? {
            (2, version) => metadata.resource_version = Some(text(version)?.into_owned()),
            (3, token) => metadata.next = Some(text(token)?.into_owned()),
            _ => {}
        }
    }
    Ok(metadata)
}

fn secret(bytes: &[u8]) -> Result<Item<'_>, Undecodable> {
    let mut item = Item::default();
    for field in Fields(bytes) {
        match field? {
            (1, bytes) => item.metadata = meta(bytes)?,
            (2, bytes) => {
                let (key, value) = entry(bytes)?;
                item.data.push(text(key)?, Value::Plain(value));
            }
            (3, bytes) => item.secret_type = text(bytes)?,
            _ => {}
        }
    }
    Ok(item)
}

fn meta(bytes: &[u8]) -> Result<Meta<'_>, Undecodable> {
    let mut meta = Meta::default();
    for field in Fields(bytes) {
        match field? {
            (1, name) => meta.name = text(name)?,
            (3, namespace) => meta.namespace = text(namespace)?,
            (5, uid) => meta.uid = text(uid)?,
            (6, version) => meta.resource_version = text(version)?,
            (11, label) => {
                let (key, value) = entry(label)?;
                meta.labels.get_or_insert_default().insert(text(key)?.into_owned(), text(value)?.into_owned());
            }
            (12, annotation) => {
                let (key, value) = entry(annotation)?;
                if key == PAUSED.as_bytes() {
                    meta.annotations = Paused(pauses(&text(value)?));
                }
            }
            _ => {}
        }
    }
    Ok(meta)
}

/// Key and value of a map's entry.
fn entry(bytes: &[u8]) -> Result<(&[u8], &[u8]), Undecodable> {
    let (mut key, mut value) = (&[][..], &[][..]);
    for field in Fields(bytes) {
        match field? {
            (1, bytes) => key = bytes,
            (2, bytes) => value = bytes,
            _ => {}
        }
    }
    Ok((key, value))
}

fn text(bytes: &[u8]) -> Result<Cow<'_, str>, Undecodable> {
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Undecodable("a text that is not UTF-8".to_owned()))
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Undecodable>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            match self.field() {
                Some((number, Some(bytes))) => return Some(Ok((number, bytes))),
                Some((_, None)) => {}
                None => {
                    self.0 = &[];
                    return Some(Err(Undecodable("a field that is cut off".to_owned())));
                }
            }
        }
        None
    }
}

impl<'a> Fields<'a> {
    /// The next field's number, and its bytes if it is not a number itself; `None` where the message ends within.
    fn field(&mut self) -> Option<(u64, Option<&'a [u8]>)> {
        let tag = self.varint()?;
        let bytes = match tag & 7 {
            0 => self.varint().map(|_| None)?,
            1 => self.take(8).map(|_| None)?,
            2 => {
                let length = self.varint()?;
                Some(self.take(length)?)
            }
            5 => self.take(4).map(|_| None)?,
            _ => return None,
        };
        Some((tag >> 3, bytes))
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Seven bits a byte, the lowest first, until one without the highest bit.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::decode;
    use crate::mesh::Naming;
    use crate::secret::Selection;

    fn field(number: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        let bytes = bytes.as_ref();
        assert!(bytes.len() < 1 << 14);
        let length = [bytes.len() as u8 | 0x80, (bytes.len() >> 7) as u8];
        [&[number << 3 | 2][..], &length, bytes].concat()
    }

    fn pair(number: u8, key: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
        field(number, [field(1, key), field(2, value)].concat())
    }

    fn mk_page() -> Vec<u8> {
        let number = [7 << 3, 0x96, 0x01].to_vec();
        let meta = [
            field(1, "a-kube-certs"),
            field(3, "n"),
            field(5, "u"),
            field(6, "7"),
            number,
            pair(11, "app", "x"),
            pair(12, "kubectl.kubernetes.io/last-applied-configuration", "{}"),
            pair(12, "meshcert.dev/paused", "true"),
        ];
        let secret = [
            field(1, meta.concat()),
            pair(2, "ca.crt", [0x78, 0xff]),
            pair(2, "ca.key", "never read"),
            pair(2, "bad.crt", vec![b'x'; 9000]),
            field(3, "Opaque"),
        ];
        let list = [field(1, [field(2, "9"), field(3, "t0")].concat()), field(2, secret.concat())].concat();
        [MAGIC, &field(1, [field(1, "v1"), field(2, "SecretList")].concat()), &field(2, list)].concat()
    }

    fn mk_selection() -> Selection {
        Selection { mesh_namespaces: None, naming: Naming::default(), rules: Vec::new() }
    }

    #[test]
    fn a_page_yields_the_wanted_entries_alone() {
        let bytes = mk_page();
        assert_eq!(decode::peek_continue(&bytes), Some("t0".to_owned()));
        let page = decode::page(&bytes, &mk_selection()).unwrap();
        assert_eq!((page.resource_version.as_str(), page.next.as_deref()), ("9", Some("t0")));
        let [secret] = &page.secrets[..] else { panic!("{} Secrets", page.secrets.len()) };
        let meta = &secret.meta;
        assert_eq!((&*meta.reference.namespace, &*meta.reference.name), ("n", "a-kube-certs"));
        assert_eq!((&*meta.uid, &*meta.resource_version, &*meta.secret_type), ("u", "7", "Opaque"));
        assert!(meta.paused && meta.labels["app"] == "x");
        let entries: Vec<_> =
            secret.entries.iter().map(|(key, bytes)| (&**key, bytes.as_ref().unwrap().len())).collect();
        assert_eq!(entries, [("ca.crt", 2), ("bad.crt", 9000)]);
    }

    #[test]
    fn a_refusal_says_why() {
        let status = [field(2, "Failure"), field(3, "secrets is forbidden"), field(4, "Forbidden")].concat();
        let bytes = [MAGIC, &field(2, status)].concat();
        assert_eq!(status_message(&bytes).as_deref(), Some("secrets is forbidden"));
        assert_eq!(status_message(b"{}"), None);
    }

    proptest! {
        #[test]
        fn nonsense_is_refused_and_never_a_panic(at in any::<prop::sample::Index>(), byte: u8, end in any::<prop::sample::Index>()) {
            let mut bytes = mk_page();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(end.index(bytes.len()) + 1);
            let _ = decode::page(&bytes, &mk_selection());
            let _ = (decode::peek_continue(&bytes), status_message(&bytes));
        }
    }

    #[test]
    fn a_page_that_is_cut_off_is_no_page() {
        let bytes = mk_page();
        for end in 4..bytes.len() - 1 {
            assert!(decode::page(&bytes[..end], &mk_selection()).is_err(), "{end} bytes of {}", bytes.len());
        }
    }
}
