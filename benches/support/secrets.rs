//! TLS Secrets as cert-manager writes them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::bundles::{mk_bundle, octets};

/// A `kubernetes.io/tls` Secret with three certificates and something of a private key's size, some 9 KB of JSON as the API server sends it.
pub(crate) fn mk_secret(number: u64, namespaces: u64) -> Value {
    let team = number % namespaces;
    let (name, namespace) = (format!("web-{number}-tls"), format!("team-{team}"));
    let owned = json!({
        "f:data": { ".": {}, "f:tls.crt": {}, "f:tls.key": {} },
        "f:metadata": {
            "f:annotations": {
                ".": {}, "f:cert-manager.io/alt-names": {}, "f:cert-manager.io/certificate-name": {}, "f:cert-manager.io/common-name": {},
                "f:cert-manager.io/ip-sans": {}, "f:cert-manager.io/issuer-group": {}, "f:cert-manager.io/issuer-kind": {},
                "f:cert-manager.io/issuer-name": {}, "f:cert-manager.io/uri-sans": {}
            },
            "f:labels": { ".": {}, "f:controller.cert-manager.io/fao": {} }
        },
        "f:type": {}
    });
    let fields = json!({
        "name": name, "namespace": namespace,
        "labels": { "controller.cert-manager.io/fao": "true" },
        "annotations": {
            "cert-manager.io/alt-names": format!("web-{number}.team-{team}.svc.example.org"),
            "cert-manager.io/certificate-name": format!("web-{number}"),
            "cert-manager.io/common-name": format!("web-{number}.team-{team}.svc.example.org"),
            "cert-manager.io/ip-sans": "", "cert-manager.io/issuer-group": "cert-manager.io",
            "cert-manager.io/issuer-kind": "ClusterIssuer", "cert-manager.io/issuer-name": format!("team-{team}"),
            "cert-manager.io/uri-sans": ""
        },
        "managedFields": [{
            "manager": "cert-manager-certificates-issuing", "operation": "Apply", "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": owned
        }]
    });
    let key = format!(
        "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n",
        STANDARD.encode(octets(number, 1190))
    );
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": fields,
        "data": { "tls.crt": STANDARD.encode(mk_bundle(team, number)), "tls.key": STANDARD.encode(key) }
    })
}
