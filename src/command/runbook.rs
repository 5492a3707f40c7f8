//! `meshcert runbook`: the manual procedure for one mesh, as a shell script, for the day on which meshcert itself is down. Its source is the alert's runbook.

use std::io;

use crate::app::{Sources, process};
use crate::cli::{MeshArgs, Outcome};
use crate::command::renewal::{Found, find};
use crate::command::write;
use crate::job::documented_name;
use crate::mesh::{Naming, SecretRole};
use crate::policy::JobPolicy;
use crate::rollout::{Kind, Pod, Workload};
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
    out.push_str("kubectl -n istio-system logs job/MESH_ID-hosted-apiserver-certs-renew\n");
    let own = |text: &str| configured(filled(text, mesh, namespace), found);
    let mut out = own(&out);
    for workload in tiers.iter().flatten() {
        out.push('\n');
        restart(workload, namespace).iter().for_each(|command| out.push_str(&format!("{command}\n")));
    }
    out.push_str(
        "\n# Then look whether the certificates are new, and whether an object can be created in the mesh's API:\n",
    );
    let proof = fences.last().map(|(_, text)| own(text)).unwrap_or_default();
    proof.lines().for_each(|line| out.push_str(&format!("# {line}\n")));
    out
}

/// The script with what the configuration calls otherwise: the Secrets, and what the Job is.
fn configured(script: String, found: &Found) -> String {
    let id = &found.mesh.key.id;
    let usual = JobPolicy::default();
    let job = &found.acting.policy.job;
    let account = |name: &str| format!("serviceAccountName: {name}\n");
    let script = script
        .replace(&format!("{id}-hosted-apiserver-certs-renew"), &documented_name(id.as_str()))
        .replace(&account(&usual.service_account), &account(&job.service_account))
        .replace(&usual.image, &job.image);
    let usual = Naming::default().secret_names(id);
    SecretRole::ALL
        .into_iter()
        .zip(&usual)
        .fold(script, |script, (role, usual)| script.replace(&**usual, found.mesh.secret_name(role)))
}

/// The commands that restart a workload and wait until it is ready.
fn restart(workload: &Workload, namespace: &str) -> Vec<String> {
    let kubectl = format!("kubectl -n {namespace}");
    let name = format!("{}/{}", workload.kind.as_str().to_lowercase(), workload.name);
    let restart = format!("{kubectl} rollout restart {name}");
    if !workload.on_delete {
        return vec![restart, format!("{kubectl} rollout status {name} --timeout=5m")];
    }
    // It replaces no pod by itself, and kubectl refuses to wait for it.
    let replaced = workload.pods.iter().flat_map(|Pod { name, .. }| {
        let appears = format!("until {kubectl} get pod {name} >/dev/null 2>&1; do sleep 1; done");
        let ready = format!("{kubectl} wait --for=condition=Ready pod/{name} --timeout=5m");
        match workload.kind {
            Kind::StatefulSet => vec![format!("{kubectl} delete pod {name}"), appears, ready],
            _ => vec![format!("{kubectl} delete pod {name} # and wait until another one is ready in its place")],
        }
    });
    [restart].into_iter().chain(replaced).collect()
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
