//! Whether the hosted API can be used with an admin kubeconfig, as `meshcert` would use it.

use futures_util::FutureExt;
use http::{Method, StatusCode};
use serde_json::json;

use crate::admin::AdminKubeconfig;
use crate::controller::prove::{ABREAST, Spot, is_there, listening};
use crate::controller::reach::{Way, abreast};
use crate::material::MeshSecrets;
use crate::mesh::SecretRole;
use crate::probe::{Credentials, Fault, Line, ProbeError, Session};
use crate::renewal::observed::{Refusal, Unproven};
use crate::rollout::{Listener, Serves, Workload};

/// What is created and deleted in the hosted API to prove that it can be written.
const CANARY: &str = "meshcert-canary";
const CANARIES: &str = "/api/v1/namespaces/default/configmaps";

/// Where the hosted API could not be used with the admin kubeconfig of these Secrets. Each pod that is there is asked: not one that is ending, or has no address yet.
pub(super) async fn not_logged_in(
    way: &Way,
    namespace: &str,
    secrets: &MeshSecrets,
    former: Option<&MeshSecrets>,
    tiers: &[Vec<Workload>],
) -> Vec<Unproven> {
    let apis = listening(tiers, Serves::KubeApiserver, Listener::KubeApiserver);
    if apis.is_empty() {
        let message = "no pod of the hosted API is there to be asked".to_owned();
        return vec![Unproven { message, refusal: None }];
    }
    let asked = apis.iter().filter(|api| is_there(&api.pod));
    let asked = asked.map(|api| objection(way, namespace, api, secrets, former).boxed()).collect();
    abreast(ABREAST, asked).await.into_iter().flatten().collect()
}

/// That new credentials are refused shows where the same pod takes the former ones at that time: else something was wrong there before, and these are no worse.
async fn objection(
    way: &Way,
    namespace: &str,
    api: &Spot,
    secrets: &MeshSecrets,
    former: Option<&MeshSecrets>,
) -> Option<Unproven> {
    let try_with = async |secrets| log_in(api.open(way, namespace).await?, secrets).await;
    let ProbeError { mut message, fault } = try_with(secrets).await.err()?;
    message.insert_str(0, "login: ");
    let refusal = match former {
        Some(former) if fault == Fault::Certificate => match try_with(former).await {
            // Who gets an answer, whatever it is, was recognized.
            Ok(()) | Err(ProbeError { fault: Fault::Answer, .. }) => Some(Refusal::OfNew),
            Err(ProbeError { fault: Fault::Certificate, .. }) => {
                message.push_str("; so are the former credentials: it was like that before");
                None
            }
            Err(ProbeError { message: why, fault: Fault::Endpoint | Fault::Way }) => {
                message = format!("{message}; whether it takes the former credentials is not known: {why}");
                Some(Refusal::Unclear)
            }
        },
        _ => None,
    };
    Some(Unproven { message, refusal })
}

/// Logs in as the admin kubeconfig says, but at this end of a line; creates an object and deletes it.
async fn log_in(line: Line, secrets: &MeshSecrets) -> Result<(), ProbeError> {
    let admin = AdminKubeconfig::of(secrets).ok_or_else(|| {
        let there = secrets[SecretRole::AdminKubeconfig as usize].is_some();
        ProbeError::of_endpoint(format!("the admin kubeconfig {}", if there { "cannot be read" } else { "is missing" }))
    })?;
    let name = admin.tls_server_name.as_deref().unwrap_or_else(|| admin.host());
    // Whoever verifies nothing needs no CA; what is asked is to be the mesh's hosted API all the same.
    let kube = secrets[SecretRole::KubeCerts as usize].as_ref().and_then(|secret| secret.material.get("ca.crt"));
    let ca = if admin.ca.is_empty() { kube.unwrap_or_default() } else { &admin.ca };
    let credentials = Credentials { ca, certificate: &admin.certificate, key: &admin.key };
    let mut session = Session::open(line, name, &credentials).await?;
    let one = format!("{CANARIES}/{CANARY}");
    let canary = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": CANARY } }).to_string();
    let (created, _) = session.send(Method::POST, CANARIES, Some(canary)).await?;
    // One that is there already was left by a proof that was interrupted.
    expect("creating a canary object", created, &[StatusCode::CREATED, StatusCode::OK, StatusCode::CONFLICT])?;
    let (deleted, _) = session.send(Method::DELETE, &one, None).await?;
    expect("deleting the canary object", deleted, &[StatusCode::OK, StatusCode::ACCEPTED, StatusCode::NOT_FOUND])
}

fn expect(what: &str, status: StatusCode, fine: &[StatusCode]) -> Result<(), ProbeError> {
    if fine.contains(&status) {
        return Ok(());
    }
    // The Subject is kept: what it may not do now, it might not do before.
    let fault = if status == StatusCode::UNAUTHORIZED { Fault::Certificate } else { Fault::Answer };
    Err(ProbeError { message: format!("{what}: the hosted API answered {status}"), fault })
}
