//! The daemon itself: what it reads, who leads, what it costs.

use serde_json::Value;

use crate::common::*;
use crate::grafana::{About, Column, Dashboard, Panel, Row, variable};

pub fn model() -> Value {
    let of = |metric: &str| format!("{metric}{{{REPLICAS}}}");
    let rate = |metric: &str, by: &str| format!("sum by ({by}) (rate({metric}{{{REPLICAS}}}[$__rate_interval]))");

    let rights = |of: String| format!("max by (mesh_cluster, mesh_namespace, role, resource, verb) ({of})");
    // Each replica asks for itself: one that is told nothing refuses, whatever the others know.
    let told = r#"source="webhook.meshesFrom""#;
    let told_of = |metric: &str| format!("max by (instance) ({metric}{{{REPLICAS}, {told}}})");

    let now = vec![
        Panel::stat("Replicas", "Replicas of meshcert that are scraped.", 3, &format!("count({}) or vector(0)", of("meshcert_build_info")))
            .colours(&vec![(None, CRITICAL), (Some(1), FINE)])
            .runbook("MeshcertExporterAbsent"),
        Panel::stat(
            "Version",
            "The version that runs; several during an upgrade.",
            3,
            &format!("max by (version) ({})", of("meshcert_build_info")),
        )
        .by_name("{{version}}")
        .colours(&neutral()),
        Panel::stat(
            "Clusters",
            "Clusters that are observed.",
            3,
            &count(&format!("max by (mesh_cluster) ({})", of("meshcert_cluster_info"))),
        )
        .colours(&neutral()),
        sources_down(REPLICAS),
        Panel::stat(
            "Clusters not acted on",
            "Clusters on which meshcert may act, and no replica leads that can read the renewals; also those of which the replicas that could act within the last 3 days are gone.",
            3,
            // Replicas that are gone cannot be chosen, so the chosen ones say only which clusters are watched.
            &count(&format!(
                r"max by (mesh_cluster) ({} * {}) == 0
or
(
  max by (mesh_cluster) ({})
    and on (mesh_cluster) max_over_time(meshcert_leader[3d])
    unless on (mesh_cluster) meshcert_leader
)",
                of("meshcert_leader"),
                of("meshcert_renewals_last_read_successful"),
                of("meshcert_cluster_info")
            )),
        )
        .colours(&none_wanted(WARNING))
        .runbook("MeshcertNotActing"),
        Panel::stat(
            "Configuration refused",
            "Replicas that refuse their changed configuration and run with the one before.",
            3,
            &count(&format!("{} == 0", of("meshcert_config_last_reload_successful"))),
        )
        .colours(&none_wanted(WARNING))
        .runbook("MeshcertConfigReloadFailed"),
        Panel::stat(
            "Certificates refused",
            "Listeners whose changed certificate, key or client CA is refused; the former ones are in force and will end.",
            3,
            &count(&format!("{} == 0", of("meshcert_tls_last_reload_successful"))),
        )
        .colours(&none_wanted(WARNING))
        .runbook("MeshcertListenerCertificate"),
        Panel::stat(
            "Rights too many",
            "Rights on clusters that a role has and must do without.",
            3,
            &count(&format!("{} == 1", rights(of("meshcert_excess_permission")))),
        )
        .colours(&none_wanted(WARNING))
        .runbook("MeshcertExcessPermission"),
    ];

    let sources = vec![
        Panel::table(
            "Sources",
            "What is listed and watched: a namespace of a cluster, or a cluster. Secrets held, when it last answered, and how often it failed or had to be listed anew within the time that is shown.",
            (24, 9),
            &[
                &format!("max by (source) ({})", of("meshcert_source_up")),
                &format!("max by (source) ({})", of("meshcert_source_objects")),
                &format!("max by (source) ({}) * 1000", of("meshcert_source_last_success_timestamp_seconds")),
                &format!("sum by (source) (increase(meshcert_source_errors_total{{{REPLICAS}}}[$__range]))"),
                &format!("sum by (source) (increase(meshcert_source_resyncs_total{{{REPLICAS}}}[$__range]))"),
            ],
            &[
                Column::new("source", "Source"),
                Column::new("A", "State").words(&[(0, "down", CRITICAL), (1, "up", FINE)]).width(90),
                Column::new("B", "Secrets").width(100),
                Column::new("C", "Last answer").unit("dateTimeAsIso").width(190),
                Column::new("D", "Failures").unit("short").whole().width(110),
                Column::new("E", "Full lists").unit("short").whole().width(110),
            ],
        )
        .sorted("State", false)
        .runbook("MeshcertSourceDown"),
        Panel::lanes("Sources over time", "Whether the last list or watch of each source succeeded, on any replica.", (12, 8), &[(&format!("max by (source) ({})", of("meshcert_source_up")), "{{source}}")])
            .words(&[(0, "down", CRITICAL), (1, "up", FINE)])
            .runbook("MeshcertSourceDown"),
        Panel::events("Failures by reason", "Requests to sources that failed.", (12, 8), &[(&format!("sum by (reason) (increase(meshcert_source_errors_total{{{REPLICAS}}}[$__rate_interval]))"), "{{reason}}")])
            .runbook("MeshcertSourceDown"),
    ];

    let webhooks = vec![
        Panel::table(
            "What webhooks are told",
            "Replicas with the role webhook alone see no Secret: an observing process tells them the meshes. A replica that was told nothing for a minute answers Alertmanager 503.",
            (12, 7),
            &[
                &told_of("meshcert_source_up"),
                &told_of("meshcert_source_objects"),
                &format!("{} * 1000", told_of("meshcert_source_last_success_timestamp_seconds")),
            ],
            &[
                Column::new("instance", "Replica"),
                Column::new("A", "State").words(&[(0, "out of touch", CRITICAL), (1, "in touch", FINE)]).width(110),
                Column::new("B", "Meshes").width(90),
                Column::new("C", "Last answer").unit("dateTimeAsIso").width(190),
            ],
        )
        .sorted("State", false)
        .runbook("MeshcertSourceDown"),
        Panel::events("Told nothing, by reason", "Attempts to learn the meshes that failed, on replicas with the role webhook alone.", (12, 7), &[(&format!("sum by (instance, reason) (increase(meshcert_source_errors_total{{{REPLICAS}, {told}}}[$__rate_interval]))"), "{{instance}} {{reason}}")])
            .runbook("MeshcertSourceDown"),
    ];

    let security = vec![
        Panel::table(
            "Certificates of its own",
            "What each listener with TLS shows. A refused one means that former files are in force.",
            (12, 8),
            &[
                &format!("max by (instance, listener) ({}) * 1000", of("meshcert_tls_certificate_not_after_timestamp_seconds")),
                &format!("min by (instance, listener) ({})", of("meshcert_tls_last_reload_successful")),
            ],
            &[
                Column::new("instance", "Replica"),
                Column::new("listener", "Listener").width(100),
                Column::new("A", "Ends").unit("dateTimeAsIso").width(190),
                Column::new("B", "Files").words(&[(0, "refused", CRITICAL), (1, "in force", FINE)]).width(90),
            ],
        )
        .sorted("Ends", false)
        .runbook("MeshcertListenerCertificate"),
        Panel::events("Handshakes that failed", "TLS handshakes that did not come about: client certificates that are not accepted, no TLS, time-outs.", (12, 8), &[(&format!("sum by (listener, reason) (increase(meshcert_tls_handshake_failures_total{{{REPLICAS}}}[$__rate_interval]))"), "{{listener}} {{reason}}")])
            .runbook("MeshcertListenerCertificate"),
        Panel::table(
            "Rights that a role must do without",
            "Asked of each cluster every ten minutes, for processes without the role act.",
            (24, 8),
            &[&rights(of("meshcert_excess_permission"))],
            &[
                Column::new("mesh_cluster", "Cluster"),
                Column::new("mesh_namespace", "Namespace"),
                Column::new("role", "Role"),
                Column::new("verb", "Verb"),
                Column::new("resource", "Resource"),
                Column::new("A", "State").words(&[(0, "not granted", FINE), (1, "granted", CRITICAL)]),
            ],
        )
        .sorted("State", true)
        .runbook("MeshcertExcessPermission"),
    ];

    let serving = vec![
        Panel::lanes("Leader", "Which replica leads in each cluster. While one takes over from another there may be none.", (12, 7), &[(&format!("max by (mesh_cluster, instance) ({})", of("meshcert_leader")), "{{mesh_cluster}} {{instance}}")])
            .words(&[(0, "stands by", "text"), (1, "leads", FINE)])
            .runbook("MeshcertNotActing"),
        Panel::lines("Requests", "Answered requests by handler and class of status.", (12, 7), &[(&rate("meshcert_http_requests_total", "handler, code"), "{{handler}} {{code}}")])
            .unit("reqps"),
        Panel::lines("Duration of a scrape", "How long Prometheus waited for /metrics; it measures this itself.", (8, 7), &[(&format!("max by (instance) ({} * on (job, instance) group_left () {})", of("scrape_duration_seconds"), of("meshcert_build_info")), "{{instance}}")])
            .unit("s"),
        Panel::lines("Samples of a scrape", "How many series /metrics has.", (8, 7), &[(&format!("max by (instance) ({} * on (job, instance) group_left () {})", of("scrape_samples_scraped"), of("meshcert_build_info")), "{{instance}}")])
            .unit("short"),
        Panel::lines("CPU of a scrape", "Processor time that the process spent, per scrape of /metrics: an upper bound, for it does other work too.", (8, 7), &[(
            &format!("sum by (instance) (rate(process_cpu_seconds_total{{{REPLICAS}}}[$__rate_interval]))\n/\nsum by (instance) (rate(meshcert_http_requests_total{{{REPLICAS}, handler=\"metrics\"}}[$__rate_interval]) > 0)"),
            "{{instance}}",
        )])
            .unit("s"),
    ];

    let cost = vec![
        Panel::lines(
            "Memory",
            "Resident memory of each replica.",
            (8, 7),
            &[(&of("process_resident_memory_bytes"), "{{instance}}")],
        )
        .unit("bytes"),
        Panel::lines(
            "CPU",
            "Processors that each replica uses.",
            (8, 7),
            &[(&rate("process_cpu_seconds_total", "instance"), "{{instance}}")],
        )
        .unit("short"),
        Panel::lines(
            "Open files",
            "Open file descriptors, and the most that the system allows.",
            (8, 7),
            &[(&of("process_open_fds"), "{{instance}} open"), (&of("process_max_fds"), "{{instance}} allowed")],
        )
        .unit("short"),
        Panel::lines("Threads", "Operating system threads.", (8, 7), &[(&of("process_threads"), "{{instance}}")])
            .unit("short"),
        Panel::table(
            "Processes",
            "When each replica started, and when it last read a valid configuration.",
            (16, 7),
            &[
                &format!("max by (instance) ({}) * 1000", of("process_start_time_seconds")),
                &format!("max by (instance) ({}) * 1000", of("meshcert_config_last_reload_success_timestamp_seconds")),
                &format!("max by (instance) ({})", of("meshcert_config_last_reload_successful")),
                &format!("max by (instance, version, rust_version) ({})", of("meshcert_build_info")),
            ],
            &[
                Column::new("instance", "Replica"),
                Column::new("version", "Version").width(100),
                Column::new("rust_version", "Rust").width(80),
                Column::new("A", "Started").unit("dateTimeAsIso"),
                Column::new("B", "Configuration read").unit("dateTimeAsIso"),
                Column::new("C", "Configuration").words(&[(0, "refused", CRITICAL), (1, "in force", FINE)]),
            ],
        )
        .runbook("MeshcertConfigReloadFailed"),
    ];

    Dashboard {
        uid: "meshcert-itself",
        title: "meshcert / Itself",
        description: "The daemon itself: its sources, its leader, its certificates and rights, what a scrape costs, memory and CPU.",
        about: About::All,
        variables: vec![
            variable("job", "Job", "meshcert_build_info", true),
            variable("instance", "Replica", r#"meshcert_build_info{job=~"$job"}"#, true),
        ],
        annotations: Vec::new(),
        rows: vec![
            Row("Now", now),
            Row("What it reads", sources),
            Row("Whom it serves", serving),
            Row("What webhooks are told", webhooks),
            Row("How it is closed", security),
            Row("What it costs", cost),
        ],
    }
    .model()
}
