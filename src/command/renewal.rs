//! What the commands about renewals share: finding the mesh, showing a plan, following the progress.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::app::acting::acting;
use crate::app::{Sources, Ways};
use crate::cli::Outcome;
use crate::cluster::api::Api;
use crate::cluster::connect::connect;
use crate::cluster::lease::LEADER;
use crate::cluster::renewals::Unreadable;
use crate::cluster::workloads::Hints;
use crate::command::advice::{kubectl, meshcert, none_answered, quoted};
use crate::command::progress::Progress;
use crate::command::{Tone, columns, table_within};
use crate::controller::{Acting, Timing};
use crate::material::assemble;
use crate::mesh::{HostedMesh, MeshId, MeshKey};
use crate::plan::Plan;
use crate::renewal::{Phase, ROLLBACK_REFUSED, Renewal, Status};
use crate::rollout::Workload;

/// What a plan does without on a narrow terminal: it is kept, or no matter of consent.
const GIVE_WAY: [&str; 3] = ["NEW KEY", "SUBJECT (KEPT)", "ENDS"];
/// Between two looks at a renewal's progress.
const LOOK: Duration = Duration::from_millis(500);
/// Whoever acts takes notice of a request within a second or two.
const UNSEEN: Duration = Duration::from_secs(10);

/// A mesh, and where it was found.
pub(super) struct Found {
    pub(super) acting: Acting,
    pub(super) api: Api,
    pub(super) mesh: HostedMesh,
    /// Where was looked.
    pub(super) sources: Sources,
}

/// Looks for a mesh in all namespaces of all configured clusters; it must be in exactly one of those that answer. The others are said on standard error.
pub(super) async fn find(sources: &Sources, id: &str) -> anyhow::Result<Found> {
    let id: MeshId = id.parse()?;
    let (mut found, mut places, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for acting in acting(&sources.load()?, &Ways::default(), Timing::DEFAULT)? {
        let api = match connect(&acting.connection).await {
            Ok(client) => Api::new(client),
            Err(error) => {
                failures.push(anyhow::Error::new(error).context(format!("cluster {}", acting.name)));
                continue;
            }
        };
        for namespace in &acting.namespaces {
            let place = format!("{}/{namespace}", acting.name);
            let secrets = match api.mesh_secrets(namespace, &acting.naming.secret_names(&id)).await {
                Ok(secrets) => secrets,
                Err(error) => {
                    failures.push(anyhow::Error::new(error).context(format!("cluster {place}")));
                    continue;
                }
            };
            places.push(place);
            if secrets.iter().any(Option::is_some) {
                let key = MeshKey { namespace: namespace.as_str().into(), id: id.clone() };
                let mesh = assemble(&acting.naming, &key, &secrets);
                found.push(Found { acting: acting.clone(), api: api.clone(), mesh, sources: sources.clone() });
            }
        }
    }
    if places.is_empty() && !failures.is_empty() {
        bail!(none_answered(failures));
    }
    for failure in &failures {
        writeln!(std::io::stderr(), "meshcert: {failure:#}")?;
    }
    match found.len() {
        0 => {
            bail!("there is no hosted mesh {id} in {}; `{}` lists them", places.join(", "), meshcert(sources, "status"))
        }
        1 => {
            let found = found.pop().context("one was found")?;
            // Whoever may not ask for the version does without the warning.
            if let Some(warning) = found.api.server().await.ok().and_then(|server| server.warning()) {
                writeln!(std::io::stderr(), "meshcert: {}: {warning}", found.acting.name)?;
            }
            Ok(found)
        }
        _ => {
            let all: Vec<String> =
                found.iter().map(|one| format!("{}/{}", one.acting.name, one.mesh.key.namespace)).collect();
            bail!("{id} is in {}; choose one with --namespace, or --kubeconfig and --context", all.join(" and "))
        }
    }
}

impl Found {
    /// A command about this mesh, with the flags as they were given.
    pub(super) fn command(&self, verb: &str, options: &str) -> String {
        meshcert(&self.sources, &format!("{verb} {}{options}", self.mesh.key.id))
    }

    /// What a person types to agree to this plan and to no other.
    pub(super) fn approve_command(&self, plan: &Plan) -> String {
        self.command("approve", &format!(" --digest {}", quoted(&plan.digest)))
    }

    /// Its workloads, tier by tier.
    pub(super) async fn workloads(&self) -> anyhow::Result<Vec<Vec<Workload>>> {
        let key = &self.mesh.key;
        let tiers = self.api.workloads(&key.namespace, key.id.as_str(), &self.acting.tiers, Hints::default()).await?;
        tiers.map_err(anyhow::Error::msg)
    }

    /// Its renewals, oldest first.
    pub(super) async fn renewals(&self) -> anyhow::Result<Vec<Renewal>> {
        Ok(self.renewals_and_unreadable().await?.0)
    }

    /// The same; and those of its namespace that cannot be read, which may be its own.
    pub(super) async fn renewals_and_unreadable(&self) -> anyhow::Result<(Vec<Renewal>, Vec<Unreadable>)> {
        let (mut all, unreadable) = self.api.renewals(&self.mesh.key.namespace).await?;
        all.retain(|renewal| renewal.spec.mesh_id == self.mesh.key.id.as_str());
        all.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        Ok((all, unreadable))
    }

    /// Prints each new phase and message until the renewal has ended or waits for a person; `known` is where it was when it was asked.
    pub(super) async fn follow(&self, name: &str, known: Option<&Status>) -> anyhow::Result<Outcome> {
        let namespace = &self.mesh.key.namespace;
        let progress = Progress::new();
        // Another try may have ended as the last one did before anybody looked.
        let look = |status: &Status| (status.phase, status.attempt, status.observed_generation);
        let of_before = |status: &Status, generation| {
            // What was refused is looked at again once somebody insists.
            let is_asked = status.phase == Phase::Refused && status.observed_generation != generation;
            status.phase.is_terminal() && (is_asked || known.map(look) == Some(look(status)))
        };
        let mut said = (known.map(|status| status.phase), String::new());
        let mut unseen = Some(Instant::now());
        loop {
            let renewal = self.api.renewal(namespace, name).await?;
            let renewal = renewal.with_context(|| format!("the renewal {namespace}/{name} is gone"))?;
            let status = renewal.status;
            let is_seen = status.observed_generation == renewal.generation;
            if is_seen {
                unseen = None;
            } else if unseen.is_some_and(|since| since.elapsed() >= UNSEEN) {
                unseen = None;
                progress.warn(&self.nobody_acts())?;
            }
            let now = (Some(status.phase), status.message.clone());
            if now != said && !of_before(&status, renewal.generation) {
                progress.say(status.phase, &status.message)?;
                said = now;
                match status.phase {
                    Phase::Succeeded if status.reason == ROLLBACK_REFUSED => return Ok(Outcome::Incomplete),
                    Phase::Succeeded | Phase::RolledBack => return Ok(Outcome::Fine),
                    Phase::Failed | Phase::Refused | Phase::Superseded => {
                        progress.advise(&self.command("history", ""))?;
                        return Ok(Outcome::Incomplete);
                    }
                    _ => {}
                }
            }
            // What was asked last has been looked at, and a person is waited for all the same.
            let waits = status.phase == Phase::AwaitingApproval && status.reason == Phase::AwaitingApproval.as_str();
            if is_seen && waits && status.message.contains("approve") {
                let approve = status.plan.as_ref().map(|plan| self.approve_command(plan)).unwrap_or_default();
                progress.advise(&format!("{}, then {approve}", self.command("plan", "")))?;
                return Ok(Outcome::Incomplete);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn nobody_acts(&self) -> String {
        let namespace = &self.mesh.key.namespace;
        let lease = kubectl(&self.sources, &format!("-n {namespace} get lease {LEADER}"));
        format!(
            "nobody seems to act on namespace {namespace} of cluster {}: it takes a meshcert with `serve --roles act` that has this namespace in its configuration; \
             `{lease}` names the one that leads, if this is the first of its namespaces",
            self.acting.name
        )
    }
}

/// A plan for a person.
pub(super) fn show(plan: &Plan) -> String {
    let leaves = plan.leaves.iter().map(|leaf| {
        let place = format!("{}/{}", leaf.secret, leaf.key);
        let key_type = leaf.key_type.as_str().to_owned();
        [
            place.into(),
            leaf.subject.clone().into(),
            key_type.into(),
            leaf.ends_at.to_string().into(),
            Tone::Good.cell(leaf.next_ends_at.to_string()),
        ]
    });
    let restarts = plan.restarts.iter().map(|restart| {
        let workload = format!("{}/{}", restart.kind.as_str(), restart.name);
        [(restart.tier + 1).to_string(), workload, restart.pods.to_string(), restart.outage.clone()]
    });
    let digest = if plan.digest.is_empty() { String::new() } else { format!("digest: {}\n", plan.digest) };
    format!(
        "{}\n{}\nengine: {}\n{digest}",
        table_within(columns(), &GIVE_WAY, ["LEAF", "SUBJECT (KEPT)", "NEW KEY", "ENDS", "THEN ENDS"], leaves),
        table_within(columns(), &["PODS"], ["TIER", "RESTARTS", "PODS", "MEANWHILE"], restarts),
        plan.engine_in_words()
    )
}
