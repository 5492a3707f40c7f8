//! `meshcert uninstall`: what is asked before meshcert is removed, and what is cleared away afterwards.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context;

use crate::app::acting::acting;
use crate::app::{Sources, Ways, process};
use crate::cli::{Outcome, UninstallCommand};
use crate::cluster::api::{Api, ErrorKind};
use crate::cluster::connect::connect;
use crate::cluster::material::BACKUP;
use crate::controller::Timing;
use crate::renewal::{FINALIZER, PLURAL};

/// A namespace in which meshcert acts.
struct Place {
    cluster: Arc<str>,
    namespace: String,
    api: Api,
}

/// Runs `uninstall check` or `uninstall clean`.
///
/// # Errors
/// A cluster cannot be asked, so that nobody knows; or a Lease cannot be removed.
pub fn run(command: UninstallCommand) -> anyhow::Result<Outcome> {
    process::run(async {
        match command {
            UninstallCommand::Check(connect) => check(&Sources::from(connect)).await,
            UninstallCommand::Clean(connect) => clean(&Sources::from(connect)).await,
        }
    })
}

async fn check(sources: &Sources) -> anyhow::Result<Outcome> {
    let mut stdout = io::stdout();
    let mut outcome = Outcome::Fine;
    for place in places(sources).await? {
        let Place { cluster, namespace, api } = &place;
        let (renewals, unreadable) = match api.renewals(namespace).await {
            // Without the kind there is none.
            Err(error) if error.kind == ErrorKind::NotFound => continue,
            found => found.with_context(|| format!("nobody knows what is under way in {cluster}/{namespace}"))?,
        };
        for renewal in renewals.iter().filter(|renewal| renewal.needs_somebody()) {
            outcome = Outcome::Incomplete;
            let (name, mesh, phase) = (&renewal.name, &renewal.spec.mesh_id, renewal.status.phase.as_str());
            writeln!(
                stdout,
                "the renewal {namespace}/{name} in cluster {cluster} is under way ({phase}): without meshcert the certificates of mesh {mesh} would stay half replaced. \
                 Wait until it has ended: kubectl -n {namespace} get {PLURAL} {name} --watch"
            )?;
        }
        for unread in unreadable {
            outcome = Outcome::Incomplete;
            writeln!(
                stdout,
                "the renewal {namespace}/{unread} in cluster {cluster} cannot be read, so it may be under way; look at it, and remove its finalizer {FINALIZER} if it is not"
            )?;
        }
    }
    if outcome == Outcome::Fine {
        writeln!(stdout, "no renewal is under way")?;
    }
    Ok(outcome)
}

async fn clean(sources: &Sources) -> anyhow::Result<Outcome> {
    let mut stdout = io::stdout();
    for Place { cluster, namespace, api } in places(sources).await? {
        let at = || format!("the Leases in {cluster}/{namespace} stay");
        let leases = match api.own_leases(&namespace).await {
            // Leases do nothing by themselves: an account that may not look for them is no reason not to go.
            Err(error) if error.kind == ErrorKind::Forbidden => {
                writeln!(stdout, "{}: {error}", at())?;
                continue;
            }
            other => other.with_context(at)?,
        };
        for name in leases {
            api.delete_lease(&namespace, &name).await.with_context(at)?;
            writeln!(stdout, "removed Lease {namespace}/{name} in cluster {cluster}")?;
        }
    }
    writeln!(
        stdout,
        "what stays: the {PLURAL}, and their backups (kubectl get secrets --all-namespaces --field-selector type={BACKUP})"
    )?;
    Ok(Outcome::Fine)
}

async fn places(sources: &Sources) -> anyhow::Result<Vec<Place>> {
    let mut places = Vec::new();
    for acting in acting(&sources.load()?, &Ways::default(), Timing::DEFAULT)? {
        let client = connect(&acting.connection).await.with_context(|| format!("cluster {}", acting.name))?;
        let api = Api::new(client);
        let place = |namespace| Place { cluster: Arc::clone(&acting.name), namespace, api: api.clone() };
        places.extend(acting.namespaces.into_iter().map(place));
    }
    Ok(places)
}
