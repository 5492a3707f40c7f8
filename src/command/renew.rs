//! `meshcert plan`, `renew`, `approve`, `rollback`: what a person asks for.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use anyhow::{Context, bail};
use serde_json::json;

use crate::app::{Sources, process};
use crate::cli::{ApproveArgs, MeshArgs, Outcome, Output, PlanArgs, RenewArgs, RollbackArgs};
use crate::clock::SystemClock;
use crate::command::advice::kubectl;
use crate::command::renewal::{Found, find, show};
use crate::command::{Tone, print, say};
use crate::controller::{Outlook, preview, resumption};
use crate::mesh::SecretRole;
use crate::plan::Plan;
use crate::ports::Clock;
use crate::renewal::{Phase, Renewal, Status, Trigger};
use crate::requests::{Asked, ask};
use crate::secret::PAUSED;
use crate::time::UnixTime;

/// The renewal whose plan waits for a person.
fn waiting(renewals: &[Renewal]) -> Option<&Renewal> {
    renewals.iter().rev().find(|renewal| renewal.status.phase == Phase::AwaitingApproval)
}

/// Now, for `spec.requestedAt`; whoever asks twice within a second asks twice.
fn requested_at(known: Option<&Renewal>) -> UnixTime {
    let before = known.and_then(|renewal| renewal.spec.requested_at);
    before.map_or(SystemClock.now(), |before| SystemClock.now().max(before.plus(1)))
}

/// Shows what a renewal would do that began now, or why it would be refused; or that a failed one is gone on with, which takes no insistence.
async fn foretell(found: Found, failed: Option<&Renewal>, force: bool, output: Output) -> anyhow::Result<Outcome> {
    let renew = found.command("renew", "");
    let Found { acting, api, mesh, .. } = found;
    if let Some(failed) = failed
        && let Some(phase) = resumption(api.clone(), acting.clone(), &mesh.key, failed, Arc::new(SystemClock)).await?
    {
        let message = format!(
            "renewal {} failed after its commit ({}); `{renew}` goes on with it from {}: restarts and proof, no new certificates",
            failed.name,
            failed.status.reason,
            phase.as_str()
        );
        let answer = json!({ "unfinished": { "renewal": failed.name, "phase": phase, "message": message } });
        print(&answer, output, || format!("{message}\n"))?;
        return Ok(Outcome::Fine);
    }
    match preview(api, acting, &mesh.key, force, Arc::new(SystemClock)).await? {
        Outlook::Planned(plan) => {
            print(&plan, output, || show(&plan))?;
            Ok(Outcome::Fine)
        }
        Outlook::Refused(reason, message) => {
            print(&json!({ "refused": { "reason": reason, "message": message } }), output, || {
                format!("{} ({reason}): {message}\n", Tone::Bad.paint("it would be refused"))
            })?;
            Ok(Outcome::Incomplete)
        }
    }
}

/// Shows the plan that waits for approval, or what a renewal would come to; writes nothing.
///
/// # Errors
/// The mesh is not there, or something that a renewal looks at cannot be read.
pub fn plan(args: PlanArgs) -> anyhow::Result<Outcome> {
    let PlanArgs { mesh: MeshArgs { mesh, connect }, force, output } = args;
    process::run(async {
        let found = find(&Sources::from(connect), &mesh).await?;
        let renewals = found.renewals().await?;
        match waiting(&renewals).and_then(|renewal| renewal.status.plan.as_ref()) {
            Some(plan) => {
                let approve = found.approve_command(plan);
                print(plan, output, || format!("{}approve: {approve}\n", show(plan)))?;
                Ok(Outcome::Fine)
            }
            None => foretell(found, unfinished(&renewals).filter(|_| !force), force, output).await,
        }
    })
}

/// Asks for a renewal, or for a failed one to be tried again.
///
/// # Errors
/// The mesh is not there, or the request could not be stored.
pub fn renew(args: RenewArgs) -> anyhow::Result<Outcome> {
    let RenewArgs { mesh: MeshArgs { mesh, connect }, dry_run, force, wait } = args;
    process::run(async {
        let found = find(&Sources::from(connect), &mesh).await?;
        // Who insists begins anew.
        let renewals = if force { Vec::new() } else { found.renewals().await? };
        let failed = unfinished(&renewals);
        if dry_run {
            return foretell(found, failed, force, Output::Table).await;
        }
        let namespace = &found.mesh.key.namespace;
        let asked = match failed {
            Some(failed) => Asked::Exists(failed.name.clone(), failed.status.phase),
            None => ask(&found.api, &found.mesh, Trigger::Manual).await?,
        };
        let (name, known) = match asked {
            Asked::Created(name) => {
                if force {
                    // To insist takes the right to change one: whoever may only create is not heeded.
                    let spec = json!({ "force": true, "requestedAt": requested_at(None) });
                    found.api.change_renewal(namespace, &name, &json!({ "spec": spec })).await?;
                }
                (name, None)
            }
            Asked::Deleting(name) => bail!(
                "the renewal {name} is being deleted; try again when `{}` does not list it any more",
                found.command("history", "")
            ),
            Asked::Exists(name, phase) => {
                let known = found.api.renewal(namespace, &name).await?;
                let wants_back = known.as_ref().is_some_and(|known| known.spec.rollback);
                // A rollback that is under way is let through; one that cannot begin or came to nothing is taken back.
                let goes_back = known.as_ref().is_some_and(|known| known.status.rolling_back) && !phase.is_terminal();
                if phase.is_terminal() || force || wants_back && !goes_back {
                    let spec = json!({ "requestedAt": requested_at(known.as_ref()), "force": force, "rollback": wants_back && goes_back });
                    found.api.change_renewal(namespace, &name, &json!({ "spec": spec })).await?;
                    (name, known.map(|renewal| renewal.status))
                } else {
                    (name, None)
                }
            }
        };
        writeln!(io::stdout(), "{name}")?;
        if wait { found.follow(&name, known.as_ref()).await } else { Ok(Outcome::Fine) }
    })
}

/// The newest renewal, where it failed after the new certificates were stored, or on its way back: it is named after the former ones, and what is missing is its end.
fn unfinished(renewals: &[Renewal]) -> Option<&Renewal> {
    let is_begun = |renewal: &&Renewal| !matches!(renewal.status.phase, Phase::Refused | Phase::Superseded);
    let has_stored = |status: &Status| status.committed_at.is_some() || status.rolling_back;
    let newest = renewals.iter().rev().find(is_begun)?;
    (newest.status.phase == Phase::Failed && has_stored(&newest.status)).then_some(newest)
}

/// Agrees to the plan of a renewal, after showing it: to the one that was read before, or to the one that a person is asked about.
///
/// # Errors
/// The renewal is not there or has no plan, another plan waits than was read, or there is nobody to ask.
pub fn approve(args: ApproveArgs) -> anyhow::Result<Outcome> {
    let ApproveArgs { mesh: MeshArgs { mesh, connect }, digest, wait } = args;
    process::run(async {
        let found = find(&Sources::from(connect), &mesh).await?;
        let (renewal, plan) = planned(&found).await?;
        say(&show(&plan))?;
        let (renewal, plan) = match &digest {
            Some(read) if *read != plan.digest => bail!(
                "nothing is approved: another plan waits than the one that was read, {read}; if the one above is right: {}",
                found.approve_command(&plan)
            ),
            Some(_) => (renewal, plan),
            None if !io::stdin().is_terminal() => bail!(
                "nothing is approved: there is no terminal to ask on, so name the plan; if the one above is right: {}",
                found.approve_command(&plan)
            ),
            None if !is_agreed()? => {
                writeln!(io::stderr(), "meshcert: nothing is approved")?;
                return Ok(Outcome::Incomplete);
            }
            // Reading takes its time, and things go on.
            None => match planned(&found).await? {
                (renewal, present) if present.digest == plan.digest => (renewal, present),
                _ => bail!("nothing is approved: another plan waits by now; look at that one"),
            },
        };
        // On the version that was looked at. What came with the creation would count from now on, and nobody meant that.
        let (force, rollback) = (renewal.forced(), renewal.wants_back());
        let patch = json!({
            "metadata": { "resourceVersion": renewal.resource_version },
            "spec": { "approval": { "planDigest": plan.digest }, "force": force, "rollback": rollback },
        });
        found.api.change_renewal(&renewal.namespace, &renewal.name, &patch).await?;
        writeln!(io::stdout(), "\n{} approved", renewal.name)?;
        if wait { found.follow(&renewal.name, Some(&renewal.status)).await } else { Ok(Outcome::Fine) }
    })
}

/// The renewal that waits for a person, and its plan.
async fn planned(found: &Found) -> anyhow::Result<(Renewal, Plan)> {
    let renewal = waiting(&found.renewals().await?).cloned().with_context(|| {
        let history = found.command("history", "");
        format!("no renewal of {} waits for approval; `{history}` lists them", found.mesh.key.id)
    })?;
    let plan = renewal.status.plan.clone().context("the renewal has no plan yet")?;
    Ok((renewal, plan))
}

/// Asks whoever sits at the terminal.
fn is_agreed() -> anyhow::Result<bool> {
    write!(io::stderr(), "\nAgree to this plan? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Puts back what was in force before the newest renewal, and pauses the mesh, or it would be renewed again at once.
///
/// # Errors
/// There is nothing to put back.
pub fn rollback(args: RollbackArgs) -> anyhow::Result<Outcome> {
    let RollbackArgs { mesh: MeshArgs { mesh, connect }, wait } = args;
    process::run(async {
        let found = find(&Sources::from(connect), &mesh).await?;
        let written = found.renewals().await?.into_iter().rev().find(|renewal| renewal.status.has_written());
        let history = found.command("history", "");
        let renewal =
            written.with_context(|| format!("no renewal of {mesh} has replaced anything; `{history}` lists them"))?;
        if !matches!(renewal.status.phase, Phase::Succeeded | Phase::Failed) {
            bail!(
                "the renewal {} is {}; only one that succeeded or failed is rolled back: `{history}` shows how far it is",
                renewal.name,
                renewal.status.phase.as_str()
            );
        }
        let ended =
            renewal.status.plan.iter().flat_map(|plan| &plan.leaves).find(|leaf| leaf.ends_at <= SystemClock.now());
        if let Some(leaf) = ended {
            bail!(
                "no rollback: the former {} of {} has ended at {}; `{}` makes new ones",
                leaf.key,
                leaf.secret,
                leaf.ends_at,
                found.command("renew", " --force --wait")
            );
        }
        let namespace = &found.mesh.key.namespace;
        let secret = found.mesh.secret_name(SecretRole::KubeCerts);
        found.api.pause(namespace, secret).await?;
        let spec = json!({ "rollback": true, "requestedAt": requested_at(Some(&renewal)) });
        let go_on = kubectl(&found.sources, &format!("-n {namespace} annotate secret {secret} {PAUSED}-"));
        let asked = found.api.change_renewal(namespace, &renewal.name, &json!({ "spec": spec })).await;
        // A pause that nobody knows of would hold up the next renewal, in a year perhaps.
        asked.with_context(|| {
            format!("asking for the rollback failed, and {mesh} is paused already; ask again, or end the pause with `{go_on}`")
        })?;
        let mut stdout = io::stdout();
        writeln!(stdout, "{}", renewal.name)?;
        writeln!(stdout, "{mesh} is paused; when it may be renewed again: {go_on}")?;
        if wait { found.follow(&renewal.name, Some(&renewal.status)).await } else { Ok(Outcome::Fine) }
    })
}
