//! `meshcert status`: all hosted meshes, worst first.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::app::{self, Plane, Sources, process};
use crate::cli::{Outcome, StatusArgs};
use crate::clock::SystemClock;
use crate::command::{print, table};
use crate::metrics::Observed;
use crate::observer::{Registry, Supervisor};
use crate::ports::Clock;
use crate::server::overview::{self, Overview, State};

/// Longest wait for the first full lists.
const DEADLINE: Duration = Duration::from_secs(120);

/// Lists every cluster once and prints what it found; a cluster that cannot be read is said on standard error.
///
/// # Errors
/// The configuration cannot be used, or no cluster answered.
pub fn run(args: StatusArgs) -> anyhow::Result<Outcome> {
    let StatusArgs { connect, output } = args;
    let sources = Sources::from(connect);
    let renew_before = sources.load()?.policy.renew_before.0;
    let registry = process::runtime()?.block_on(observe_once(&sources))?;
    let overview = overview::of(registry.clusters(), registry.sources(), SystemClock.now(), renew_before);
    let failures = registry.failures();
    if !failures.is_empty() && failures.len() == overview.sources.len() {
        let all: Vec<String> = failures.into_iter().map(|(source, why)| format!("{source}: {why}")).collect();
        bail!("{}", all.join("\n"));
    }
    let answer: serde_json::Value = serde_json::from_slice(&overview.json)?;
    print(&answer, output, || rows(&overview))?;
    for (source, message) in &failures {
        writeln!(io::stderr(), "meshcert: {source}: {message}")?;
    }
    Ok(outcome(&overview, failures.is_empty()))
}

async fn observe_once(sources: &Sources) -> anyhow::Result<Arc<Registry>> {
    let registry = Arc::new(Registry::default());
    let mut changes = registry.changes();
    let mut supervisor = Supervisor::new(Arc::clone(&registry), Arc::new(SystemClock));
    supervisor.reconcile(app::clusters(&sources.load()?, Plane::Observe)?);
    let listed = async {
        while let Err(awaited) = registry.ready() {
            if changes.changed().await.is_err() {
                bail!("{awaited}");
            }
        }
        Ok(())
    };
    tokio::time::timeout(DEADLINE, listed).await.context("the first lists took too long")??;
    Ok(registry)
}

fn rows(overview: &Overview) -> String {
    if overview.rows.is_empty() {
        return "no hosted meshes found; `meshcert explain SECRET` says why a Secret is not counted\n".to_owned();
    }
    let header = ["CLUSTER", "NAMESPACE", "MESH", "STATE", "TIME LEFT", "ENDS", "FINDINGS"];
    let rows = overview.rows.iter().map(|row| {
        [
            row.cluster.to_string(),
            row.namespace.to_string(),
            row.id.clone(),
            row.state.as_str().to_owned(),
            row.time_left.clone(),
            row.expiration.map_or_else(|| "unknown".to_owned(), |end| end.to_string()),
            row.findings.len().to_string(),
        ]
    });
    let mut text = table(header, rows);
    for row in overview.rows.iter().filter(|row| !row.findings.is_empty()) {
        text.push_str(&format!("\n{}\n", row.id));
        row.findings.iter().for_each(|finding| text.push_str(&format!("  {finding}\n")));
    }
    text
}

fn outcome(overview: &Overview, complete: bool) -> Outcome {
    let of = |state| match state {
        State::Expired => Outcome::Expired,
        State::Expiring => Outcome::Expiring,
        State::Invalid => Outcome::Incomplete,
        State::Ok => Outcome::Fine,
    };
    let worst = overview.rows.iter().map(|row| of(row.state)).max().unwrap_or(Outcome::Fine);
    if complete { worst } else { worst.max(Outcome::Incomplete) }
}
