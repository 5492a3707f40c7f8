//! Secrets as manifests: YAML or JSON, one or several documents, lists.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

/// One entry of a Secret in a manifest.
pub(super) struct SecretEntry {
    /// `NAMESPACE/NAME`, or the name alone.
    pub(super) secret: String,
    /// Key in `data` or `stringData`.
    pub(super) key: String,
    /// The bytes, or why there are none.
    pub(super) content: Result<Zeroizing<Vec<u8>>, String>,
}

/// The parts of a manifest that matter; everything else is passed over.
#[derive(Deserialize)]
struct Document {
    kind: Option<String>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, Option<String>>,
    #[serde(default, rename = "stringData")]
    string_data: BTreeMap<String, Option<String>>,
    #[serde(default)]
    items: Vec<Document>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
}

/// The entries of all Secrets in a manifest, without those whose key ends in `.key`; `None` where the bytes are no manifest with a Secret.
pub(super) fn secrets(bytes: &[u8]) -> Option<Vec<SecretEntry>> {
    let text = std::str::from_utf8(bytes).ok()?;
    // A cheap look first: a certificate bundle is no YAML worth parsing.
    if !text.contains("Secret") {
        return None;
    }
    let documents: Vec<Document> = serde_saphyr::from_multiple(text).ok()?;
    let mut found = None;
    documents.into_iter().for_each(|document| collect(document, &mut found));
    found
}

/// Whether a key promises a certificate by its name.
pub(super) fn names_a_certificate(key: &str) -> bool {
    [".crt", ".cert", ".cer", ".pem", ".der", "config"].iter().any(|end| key.ends_with(end))
}

fn collect(document: Document, found: &mut Option<Vec<SecretEntry>>) {
    let Document { kind, metadata, data, string_data, items } = document;
    for item in items {
        // The items of a SecretList carry no kind of their own.
        let kind = item.kind.or_else(|| Some(kind.as_deref()?.strip_suffix("List")?.to_owned()));
        collect(Document { kind, ..item }, found);
    }
    if kind.as_deref() == Some("SecretList") {
        found.get_or_insert_default();
    }
    if kind.as_deref() != Some("Secret") {
        return;
    }
    let found = found.get_or_insert_default();
    let name = metadata.name.unwrap_or_else(|| "(no name)".to_owned());
    let secret = metadata.namespace.map(|namespace| format!("{namespace}/{name}")).unwrap_or(name);
    let decoded = data.into_iter().map(|(key, value)| {
        let text = Zeroizing::new(value.unwrap_or_default());
        // kubectl's own writing has no white space, a person's may.
        let compact: Zeroizing<Vec<u8>> = Zeroizing::new(text.bytes().filter(|b| !b.is_ascii_whitespace()).collect());
        let content = STANDARD.decode(&*compact).map(Zeroizing::new);
        (key, content.map_err(|_| "the value under data is not base64; plain text belongs under stringData".to_owned()))
    });
    let plain =
        string_data.into_iter().map(|(key, value)| (key, Ok(Zeroizing::new(value.unwrap_or_default().into_bytes()))));
    found.extend(decoded.chain(plain).filter(|(key, _)| !key.ends_with(".key")).map(|(key, content)| SecretEntry {
        secret: secret.clone(),
        key,
        content,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Option<Vec<(String, String, bool)>> {
        let entries = secrets(text.as_bytes())?;
        Some(entries.into_iter().map(|entry| (entry.secret, entry.key, entry.content.is_ok())).collect())
    }

    fn mk(secret: &str, key: &str, readable: bool) -> (String, String, bool) {
        (secret.to_owned(), key.to_owned(), readable)
    }

    #[test]
    fn secrets_are_found_in_documents_and_lists() {
        let documents = "
kind: ConfigMap
data: {x: y}
---
kind: Secret
metadata: {name: a, namespace: n}
data: {tls.crt: eA==, tls.key: eA==, bad.crt: '*'}
stringData: {ca.crt: text}
";
        let expected = vec![mk("n/a", "bad.crt", false), mk("n/a", "tls.crt", true), mk("n/a", "ca.crt", true)];
        assert_eq!(keys(documents), Some(expected));
        let list = r#"{"kind": "SecretList", "items": [{"metadata": {"name": "b"}, "data": {"c": "eA=="}}]}"#;
        assert_eq!(keys(list), Some(vec![mk("b", "c", true)]));
        let list = r#"{"kind": "List", "items": [{"kind": "Secret", "metadata": {"name": "b"}, "data": {"c": null}}]}"#;
        assert_eq!(keys(list), Some(vec![mk("b", "c", true)]));
    }

    #[test]
    fn what_is_no_secret_is_no_manifest() {
        for text in
            ["", "-----BEGIN CERTIFICATE-----\nSecret", "kind: Config\nusers: []", "kind: Pod # Secret", "Secret"]
        {
            assert_eq!(keys(text), None, "{text}");
        }
    }
}
