//! Certificates embedded in kubeconfigs.

use base64::Engine;
use serde::Deserialize;

use crate::cert::parse::{BASE64, NamePool, Retain, read_bundle};
use crate::cert::{Entry, KubeconfigFacts, Position, ProblemReason};

/// The parts of a kubeconfig that hold certificates. It has no field for a key or a token: those are never materialised.
#[derive(Deserialize)]
struct Kubeconfig {
    #[serde(default, rename = "current-context")]
    current_context: Option<String>,
    #[serde(default)]
    clusters: Option<Vec<NamedCluster>>,
    #[serde(default)]
    users: Option<Vec<NamedUser>>,
    #[serde(default)]
    contexts: Option<Vec<NamedContext>>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default)]
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
struct Cluster {
    server: Option<String>,
    #[serde(rename = "certificate-authority")]
    file: Option<String>,
    #[serde(rename = "certificate-authority-data")]
    data: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: Option<User>,
}

#[derive(Deserialize)]
struct User {
    #[serde(rename = "client-certificate")]
    file: Option<String>,
    #[serde(rename = "client-certificate-data")]
    data: Option<String>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default)]
    context: Option<Context>,
}

#[derive(Deserialize)]
struct Context {
    cluster: Option<String>,
    user: Option<String>,
}

/// Reads a kubeconfig, YAML or JSON; false where the bytes do not look like one. Users with a token or an exec plugin have no certificate, which is no problem.
pub(super) fn read(bytes: &[u8], retain: Retain, names: &mut NamePool, entry: &mut Entry) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let text = text.trim_start_matches('\u{feff}');
    let looks_like_one = text.contains("current-context") || text.contains("clusters") && text.contains("users");
    if !looks_like_one {
        return false;
    }
    let config: Kubeconfig = match serde_saphyr::from_str(text) {
        Ok(config) => config,
        Err(_) => {
            // The parser's own words would quote the text, which holds keys.
            let message =
                "looks like a kubeconfig, but is no valid one; `kubectl config view --kubeconfig FILE` says where"
                    .to_owned();
            entry.report(Position::Entry, ProblemReason::InvalidKubeconfig, message);
            return true;
        }
    };
    let clusters = config.clusters.unwrap_or_default();
    let users = config.users.unwrap_or_default();
    entry.kubeconfig = Some(facts(config.current_context.as_deref(), &config.contexts.unwrap_or_default(), &clusters));
    for NamedUser { name, user } in &users {
        if let Some(User { file, data }) = user {
            let place = |index| Position::User(name.as_str().into(), index);
            read_data(("client-certificate", file.as_deref(), data.as_deref()), place, retain, names, entry);
        }
    }
    for NamedCluster { name, cluster } in &clusters {
        if let Some(Cluster { file, data, .. }) = cluster {
            let place = |index| Position::Cluster(name.as_str().into(), index);
            read_data(("certificate-authority", file.as_deref(), data.as_deref()), place, retain, names, entry);
        }
    }
    true
}

/// What the current context points to; client-go also takes the only context where none is named current, kubectl does not, and neither does this.
fn facts(current: Option<&str>, contexts: &[NamedContext], clusters: &[NamedCluster]) -> KubeconfigFacts {
    let context = contexts.iter().find(|context| Some(context.name.as_str()) == current);
    let Some(Context { cluster, user }) = context.and_then(|context| context.context.as_ref()) else {
        return KubeconfigFacts::default();
    };
    let named = clusters.iter().find(|named| Some(&named.name) == cluster.as_ref());
    let server = named.and_then(|named| named.cluster.as_ref()?.server.as_deref());
    KubeconfigFacts {
        server: server.map(Into::into),
        user: user.as_deref().map(Into::into),
        cluster: cluster.as_deref().map(Into::into),
    }
}

/// Reads one embedded bundle: field name, path of a file, embedded data; the data win, as they do in client-go.
fn read_data(
    (field, file, data): (&str, Option<&str>, Option<&str>),
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
