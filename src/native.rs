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
        let secret = mesh.secret_name(found.secret_role);
        let message = format!("{secret}, {}: {}; no login could prove a renewal", found.key, found.message);
        Some(Obstacle { reason, message })
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
