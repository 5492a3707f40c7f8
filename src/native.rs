//! Makes the successors of a mesh's leaves in process: what `kubeadm certs renew all` would, with the Subject and every name kept.

use zeroize::Zeroizing;

use crate::admin::AdminKubeconfig;
use crate::cert::Role;
use crate::cert::issue::{CaSigner, IssueError, key_matches, reissue};
use crate::material::{Material, MeshSecrets};
use crate::mesh::{HostedMesh, MeshCertificate, Reason, SecretRole};
use crate::plan::next_end;
use crate::policy::Policy;
use crate::time::UnixTime;

pub use rsa::rand_core::CryptoRng;

/// Why a leaf cannot be renewed in process: where, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The stable code.
    pub reason: &'static str,
    /// Secret, key and remedy in words.
    pub message: String,
}

/// What stands in the way of renewing every leaf; empty: nothing.
pub fn obstacles(mesh: &HostedMesh, secrets: &MeshSecrets, now: UnixTime) -> Vec<Obstacle> {
    mesh.leaves()
        .filter_map(|leaf| {
            let place = mesh.place_of(leaf);
            let obstacle = |reason, what: String| Some(Obstacle { reason, message: format!("{place}: {what}") });
            match own_key_matches(leaf, secrets) {
                Ok(true) => {}
                Ok(false) => {
                    return obstacle(
                        "KeyMismatch",
                        "its private key is another one's; restore the pair first".to_owned(),
                    );
                }
                Err(why) => return obstacle("UnreadableKey", why),
            }
            match signer(mesh, leaf, secrets) {
                Ok(ca) if now >= ca.not_after() => {
                    obstacle("CaExpired", IssueError::CaExpired(ca.not_after()).to_string())
                }
                Ok(_) => None,
                Err((reason, what)) => obstacle(reason, what),
            }
        })
        .collect()
}

/// Why no login could prove a renewal: the admin kubeconfig does not lead to this hosted API, and its server, its CA and the certificate's names stay what they are.
pub fn unprovable(mesh: &HostedMesh, secrets: &MeshSecrets) -> Option<Obstacle> {
    let secret = secrets[SecretRole::AdminKubeconfig as usize].as_ref()?;
    let Some(admin) = AdminKubeconfig::of(secrets) else {
        let what = "no kubeconfig with an embedded client certificate and key is in it";
        let message = format!("{}: {what}; no login could prove a renewal", secret.name);
        return Some(Obstacle { reason: "KubeconfigInvalid", message });
    };
    mesh.findings.iter().find_map(|found| {
        let reason = match found.reason {
            Reason::KubeconfigWrongCa => "KubeconfigWrongCa",
            Reason::KubeconfigWrongServer if admin.tls_server_name.is_none() => "KubeconfigWrongServer",
            Reason::SanMissing if admin.tls_server_name.is_none() => "SanMissing",
            _ => return None,
        };
        Some(Obstacle { reason, message: format!("{}; no login could prove a renewal", found.message) })
    })
}

/// New content for the entries of one Secret: only what changes.
///
/// # Errors
/// An obstacle; [`obstacles`] tells all of them beforehand.
pub fn renew(
    mesh: &HostedMesh,
    secrets: &MeshSecrets,
    role: SecretRole,
    policy: &Policy,
    now: UnixTime,
    rng: &mut impl CryptoRng,
) -> Result<Material, Obstacle> {
    let mut made = Material::default();
    for leaf in mesh.leaves().filter(|leaf| leaf.secret_role == role) {
        let place = mesh.place_of(leaf);
        let obstacle = |reason, what: String| Obstacle { reason, message: format!("{place}: {what}") };
        let live =
            secrets[role as usize].as_ref().and_then(|secret| secret.material.get(&leaf.key)).unwrap_or_default();
        let (until, keeps) = next_end(mesh, leaf, policy, now);
        let lifetime = now.seconds_until(until);
        let ca = signer(mesh, leaf, secrets).map_err(|(reason, what)| obstacle(reason, what))?;
        let key_type = policy.key_type_of(&leaf.certificate);
        let failed = |error: IssueError| obstacle("IssueFailed", error.to_string());
        if role == SecretRole::AdminKubeconfig {
            let admin =
                AdminKubeconfig::read(live).map_err(|error| obstacle("KubeconfigInvalid", error.to_string()))?;
            if keeps {
                made.insert(&leaf.key, Zeroizing::new(live.to_vec()));
                continue;
            }
            let issued = reissue(&admin.certificate, &ca, key_type, lifetime, now, rng).map_err(failed)?;
            let document = admin.with_client(live, &issued.certificate_pem, &issued.key_pem);
            made.insert(&leaf.key, document.map_err(|error| obstacle("KubeconfigInvalid", error.to_string()))?);
            continue;
        }
        let key_name = key_name(&leaf.key);
        let live_key =
            secrets[role as usize].as_ref().and_then(|secret| secret.material.get(&key_name)).unwrap_or_default();
        if keeps {
            made.insert(&leaf.key, Zeroizing::new(live.to_vec()));
            made.insert(&key_name, Zeroizing::new(live_key.to_vec()));
            continue;
        }
        let issued = reissue(live, &ca, key_type, lifetime, now, rng).map_err(failed)?;
        made.insert(&leaf.key, Zeroizing::new(issued.certificate_pem.into_bytes()));
        made.insert(&key_name, Zeroizing::new(issued.key_pem.as_bytes().to_vec()));
    }
    Ok(made)
}

/// The entries of a Secret that a renewal writes, with their present content: what is backed up and compared.
pub fn written(mesh: &HostedMesh, secrets: &MeshSecrets, role: SecretRole) -> Material {
    let Some(secret) = &secrets[role as usize] else { return Material::default() };
    let entry = |name: String| Some((name.clone(), Zeroizing::new(secret.material.get(&name)?.to_vec())));
    let leaves = mesh.leaves().filter(|leaf| leaf.secret_role == role);
    let names = leaves.flat_map(|leaf| match role {
        SecretRole::AdminKubeconfig => vec![leaf.key.to_string()],
        SecretRole::KubeCerts | SecretRole::EtcdCerts => vec![leaf.key.to_string(), key_name(&leaf.key)],
    });
    names.filter_map(entry).collect()
}

/// Whether a leaf's key is its own.
///
/// # Errors
/// In words, why that cannot be said.
pub fn own_key_matches(leaf: &MeshCertificate, secrets: &MeshSecrets) -> Result<bool, String> {
    let secret = secrets[leaf.secret_role as usize].as_ref().ok_or("its Secret is missing")?;
    let certificate = secret.material.get(&leaf.key).ok_or("it is missing")?;
    let answer = if leaf.secret_role == SecretRole::AdminKubeconfig {
        let admin = AdminKubeconfig::read(certificate).map_err(|error| error.to_string())?;
        key_matches(&admin.certificate, &admin.key)
    } else {
        let name = key_name(&leaf.key);
        let key = secret.material.get(&name).ok_or_else(|| format!("the Secret has no {name}"))?;
        key_matches(certificate, key)
    };
    answer.map_err(|error| error.to_string())
}

/// `X.key` beside `X.crt`.
pub fn key_name(certificate_key: &str) -> String {
    format!("{}.key", certificate_key.strip_suffix(".crt").unwrap_or(certificate_key))
}

/// The CA that signed a leaf, with its key, from whichever of the mesh's Secrets holds it: beside the certificate, or beside another one of the same key, as where
/// a CA was extended and its new certificate is not everywhere yet.
fn signer(
    mesh: &HostedMesh,
    leaf: &MeshCertificate,
    secrets: &MeshSecrets,
) -> Result<CaSigner, (&'static str, String)> {
    let signed = |found: &&MeshCertificate| Some(found.certificate.fingerprint) == leaf.signed_by;
    let Some(ca) = mesh.certificates.iter().find(signed) else {
        return Err((
            "WrongCa",
            "none of the mesh's CAs signed it; put the right ca.crt into the Secrets first".to_owned(),
        ));
    };
    let der = ca.certificate.der.as_deref().unwrap_or_default();
    let mut why = ("ExternalCa", "the CA's certificate is in none of the Secrets".to_owned());
    // The kubeconfig's copy of the CA has no key beside it.
    let in_secrets = |found: &&MeshCertificate| found.secret_role != SecretRole::AdminKubeconfig;
    let cas = || mesh.certificates.iter().filter(|found| found.certificate.role == Role::Ca).filter(in_secrets);
    let others = cas().filter(|found| !signed(found) && found.certificate.subject == ca.certificate.subject);
    for place in cas().filter(signed).chain(others) {
        let Some(secret) = &secrets[place.secret_role as usize] else { continue };
        let name = key_name(&place.key);
        match secret.material.get(&name) {
            Some(key) => match CaSigner::read(der, key) {
                Err(IssueError::KeyMismatch) if !signed(&place) => {}
                read => return read.map_err(|error| ("CaUnusable", format!("{}, {name}: {error}", secret.name))),
            },
            None if signed(&place) => {
                why.1 = format!("{} has no {name}: the CA is external; renew with whoever holds its key", secret.name);
            }
            None => {}
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};

    use super::*;
    use crate::audit::audit;
    use crate::material::overlay;
    use crate::plan::Plan;
    use crate::testpki::{Ca, NOW, SERVER, mesh_of, mk_params, mk_secrets};
    use crate::time::DAY;

    /// What is odd about one leaf and its CA.
    #[derive(Clone, Debug)]
    struct Odd {
        leaf_days: i64,
        ca_days: i64,
        /// The CA once more under its key, behind the other.
        extended: Option<i64>,
        /// Organizational units of its Subject.
        units: Vec<String>,
        names: Vec<String>,
        is_server: bool,
        /// The CA stands behind the leaf too.
        has_chain: bool,
        lifetime_days: i64,
    }

    fn mk_odd() -> impl Strategy<Value = Odd> {
        let whose = (-30..4000_i64, 1..4000_i64, proptest::option::of(1..4000_i64), 10..800_i64);
        let names = proptest::collection::vec("[a-z]{1,8}(\\.[a-z]{1,8}){0,2}", 0..5);
        let what = (proptest::collection::vec("[ -~]{1,12}", 0..3), names, any::<bool>(), any::<bool>());
        (whose, what).prop_map(
            |((leaf_days, ca_days, extended, lifetime_days), (units, names, is_server, has_chain))| Odd {
                leaf_days,
                ca_days,
                extended,
                units,
                names,
                is_server,
                has_chain,
                lifetime_days,
            },
        )
    }

    /// A mesh whose front proxy is odd.
    fn mk_mesh(odd: &Odd) -> MeshSecrets {
        let key = KeyPair::generate().unwrap().serialize_pem();
        let ca = |days| Ca::with_key("front-proxy-ca", days, KeyPair::from_pem(&key).unwrap());
        let mut params = mk_params("front-proxy-client", odd.leaf_days, &[]);
        for unit in &odd.units {
            params.distinguished_name.push(DnType::OrganizationalUnitName, unit.as_str());
        }
        params.subject_alt_names =
            odd.names.iter().map(|name| SanType::DnsName(name.as_str().try_into().unwrap())).collect();
        let usage =
            if odd.is_server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
        params.extended_key_usages = vec![usage];
        let present = ca(odd.ca_days);
        let (leaf, own) = present.pair_of(params);
        let chain = if odd.has_chain { &*present.pem } else { "" };
        let extended = odd.extended.map(|days| ca(days).pem).unwrap_or_default();
        let mut secrets = mk_secrets(20);
        let kube = secrets[SecretRole::KubeCerts as usize].as_mut().unwrap();
        let mut put = |key: &str, text: String| kube.material.insert(key, Zeroizing::new(text.into_bytes()));
        put("front-proxy-ca.crt", present.pem.clone() + &extended);
        put("front-proxy-ca.key", key.clone());
        put("front-proxy-client.crt", leaf + chain);
        put("front-proxy-client.key", own);
        secrets
    }

    #[test]
    fn what_keeps_every_login_from_proving_a_renewal_names_its_place_once() {
        let mut secrets = mk_secrets(20);
        let admin = secrets[SecretRole::AdminKubeconfig as usize].as_mut().unwrap();
        let config = str::from_utf8(admin.material.get("config").unwrap()).unwrap();
        let elsewhere = config.replace(SERVER, "https://elsewhere.example:6443");
        admin.material.insert("config", Zeroizing::new(elsewhere.into_bytes()));
        let message = "demo-apiserver-admin-kubeconfig, config: its server is elsewhere.example, neither demo-hosted-apiserver nor a name that the API server's certificate holds; no login could prove a renewal";
        let expected = Obstacle { reason: "KubeconfigWrongServer", message: message.to_owned() };
        assert_eq!(unprovable(&mesh_of(&secrets), &secrets), Some(expected));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_renewal_reaches_what_it_planned_shortens_nothing_and_keeps_every_name(odd in mk_odd()) {
            let before = mk_mesh(&odd);
            let mesh = mesh_of(&before);
            prop_assert_eq!(obstacles(&mesh, &before, NOW), vec![]);
            let policy = Policy { lifetime: odd.lifetime_days * DAY, ..Policy::default() };
            let plan = Plan::make("u", &mesh, &[], &policy, NOW);
            let made = SecretRole::ALL.map(|role| renew(&mesh, &before, role, &policy, NOW, &mut rand::rng()).unwrap());
            let after = overlay(&before, &made);
            let renewed = mesh_of(&after);
            prop_assert_eq!(audit(&plan, &before, &after, &renewed, NOW), vec![]);
            prop_assert_eq!(renewed.expiration, Some(plan.ends_at));
            for (old, new) in mesh.leaves().zip(renewed.leaves()) {
                prop_assert!(new.effective_not_after >= old.effective_not_after, "{}", old.key);
                prop_assert!(new.certificate.not_after <= new.effective_not_after, "{} outlives its CA", old.key);
                prop_assert_eq!(&new.certificate.subject, &old.certificate.subject);
                prop_assert_eq!(new.certificate.details(), old.certificate.details());
            }
            let cas = |mesh: &HostedMesh| {
                let cas = mesh.certificates.iter().filter(|found| found.certificate.role == Role::Ca);
                cas.map(|found| (found.key.clone(), found.certificate.fingerprint)).collect::<Vec<_>>()
            };
            prop_assert_eq!(cas(&renewed), cas(&mesh), "none is lost, also behind a leaf");
        }
    }
}
