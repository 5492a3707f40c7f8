//! Judges new material before it may replace what is in force: an engine's success proves nothing.

use crate::admin::AdminKubeconfig;
use crate::material::MeshSecrets;
use crate::mesh::{HostedMesh, MeshCertificate, SecretRole};
use crate::native::own_key_matches;
use crate::plan::{Plan, PlannedLeaf};
use crate::time::UnixTime;

/// Something that is wrong with new material.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// The stable code.
    pub reason: &'static str,
    /// Secret, key and what is wrong, in words.
    pub message: String,
}

/// Everything that is wrong with `after`; empty: it may replace `before`, whose leaves the plan describes.
pub fn audit(
    plan: &Plan,
    before: &MeshSecrets,
    after: &MeshSecrets,
    mesh: &HostedMesh,
    now: UnixTime,
) -> Vec<Objection> {
    let mut found = Vec::new();
    for leaf in &plan.leaves {
        audit_leaf(leaf, after, mesh, now, &mut |reason, what| {
            found.push(Objection { reason, message: format!("{}, {}: {what}", leaf.secret, leaf.key) });
        });
    }
    for role in SecretRole::ALL {
        audit_rest(plan, role, before, after, &mut found);
    }
    audit_kubeconfig(before, after, &mut found);
    found
}

fn audit_leaf(
    planned: &PlannedLeaf,
    after: &MeshSecrets,
    mesh: &HostedMesh,
    now: UnixTime,
    object: &mut impl FnMut(&'static str, String),
) {
    let is_it =
        |leaf: &&MeshCertificate| planned.secret == mesh.secret_name(leaf.secret_role) && *planned.key == *leaf.key;
    let Some(leaf) = mesh.leaves().find(is_it) else {
        return object("LeafMissing", "the new material lacks it".to_owned());
    };
    let certificate = &leaf.certificate;
    let kept = planned.next_ends_at <= planned.ends_at;
    if certificate.serial_number.to_string() == planned.serial_number && !kept {
        object("NotRenewed", "it is still the old certificate".to_owned());
    }
    if leaf.signed_by.map(|ca| ca.to_string()).unwrap_or_default() != planned.ca {
        object("WrongCa", "another CA signed it than the one that signed the old certificate".to_owned());
    }
    let subject = certificate.subject.to_string();
    if subject != planned.subject {
        object("SubjectChanged", format!("its subject is {subject}, and was {}", planned.subject));
    }
    let details = certificate.details();
    let names = details.names();
    let lost: Vec<&str> = planned.names.iter().filter(|name| !names.contains(name)).map(String::as_str).collect();
    if !lost.is_empty() {
        object("SanLost", format!("it lacks the subject alternative names {}", lost.join(", ")));
    }
    let sorted = |usages: &[String]| {
        let mut usages = usages.to_vec();
        usages.sort();
        usages
    };
    if sorted(&details.extended_key_usages) != sorted(&planned.usages) {
        object(
            "UsageChanged",
            format!("its extended key usages are {:?}, and were {:?}", details.extended_key_usages, planned.usages),
        );
    }
    if leaf.effective_not_after < planned.ends_at {
        object(
            "Shorter",
            format!("it ends at {}, before the old one at {}", leaf.effective_not_after, planned.ends_at),
        );
    }
    if leaf.effective_not_after < certificate.not_after {
        object("OutlivesCa", format!("it outlives its CA, which ends at {}", leaf.effective_not_after));
    }
    if certificate.not_before > now {
        object("NotYetValid", format!("it is valid only from {}", certificate.not_before));
    }
    match own_key_matches(leaf, after) {
        Ok(true) => {}
        Ok(false) => object("KeyMismatch", "its private key is another one's".to_owned()),
        Err(why) => object("UnreadableKey", why),
    }
}

/// CAs, service account keys and everything else stay byte for byte.
fn audit_rest(plan: &Plan, role: SecretRole, before: &MeshSecrets, after: &MeshSecrets, found: &mut Vec<Objection>) {
    let (Some(old), Some(new)) = (&before[role as usize], &after[role as usize]) else {
        found.push(Objection { reason: "SecretMissing", message: format!("the {} Secret is missing", role.as_str()) });
        return;
    };
    let is_planned = |key: &str| {
        plan.leaves.iter().any(|leaf| {
            let stem = leaf.key.strip_suffix(".crt").unwrap_or(&leaf.key);
            leaf.secret == old.name && (leaf.key == key || key.strip_suffix(".key") == Some(stem))
        })
    };
    for (key, _) in new.material.entries().filter(|(key, _)| old.material.get(key).is_none() && !is_planned(key)) {
        let message = format!("{}, {key}: it was not there before", old.name);
        found.push(Objection { reason: "UnexpectedEntry", message });
    }
    for (key, bytes) in old.material.entries().filter(|(key, _)| !is_planned(key)) {
        if new.material.get(key) != Some(bytes) {
            let message = format!("{}, {key}: it must not change, and did", old.name);
            found.push(Objection { reason: "OtherEntryChanged", message });
        }
    }
}

fn audit_kubeconfig(before: &MeshSecrets, after: &MeshSecrets, found: &mut Vec<Objection>) {
    let [Some(old), Some(new)] = [before, after].map(AdminKubeconfig::of) else { return };
    if (old.server, old.tls_server_name, old.ca) != (new.server, new.tls_server_name, new.ca) {
        let message = "the admin kubeconfig points to another server or trusts another CA".to_owned();
        found.push(Objection { reason: "KubeconfigChanged", message });
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::material::{Material, overlay};
    use crate::native::{obstacles, renew};
    use crate::policy::Policy;
    use crate::testpki::{Ca, NOW, mesh_of, mk_secrets};
    use crate::time::DAY;

    /// Before, its plan, and what the engine makes of it.
    fn renewed(days: i64) -> (MeshSecrets, Plan, [Material; 3]) {
        let before = mk_secrets(days);
        let mesh = mesh_of(&before);
        assert_eq!(obstacles(&mesh, &before, NOW), []);
        let plan = Plan::make("u", &mesh, &[], &Policy::default(), NOW);
        let made =
            SecretRole::ALL.map(|role| renew(&mesh, &before, role, &Policy::default(), NOW, &mut rand::rng()).unwrap());
        (before, plan, made)
    }

    fn reasons(before: &MeshSecrets, plan: &Plan, made: &[Material; 3]) -> Vec<&'static str> {
        let after = overlay(before, made);
        let found = audit(plan, before, &after, &mesh_of(&after), NOW);
        found.into_iter().map(|objection| objection.reason).collect()
    }

    fn put(made: &mut [Material; 3], role: SecretRole, key: &str, text: &str) {
        made[role as usize].insert(key, Zeroizing::new(text.as_bytes().to_vec()));
    }

    #[test]
    fn what_is_made_in_process_is_good() {
        let (before, plan, made) = renewed(20);
        assert_eq!(plan.leaves.len(), 8);
        assert_eq!(reasons(&before, &plan, &made), Vec::<&str>::new());
        let after = overlay(&before, &made);
        assert_eq!(mesh_of(&after).expiration, Some(NOW.plus(365 * DAY)));
    }

    #[test]
    fn a_leaf_that_would_become_shorter_is_kept_with_its_key() {
        let (before, plan, made) = renewed(400);
        assert_eq!(reasons(&before, &plan, &made), Vec::<&str>::new());
        for role in SecretRole::ALL {
            let live = &before[role as usize].as_ref().unwrap().material;
            assert_eq!(live.same_entries(&made[role as usize]), made[role as usize], "{}", role.as_str());
        }
    }

    #[test]
    fn everything_that_kubeadm_gets_wrong_with_exit_code_0_is_seen() {
        let kube = SecretRole::KubeCerts;
        let (before, plan, made) = renewed(20);
        let old = |key: &str| before[kube as usize].as_ref().unwrap().material.get(key).unwrap().to_vec();
        let other = Ca::new("kubernetes", 3650);

        let mut skipped = made.clone();
        for key in ["apiserver.crt", "apiserver.key"] {
            skipped[kube as usize].insert(key, Zeroizing::new(old(key)));
        }
        assert_eq!(reasons(&before, &plan, &skipped), ["NotRenewed"]);

        let mut missing = made.clone();
        put(&mut missing, kube, "front-proxy-client.crt", "");
        assert_eq!(reasons(&before, &plan, &missing), ["LeafMissing"]);

        let mut mixed = made.clone();
        mixed[kube as usize].insert("apiserver.key", Zeroizing::new(old("apiserver.key")));
        assert_eq!(reasons(&before, &plan, &mixed), ["KeyMismatch"]);

        let mut foreign = made.clone();
        let (certificate, key) = other.pair("kube-apiserver", 300, &["demo-hosted-apiserver", "kubernetes"]);
        put(&mut foreign, kube, "apiserver.crt", &certificate);
        put(&mut foreign, kube, "apiserver.key", &key);
        assert_eq!(reasons(&before, &plan, &foreign), ["WrongCa"]);

        let mut replaced = made.clone();
        put(&mut replaced, kube, "ca.key", &other.key());
        put(&mut replaced, kube, "sa.key", "another account");
        put(&mut replaced, kube, "new.crt", "");
        assert_eq!(reasons(&before, &plan, &replaced), ["UnexpectedEntry", "OtherEntryChanged", "OtherEntryChanged"]);
    }

    #[test]
    fn a_lost_name_another_subject_and_a_shorter_life_are_seen() {
        let (before, mut plan, made) = renewed(20);
        for leaf in plan.leaves.iter_mut().filter(|leaf| leaf.secret == "demo-etcd-certs" && leaf.key == "server.crt") {
            leaf.names.push("10.0.0.7".to_owned());
            "O=team,CN=server".clone_into(&mut leaf.subject);
            leaf.usages.push("serverAuth".to_owned());
            leaf.ends_at = NOW.plus(366 * DAY);
            leaf.next_ends_at = NOW.plus(367 * DAY);
        }
        assert_eq!(reasons(&before, &plan, &made), ["SubjectChanged", "SanLost", "UsageChanged", "Shorter"]);
    }

    #[test]
    fn a_kubeconfig_that_points_elsewhere_is_seen() {
        let (before, plan, mut made) = renewed(20);
        let config = String::from_utf8(made[2].get("config").unwrap().to_vec()).unwrap();
        put(
            &mut made,
            SecretRole::AdminKubeconfig,
            "config",
            &config.replace("demo-hosted-apiserver:6443", "elsewhere:6443"),
        );
        assert_eq!(reasons(&before, &plan, &made), ["KubeconfigChanged"]);
    }
}
