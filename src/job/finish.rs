//! What is put right in what the Job wrote, before it is sealed and judged.

use zeroize::Zeroizing;

use crate::admin::AdminKubeconfig;
use crate::cert::Certificate;
use crate::cert::parse::{NamePool, Retain, read_entry};
use crate::material::{Material, MeshSecrets};
use crate::mesh::{HostedMesh, MeshCertificate, SecretRole};
use crate::native::{self, CryptoRng, Obstacle, key_name};
use crate::policy::{AdminSubject, Policy};
use crate::time::UnixTime;

/// What becomes of a leaf that the Job wrote.
enum Fate {
    /// It is taken as it is.
    Take,
    /// The present one stays, with its key; why.
    Keep(String),
    /// It is made again in process; why.
    Reissue(String),
}

/// The content of one staged copy as it is to be sealed: kubeadm's, apart from what is put right. `staged` is what the Job left.
///
/// # Errors
/// The admin's certificate has to be made again, and that cannot be done.
pub fn finish(
    mesh: &HostedMesh,
    live: &MeshSecrets,
    staged: &MeshSecrets,
    role: SecretRole,
    policy: &Policy,
    now: UnixTime,
    rng: &mut impl CryptoRng,
) -> Result<Material, Obstacle> {
    let mut finished = Material::default();
    let content = |secrets: &MeshSecrets, key: &str| {
        let secret = secrets[role as usize].as_ref()?;
        Some(Zeroizing::new(secret.material.get(key)?.to_vec()))
    };
    for leaf in mesh.leaves().filter(|leaf| leaf.secret_role == role) {
        let from = match fate(mesh, leaf, staged, policy) {
            Fate::Reissue(_) => {
                let made = native::renew(mesh, live, role, policy, now, rng)?;
                if let Some(document) = made.get(&leaf.key) {
                    finished.insert(&leaf.key, Zeroizing::new(document.to_vec()));
                }
                continue;
            }
            Fate::Keep(_) => live,
            Fate::Take => staged,
        };
        let Some(made) = content(from, &leaf.key) else { continue };
        if role == SecretRole::AdminKubeconfig {
            let document = content(live, &leaf.key).and_then(|document| with_client_of(&document, &made));
            finished.insert(&leaf.key, document.unwrap_or(made));
            continue;
        }
        finished.insert(&leaf.key, made);
        let name = key_name(&leaf.key);
        if let Some(key) = content(from, &name) {
            finished.insert(&name, key);
        }
    }
    Ok(finished)
}

/// What [`finish`] puts right, in words, for the journal.
pub fn repairs(mesh: &HostedMesh, staged: &MeshSecrets, policy: &Policy) -> Vec<String> {
    let repair = |leaf: &MeshCertificate| match fate(mesh, leaf, staged, policy) {
        Fate::Take => None,
        Fate::Keep(why) | Fate::Reissue(why) => Some(format!("{}: {why}", mesh.place_of(leaf))),
    };
    mesh.leaves().filter_map(repair).collect()
}

fn fate(mesh: &HostedMesh, leaf: &MeshCertificate, staged: &MeshSecrets, policy: &Policy) -> Fate {
    let made = staged[leaf.secret_role as usize].as_ref().and_then(|secret| secret.material.get(&leaf.key));
    // What cannot be read is the audit's to object to.
    let Some(made) = made.and_then(|bytes| certificate(leaf, bytes)) else { return Fate::Take };
    if made.serial_number == leaf.certificate.serial_number {
        return Fate::Take;
    }
    if made.not_after < leaf.effective_not_after {
        return Fate::Keep(format!("kept with its key: it lasts until {}", leaf.effective_not_after));
    }
    let is_admin = leaf.secret_role == SecretRole::AdminKubeconfig;
    if is_admin && policy.admin_subject == AdminSubject::Repair && differs(mesh, leaf, &made) {
        return Fate::Reissue(format!(
            "made again in process with the subject {}, for kubeadm wrote {}",
            leaf.certificate.subject, made.subject
        ));
    }
    Fate::Take
}

/// Whether something that has to be kept is another one.
fn differs(mesh: &HostedMesh, leaf: &MeshCertificate, made: &Certificate) -> bool {
    let of = |certificate: &Certificate| {
        let details = certificate.details();
        (details.names(), details.extended_key_usages)
    };
    let same_ca = mesh
        .certificates
        .iter()
        .any(|ca| Some(ca.certificate.fingerprint) == leaf.signed_by && ca.certificate.subject == made.issuer);
    leaf.certificate.subject != made.subject || of(&leaf.certificate) != of(made) || !same_ca
}

/// The first certificate of an entry; of a kubeconfig, its client's.
fn certificate(leaf: &MeshCertificate, bytes: &[u8]) -> Option<Certificate> {
    let admin;
    let bytes = if leaf.secret_role == SecretRole::AdminKubeconfig {
        admin = AdminKubeconfig::read(bytes).ok()?;
        &*admin.certificate
    } else {
        bytes
    };
    let entry = read_entry(bytes, Retain::Der, &mut NamePool::default());
    entry.certificates.into_iter().next().map(|found| found.certificate)
}

/// The live document with the client certificate and the key of another one.
fn with_client_of(document: &[u8], made: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (live, made) = (AdminKubeconfig::read(document).ok()?, AdminKubeconfig::read(made).ok()?);
    let key = Zeroizing::new(String::from_utf8(made.key.to_vec()).ok()?);
    live.with_client(document, std::str::from_utf8(&made.certificate).ok()?, &key).ok()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::audit::audit;
    use crate::material::overlay;
    use crate::plan::Plan;
    use crate::testpki::{Ca, NOW, kubeconfig, mesh_of, mk_admin, mk_secrets};

    /// What a Job left: the live Secrets' leaves renewed, the admin's under another organization.
    fn left(live: &MeshSecrets, lifetime: i64, organization: &str) -> MeshSecrets {
        let mesh = mesh_of(live);
        let policy = Policy { lifetime, ..Policy::default() };
        let made =
            SecretRole::ALL.map(|role| native::renew(&mesh, live, role, &policy, NOW, &mut rand::rng()).unwrap());
        let mut staged = overlay(live, &made);
        let kube = live[0].as_ref().unwrap();
        let ca = Ca::read(kube.material.get("ca.crt").unwrap(), kube.material.get("ca.key").unwrap());
        let (certificate, key) = mk_admin(&ca, organization, 365);
        let config = kubeconfig("https://by-kubeadm:6443", &ca.pem, &certificate);
        let config = config.replace("c2VjcmV0LWtleQ==", &STANDARD.encode(key));
        staged[2].as_mut().unwrap().material.insert("config", Zeroizing::new(config.into_bytes()));
        staged
    }

    fn finished(live: &MeshSecrets, staged: &MeshSecrets, policy: &Policy) -> (Vec<&'static str>, [Material; 3]) {
        let mesh = mesh_of(live);
        let made =
            SecretRole::ALL.map(|role| finish(&mesh, live, staged, role, policy, NOW, &mut rand::rng()).unwrap());
        let plan = Plan::make("u", &mesh, &[], policy, NOW);
        let after = overlay(live, &made);
        let objections = audit(&plan, live, &after, &mesh_of(&after), NOW);
        (objections.into_iter().map(|objection| objection.reason).collect(), made)
    }

    #[test]
    fn the_admins_subject_is_kept_and_its_kubeconfig_is_the_live_one_with_other_credentials() {
        let live = mk_secrets(20);
        let staged = left(&live, 365 * crate::time::DAY, "kubeadm:cluster-admins");
        let said = repairs(&mesh_of(&live), &staged, &Policy::default());
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("demo-apiserver-admin-kubeconfig, config: made again"), "{said:?}");
        assert!(said[0].contains("kubeadm wrote O=kubeadm:cluster-admins"), "{said:?}");
        let (objections, made) = finished(&live, &staged, &Policy::default());
        assert_eq!(objections, Vec::<&str>::new());
        let config = AdminKubeconfig::read(made[2].get("config").unwrap()).unwrap();
        assert_eq!(config.server, crate::testpki::SERVER);
        assert!(made[0].get("ca.key").is_none(), "nothing but what a commit writes");
    }

    #[test]
    fn where_the_policy_refuses_another_subject_the_audit_objects() {
        let live = mk_secrets(20);
        let staged = left(&live, 365 * crate::time::DAY, "kubeadm:cluster-admins");
        let refuse = Policy { admin_subject: AdminSubject::Refuse, ..Policy::default() };
        assert_eq!(repairs(&mesh_of(&live), &staged, &refuse), Vec::<String>::new());
        assert_eq!(finished(&live, &staged, &refuse).0, ["SubjectChanged"]);
    }

    #[test]
    fn a_leaf_that_would_become_shorter_stays_with_its_key() {
        let live = mk_secrets(400);
        // As kubeadm does it: everything is made anew, however long it lasts.
        let other = mk_secrets(365);
        let mut staged = live.clone();
        for role in [SecretRole::KubeCerts, SecretRole::EtcdCerts] {
            staged[role as usize].as_mut().unwrap().material = other[role as usize].as_ref().unwrap().material.clone();
        }
        let said = repairs(&mesh_of(&live), &staged, &Policy::default());
        assert_eq!(said.len(), 7, "{said:?}");
        let (objections, made) = finished(&live, &staged, &Policy::default());
        assert_eq!(objections, Vec::<&str>::new());
        for role in SecretRole::ALL {
            let material = &live[role as usize].as_ref().unwrap().material;
            assert_eq!(material.same_entries(&made[role as usize]), made[role as usize], "{}", role.as_str());
        }
    }

    #[test]
    fn what_the_job_skipped_or_broke_is_left_for_the_audit() {
        let live = mk_secrets(20);
        let mut staged = left(&live, 365 * crate::time::DAY, "kubeadm:cluster-admins");
        let old = |key: &str| Zeroizing::new(live[0].as_ref().unwrap().material.get(key).unwrap().to_vec());
        let kube = &mut staged[0].as_mut().unwrap().material;
        for key in ["apiserver.crt", "apiserver.key"] {
            kube.insert(key, old(key));
        }
        kube.insert("front-proxy-client.crt", Zeroizing::new(b"no certificate".to_vec()));
        let (mut objections, _) = finished(&live, &staged, &Policy::default());
        objections.sort_unstable();
        assert_eq!(objections, ["LeafMissing", "NotRenewed"]);
    }
}
