//! What kubeadm would lose or get wrong with a mesh: then it is renewed in process instead, and the plan says why.

use crate::cert::issue::KeyType;
use crate::cert::{Attribute, Role};
use crate::mesh::{Component, HostedMesh, MeshCertificate, SecretRole};
use crate::native::Obstacle;
use crate::policy::Policy;
use crate::time::{DAY, UnixTime};

/// How long kubeadm's leaves live, whatever the policy says.
const LIFETIME: i64 = 365 * DAY;
/// The usages that Go's crypto/x509 has a name for; kubeadm drops all others.
const KNOWN_USAGES: [&str; 7] = [
    "anyExtendedKeyUsage",
    "serverAuth",
    "clientAuth",
    "codeSigning",
    "emailProtection",
    "timeStamping",
    "OCSPSigning",
];

/// The first thing that keeps kubeadm from renewing a mesh without loss; `None`: it can.
pub fn unfit(mesh: &HostedMesh, policy: &Policy, now: UnixTime) -> Option<Obstacle> {
    if policy.lifetime != LIFETIME {
        let message = "kubeadm's certificates live 365 days, and policy.lifetime says otherwise".to_owned();
        return Some(Obstacle { reason: "KubeadmLifetime", message });
    }
    mesh.leaves().find_map(|leaf| {
        let (reason, why) = unfit_leaf(mesh, leaf, policy, now)?;
        Some(Obstacle { reason, message: format!("{}: {why}", mesh.place_of(leaf)) })
    })
}

fn unfit_leaf(
    mesh: &HostedMesh,
    leaf: &MeshCertificate,
    policy: &Policy,
    now: UnixTime,
) -> Option<(&'static str, String)> {
    let key_type = policy.key_type_of(&leaf.certificate);
    if key_type != KeyType::Rsa2048 {
        let why = format!("kubeadm makes RSA-2048 keys, and this one's is to be {}", key_type.as_str());
        return Some(("KubeadmKeyType", why));
    }
    let Some((role, key)) = ca_of(leaf.component) else {
        return Some(("KubeadmUnknownLeaf", "kubeadm does not know this certificate".to_owned()));
    };
    let ca = mesh.certificates.iter().find(|found| found.secret_role == role && &*found.key == key);
    match ca {
        Some(ca) if leaf.signed_by == Some(ca.certificate.fingerprint) => {
            if ca.effective_not_after < now.plus(LIFETIME) {
                let why =
                    format!("its CA ends at {}, and kubeadm's certificate would outlive it", ca.effective_not_after);
                return Some(("KubeadmOutlivesCa", why));
            }
        }
        _ => {
            let why = format!("kubeadm would sign with {} of {}", key, mesh.secret_name(role));
            return Some(("KubeadmOtherCa", format!("{why}, which did not sign the present one")));
        }
    }
    let is_behind =
        |found: &MeshCertificate| (found.secret_role, &found.key) == (leaf.secret_role, &leaf.key) && !found.is_first();
    if leaf.component != Component::Admin
        && mesh.certificates.iter().any(|found| found.certificate.role == Role::Ca && is_behind(found))
    {
        return Some(("KubeadmDropsChain", "kubeadm would drop the CA that stands behind it".to_owned()));
    }
    // The admin's is not renewed but made anew, and repaired from the present one.
    if leaf.component == Component::Admin { None } else { loses(leaf) }
}

/// Of Subject, names and usages, what `kubeadm certs renew` does not carry over.
fn loses(leaf: &MeshCertificate) -> Option<(&'static str, String)> {
    let subject = &leaf.certificate.subject;
    let kinds: Vec<&Attribute> = subject.0.iter().map(|(kind, _)| kind).collect();
    if !matches!(kinds[..], [Attribute::Cn] | [Attribute::O, Attribute::Cn]) {
        return Some(("KubeadmDropsSubject", format!("kubeadm would not keep its subject {subject} as it is")));
    }
    let details = leaf.certificate.details();
    if !details.other_names.is_empty() {
        let why = format!("kubeadm would drop its names {}", details.other_names.join(", "));
        return Some(("KubeadmDropsNames", why));
    }
    let usages = &details.extended_key_usages;
    if usages.is_empty() {
        return Some(("KubeadmDropsUsages", "kubeadm signs nothing without an extended key usage".to_owned()));
    }
    let unknown: Vec<&str> = usages.iter().map(String::as_str).filter(|usage| !KNOWN_USAGES.contains(usage)).collect();
    let why = format!("kubeadm would drop its extended key usages {}", unknown.join(", "));
    (!unknown.is_empty()).then_some(("KubeadmDropsUsages", why))
}

/// The CA that kubeadm signs a leaf with.
fn ca_of(component: Component) -> Option<(SecretRole, &'static str)> {
    match component {
        Component::Apiserver | Component::ApiserverKubeletClient | Component::Admin => {
            Some((SecretRole::KubeCerts, "ca.crt"))
        }
        Component::FrontProxyClient => Some((SecretRole::KubeCerts, "front-proxy-ca.crt")),
        Component::ApiserverEtcdClient
        | Component::EtcdServer
        | Component::EtcdPeer
        | Component::EtcdHealthcheckClient => Some((SecretRole::EtcdCerts, "ca.crt")),
        Component::Ca | Component::FrontProxyCa | Component::EtcdCa | Component::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CustomExtension, DnType, ExtendedKeyUsagePurpose, SanType};

    use super::*;
    use crate::testpki::{Ca, NOW, Pki, mk_params};

    fn policy() -> Policy {
        Policy { key_type: Some(KeyType::Rsa2048), ..Policy::default() }
    }

    /// A mesh whose leaves kubeadm would carry over; one of them changed.
    fn reason(change: impl FnOnce(&mut Pki)) -> Option<&'static str> {
        let mut pki = Pki::kubeadm(20);
        change(&mut pki);
        unfit(&pki.mesh(), &policy(), NOW).map(|obstacle| obstacle.reason)
    }

    fn mk_leaf(ca: &Ca, change: impl FnOnce(&mut rcgen::CertificateParams)) -> String {
        let mut params = mk_params("kube-apiserver", 20, &["demo-hosted-apiserver"]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        ca.sign(params)
    }

    #[test]
    fn what_kubeadm_made_itself_it_can_renew() {
        assert_eq!(reason(|_| {}), None);
    }

    #[test]
    fn everything_that_kubeadm_would_lose_has_its_reason() {
        let with = |change: fn(&mut rcgen::CertificateParams)| {
            reason(|pki| {
                let leaf = mk_leaf(&pki.ca, change);
                pki.set(SecretRole::KubeCerts, "apiserver.crt", leaf);
            })
        };
        assert_eq!(with(|_| {}), None);
        let unit = |params: &mut rcgen::CertificateParams| {
            params.distinguished_name.push(DnType::OrganizationalUnitName, "platform");
        };
        assert_eq!(with(unit), Some("KubeadmDropsSubject"));
        let address = |params: &mut rcgen::CertificateParams| {
            params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
        };
        assert_eq!(with(address), None);
        let uri = |params: &mut rcgen::CertificateParams| {
            params.subject_alt_names.push(SanType::URI("spiffe://x".try_into().unwrap()));
        };
        assert_eq!(with(uri), Some("KubeadmDropsNames"));
        assert_eq!(with(|params| params.extended_key_usages.clear()), Some("KubeadmDropsUsages"));
        let usage = |params: &mut rcgen::CertificateParams| {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 2, 3, 5]));
        };
        assert_eq!(with(usage), Some("KubeadmDropsUsages"));
        // Other extensions are neither engine's to keep.
        let custom = |params: &mut rcgen::CertificateParams| {
            params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]));
        };
        assert_eq!(with(custom), None);

        let chain = |pki: &mut Pki| {
            let leaf = mk_leaf(&pki.ca, |_| {});
            pki.set(SecretRole::KubeCerts, "apiserver.crt", leaf + &pki.ca.pem);
        };
        assert_eq!(reason(chain), Some("KubeadmDropsChain"));
        let other = reason(|pki| pki.set(SecretRole::KubeCerts, "extra.crt", pki.ca.leaf("extra", 20, &[])));
        assert_eq!(other, Some("KubeadmUnknownLeaf"));
        let elsewhere = |pki: &mut Pki| {
            let etcd_ca = pki.etcd_ca.pem.clone();
            pki.set(SecretRole::KubeCerts, "etcd-ca.crt", etcd_ca);
            pki.set(SecretRole::EtcdCerts, "ca.crt", Ca::new("etcd-ca", 3650).pem);
        };
        assert_eq!(reason(elsewhere), Some("KubeadmOtherCa"));
    }

    #[test]
    fn what_the_policy_wants_and_kubeadm_cannot_do_has_its_reason() {
        let mesh = Pki::kubeadm(20).mesh();
        let reason = |policy: &Policy, now| unfit(&mesh, policy, now).map(|obstacle| obstacle.reason);
        // The keys of this mesh are on P-256, and are kept so.
        assert_eq!(reason(&Policy::default(), NOW), Some("KubeadmKeyType"));
        assert_eq!(reason(&Policy { lifetime: 90 * DAY, ..policy() }, NOW), Some("KubeadmLifetime"));
        assert_eq!(reason(&policy(), NOW.plus(3650 * DAY - LIFETIME)), None);
        assert_eq!(reason(&policy(), NOW.plus(3650 * DAY - LIFETIME + 1)), Some("KubeadmOutlivesCa"));
    }
}
