//! From the real Prometheus by way of two real Alertmanagers to a proven renewal, and back to silence.

use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::cluster::{Daemon, TOKEN, figure, until};
use crate::mesh::{Mesh, Shape};
use crate::support::daemon::Process;
use crate::support::prometheus::free_address;
use crate::support::rules::impatient_rules;
use crate::support::tools;

fn get(address: &str, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn firing(prometheus: &str) -> Option<Vec<Value>> {
    let answer: Value = serde_json::from_str(&get(prometheus, "/api/v1/alerts")?).ok()?;
    let alerts = answer["data"]["alerts"].as_array()?.clone();
    let is_ours = |alert: &Value| alert["labels"]["alertname"] == "MspiderHostedKubeAPICertExpiration";
    Some(alerts.into_iter().filter(|alert| alert["state"] == "firing" && is_ours(alert)).collect())
}

/// Notifications that an Alertmanager's webhook took.
fn delivered(alertmanager: &str) -> u64 {
    let text = get(alertmanager, "/metrics").unwrap_or_default();
    let counted = |name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains("integration=\"webhook\""));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    (counted("alertmanager_notifications_total") - counted("alertmanager_notifications_failed_total")) as u64
}

/// Two that know each other. The second would wait for the first one's word; with no patience both deliver, as they do when the network between them is slow.
fn alertmanagers(folder: &Path, program: &Path, config: &str) -> [(Process, String); 2] {
    let gossip = [free_address(), free_address()];
    [0, 1].map(|number| {
        let address = free_address();
        let arguments = [
            format!("--config.file={config}"),
            format!("--storage.path={}", folder.join(format!("alertmanager-{number}")).display()),
            format!("--web.listen-address={address}"),
            format!("--cluster.listen-address={}", gossip[number]),
            format!("--cluster.peer={}", gossip[1 - number]),
            "--cluster.peer-timeout=1ms".to_owned(),
            "--cluster.settle-timeout=2s".to_owned(),
        ];
        (Process::start(program, &arguments), address)
    })
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn an_alert_that_two_alertmanagers_deliver_ends_in_one_proven_renewal() {
    let [prometheus, alertmanager] = ["prometheus", "alertmanager"].map(|name| tools::built(name).unwrap());
    let mesh = Mesh::make("istio-system", Shape::EXPIRING);
    let folder = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    // Whoever acts would ask as soon as it has read the mesh; it is to be the alert, so nobody acts before.
    let meshcert = Daemon::start_with("istio-system", "observe,webhook", "mode: auto");
    let token = file("token", TOKEN.to_owned());
    let config = file(
        "alertmanager.yaml",
        format!(
            "route: {{receiver: meshcert, group_by: [mesh_cluster, mesh_namespace, mesh_id], group_wait: 1s, group_interval: 5s}}\n\
             receivers: [{{name: meshcert, webhook_configs: [{{url: 'http://{}/webhook', send_resolved: false, http_config: {{authorization: {{credentials_file: '{token}'}}}}}}]}}]\n",
            meshcert.address
        ),
    );
    let pair = alertmanagers(folder.path(), &alertmanager, &config);
    for (_, address) in &pair {
        until(30, "the Alertmanagers know each other", || {
            let status: Value = serde_json::from_str(&get(address, "/api/v2/status")?).ok()?;
            (status["cluster"]["peers"].as_array()?.len() == 2 && status["cluster"]["status"] == "ready").then_some(())
        });
    }
    let targets = format!("'{}', '{}'", pair[0].1, pair[1].1);
    let config = file(
        "prometheus.yaml",
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
             scrape_configs: [{{job_name: meshcert, static_configs: [{{targets: ['{}']}}]}}]\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: [{targets}]}}]}}]}}\n",
            impatient_rules(folder.path()),
            meshcert.address
        ),
    );
    let address = free_address();
    let data = folder.path().join("data");
    let arguments = [
        format!("--config.file={config}"),
        format!("--storage.tsdb.path={}", data.display()),
        format!("--web.listen-address={address}"),
    ];
    let _prometheus = Process::start(&prometheus, &arguments);

    until(60, "the alert fires", || firing(&address).filter(|alerts| !alerts.is_empty()));
    let fired = Instant::now();
    until(60, "Alertmanager asked", || Some(mesh.kubectl(&["get", "crn", "-o", "name"])).filter(|all| !all.is_empty()));
    let _acting = Daemon::start_with("istio-system", "act", "mode: auto");
    let renewal = mesh.wait_for("Succeeded", 240);
    figure("from the alert in Prometheus to proof (s)", &fired.elapsed().as_secs().to_string());
    until(60, "both Alertmanagers delivered", || pair.iter().all(|(_, address)| delivered(address) > 0).then_some(()));
    until(60, "the alert is over", || firing(&address).filter(Vec::is_empty));
    figure("from the alert in Prometheus to its end (s)", &fired.elapsed().as_secs().to_string());

    let all =
        mesh.kubectl(&["get", "crn", "-o", "jsonpath={range .items[*]}{.metadata.name} {.spec.trigger}{\"\\n\"}{end}"]);
    assert_eq!(all, format!("{renewal} Alert\n"), "exactly one, and the alert asked for it");
    assert_eq!(mesh.status(&renewal, "attempt"), "1");
    mesh.prove();
    let rollouts: Vec<u32> = mesh.rollouts().iter().map(|(_, count)| *count).collect();
    assert_eq!(rollouts, [2, 2, 2, 2, 1]);
}
