//! The Job as it is created.

use serde_json::{Value, json};

use crate::mesh::{HostedMesh, SecretRole};
use crate::policy::JobPolicy;

/// What runs in it.
pub const SCRIPT: &str = include_str!("renew.sh");
/// The label of the Job and of its pods: the renewal's uid.
pub const RENEWAL_UID: &str = "meshcert.dev/renewal-uid";
/// Where the documented script expects the mounted Secrets.
const PKI: &str = "/etc/kubernetes/pki";
/// The documented key of the admin kubeconfig, where the live Secret does not say another one.
const KUBECONFIG_KEY: &str = "config";

/// What a Job is to do.
pub struct Orders<'a> {
    /// Its name.
    pub name: &'a str,
    /// `metadata.uid` of the renewal.
    pub renewal_uid: &'a str,
    /// The mesh, whose live Secrets are mounted, where they cannot be written.
    pub mesh: &'a HostedMesh,
    /// Names of the staged copies, which it writes; indexed by [`SecretRole`].
    pub staged: [String; 3],
    /// Image, account, times.
    pub policy: &'a JobPolicy,
}

/// The Job: the documented one's image, account, volumes and environment, with the names of the staged copies in the place of the live ones, one try, and an end.
pub fn manifest(orders: &Orders<'_>) -> Value {
    let Orders { name, renewal_uid, mesh, staged, policy } = orders;
    let (namespace, id) = (&*mesh.key.namespace, mesh.key.id.as_str());
    let [kube, etcd, admin] = staged;
    let live = |role: SecretRole| mesh.secret_name(role);
    let service = format!("{id}-hosted-apiserver");
    let names =
        ["", &format!(".{namespace}"), &format!(".{namespace}.svc"), &format!(".{namespace}.svc.cluster.local")]
            .map(|end| format!("{service}{end}"));
    let admin_leaf = mesh.leaves().find(|leaf| leaf.secret_role == SecretRole::AdminKubeconfig);
    let environment = [
        ("MESH_ID", id),
        ("KUBE_CERT_SECRET", kube),
        ("ETCD_CERT_SECRET", etcd),
        ("KUBECONFIG_SECRET", admin),
        ("EXT_SANS", &names.join(",")),
        ("NAMESPACE", namespace),
        ("KUBECONFIG_KEY", admin_leaf.map_or(KUBECONFIG_KEY, |leaf| &leaf.key)),
    ];
    let environment = environment.map(|(name, value)| json!({ "name": name, "value": value }));
    let volumes = [("etcd-certs", SecretRole::EtcdCerts), ("kube-certs", SecretRole::KubeCerts)]
        .map(|(volume, role)| json!({ "name": volume, "secret": { "secretName": live(role) } }));
    let mounts = [("etcd-certs", format!("{PKI}/etcd")), ("kube-certs", PKI.to_owned())]
        .map(|(volume, path)| json!({ "name": volume, "mountPath": path, "readOnly": true }));
    let labels = json!({ RENEWAL_UID: renewal_uid, "app.kubernetes.io/managed-by": "meshcert" });
    let mut pod_labels = labels.clone();
    // A proxy beside the script would keep the Job from ending.
    pod_labels["sidecar.istio.io/inject"] = json!("false");
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": {
            "parallelism": 1, "completions": 1, "backoffLimit": 0,
            "activeDeadlineSeconds": policy.deadline, "ttlSecondsAfterFinished": policy.ttl,
            "template": {
                "metadata": { "labels": pod_labels },
                "spec": {
                    "serviceAccountName": policy.service_account, "restartPolicy": "Never",
                    // Also where somebody deletes the Job without its pods; bash as the first process heeds no signal.
                    "activeDeadlineSeconds": policy.deadline, "terminationGracePeriodSeconds": 1,
                    "volumes": volumes,
                    "containers": [{
                        "name": "init-certs", "image": policy.image, "imagePullPolicy": policy.image_pull_policy,
                        "command": ["bash", "-c"], "args": [SCRIPT], "env": environment, "volumeMounts": mounts,
                        // The kubelet puts the log's end into the pod's status: no right to read logs is needed.
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                    }],
                },
            },
        },
    })
}
