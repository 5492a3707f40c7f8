//! Secrets as manifests: YAML or JSON, one or several documents, lists.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Budget;
use zeroize::Zeroizing;

use crate::cert::ProblemReason;
use crate::cert::kubeconfig::documents;
use crate::cluster::secrets::NOISE;
use crate::secret::is_private_key;

/// What the Secrets of a manifest hold, without the entries whose key ends in `.key`, and without the Secrets that are not watched either.
#[derive(Default)]
pub(super) struct Manifest {
    pub(super) entries: Vec<SecretEntry>,
    pub(super) problems: Vec<Problem>,
    /// How many Secrets of each [`NOISE`] type were passed over.
    pub(super) skipped: BTreeMap<&'static str, usize>,
}

/// One entry of a Secret in a manifest.
pub(super) struct SecretEntry {
    /// `NAMESPACE/NAME/KEY`, or without a namespace.
    pub(super) place: String,
    /// Key in `data` or `stringData`.
    pub(super) key: String,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// A part of a manifest that could not be read; it hides no neighbour.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Place of the entry, name of the Secret, or `document N`, from 1.
    pub(super) place: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A value that is of another shape than what is looked for is no reason to pass over what stands beside it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Shape<T> {
    Right(T),
    Other(IgnoredAny),
}

/// The parts of a manifest that matter; everything else is passed over.
#[derive(Deserialize)]
struct Document {
    kind: Option<Shape<String>>,
    #[serde(rename = "type")]
    secret_type: Option<Shape<String>>,
    metadata: Option<Shape<Metadata>>,
    data: Option<Shape<Data>>,
    #[serde(rename = "stringData")]
    string_data: Option<Shape<Data>>,
    items: Option<Shape<Vec<Shape<Document>>>>,
}

type Data = BTreeMap<String, Option<Shape<String>>>;

#[derive(Default, Deserialize)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
}

const INVALID: &str = "invalid_manifest";

impl Manifest {
    /// `None` where the bytes are no manifest with a Secret.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        // A comment in another encoding hides nothing: what counts is ASCII.
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches('\u{feff}');
        // A cheap look first: a certificate bundle is no YAML worth parsing.
        if !text.contains("Secret") {
            return None;
        }
        let mut manifest = Self::default();
        let mut has_secret = false;
        for (number, (first_line, text)) in (1..).zip(documents(text)) {
            match parse(text) {
                Ok(documents) => {
                    for document in documents {
                        has_secret |= manifest.collect(document, None);
                    }
                }
                Err(line) => {
                    has_secret |= text.lines().any(claims_a_secret);
                    // The parser's own words would quote the text, which holds keys.
                    manifest.problems.push(Problem {
                        place: format!("document {number}"),
                        reason: INVALID,
                        message: format!("line {} is neither valid YAML nor JSON", first_line + line),
                    });
                }
            }
        }
        has_secret.then_some(manifest)
    }

    /// Takes the Secrets of a document; whether it is one, or a list of them. Items of a `SecretList` carry no kind of their own.
    fn collect(&mut self, document: Shape<Document>, kind_of_items: Option<&str>) -> bool {
        let Shape::Right(Document { kind, secret_type, metadata, data, string_data, items }) = document else {
            return false;
        };
        let kind = right(kind);
        let kind = kind.as_deref().or(kind_of_items).unwrap_or_default();
        let mut has_secret = kind == "SecretList";
        for item in right(items).unwrap_or_default() {
            has_secret |= self.collect(item, kind.strip_suffix("List"));
        }
        if kind != "Secret" {
            return has_secret;
        }
        let secret_type = right(secret_type);
        if let Some(noise) = NOISE.into_iter().find(|noise| secret_type.as_deref() == Some(noise)) {
            *self.skipped.entry(noise).or_default() += 1;
            return true;
        }
        let Metadata { name, namespace } = right(metadata).unwrap_or_default();
        let name = name.unwrap_or_else(|| "(no name)".to_owned());
        let secret = namespace.map(|namespace| format!("{namespace}/{name}")).unwrap_or(name);
        self.take(&secret, "data", data, |text| {
            // kubectl's own writing has no white space, a person's may.
            let compact: Zeroizing<Vec<u8>> =
                Zeroizing::new(text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect());
            STANDARD.decode(&*compact).ok().map(Zeroizing::new)
        });
        self.take(&secret, "stringData", string_data, |text| Some(Zeroizing::new(text.as_bytes().to_vec())));
        true
    }

    fn take(
        &mut self,
        secret: &str,
        field: &str,
        data: Option<Shape<Data>>,
        decode: impl Fn(&str) -> Option<Zeroizing<Vec<u8>>>,
    ) {
        let mut report = |place: String, reason, message: &str| {
            self.problems.push(Problem { place, reason, message: message.to_owned() });
        };
        let data = match data {
            Some(Shape::Other(_)) => {
                return report(secret.to_owned(), INVALID, &format!("{field} does not map texts to texts"));
            }
            Some(Shape::Right(data)) => data,
            None => return,
        };
        for (key, value) in data.into_iter().filter(|(key, _)| !is_private_key(key)) {
            let place = format!("{secret}/{key}");
            let text = match value {
                Some(Shape::Other(_)) => {
                    report(place, INVALID, "the value is no text");
                    continue;
                }
                Some(Shape::Right(text)) => Zeroizing::new(text),
                None => Zeroizing::default(),
            };
            match decode(&text) {
                Some(bytes) => self.entries.push(SecretEntry { place, key, bytes }),
                None => report(
                    place,
                    ProblemReason::InvalidBase64.as_str(),
                    "the value under data is not base64; plain text belongs under stringData",
                ),
            }
        }
    }
}

/// Reads a document, or several in JSON one behind the other; else the line that cannot be read, from 1.
fn parse(text: &str) -> Result<Vec<Shape<Document>>, usize> {
    // JSON is YAML, but its own parser is many times as fast.
    if text.trim_start().starts_with('{')
        && let Ok(documents) = serde_json::Deserializer::from_str(text).into_iter().collect()
    {
        return Ok(documents);
    }
    // What a text holds is bounded by its own length, what aliases make of it by the parser's bounds: whichever is more.
    let usual = Budget::default();
    let budget = serde_saphyr::budget! {
        max_events: usual.max_events.max(2 * text.len()),
        max_nodes: usual.max_nodes.max(text.len()),
        max_total_scalar_bytes: usual.max_total_scalar_bytes.max(text.len()),
    };
    // A namespace may be called `n`.
    let options = serde_saphyr::options! { budget: budget, strict_booleans: true };
    let document = serde_saphyr::from_str_with_options(text, options);
    document.map(|document| vec![document]).map_err(|error| error.location().map_or(1, |at| at.line() as usize))
}

/// Whether a line of a document that cannot be read says that it would be a Secret or a list; JSON may have a single line.
fn claims_a_secret(line: &str) -> bool {
    let plain = line.replace([' ', '"', '\''], "");
    let said = |claim: &str| {
        plain.match_indices(claim).any(|(at, _)| {
            let (before, behind) = (plain[..at].chars().next_back(), plain[at + claim.len()..].chars().next());
            matches!(before, None | Some('{' | ',' | '-')) && matches!(behind, None | Some('}' | ','))
        })
    };
    ["kind:Secret", "kind:SecretList", "kind:List"].into_iter().any(said)
}

fn right<T>(value: Option<Shape<T>>) -> Option<T> {
    match value {
        Some(Shape::Right(value)) => Some(value),
        Some(Shape::Other(_)) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places of the entries, then those of the problems with their reason.
    fn outline(text: &str) -> Option<Vec<String>> {
        let Manifest { entries, problems, skipped: _ } = Manifest::read(text.as_bytes())?;
        let problems = problems.into_iter().map(|problem| format!("{} {}", problem.place, problem.reason));
        Some(entries.into_iter().map(|entry| entry.place).chain(problems).collect())
    }

    fn mk(places: &[&str]) -> Option<Vec<String>> {
        Some(places.iter().map(|place| (*place).to_owned()).collect())
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
        assert_eq!(outline(documents), mk(&["n/a/tls.crt", "n/a/ca.crt", "n/a/bad.crt invalid_base64"]));
        let list = r#"{"kind": "SecretList", "items": [{"metadata": {"name": "b"}, "data": {"c": "eA=="}}]}"#;
        assert_eq!(outline(list), mk(&["b/c"]));
        let list = r#"{"kind": "List", "items": [{"kind": "Secret", "metadata": {"name": "b"}, "data": {"c": null}}]}"#;
        assert_eq!(outline(list), mk(&["b/c"]));
        assert_eq!(outline(&format!("{list}{list}\n--- {list}")), mk(&["b/c", "b/c", "b/c"]));
        let flow = "# a comment\n%YAML 1.2\n---\n{kind: Secret, metadata: {name: b}, stringData: {c: x}}\n...\n";
        assert_eq!(outline(flow), mk(&["b/c"]));
    }

    #[test]
    fn what_cannot_be_read_hides_no_neighbour() {
        let good = |name: &str| format!("kind: Secret\nmetadata: {{name: {name}}}\ndata: {{c: eA==}}\n");
        let (a, b) = (good("a"), good("b"));
        for (bad, problem) in [
            ("kind: [", Some("document 2 invalid_manifest")),
            ("kind: Secret\nmetadata: {name: x}\ndata: {c: 1, c.key: 1}", Some("x/c invalid_manifest")),
            ("kind: Secret\nmetadata: {name: x}\ndata: eA==", Some("x invalid_manifest")),
            ("kind: Secret\nmetadata: x", None),
            ("kind: ConfigMap\ndata: {a: 1}", None),
            ("kind: Thing\nitems: some\nmetadata: [x]", None),
            ("- just\n- a list", None),
            ("kind: {a: 1}", None),
        ] {
            let expected: Vec<&str> = ["a/c", "b/c"].into_iter().chain(problem).collect();
            assert_eq!(outline(&format!("{a}---\n{bad}\n---\n{b}")), mk(&expected), "{bad}");
        }
        let list = r#"{"kind": "List", "items": [7, {"kind": "Secret", "data": [], "metadata": {"name": "x"}},
            {"kind": "Secret", "metadata": {"name": "b"}, "data": {"c": "eA=="}}]}"#;
        assert_eq!(outline(list), mk(&["b/c", "x invalid_manifest"]));
    }

    #[test]
    fn a_document_that_cannot_be_read_is_named_by_its_line_and_not_quoted() {
        let truncated = "{\n \"kind\": \"List\",\n \"items\": [{\"kind\": \"Secret\", \"data\": {\"a\": \"c2VjcmV0\"";
        let problems = Manifest::read(truncated.as_bytes()).unwrap().problems;
        assert_eq!(problems[0].message, "line 3 is neither valid YAML nor JSON");
        let one_line = truncated.replace('\n', "");
        assert_eq!(outline(&one_line), mk(&["document 1 invalid_manifest"]));
        assert_eq!(outline(&one_line.replace("Secret", "SecretStore").replace("List", "Lists")), None);
        let problems = Manifest::read(b"kind: Pod\n---\nkind: Secret\ndata: [").unwrap().problems;
        assert_eq!(
            (&*problems[0].place, &*problems[0].message),
            ("document 2", "line 4 is neither valid YAML nor JSON")
        );
    }

    #[test]
    fn aliases_and_other_encodings_hide_no_secret() {
        let data = format!("{{tls.crt: {}}}", STANDARD.encode("x".repeat(2_000)));
        let aliases = format!(
            "kind: List\nitems:\n- {{kind: Secret, metadata: {{name: a}}, data: &x {data}}}\n- {{kind: Secret, metadata: {{name: b}}, data: *x}}\n"
        );
        assert_eq!(outline(&aliases), mk(&["a/tls.crt", "b/tls.crt"]));
        let latin_1 = [b"# Schl\xfcssel\n", "kind: Secret\nmetadata: {name: a}\ndata: {c: eA==}\n".as_bytes()].concat();
        assert_eq!(Manifest::read(&latin_1).unwrap().entries.len(), 1);
    }

    #[test]
    fn what_is_not_watched_is_passed_over_and_counted() {
        let of = |kind: &str| format!("kind: Secret\ntype: {kind}\nmetadata: {{name: a}}\ndata: {{c: eA==}}\n");
        let text = ["meshcert.dev/backup", "kubernetes.io/tls", "meshcert.dev/backup", "helm.sh/release.v1"].map(of);
        let manifest = Manifest::read(text.join("---\n").as_bytes()).unwrap();
        assert_eq!(manifest.entries.len(), 1);
        let skipped: Vec<_> = manifest.skipped.into_iter().collect();
        assert_eq!(skipped, [("helm.sh/release.v1", 1), ("meshcert.dev/backup", 2)]);
    }

    #[test]
    fn no_number_of_secrets_or_entries_is_too_many() {
        let documents = "---\nkind: Secret\nstringData: {c: x}\n".repeat(2_000);
        assert_eq!(Manifest::read(documents.as_bytes()).unwrap().entries.len(), 2_000);
        let entries: String = (0..130_000).map(|index| format!(" k{index}: ''\n")).collect();
        let large = format!("kind: Secret\nstringData:\n{entries}");
        assert_eq!(Manifest::read(large.as_bytes()).unwrap().entries.len(), 130_000);
    }

    #[test]
    fn what_is_no_secret_is_no_manifest() {
        for text in
            ["", "-----BEGIN CERTIFICATE-----\nSecret", "kind: Config\nusers: []", "kind: Pod # Secret", "Secret"]
        {
            assert_eq!(outline(text), None, "{text}");
        }
    }
}
