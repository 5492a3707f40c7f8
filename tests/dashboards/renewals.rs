//! Remediation: where renewals stand, how long they take, what was refused, what Alertmanager sent.

use meshcert::renewal::Phase;
use serde_json::Value;

use crate::common::*;
use crate::grafana::{About, Column, Dashboard, Panel, Row};

/// What counters of renewals and requests are about: they name no mesh.
const OF_ALL: &str = "Of all meshes, whatever is chosen above.";

pub fn model(limits: &Limits) -> Value {
    let newest = |phases: &[Phase]| {
        let names: Vec<&str> = phases.iter().map(|phase| phase.as_str()).collect();
        let matcher = format!(r#"phase=~"{}""#, names.join("|"));
        count(&per_mesh_where("max", "meshcert_renewal_phase", CHOSEN, &[], &matcher))
    };
    let under_way: Vec<Phase> = Phase::ALL
        .into_iter()
        .filter(|phase| !phase.is_terminal() && !matches!(phase, Phase::Pending | Phase::AwaitingApproval))
        .collect();
    let held = per_mesh("max", "meshcert_renewal_held", CHOSEN, &["reason"]);
    let last = per_mesh("max", "meshcert_last_renewal_timestamp_seconds", CHOSEN, &["outcome"]);
    let retry = per_mesh("max", "meshcert_renewal_retry_timestamp_seconds", CHOSEN, &[]);
    let left = format!("{} - time()", per_mesh("min", SIGNAL, CHOSEN, &[]));
    let counted = |metric: &str, label: &str| format!("sum by ({label}) (increase({metric}[$__rate_interval]))");
    let stale = per_mesh("max", "meshcert_served_certificate_stale", CHOSEN, &["endpoint"]);
    let handshake = per_mesh("max", "meshcert_served_certificate_probe_success", CHOSEN, &["endpoint"]);

    let now = vec![
        Panel::stat("Under way", "Meshes whose newest renewal is in a working phase.", 4, &newest(&under_way))
            .colours(&neutral())
            .runbook("MeshcertRenewalStuck"),
        Panel::stat(
            "Wait for approval",
            "Plans that a person has to agree to: meshcert plan MESH, then meshcert approve MESH.",
            4,
            &newest(&[Phase::AwaitingApproval]),
        )
        .colours(&none_wanted(WARNING))
        .runbook("MeshcertRenewalAwaitingApproval"),
        Panel::stat("Held up", "Meshes whose newest renewal policy does not let go on.", 4, &count(&held))
            .colours(&none_wanted(WARNING))
            .runbook("MeshcertRenewalHeld"),
        Panel::stat(
            "Failed or rolled back",
            "Meshes whose newest renewal ended so.",
            4,
            &newest(&[Phase::Failed, Phase::RolledBack]),
        )
        .colours(&none_wanted(CRITICAL))
        .runbook("MeshcertRenewalFailed"),
        Panel::stat(
            "Refused",
            "Meshes whose newest renewal cannot or must not be made as things are.",
            4,
            &newest(&[Phase::Refused]),
        )
        .colours(&none_wanted(WARNING))
        .runbook("MeshcertRenewalRefused"),
        Panel::stat(
            "Succeeded, all meshes",
            &format!("Renewals that succeeded within the time that is shown. {OF_ALL}"),
            4,
            r#"sum(increase(meshcert_renewals_total{outcome="Succeeded"}[$__range]))"#,
        )
        .unit("short")
        .whole()
        .colours(&vec![(None, FINE)])
        .runbook("MeshcertRenewalLooping"),
    ];

    let mut state = mesh_columns();
    state.extend([
        Column::new("A", "Phase").words(&phases()).width(150),
        Column::new("reason", "Held up by").width(140),
        Column::new("outcome", "Ended as").width(120),
        Column::new("C", "Ended").unit("dateTimeAsIso").width(180),
        Column::new("D", "Next try").unit("dateTimeAsIso").width(180),
        Column::new("E", "Time left").unit("dtdhms").colours(&limits.left()),
    ]);
    let newest_by_mesh = Panel::table(
        "Newest renewal of each mesh",
        "Where the newest renewal of each mesh stands, what holds it up, when it ended or is tried again, and how much time the mesh has left. A mesh that was never renewed has no phase.",
        (24, 9),
        &[&phase_number(CHOSEN), &held, &format!("{last} * 1000"), &format!("{retry} * 1000"), &left],
        &state,
    )
    .sorted("Time left", false);

    let quantile = |q: &str| {
        format!(
            "histogram_quantile({q}, sum by (step, le) (increase(meshcert_renewal_step_duration_seconds_bucket[$__range])))"
        )
    };
    let rows = vec![
        Row("Now", now),
        Row("Meshes", vec![
            newest_by_mesh,
            Panel::lanes("Phases", "The newest renewal of each mesh, phase after phase.", (24, 9), &[(&phase_number(CHOSEN), "{{mesh_cluster}}/{{mesh_id}}")])
                .words(&phases())
                .runbook("MeshcertRenewalStuck"),
        ]),
        Row("How they end and how long they take", vec![
            Panel::events("Renewals that ended, all meshes", &format!("By outcome. Each is counted by the replica that brought it to its end. {OF_ALL}"), (12, 8), &[(&counted("meshcert_renewals_total", "outcome"), "{{outcome}}")])
                .runbook("MeshcertRenewalLooping"),
            Panel::table(
                "Duration of each phase, all meshes",
                &format!("How long renewals stayed in each phase, over the time that is shown: mean, and the values that half and 95 in 100 stayed below. Pending and AwaitingApproval include waiting for people and windows. {OF_ALL}"),
                (12, 8),
                &[
                    "sum by (step) (increase(meshcert_renewal_step_duration_seconds_count[$__range])) > 0",
                    "sum by (step) (increase(meshcert_renewal_step_duration_seconds_sum[$__range]))\n/\nsum by (step) (increase(meshcert_renewal_step_duration_seconds_count[$__range])) >= 0",
                    &format!("{} >= 0", quantile("0.5")),
                    &format!("{} >= 0", quantile("0.95")),
                ],
                &[
                    Column::new("step", "Phase"),
                    Column::new("A", "Times").unit("short").whole().width(90),
                    Column::new("B", "Mean").unit("s"),
                    Column::new("C", "Half below").unit("s"),
                    Column::new("D", "95 % below").unit("s"),
                ],
            )
            .sorted("Mean", true),
        ]),
        Row("What asks, and what is refused", vec![
            Panel::events("Notifications of Alertmanager, all meshes", &format!("By what came of them: accepted, ignored (no alert of the list fires), unavailable (not stored, sent again), refused. {OF_ALL}"), (12, 8), &[(&counted("meshcert_notifications_total", "outcome"), "{{outcome}}")]),
            Panel::events("Refusals, all meshes", &format!("Requests that were refused, by reason; not_due counts meshes of which nothing ends soon, whatever an alert says. {OF_ALL}"), (12, 8), &[(&counted("meshcert_refusals_total", "reason"), "{{reason}}")]),
        ]),
        Row("The proof", vec![
            Panel::lines("Endpoints", "All that are asked, those that serve another certificate than the stored one, and those that answer no handshake.", (24, 7), &[
                (&count(&handshake), "asked"),
                (&count(&format!("{stale} == 1")), "serve another certificate"),
                (&count(&format!("{handshake} == 0")), "answer no handshake"),
            ])
            .unit("short")
            .whole()
            .runbook("MeshcertServedCertificateStale")
            .runbook("MeshcertEndpointUnreachable"),
        ]),
    ];
    Dashboard {
        uid: "meshcert-renewals",
        title: "meshcert / Renewals",
        description: "Renewals of all meshes: where they stand, how they end, how long they take, and what asks for them.",
        about: About::All,
        variables: mesh_variables(true),
        annotations: renewals_ended(CHOSEN),
        rows,
    }
    .model()
}
