//! The fleet: who is worst, when what ends, by cluster, how far the CAs reach.

use serde_json::Value;

use crate::common::*;
use crate::grafana::{About, Column, Dashboard, Panel, Row};

/// The sources of the chosen clusters, `CLUSTER` or `CLUSTER/NAMESPACE`; where all are chosen, also what webhooks are told.
const SOURCES: &str = r#"source=~"$mesh_cluster(/.*)?""#;

pub fn model(limits: &Limits) -> Value {
    let Limits { warning, critical, .. } = *limits;
    let signal = per_mesh("min", SIGNAL, CHOSEN, &[]);
    let left = format!("{signal} - time()");
    let all = per_mesh("max", "meshcert_hosted_mesh_info", CHOSEN, &[]);
    let phase =
        |phases: &str| per_mesh_where("max", "meshcert_renewal_phase", CHOSEN, &[], &format!(r#"phase=~"{phases}""#));
    let invalid = per_mesh("max", "meshcert_certificate_invalid", CHOSEN, &["secret", "key", "position", "reason"]);
    let missing = format!("{} == 0", per_mesh("max", "meshcert_hosted_mesh_secret_present", CHOSEN, &["secret_role"]));
    let findings = format!("{}\nor\n{missing}", invalid);
    let ca = first_ends(&format!("{MESH}, component"), CHOSEN, "ca");
    let month = |moments: &str| {
        format!(
            r#"label_replace(
  count_values("month", year({moments}) * 100 + month({moments})),
  "ends", "$1-$2", "month", "(....)(..)"
)"#
        )
    };

    let now = vec![
        Panel::stat("Hosted meshes", "How many meshes meshcert sees.", 3, &count(&all))
            .colours(&neutral()),
        Panel::stat("Ended", "Meshes of which a needed certificate has ended: their API does not work any more.", 3, &count(&format!("{left} <= 0")))
            .colours(&none_wanted(ENDED))
            .runbook("MspiderHostedKubeAPICertExpiration"),
        Panel::stat("Critical", "Meshes that end so soon that on-call is paged: renew them now.", 3, &count(&format!("{left} < {critical} > 0")))
            .colours(&none_wanted(CRITICAL))
            .runbook("MspiderHostedKubeAPICertExpiration"),
        Panel::stat("Due", "Meshes that the warning is about, the critical ones left out: renew them in the coming days.", 3, &count(&format!("{left} < {warning} >= {critical}")))
            .colours(&none_wanted(WARNING))
            .runbook("MspiderHostedKubeAPICertExpiration"),
        Panel::stat("Findings", "Entries that cannot be read or do not fit the others, and Secrets that are missing.", 3, &count(&findings))
            .colours(&none_wanted(WARNING))
            .runbook("MeshcertCertificateInvalid")
            .runbook("MeshcertMeshSecretMissing"),
        old_or_silent_endpoints(CHOSEN),
        sources_down(SOURCES).link("Sources", "/d/meshcert-itself?${datasource:queryparam}&${__url_time_range}"),
        Panel::stat("Renewals for a person", "Meshes whose newest renewal failed, was refused or rolled back, or waits for approval.", 3, &count(&phase("Failed|RolledBack|Refused|AwaitingApproval")))
            .colours(&none_wanted(WARNING))
            .link("Renewals", "/d/meshcert-renewals?${mesh_cluster:queryparam}&${mesh_namespace:queryparam}&${mesh_id:queryparam}&${datasource:queryparam}&${__url_time_range}"),
    ];

    let states = [
        ("expired", ENDED, format!("{left} <= 0")),
        ("critical", CRITICAL, format!("{left} < {critical}")),
        ("missing", CRITICAL, missing),
        ("stale", WARNING, stale(CHOSEN)),
        ("unreachable", WARNING, silent(CHOSEN)),
        // A mesh without a signal has no certificate that can be read.
        ("invalid", WARNING, format!("{invalid}\nor\n{all} unless on ({MESH}) {signal}")),
        ("expiring", WARNING, format!("{left} < {warning}")),
        ("ok", FINE, all.clone()),
    ];
    let state =
        states.iter().enumerate().map(|(rank, (_, _, which))| format!("{rank} * group by ({MESH}) (\n{which}\n)"));
    let state = state.collect::<Vec<_>>().join("\nor\n");
    let words: Vec<(i64, &str, &str)> =
        (0..).zip(&states).map(|(rank, (word, colour, _))| (rank, *word, *colour)).collect();

    let mut worst = vec![Column::new("A", "State").words(&words).width(110)];
    worst.extend(mesh_columns());
    worst.extend([
        Column::new("B", "Time left").unit("dtdhms").colours(&limits.left()).width(170),
        Column::new("C", "Ends").unit("dateTimeAsIso").width(180),
        Column::new("D", "Findings").colours(&none_wanted(WARNING)).width(90),
        Column::new("E", "Old or silent").colours(&none_wanted(WARNING)).width(110),
        Column::new("F", "Newest renewal").words(&phases()).width(160),
        Column::new("G", "It ended").unit("dateTimeFromNow").width(160),
        Column::new("reason", "Held up by"),
    ]);
    let held = per_mesh("max", "meshcert_renewal_held", CHOSEN, &["reason"]);
    let last = per_mesh("max", "meshcert_last_renewal_timestamp_seconds", CHOSEN, &[]);
    let worst = Panel::table(
        "Meshes, worst first",
        "Every mesh, worst first by the limits of the alerts, where the page goes by its own: expired; critical (it ends so soon that on-call is paged); missing (a Secret is not there); stale (an endpoint serves an old certificate); unreachable (an endpoint answers no TLS handshake); invalid (other findings); expiring; ok. With the time left to the first certificate that its API needs, what is wrong, endpoints that are old or silent (where a replica acts), and what meshcert is doing about it. A mesh leads to its own dashboard.",
        (24, 11),
        &[
            &state,
            &left,
            &format!("{signal} * 1000"),
            &format!("count by ({MESH}) ({findings})"),
            &format!("count by ({MESH}) ({})", stale_or_silent(CHOSEN)),
            &phase_number(CHOSEN),
            &format!("{last} * 1000"),
            &held,
        ],
        &worst,
    )
    .sorted("State", false)
    .sorted("Time left", false);

    let meshes_by_cluster = format!("count by (mesh_cluster) ({all})");
    let by_cluster = Panel::table(
        "By cluster",
        "Control plane clusters: their meshes, how many of them are due, the time left to the first of them, and whether a replica leads there (only clusters on which meshcert may act).",
        (12, 8),
        &[
            &format!("min by (mesh_cluster) ({left})"),
            &meshes_by_cluster,
            &format!("count by (mesh_cluster) ({left} < {warning})\nor\n0 * {meshes_by_cluster}"),
            r#"max by (mesh_cluster) (meshcert_leader{mesh_cluster=~"$mesh_cluster"})"#,
        ],
        &[
            Column::new("mesh_cluster", "Cluster"),
            Column::new("A", "Time left").unit("dtdhms").colours(&limits.left()),
            Column::new("B", "Meshes").width(90),
            Column::new("C", "Due").width(90),
            Column::new("D", "Led").words(&[(0, "no", CRITICAL), (1, "yes", FINE)]).width(90),
        ],
    )
    .sorted("Time left", false)
    .runbook("MeshcertNotActing");

    let mut horizon = mesh_columns();
    horizon.extend([
        Column::new("component", "CA"),
        Column::new("A", "Time left").unit("dtdhms").colours(&limits.ca_left()),
        Column::new("B", "Ends").unit("dateTimeAsIso"),
    ]);

    // What the recording rules of docs/MIGRATION.md make of meshes has no job, and is above.
    let others = r#"bottomk(100, min by (secret_cluster, secret_namespace, secret_name, secret_key, subject_CN, issuer_CN) (x509_cert_not_after{job!=""}))"#;
    let rows = vec![
        Row("Now", now),
        Row("Meshes", vec![worst]),
        Row("Calendar", vec![
            Panel::bars("Meshes that end", "How many meshes end in each month. Many in one month: renew some of them early.", (12, 8), &month(&signal), "ends")
                .colours(&neutral()),
            by_cluster,
            Panel::lines("Time left", "The ten meshes with the least time left. A step upwards is a renewal; the dashed lines are where the rules warn and page.", (24, 9), &[(&format!("bottomk(10, {left})"), "{{mesh_cluster}}/{{mesh_namespace}}/{{mesh_id}}")])
                .unit("s")
                .marked(&limits.left())
                .runbook("MspiderHostedKubeAPICertExpiration"),
        ]),
        Row("How far the CAs reach", vec![
            Panel::table("CAs, first to end first", "A leaf cannot outlive its CA: what renewing can reach. Exchanging a CA has to be planned long before.", (16, 9), &[&format!("{ca} - time()"), &format!("{ca} * 1000")], &horizon)
                .sorted("Time left", false)
                .runbook("MeshcertCAEndsSoon"),
            Panel::bars("CAs that end", "How many CAs end in each month.", (8, 9), &month(&ca), "ends").colours(&neutral()),
        ]),
        Row("Other certificate Secrets", vec![
            Panel::table(
                "Certificates, first to end first",
                "Certificates of the other Secrets that the configuration's secretRules ask for, whatever is chosen above; empty without such rules.",
                (24, 9),
                &[
                    &format!("{others} - time()"),
                    &format!("{others} * 1000"),
                ],
                &[
                    Column::new("secret_namespace", "Namespace"),
                    Column::new("secret_name", "Secret"),
                    Column::new("secret_key", "Key"),
                    Column::new("subject_CN", "Subject"),
                    Column::new("issuer_CN", "Issuer"),
                    Column::new("A", "Time left").unit("dtdhms").colours(&limits.left()),
                    Column::new("B", "Ends").unit("dateTimeAsIso"),
                ],
            )
            .sorted("Time left", false),
        ]),
    ];
    Dashboard {
        uid: "meshcert-overview",
        title: "meshcert / Overview",
        description: "The certificates of all hosted meshes: worst first, by month, by cluster, and how far their CAs reach.",
        about: About::All,
        variables: mesh_variables(true),
        annotations: renewals_ended(CHOSEN),
        rows,
    }
    .model()
}
