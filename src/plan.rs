//! What a renewal is going to do, and the digest by which a person agrees to it.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cert::issue::KeyType;
use crate::digest;
use crate::job::unfit;
use crate::mesh::{HostedMesh, MeshCertificate};
use crate::policy::{Engine, Policy};
use crate::rollout::{Kind, Workload};
use crate::time::UnixTime;

/// Everything that a renewal is going to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// What a person agrees to: over what is replaced and how, never over times.
    pub digest: String,
    /// What makes the new certificates.
    pub engine: Engine,
    /// The image that runs kubeadm, with the engine `job`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Why it is not the engine that the policy names: a stable code, and what kubeadm would lose.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine_reason: String,
    /// Every leaf.
    pub leaves: Vec<PlannedLeaf>,
    /// Every restart, in order.
    pub restarts: Vec<PlannedRestart>,
    /// The signal afterwards, if it is carried out now.
    pub ends_at: UnixTime,
}

/// A leaf that is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedLeaf {
    /// The Secret's name.
    pub secret: String,
    /// The key in it.
    pub key: String,
    /// The present serial number.
    pub serial_number: String,
    /// Kept as it is.
    pub subject: String,
    /// Subject alternative names, kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Extended key usages, kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usages: Vec<String>,
    /// SHA-256 of the CA's certificate that signed the present one and signs the next.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ca: String,
    /// The next key.
    pub key_type: KeyType,
    /// The present end.
    pub ends_at: UnixTime,
    /// The next end.
    pub next_ends_at: UnixTime,
}

/// A workload that is restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedRestart {
    /// Its tier, from 0.
    pub tier: u32,
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its pods.
    pub pods: u32,
    /// What is to be expected meanwhile.
    pub outage: String,
}

impl Plan {
    /// The plan for a mesh as it is now.
    pub fn make(uid: &str, mesh: &HostedMesh, tiers: &[Vec<Workload>], policy: &Policy, now: UnixTime) -> Self {
        let leaves: Vec<PlannedLeaf> = mesh.leaves().map(|leaf| planned(mesh, leaf, policy, now)).collect();
        let restarts: Vec<PlannedRestart> = tiers
            .iter()
            .zip(0..)
            .flat_map(|(tier, index)| tier.iter().map(move |workload| planned_restart(index, workload)))
            .collect();
        let workloads = tiers.iter().flatten().map(|workload| workload.uid.clone());
        let secrets = mesh.secrets.iter().flatten().map(|secret| secret.uid.to_string());
        let facts = leaves.iter().flat_map(|leaf| {
            let PlannedLeaf { secret, key, serial_number, subject, names, usages, ca, key_type, .. } = leaf;
            let lists = [names.join("\n"), usages.join("\n"), key_type.as_str().to_owned()];
            [secret, key, serial_number, subject, ca].map(String::clone).into_iter().chain(lists)
        });
        let lost = if policy.engine == Engine::Job { unfit(mesh, policy, now) } else { None };
        let engine = if lost.is_some() { Engine::Native } else { policy.engine };
        let in_a_job = |text: &String| (engine == Engine::Job).then(|| text.clone());
        let (image, service_account) = (in_a_job(&policy.job.image), in_a_job(&policy.job.service_account));
        let how = [Some(engine.as_str().to_owned()), image.clone(), service_account.clone()].into_iter().flatten();
        let parts = [uid.to_owned()].into_iter().chain(how).chain(secrets).chain(facts).chain(workloads);
        Self {
            digest: format!("sha256:{}", digest::sha256(parts)),
            engine,
            image,
            service_account,
            engine_reason: lost.map(|lost| format!("{}: {}", lost.reason, lost.message)).unwrap_or_default(),
            ends_at: leaves
                .iter()
                .map(|leaf| leaf.next_ends_at)
                .chain(staying(mesh, policy, now).map(|found| found.effective_not_after))
                .min()
                .unwrap_or(now),
            leaves,
            restarts,
        }
    }

    /// Whether the new certificates would be made in the same way.
    pub fn makes_as(&self, other: &Self) -> bool {
        let how = |plan: &Self| {
            let key_types: Vec<_> = plan.leaves.iter().map(|leaf| leaf.key_type).collect();
            (plan.engine, plan.image.clone(), plan.service_account.clone(), key_types)
        };
        how(self) == how(other)
    }

    /// The engine with its image; or why it is not the one that the policy names.
    pub fn engine_in_words(&self) -> String {
        let engine = self.engine.as_str();
        match (&self.image, self.engine_reason.as_str()) {
            (Some(image), _) => format!("{engine}, image {image}"),
            (None, "") => engine.to_owned(),
            (None, why) => format!("{engine}, for kubeadm would lose something: {why}"),
        }
    }
}

/// What the hosted API needs and no renewal replaces: it is not the first certificate of its entry, and that one is not replaced either.
pub fn staying<'a>(
    mesh: &'a HostedMesh,
    policy: &Policy,
    now: UnixTime,
) -> impl Iterator<Item = &'a MeshCertificate> + use<'a> {
    let place = |found: &MeshCertificate| (found.secret_role as usize, found.key.clone());
    let anew: BTreeSet<_> = mesh.leaves().filter(|leaf| !next_end(mesh, leaf, policy, now).1).map(place).collect();
    mesh.certificates.iter().filter(move |found| found.needed() && !found.is_first() && !anew.contains(&place(found)))
}

/// When a successor of this leaf ends, and whether the leaf is rather kept because it lives longer; but not one that outlives its CA.
pub fn next_end(mesh: &HostedMesh, leaf: &MeshCertificate, policy: &Policy, now: UnixTime) -> (UnixTime, bool) {
    let ca = mesh.certificates.iter().find(|found| Some(found.certificate.fingerprint) == leaf.signed_by);
    let reachable = now.plus(policy.lifetime);
    let reachable = ca.map_or(reachable, |ca| reachable.min(ca.effective_not_after));
    let keeps = leaf.effective_not_after >= reachable && leaf.certificate.not_after <= leaf.effective_not_after;
    (reachable.max(leaf.effective_not_after), keeps)
}

fn planned(mesh: &HostedMesh, leaf: &MeshCertificate, policy: &Policy, now: UnixTime) -> PlannedLeaf {
    let certificate = &leaf.certificate;
    let details = certificate.details();
    PlannedLeaf {
        secret: mesh.secret_name(leaf.secret_role).to_owned(),
        key: leaf.key.to_string(),
        serial_number: certificate.serial_number.to_string(),
        subject: certificate.subject.to_string(),
        names: details.names(),
        usages: details.extended_key_usages,
        ca: leaf.signed_by.map(|fingerprint| fingerprint.to_string()).unwrap_or_default(),
        key_type: policy.key_type_of(certificate),
        ends_at: leaf.effective_not_after,
        next_ends_at: next_end(mesh, leaf, policy, now).0,
    }
}

fn planned_restart(tier: u32, workload: &Workload) -> PlannedRestart {
    let outage = match (workload.kind, workload.wanted) {
        (_, 0) => "scaled to zero: nothing to restart",
        (Kind::StatefulSet, 1) => "away until it is ready again",
        (Kind::StatefulSet, _) => "one pod after the other",
        _ => "rolling, as its strategy says",
    };
    PlannedRestart {
        tier,
        kind: workload.kind,
        name: workload.name.clone(),
        pods: workload.wanted,
        outage: outage.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testpki::{NOW, Pki};

    #[test]
    fn another_engine_image_or_account_is_another_plan_and_asks_again() {
        let mesh = Pki::kubeadm(20).mesh();
        let base = Policy { key_type: Some(KeyType::Rsa2048), ..Policy::default() };
        let by_job = Policy { engine: Engine::Job, ..base.clone() };
        let mut image = by_job.clone();
        "registry.example/kubeadm:v1".clone_into(&mut image.job.image);
        let mut account = by_job.clone();
        "renewer".clone_into(&mut account.job.service_account);
        let mut patient = by_job.clone();
        patient.job.deadline *= 2;
        let make = |policy: &Policy| Plan::make("u", &mesh, &[], policy, NOW);
        let mut digests = [&base, &by_job, &image, &account].map(|policy| make(policy).digest).to_vec();
        assert_eq!(make(&patient).digest, make(&by_job).digest, "how long it may take is nobody's consent");
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 4);
        assert_eq!((make(&base).image, make(&image).image.as_deref()), (None, Some("registry.example/kubeadm:v1")));
    }

    #[test]
    fn where_kubeadm_would_lose_something_the_plan_is_that_of_native_and_says_why() {
        let mesh = Pki::kubeadm(20).mesh();
        let native = Plan::make("u", &mesh, &[], &Policy::default(), NOW);
        let plan = Plan::make("u", &mesh, &[], &Policy { engine: Engine::Job, ..Policy::default() }, NOW);
        assert_eq!((plan.engine, &plan.digest), (Engine::Native, &native.digest));
        assert!(plan.engine_reason.starts_with("KubeadmKeyType: demo-"), "{}", plan.engine_reason);
        assert_eq!(native.engine_reason, "");
    }
}
