//! `/api/v1/renewals`: what is being done about which mesh, and what a person is asked for.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::follower::{Known, SourceHealth, Unreadable, View};
use crate::plan::Plan;
use crate::renewal::{Condition, Phase, Renewal, StepRecord, Trigger};
use crate::server::{App, encoded, json, sentence};
use crate::time::UnixTime;

/// Renewals in an answer, where the question does not say how many.
const USUAL_LIMIT: usize = 100;
/// Each takes some ten kilobytes with its plan.
const LARGEST_LIMIT: usize = 500;

/// What a list is asked for.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    cluster: Option<String>,
    namespace: Option<String>,
    mesh: Option<String>,
    limit: usize,
    offset: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { cluster: None, namespace: None, mesh: None, limit: USUAL_LIMIT, offset: 0 }
    }
}

/// Answers `/api/v1/renewals`: those under way first, then the newest.
pub(super) async fn list(State(app): State<Arc<App>>, wanted: Result<Query<Wanted>, QueryRejection>) -> Response {
    let wanted = match wanted {
        Ok(Query(wanted)) if wanted.limit <= LARGEST_LIMIT => wanted,
        Ok(_) => return sentence(StatusCode::BAD_REQUEST, &format!("limit is at most {LARGEST_LIMIT}")),
        Err(error) => return sentence(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let view = app.followed.view();
    let is = |wish: &Option<String>, value: &str| wish.as_ref().is_none_or(|wish| wish == value);
    let mut found: Vec<&Known> = view
        .renewals
        .iter()
        .filter(|Known { cluster, renewal }| {
            is(&wanted.cluster, cluster)
                && is(&wanted.namespace, &renewal.namespace)
                && is(&wanted.mesh, &renewal.spec.mesh_id)
        })
        .collect();
    found.sort_by(|a, b| b.renewal.rank().cmp(&a.renewal.rank()).then_with(|| a.cluster.cmp(&b.cluster)));
    json(Some(encoded(&List {
        total: found.len(),
        renewals: found.into_iter().skip(wanted.offset).take(wanted.limit).map(RenewalView::of).collect(),
        sources: view.sources.iter().map(SourceView::of).collect(),
    })))
}

/// Answers `/api/v1/renewals/{cluster}/{namespace}/{name}`.
pub(super) async fn one(
    State(app): State<Arc<App>>,
    Path((cluster, namespace, name)): Path<(String, String, String)>,
) -> Response {
    let view = app.followed.view();
    let is_it = |known: &&Known| {
        *known.cluster == *cluster && known.renewal.namespace == namespace && known.renewal.name == name
    };
    match view.renewals.iter().find(is_it) {
        Some(known) => json(Some(encoded(&RenewalView::of(known)))),
        None => sentence(StatusCode::NOT_FOUND, &unknown(&view, &cluster, &namespace, &name)),
    }
}

fn unknown(view: &View, cluster: &str, namespace: &str, name: &str) -> String {
    let unreadable = view.unreadable(cluster, namespace).find(|one| one.name == name);
    match (view.obstacle(cluster, namespace), unreadable) {
        (Some(obstacle), _) => format!("renewals of {cluster}/{namespace} cannot be read: {obstacle}"),
        (None, Some(one)) => format!("the renewal cannot be read: {one}"),
        (None, None) => "no such renewal is known; /api/v1/renewals lists those that are".to_owned(),
    }
}

/// What a person types to agree to exactly the plan that waits. It pins the plan's digest: should the plan change meanwhile, it agrees to nothing. Nor to what came
/// with the creation, which would count from now on.
///
/// `None` where no plan waits, or something else holds it up; and where a name or the digest is not what the API server lets through, for this is made to be pasted into a shell.
pub(super) fn approve_command(renewal: &Renewal) -> Option<String> {
    let Renewal { name, namespace, spec, status, .. } = renewal;
    let digest = &status.plan.as_ref()?.digest;
    let agreed = spec.approval.as_ref().is_some_and(|approval| approval.plan_digest == *digest);
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    let hexadecimal =
        digest.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let safe = plain(name) && !name.starts_with('-') && plain(namespace) && hexadecimal;
    let asks = status.phase == Phase::AwaitingApproval && !status.phase.is_held(&status.reason);
    (asks && !agreed && safe).then(|| {
        let mut consent = json!({ "approval": { "planDigest": digest } });
        for (field, is, counts) in
            [("force", spec.force, renewal.forced()), ("rollback", spec.rollback, renewal.wants_back())]
        {
            if is && !counts {
                consent[field] = json!(false);
            }
        }
        let patch = json!({ "spec": consent });
        format!("kubectl -n {namespace} patch certificaterenewals.meshcert.dev {name} --type=merge -p '{patch}'")
    })
}

/// The runbook for what is wrong with a renewal, if anything is.
pub(super) fn runbook(renewal: &Renewal) -> Option<&'static str> {
    let status = &renewal.status;
    match status.phase {
        phase if phase.is_held(&status.reason) => Some("MeshcertRenewalHeld"),
        Phase::AwaitingApproval => Some("MeshcertRenewalAwaitingApproval"),
        Phase::Failed | Phase::RolledBack => Some("MeshcertRenewalFailed"),
        Phase::Refused => Some("MeshcertRenewalRefused"),
        _ => None,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    /// How many there are, whatever the limit.
    total: usize,
    renewals: Vec<RenewalView<'a>>,
    sources: Vec<SourceView<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RenewalView<'a> {
    cluster: &'a str,
    namespace: &'a str,
    name: &'a str,
    mesh: &'a str,
    created: Option<UnixTime>,
    trigger: Trigger,
    force: bool,
    rollback: bool,
    paused: bool,
    phase: Phase,
    reason: &'a str,
    message: &'a str,
    under_way: bool,
    attempt: u32,
    phase_since: Option<UnixTime>,
    next_attempt_at: Option<UnixTime>,
    committed_at: Option<UnixTime>,
    ends_at: Option<UnixTime>,
    approve_command: Option<String>,
    runbook: Option<String>,
    plan: Option<&'a Plan>,
    steps: &'a [StepRecord],
    conditions: &'a [Condition],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SourceView<'a> {
    cluster: &'a str,
    namespace: Option<&'a str>,
    listed: bool,
    last_success: Option<UnixTime>,
    failure: Option<&'a str>,
    cut_off: bool,
    unreadable: Vec<UnreadableView<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UnreadableView<'a> {
    namespace: &'a str,
    name: &'a str,
    message: &'a str,
}

impl<'a> RenewalView<'a> {
    fn of(Known { cluster, renewal }: &'a Known) -> Self {
        let status = &renewal.status;
        Self {
            cluster,
            namespace: &renewal.namespace,
            name: &renewal.name,
            mesh: &renewal.spec.mesh_id,
            created: renewal.created,
            trigger: renewal.spec.trigger,
            force: renewal.spec.force,
            rollback: renewal.spec.rollback,
            paused: renewal.paused,
            phase: status.phase,
            reason: &status.reason,
            message: &status.message,
            under_way: renewal.is_under_way(),
            attempt: status.attempt,
            phase_since: status.phase_since,
            next_attempt_at: status.next_attempt_at,
            committed_at: status.committed_at,
            ends_at: status.ends_at,
            approve_command: approve_command(renewal),
            runbook: runbook(renewal).map(|name| format!("/runbooks/{name}")),
            plan: status.plan.as_ref(),
            steps: &status.steps,
            conditions: &status.conditions,
        }
    }
}

impl<'a> SourceView<'a> {
    fn of(source: &'a SourceHealth) -> Self {
        let SourceHealth { cluster, namespace, listed, last_success, failure, cut_off, unreadable } = source;
        let unread =
            |one: &'a Unreadable| UnreadableView { namespace: &one.namespace, name: &one.name, message: &one.why };
        Self {
            cluster,
            namespace: namespace.as_deref(),
            listed: *listed,
            last_success: *last_success,
            failure: failure.as_deref(),
            cut_off: *cut_off,
            unreadable: unreadable.values().map(unread).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Engine;
    use crate::renewal::{Approval, Spec, Status};

    fn mk_waiting(name: &str, digest: &str) -> Renewal {
        let plan = Plan {
            digest: digest.to_owned(),
            engine: Engine::Native,
            image: None,
            service_account: None,
            engine_reason: String::new(),
            leaves: vec![],
            restarts: vec![],
            ends_at: UnixTime(0),
        };
        Renewal {
            name: name.to_owned(),
            namespace: "istio-system".to_owned(),
            spec: Spec { mesh_id: "demo".to_owned(), ..Spec::default() },
            status: Status { phase: Phase::AwaitingApproval, plan: Some(plan), ..Status::default() },
            ..Renewal::default()
        }
    }

    #[test]
    fn the_command_agrees_to_the_plan_that_is_shown_and_to_no_other() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let mut renewal = mk_waiting("demo-1", &digest);
        assert_eq!(
            approve_command(&renewal).unwrap(),
            format!(
                "kubectl -n istio-system patch certificaterenewals.meshcert.dev demo-1 --type=merge -p '{{\"spec\":{{\"approval\":{{\"planDigest\":\"{digest}\"}}}}}}'"
            )
        );
        renewal.spec.approval = Some(Approval { plan_digest: "sha256:of an earlier plan".to_owned() });
        assert!(approve_command(&renewal).is_some(), "a changed plan asks again");
        renewal.spec.approval = Some(Approval { plan_digest: digest });
        assert_eq!(approve_command(&renewal), None, "agreed already");
        renewal.spec.approval = None;
        renewal.status.reason = "Paused".to_owned();
        assert_eq!(approve_command(&renewal), None, "consent would not help it on");
    }

    #[test]
    fn the_command_takes_away_what_came_with_the_creation_and_leaves_what_a_person_said_since() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let patch = |generation, force, rollback| {
            let mut renewal = Renewal { generation, ..mk_waiting("demo-1", &digest) };
            renewal.spec = Spec { force, rollback, ..renewal.spec };
            let command = approve_command(&renewal).unwrap();
            let patch: serde_json::Value = serde_json::from_str(command.split('\'').nth(1).unwrap()).unwrap();
            (patch["spec"].get("force").cloned(), patch["spec"].get("rollback").cloned())
        };
        let no = || Some(json!(false));
        assert_eq!(patch(1, true, false), (no(), None));
        assert_eq!(patch(1, true, true), (no(), no()));
        assert_eq!(patch(2, true, true), (None, None), "that was meant");
        assert_eq!(patch(1, false, false), (None, None));
    }

    #[test]
    fn nothing_that_a_shell_would_understand_gets_into_the_command() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for name in ["a;reboot", "a b", "$(reboot)", "a'b", "-o", ""] {
            assert_eq!(approve_command(&mk_waiting(name, &digest)), None, "{name}");
        }
        for digest in ["", "sha256:'; reboot; '", "sha256:0a"] {
            assert_eq!(approve_command(&mk_waiting("demo-1", digest)), None, "{digest}");
        }
    }

    #[test]
    fn what_is_wrong_has_a_runbook_and_what_goes_well_has_none() {
        let with = |phase, reason: &str| {
            let mut renewal = mk_waiting("demo-1", "");
            renewal.status.phase = phase;
            renewal.status.reason = reason.to_owned();
            runbook(&renewal)
        };
        assert_eq!(with(Phase::AwaitingApproval, "AwaitingApproval"), Some("MeshcertRenewalAwaitingApproval"));
        assert_eq!(with(Phase::AwaitingApproval, "Paused"), Some("MeshcertRenewalHeld"));
        assert_eq!(with(Phase::Failed, "Unproven"), Some("MeshcertRenewalFailed"));
        assert_eq!(with(Phase::Pending, "Paused"), Some("MeshcertRenewalHeld"));
        assert_eq!(with(Phase::Pending, "NoSlot"), Some("MeshcertRenewalHeld"));
        assert_eq!(with(Phase::Pending, "Forbidden"), Some("MeshcertRenewalHeld"));
        assert_eq!(with(Phase::Restarting, "Forbidden"), None, "that is stuck");
        assert_eq!(with(Phase::Restarting, "Restarting"), None);
        assert_eq!(with(Phase::Succeeded, "Succeeded"), None);
    }
}
