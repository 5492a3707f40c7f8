//! One mesh: every certificate, what is stored against what is served, its renewals on the time line.

use serde_json::Value;

use crate::common::*;
use crate::grafana::{About, Column, Dashboard, Panel, Row};

/// What tells the certificates of a mesh apart.
const PLACE: &str = "secret, key, position";

pub fn model(limits: &Limits) -> Value {
    let ends = format!("min by ({PLACE}) (meshcert_certificate_not_after_timestamp_seconds{{{ONE}}})");
    let begins = format!("max by ({PLACE}) (meshcert_certificate_not_before_timestamp_seconds{{{ONE}}})");
    let described = format!(
        "max by ({PLACE}, component, role, subject_cn, issuer_cn, serial_number, key_algorithm) (meshcert_certificate_info{{{ONE}}})"
    );
    let with_component = |role: &str| first_ends("component", ONE, role);
    let signal = format!("min({SIGNAL}{{{ONE}}})");
    let invalid = format!("max by ({PLACE}, reason) (meshcert_certificate_invalid{{{ONE}}})");
    let missing = format!("max by (secret_role) (meshcert_hosted_mesh_secret_present{{{ONE}}}) == 0");
    let served = |metric: &str, aggregate: &str| {
        format!("{aggregate} by (endpoint) (meshcert_served_certificate_{metric}{{{ONE}}})")
    };
    let (handshake, stale) = (served("probe_success", "max"), served("stale", "max"));
    let served_end = served("not_after_timestamp_seconds", "min");

    let now = vec![
        Panel::stat(
            "Time left",
            "Until the first certificate that the mesh's API needs stops working.",
            5,
            &format!("{signal} - time()"),
        )
        .unit("dtdhms")
        .colours(&limits.left())
        .runbook("MspiderHostedKubeAPICertExpiration"),
        Panel::stat("Ends", "When that is.", 5, &format!("{signal} * 1000")).unit("dateTimeAsIso").colours(&neutral()),
        Panel::stat("Newest renewal", "The phase in which the mesh's newest renewal is.", 5, &phase_number(ONE))
            .words(&phases())
            .empty("none")
            .colours(&neutral())
            .runbook("MeshcertRenewalFailed")
            .runbook("MeshcertRenewalStuck"),
        Panel::stat(
            "Held up by",
            "Why policy does not let the newest renewal go on.",
            3,
            &format!("max by (reason) (meshcert_renewal_held{{{ONE}}})"),
        )
        .by_name("{{reason}}")
        .empty("nothing")
        .colours(&neutral())
        .runbook("MeshcertRenewalHeld"),
        Panel::stat(
            "Findings",
            "Entries that cannot be read or do not fit the others, and Secrets that are missing.",
            3,
            &count(&format!("{invalid}\nor\n{missing}")),
        )
        .colours(&none_wanted(WARNING))
        .runbook("MeshcertCertificateInvalid")
        .runbook("MeshcertMeshSecretMissing"),
        old_or_silent_endpoints(ONE),
    ];

    let certificates = vec![
        Panel::table(
            "Certificates",
            "Every certificate of the mesh's three Secrets. The position is the place in a bundle, or the entry of a kubeconfig; the serial number is as OpenSSL prints it.",
            (24, 12),
            &[&format!("{ends} - time()"), &format!("{ends} * 1000"), &format!("{begins} * 1000"), &described],
            &[
                Column::new("component", "Component"),
                Column::new("role", "Role").width(70),
                Column::new("A", "Time left").unit("dtdhms").colours(&limits.left()).width(170),
                Column::new("B", "Ends").unit("dateTimeAsIso").width(170),
                Column::new("C", "Since").unit("dateTimeAsIso").width(170),
                Column::new("subject_cn", "Subject"),
                Column::new("issuer_cn", "Issuer"),
                Column::new("key_algorithm", "Key").width(100),
                Column::new("serial_number", "Serial number"),
                Column::new("secret", "Secret"),
                Column::new("key", "Entry"),
                Column::new("position", "Position"),
            ],
        )
        .sorted("Time left", false),
        Panel::gauges("Leaves", "Time left to each leaf; a renewal fills all of them again.", (12, 9), &format!("sort({} - time())", with_component("leaf")), "{{component}}")
            .unit("dtdhms")
            .between(0, 366 * 86_400)
            .colours(&limits.left()),
        Panel::gauges("CAs", "Time left to each CA; no leaf can outlive its CA.", (12, 9), &format!("sort({} - time())", with_component("ca")), "{{component}}")
            .unit("dtdhms")
            .between(0, 3650 * 86_400)
            .colours(&limits.ca_left())
            .runbook("MeshcertCAEndsSoon"),
        Panel::table(
            "Findings",
            "What is wrong with the mesh's Secrets: entries, the reason of each, and Secrets that are missing.",
            (24, 6),
            &[&format!("{invalid}\nor\n{missing}")],
            &[
                Column::new("secret_role", "Missing Secret"),
                Column::new("secret", "Secret"),
                Column::new("key", "Entry"),
                Column::new("position", "Position"),
                Column::new("reason", "Reason"),
            ],
        )
        .runbook("MeshcertCertificateInvalid")
        .runbook("MeshcertMeshSecretMissing"),
    ];

    let stored_and_served = vec![
        Panel::table(
            "Endpoints",
            "What a TLS handshake with each pod showed, once a minute, by the replica that leads.",
            (12, 9),
            &[&handshake, &stale, &format!("{served_end} - time()"), &format!("{served_end} * 1000")],
            &[
                Column::new("endpoint", "Endpoint"),
                Column::new("A", "Handshake").words(&[(0, "none", CRITICAL), (1, "done", FINE)]).width(100),
                Column::new("B", "Serves").words(&[(0, "what is stored", FINE), (1, "another one", CRITICAL)]).width(130),
                Column::new("C", "Served, time left").unit("dtdhms").colours(&limits.left()),
                Column::new("D", "Served one ends").unit("dateTimeAsIso"),
            ],
        )
        .sorted("Served, time left", false)
        .runbook("MeshcertServedCertificateStale")
        .runbook("MeshcertEndpointUnreachable"),
        Panel::lines(
            "Time left to what is stored and what is served",
            "Where a served line stays below the stored ones after a renewal, the pod did not take the new certificate over.",
            (12, 9),
            &[(&format!("{} - time()", with_component("leaf")), "stored {{component}}"), (&format!("{served_end} - time()"), "served {{endpoint}}")],
        )
        .unit("s")
        .marked(&limits.left()),
        Panel::lanes("What the endpoints serve", "By endpoint: the stored certificate or another one. A renewal's restarts show as a moment of the other.", (24, 6), &[(&stale, "{{endpoint}}")])
            .words(&[(0, "stored", FINE), (1, "another", CRITICAL)])
            .runbook("MeshcertServedCertificateStale"),
    ];

    let renewals = vec![
        Panel::lanes(
            "Phase of the newest renewal",
            "How renewals went, phase after phase.",
            (24, 4),
            &[(&phase_number(ONE), "{{mesh_id}}")],
        )
        .words(&phases())
        .runbook("MeshcertRenewalFailed")
        .runbook("MeshcertRenewalStuck"),
        Panel::lanes(
            "Held up",
            "When policy held the newest renewal up, by reason.",
            (16, 5),
            &[(&format!("max by (reason) (meshcert_renewal_held{{{ONE}}})"), "{{reason}}")],
        )
        .words(&[(1, "held up", WARNING)])
        .runbook("MeshcertRenewalHeld"),
        Panel::table(
            "Last and next",
            "When the newest renewal ended, and when one that failed is tried again.",
            (8, 5),
            &[&format!(
                "max by (outcome) (meshcert_last_renewal_timestamp_seconds{{{ONE}}}) * 1000\nor\nlabel_replace(max(meshcert_renewal_retry_timestamp_seconds{{{ONE}}}) * 1000, \"outcome\", \"next try\", \"\", \"\")"
            )],
            &[Column::new("outcome", "What"), Column::new("A", "When").unit("dateTimeAsIso")],
        ),
    ];

    Dashboard {
        uid: "meshcert-mesh",
        title: "meshcert / Mesh",
        description: "One hosted mesh: every certificate, what its endpoints serve, and its renewals on the time line.",
        about: About::Mesh,
        variables: mesh_variables(false),
        annotations: renewals_ended(ONE),
        rows: vec![
            Row("Now", now),
            Row("Stored certificates", certificates),
            Row("Stored against served", stored_and_served),
            Row("Renewals", renewals),
        ],
    }
    .model()
}
