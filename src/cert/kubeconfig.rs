//! Certificates embedded in kubeconfigs.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use memchr::memmem;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::DuplicateKeyPolicy;

use crate::cert::parse::{BASE64, NamePool, Retain, read_bundle};
use crate::cert::{Entry, KubeconfigFacts, Position, ProblemReason};

/// What a text is that looks like a kubeconfig.
pub(super) enum Parsed {
    /// One, with its parts.
    Kubeconfig(Fields),
    /// Neither valid YAML nor JSON.
    Invalid,
}

/// The fields of a mapping that matter: those of [`FIELDS`]. Others, among them keys and tokens, are never materialised.
#[derive(Default)]
pub(super) struct Fields(BTreeMap<&'static str, Node>);

/// A value of any shape: one that kubectl would refuse hides nothing beside it.
enum Node {
    Nothing,
    Text(String),
    Flag(bool),
    List(Vec<Node>),
    Fields(Fields),
    Other,
}

const FIELDS: [&str; 14] = [
    "current-context",
    "clusters",
    "contexts",
    "users",
    "name",
    "cluster",
    "context",
    "user",
    "server",
    "insecure-skip-tls-verify",
    "certificate-authority",
    "certificate-authority-data",
    "client-certificate",
    "client-certificate-data",
];

/// An element of one of the three lists; kubectl accepts one without a name.
struct Named {
    name: String,
    body: Fields,
}

/// Parses a kubeconfig, YAML or JSON; `None` where the bytes are none.
pub(super) fn parse(bytes: &[u8]) -> Option<Parsed> {
    // A cheap look first: a certificate bundle is no YAML worth parsing.
    let holds = |word: &str| memmem::find(bytes, word.as_bytes()).is_some();
    if !(holds("current-context") || holds("clusters") && holds("users")) {
        return None;
    }
    match from_document(document(std::str::from_utf8(bytes).ok()?)?) {
        Ok(Some(Node::Fields(fields))) if FIELDS[..4].iter().any(|field| fields.0.contains_key(field)) => {
            Some(Parsed::Kubeconfig(fields))
        }
        Ok(_) => None,
        Err(_) => Some(Parsed::Invalid),
    }
}

/// The document of a kubeconfig that counts: as kubectl does, it takes the first of several.
pub fn document(text: &str) -> Option<&str> {
    documents(text.trim_start_matches('\u{feff}')).map(|(_, document)| document).next()
}

/// Reads it; as kubectl does, it takes of a field that stands twice the last. `None` where it holds nothing.
///
/// # Errors
/// It is neither YAML nor JSON.
pub fn from_document<T: DeserializeOwned>(document: &str) -> Result<Option<T>, serde_saphyr::Error> {
    // A user may be called `no`.
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::PassThrough, strict_booleans: true };
    Ok(serde_saphyr::from_multiple_with_options(document, options)?.into_iter().next())
}

/// The documents of a YAML stream that hold anything, each with the number of lines before it; JSON has no line that could divide it.
pub fn documents(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut starts = vec![(0, 0)];
    let (mut offset, mut number) = (0, 0);
    for line in text.split_inclusive('\n') {
        if line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            starts.push((number, offset));
        }
        offset += line.len();
        number += 1;
    }
    let ends = starts.iter().skip(1).map(|(_, start)| *start).chain([text.len()]).collect::<Vec<_>>();
    let all = starts.into_iter().zip(ends).map(|((number, start), end)| (number, &text[start..end]));
    all.filter(|(_, document)| document.lines().any(|line| !says_nothing(line)))
}

/// The host in a cluster's `server`, as it stands there; an IPv6 address without its brackets.
pub fn host(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

/// Comments, directives, and the lines between documents.
fn says_nothing(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line == "---" || line == "..." || line.starts_with(['#', '%'])
}

/// The parser's own words would quote the text, which holds keys.
pub(super) fn report_invalid(entry: &mut Entry) {
    let message = "looks like a kubeconfig, but is no valid one; `kubectl config view --kubeconfig FILE` says where";
    entry.report(Position::Entry, ProblemReason::InvalidKubeconfig, message.to_owned());
}

/// Reads the certificates of a kubeconfig. Users with a token or an exec plugin have none, which is no problem.
pub(super) fn read(mut config: Fields, retain: Retain, names: &mut NamePool, entry: &mut Entry) {
    let clusters = config.named("clusters", "cluster", entry);
    let users = config.named("users", "user", entry);
    let contexts = config.named("contexts", "context", entry);
    let current = config.take("current-context", "", Node::text, entry).filter(|current| !current.is_empty());
    let mut facts = facts(current.as_deref(), contexts, entry);
    for (index, Named { name, mut body }) in users.into_iter().enumerate() {
        let within = format!("users[{index}].user.");
        let place = |index| Position::User(name.as_str().into(), index);
        let [file, data] =
            ["client-certificate", "client-certificate-data"].map(|field| body.take(field, &within, Node::text, entry));
        read_data(("client-certificate", file, data), place, retain, names, entry);
    }
    for (index, Named { name, mut body }) in clusters.into_iter().enumerate() {
        let within = format!("clusters[{index}].cluster.");
        let place = |index| Position::Cluster(name.as_str().into(), index);
        let [server, file, data] = ["server", "certificate-authority", "certificate-authority-data"]
            .map(|field| body.take(field, &within, Node::text, entry));
        let insecure = body.take("insecure-skip-tls-verify", &within, Node::flag, entry);
        if facts.cluster.as_deref() == Some(&*name) && facts.server.is_none() {
            facts.server = server.filter(|server| !server.is_empty()).map(Into::into);
            facts.insecure_skip_tls_verify = insecure.unwrap_or_default();
        }
        read_data(("certificate-authority", file, data), place, retain, names, entry);
    }
    entry.kubeconfig = Some(facts);
}

/// What the current context points to; client-go also takes the only context where none is named current, kubectl does not, and neither does this.
fn facts(current: Option<&str>, contexts: Vec<Named>, entry: &mut Entry) -> KubeconfigFacts {
    let mut facts = KubeconfigFacts::default();
    for (index, Named { name, mut body }) in contexts.into_iter().enumerate() {
        let within = format!("contexts[{index}].context.");
        let [cluster, user] = ["cluster", "user"].map(|field| body.take(field, &within, Node::text, entry));
        if Some(&*name) == current && facts == KubeconfigFacts::default() {
            (facts.cluster, facts.user) = (cluster.map(Into::into), user.map(Into::into));
        }
    }
    facts
}

/// Reads one embedded bundle: field name, path of a file, embedded data; the data win, as they do in client-go.
fn read_data(
    (field, file, data): (&str, Option<String>, Option<String>),
    place: impl Fn(u32) -> Position,
    retain: Retain,
    names: &mut NamePool,
    entry: &mut Entry,
) {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let compact: Vec<u8> = data.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        match BASE64.decode(&compact) {
            Ok(pem) => read_bundle(&pem, retain, names, entry, place),
            Err(_) => entry.report(place(0), ProblemReason::InvalidBase64, format!("{field}-data is not base64")),
        }
    } else if let Some(file) = file.filter(|file| !file.is_empty()) {
        let message = format!("{field} names the file {file:?}, which is not opened; embed it as {field}-data");
        entry.report(place(0), ProblemReason::FileReference, message);
    }
}

impl Fields {
    /// A field's value in the shape that it should have; another shape is told with its place, which begins with `within`.
    fn take<T>(&mut self, field: &str, within: &str, shape: fn(Node) -> Option<T>, entry: &mut Entry) -> Option<T> {
        shaped(self.0.remove(field)?, format_args!("{within}{field}"), shape, entry)
    }

    /// The elements of a list, each with a name and a body under the name of its kind.
    fn named(&mut self, list: &str, kind: &str, entry: &mut Entry) -> Vec<Named> {
        let elements = self.take(list, "", Node::list, entry).unwrap_or_default();
        let named = elements.into_iter().enumerate().map(|(index, element)| {
            let mut element = shaped(element, format_args!("{list}[{index}]"), Node::fields, entry).unwrap_or_default();
            let within = format!("{list}[{index}].");
            Named {
                name: element.take("name", &within, Node::text, entry).unwrap_or_default(),
                body: element.take(kind, &within, Node::fields, entry).unwrap_or_default(),
            }
        });
        named.collect()
    }
}

fn shaped<T>(node: Node, place: fmt::Arguments<'_>, shape: fn(Node) -> Option<T>, entry: &mut Entry) -> Option<T> {
    if matches!(node, Node::Nothing) {
        return None;
    }
    let right = shape(node);
    if right.is_none() {
        let message = format!("{place} has a shape that kubectl refuses, and is passed over");
        entry.report(Position::Entry, ProblemReason::InvalidKubeconfig, message);
    }
    right
}

impl Node {
    fn text(self) -> Option<String> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn flag(self) -> Option<bool> {
        if let Self::Flag(flag) = self { Some(flag) } else { None }
    }

    fn list(self) -> Option<Vec<Self>> {
        if let Self::List(list) = self { Some(list) } else { None }
    }

    fn fields(self) -> Option<Fields> {
        if let Self::Fields(fields) = self { Some(fields) } else { None }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Nothing)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Nothing)
            }

            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Node, E> {
                Ok(Node::Flag(flag))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Other)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Other)
            }

            fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
                Ok(Node::Other)
            }

            fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
                Ok(Node::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    list.push(element);
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = entries.next_key::<Node>()? {
                    match FIELDS.into_iter().find(|field| matches!(&key, Node::Text(key) if key == field)) {
                        Some(field) => _ = fields.0.insert(field, entries.next_value()?),
                        None => _ = entries.next_value::<IgnoredAny>()?,
                    }
                }
                Ok(Node::Fields(fields))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
