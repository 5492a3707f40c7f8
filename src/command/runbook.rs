//! `meshcert runbook`: the manual procedure for one mesh, as a shell script, for the day on which meshcert itself is down. Its source is the alert's runbook.

use std::io;

use crate::app::{Sources, process};
use crate::cli::{MeshArgs, Outcome};
use crate::command::renewal::{Found, find};
use crate::command::write;
use crate::rollout::{Kind, Workload};
use crate::runbook::filled;

const RUNBOOK: &str = include_str!("../../docs/runbooks/MspiderHostedKubeAPICertExpiration.md");

/// Prints the script.
///
/// # Errors
/// The mesh or a workload is not there.
pub fn run(args: MeshArgs) -> anyhow::Result<Outcome> {
    let MeshArgs { mesh, connect } = args;
    process::run(async {
        let found = find(&Sources::from(connect), &mesh).await?;
        let tiers = found.workloads().await?;
        write(io::stdout(), script(&found, &tiers))?;
        Ok(Outcome::Fine)
    })
}

fn script(found: &Found, tiers: &[Vec<Workload>]) -> String {
    let (namespace, mesh) = (&found.mesh.key.namespace, found.mesh.key.id.as_str());
    let mut out = format!(
        "#!/usr/bin/env bash\n# Renews the certificates of hosted mesh {mesh} by hand, with a kubectl that points to its control plane cluster.\nset -euo pipefail\n"
    );
    let fences = fences(RUNBOOK.split("\n## Mitigation\n").nth(1).unwrap_or_default());
    // Saving, the Job, waiting for it; what it logged. The restarts are this mesh's own.
    for (language, text) in fences.iter().take(3) {
        out.push('\n');
        match *language {
            "yaml" => out.push_str(&format!("kubectl create -f - <<'MANIFEST'\n{text}MANIFEST\n")),
            _ => out.push_str(text),
        }
    }
    let mut out = filled(&out, mesh, namespace);
    out.push_str(&format!("kubectl -n {namespace} logs job/{mesh}-hosted-apiserver-certs-renew\n"));
    for workload in tiers.iter().flatten() {
        let kind = match workload.kind {
            Kind::StatefulSet => "statefulset",
            Kind::Deployment => "deployment",
            Kind::DaemonSet => "daemonset",
        };
        let name = format!("{kind}/{}", workload.name);
        out.push_str(&format!(
            "\nkubectl -n {namespace} rollout restart {name}\nkubectl -n {namespace} rollout status {name} --timeout=5m\n"
        ));
    }
    out.push_str(
        "\n# Then look whether the certificates are new, and whether an object can be created in the mesh's API:\n",
    );
    let proof = fences.last().map(|(_, text)| filled(text, mesh, namespace)).unwrap_or_default();
    proof.lines().for_each(|line| out.push_str(&format!("# {line}\n")));
    out
}

/// The fenced blocks of a page: language and text, without their indentation.
fn fences(page: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let indent = line.len() - line.trim_start().len();
        let inside = lines.by_ref().take_while(|line| line.trim() != "```");
        let text: String = inside.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
        found.push((language, text));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_what_the_script_is_made_of() {
        let all = fences(RUNBOOK.split("\n## Mitigation\n").nth(1).unwrap());
        let languages: Vec<&str> = all.iter().take(3).map(|(language, _)| *language).collect();
        assert_eq!(languages, ["sh", "yaml", "sh"]);
        let job = filled(&all[1].1, "m", "ns");
        assert!(job.contains("{name: MESH_ID, value: m}") && job.contains("secretName: m-etcd-certs"), "{job}");
        assert!(job.contains("https://$MESH_ID-hosted-apiserver:6443") && job.contains("-n ns patch"), "{job}");
        assert!(all[2].1.starts_with("kubectl"), "without indentation");
        assert!(all.last().unwrap().1.contains("mesh_api create configmap"), "the proof comes last");
    }
}
