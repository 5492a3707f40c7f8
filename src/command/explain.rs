//! `meshcert explain`: why a Secret is counted or not, entry by entry.

use std::io::{self, Write};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::app::{self, Plane, Sources, process};
use crate::cert::Entry;
use crate::cert::parse::{NamePool, Retain, read_entry, unreadable};
use crate::cli::{ExplainArgs, Outcome};
use crate::clock::SystemClock;
use crate::cluster::connect::connect;
use crate::cluster::secrets::{self, Explained, Scope};
use crate::command::advice::{NoSuchSecret, none_answered};
use crate::command::{Tone, print, table};
use crate::observer::ClusterSpec;
use crate::ports::{Clock, SourceError};
use crate::secret::{Class, is_private_key};
use crate::time::{UnixTime, time_left};

/// What is said of a Secret in a cluster.
#[derive(Serialize)]
struct Explanation {
    cluster: String,
    secret: String,
    /// Whether and as what it is read, in words.
    verdict: String,
    entries: Vec<EntryExplanation>,
}

#[derive(Serialize)]
struct EntryExplanation {
    key: String,
    verdict: String,
}

/// Reads the Secret in every cluster, configured or announced by a Secret, and explains it.
///
/// # Errors
/// The configuration cannot be used, no cluster could be read, or none that could has the Secret. One that could not is said on standard error.
pub fn run(args: ExplainArgs) -> anyhow::Result<Outcome> {
    let ExplainArgs { secret, connect, output } = args;
    let config = watching(connect.into(), &secret).load()?;
    let (answers, missed) = process::run(async {
        let (specs, missed) = app::clusters_now(&config, Plane::Observe).await?;
        Ok::<_, anyhow::Error>((explain(&specs, &secret).await?, missed))
    })?;
    let Answers { read, explanations, mut failures } = answers;
    if read == 0 {
        bail!(none_answered(failures));
    }
    failures.extend(missed.map(anyhow::Error::new));
    for error in &failures {
        writeln!(io::stderr(), "meshcert: {error:#}")?;
    }
    if explanations.is_empty() {
        bail!(NoSuchSecret(secret));
    }
    print(&explanations, output, || explanations.iter().map(Explanation::text).collect::<Vec<_>>().join("\n"))?;
    Ok(if failures.is_empty() { Outcome::Fine } else { Outcome::Incomplete })
}

/// Where nothing says which namespaces are watched, the one that is named is.
fn watching(sources: Sources, secret: &str) -> Sources {
    match secret.split_once('/') {
        Some((namespace, _)) if sources.namespaces.is_empty() && sources.config.is_none() => {
            Sources { namespaces: vec![namespace.to_owned()], ..sources }
        }
        _ => sources,
    }
}

/// What the clusters answered that could be read, and why the others could not.
#[derive(Default)]
struct Answers {
    /// Clusters that could be read.
    read: usize,
    explanations: Vec<Explanation>,
    failures: Vec<anyhow::Error>,
}

async fn explain(specs: &[ClusterSpec], secret: &str) -> anyhow::Result<Answers> {
    let mut answers = Answers::default();
    for spec in specs {
        let (namespace, name) = match secret.split_once('/') {
            Some((namespace, name)) => (namespace.to_owned(), name),
            None => {
                let first = spec.namespaces.as_ref().and_then(|all| all.first());
                (first.context("every namespace is watched: name the Secret as NAMESPACE/NAME")?.clone(), secret)
            }
        };
        let scope = Scope { namespace: Some(namespace.as_str().into()), selection: spec.selection.clone() };
        match read(spec, &scope, name).await {
            Ok(found) => {
                answers.read += 1;
                answers.explanations.extend(found.map(|found| Explanation::new(spec, found)));
            }
            Err(error) => answers.failures.push(anyhow::Error::new(error).context(format!("cluster {}", spec.name))),
        }
    }
    Ok(answers)
}

async fn read(spec: &ClusterSpec, scope: &Scope, name: &str) -> Result<Option<Explained>, SourceError> {
    secrets::explain(&connect(&spec.connection).await?, scope, name).await
}

impl Explanation {
    fn new(spec: &ClusterSpec, found: Explained) -> Self {
        let Explained { meta, keys, secret } = found;
        let mut names = NamePool::default();
        let now = SystemClock.now();
        let watched = spec.namespaces.as_ref().is_none_or(|all| all.iter().any(|n| **n == *meta.reference.namespace));
        let verdict = match &secret {
            _ if !watched => format!("not counted: namespace {} is not watched", meta.reference.namespace),
            Err(why) => format!("not counted: {why}"),
            Ok(raw) => match &raw.class {
                Class::Mesh(id, role) => format!("counted: the {} of the hosted mesh {id}", role.as_str()),
                Class::Other(rule) => format!("counted: secretRules[{rule}] matches"),
            },
        };
        let mut entries = Vec::new();
        for key in keys {
            let verdict = match &secret {
                _ if is_private_key(&key) => "never read: a private key".to_owned(),
                Err(_) => "not read".to_owned(),
                Ok(raw) => match raw.entries.iter().find(|(known, _)| *known == key) {
                    None => "not read: no certificates are expected under this key".to_owned(),
                    Some((_, Ok(bytes))) => in_words(&read_entry(bytes, Retain::Facts, &mut names), now),
                    Some((_, Err(why))) => in_words(&unreadable(*why), now),
                },
            };
            entries.push(EntryExplanation { key: key.into(), verdict });
        }
        Self { cluster: spec.name.to_string(), secret: meta.reference.to_string(), verdict, entries }
    }

    fn text(&self) -> String {
        let Self { cluster, secret, verdict, entries } = self;
        let rows = entries.iter().map(|entry| [entry.key.clone(), entry.verdict.clone()]);
        let counted = if verdict.starts_with("not counted") { Tone::Warning } else { Tone::Good };
        let verdict = counted.paint(verdict);
        format!("{secret} in cluster {cluster}: {verdict}\n\n{}", table(["KEY", "WHAT IT HOLDS"], rows))
    }
}

fn in_words(entry: &Entry, now: UnixTime) -> String {
    let certificates = entry.certificates.iter().map(|found| {
        let certificate = &found.certificate;
        let (role, subject) = (certificate.role.as_str(), &certificate.subject);
        format!("{role} {subject} at {}: {}", found.position, time_left(now, certificate.not_after))
    });
    let problems = entry.problems.iter().map(|problem| format!("{}: {}", problem.reason.as_str(), problem.message));
    let all: Vec<String> = certificates.chain(problems).collect();
    if all.is_empty() { "no certificate".to_owned() } else { all.join("; ") }
}
