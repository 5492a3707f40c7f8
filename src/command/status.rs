//! `meshcert status`: all hosted meshes, worst first; with `--watch` again whenever something changes.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::app::{self, Plane, Sources, process};
use crate::cli::{Outcome, StatusArgs};
use crate::clock::SystemClock;
use crate::command::advice::{NoneAnswered, meshcert, quoted};
use crate::command::{Tone, columns, print, printable, say, table_within};
use crate::metrics::Observed;
use crate::observer::{Registry, Supervisor};
use crate::policy::Thresholds;
use crate::ports::{Clock, SourceError};
use crate::server::overview::{self, Overview, State};

/// Longest wait for the first full lists.
const DEADLINE: Duration = Duration::from_secs(120);

/// The words for the time left change without an event.
const REFRESH: Duration = Duration::from_secs(5);
/// A deleted mesh is three events; they are shown as one.
const SETTLE: Duration = Duration::from_millis(300);
/// What a narrow terminal does without: the findings stand below the table, and the time left says the end in words.
const GIVE_WAY: [&str; 2] = ["FINDINGS", "ENDS"];
/// Clears a terminal.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";

/// Lists every cluster and prints what it found; a cluster that cannot be read is said on standard error.
///
/// # Errors
/// The configuration cannot be used, or no cluster answered.
pub fn run(args: StatusArgs) -> anyhow::Result<Outcome> {
    let StatusArgs { connect, watch, output } = args;
    let sources = Sources::from(connect);
    let thresholds = sources.load()?.policy.thresholds();
    process::run(async {
        let Observing { registry, missed, _supervisor } = observe(&sources).await?;
        let said = |(source, why): (Arc<str>, String)| format!("{source}: {why}");
        let mut failures: Vec<String> = registry.failures().into_iter().map(said).collect();
        if !failures.is_empty() && failures.len() == registry.sources().len() {
            bail!(NoneAnswered(failures.join("\n")));
        }
        failures.extend(missed.map(|error| error.message));
        if watch {
            return follow(&registry, thresholds, &sources).await;
        }
        let overview = overview(&registry, thresholds);
        let answer: serde_json::Value = serde_json::from_slice(&overview.json)?;
        print(&answer, output, || rows(&overview, &sources))?;
        for failure in &failures {
            writeln!(io::stderr(), "meshcert: {failure}")?;
        }
        Ok(outcome(&overview, failures.is_empty()))
    })
}

/// What is watched, as long as it is kept.
struct Observing {
    registry: Arc<Registry>,
    /// Why the clusters that Secrets announce are not among it.
    missed: Option<SourceError>,
    _supervisor: Supervisor,
}

/// Watches the clusters there are now until every source was listed or failed once, and as long as the answer is kept.
async fn observe(sources: &Sources) -> anyhow::Result<Observing> {
    let registry = Arc::new(Registry::default());
    let mut changes = registry.changes();
    let mut supervisor = Supervisor::new(Arc::clone(&registry), Arc::new(SystemClock));
    let (clusters, missed) = app::clusters_now(&sources.load()?, Plane::Observe).await?;
    supervisor.reconcile(clusters);
    let listed = async {
        while let Err(awaited) = registry.ready() {
            if changes.changed().await.is_err() {
                bail!("{awaited}");
            }
        }
        Ok(())
    };
    tokio::time::timeout(DEADLINE, listed).await.context("the first lists took too long")??;
    Ok(Observing { registry, missed, _supervisor: supervisor })
}

fn overview(registry: &Registry, thresholds: Thresholds) -> Overview {
    overview::of(registry.clusters(), registry.sources(), SystemClock.now(), thresholds)
}

/// Shows the table anew whenever it changes: in place of the former on a terminal, below it elsewhere. Ends with the process.
async fn follow(registry: &Registry, thresholds: Thresholds, sources: &Sources) -> anyhow::Result<Outcome> {
    let mut changes = registry.changes();
    let mut shown = String::new();
    loop {
        let mut text = rows(&overview(registry, thresholds), sources);
        for (source, message) in registry.failures() {
            text.push_str(&format!("\n{}\n", Tone::Bad.paint(&format!("{source}: {message}"))));
        }
        if text != shown {
            if io::stdout().is_terminal() {
                io::stdout().write_all(CLEAR)?;
            } else if !shown.is_empty() {
                writeln!(io::stdout())?;
            }
            say(&text)?;
            shown = text;
        }
        // Without a change in time the words are looked at again; the registry lives as long as we do.
        let _ = tokio::time::timeout(REFRESH, changes.changed()).await;
        tokio::time::sleep(SETTLE).await;
    }
}

fn rows(overview: &Overview, sources: &Sources) -> String {
    if overview.rows.is_empty() {
        return nothing(overview, sources);
    }
    let header = ["CLUSTER", "NAMESPACE", "MESH", "STATE", "TIME LEFT", "ENDS", "FINDINGS"];
    let rows = overview.rows.iter().map(|row| {
        let tone = match row.state {
            State::Expired | State::Urgent | State::Missing | State::Stale | State::Unreachable | State::Invalid => {
                Tone::Bad
            }
            State::Expiring => Tone::Warning,
            State::Ok => Tone::Good,
        };
        [
            row.cluster.to_string().into(),
            row.namespace.to_string().into(),
            row.id.clone().into(),
            tone.cell(row.state.as_str()),
            tone.cell(row.time_left.clone()),
            row.expiration.map_or_else(|| "unknown".to_owned(), |end| end.to_string()).into(),
            row.findings.len().to_string().into(),
        ]
    });
    let mut text = table_within(columns(), &GIVE_WAY, header, rows);
    for row in overview.rows.iter().filter(|row| !row.findings.is_empty()) {
        text.push_str(&format!("\n{}\n", Tone::Strong.paint(&row.id)));
        row.findings.iter().for_each(|finding| text.push_str(&format!("  {}\n", printable(finding.clone()))));
    }
    text
}

/// A namespace that does not exist looks like an empty one: what is said has to help in both cases.
fn nothing(overview: &Overview, sources: &Sources) -> String {
    let places: Vec<&str> = overview.sources.iter().map(|source| &*source.source).collect();
    let elsewhere = match &sources.config {
        Some(file) => {
            let check = format!("config check {}", quoted(&file.display().to_string()));
            format!("in the configuration, which `{}` checks", meshcert(&Sources::default(), &check))
        }
        None => "in a configuration with --config".to_owned(),
    };
    format!(
        "no hosted meshes found in {} (CLUSTER/NAMESPACE), and nowhere else was looked: choose namespaces with -n, or {elsewhere}; `{}` says why a Secret is not counted\n",
        places.join(", "),
        meshcert(sources, "explain NAMESPACE/SECRET")
    )
}

fn outcome(overview: &Overview, complete: bool) -> Outcome {
    let of = |state| match state {
        State::Expired => Outcome::Expired,
        State::Urgent | State::Expiring => Outcome::Expiring,
        State::Missing | State::Stale | State::Unreachable | State::Invalid => Outcome::Incomplete,
        State::Ok => Outcome::Fine,
    };
    let worst = overview.rows.iter().map(|row| of(row.state)).max().unwrap_or(Outcome::Fine);
    if complete { worst } else { worst.max(Outcome::Incomplete) }
}
