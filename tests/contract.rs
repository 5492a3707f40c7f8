//! The embedded Kubernetes API answers as the real kube-apiserver does, in everything that meshcert and its tests rely on: the same calls are made to both,
//! and what they answer is compared.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test may")]

#[path = "contract/calls.rs"]
mod calls;
#[path = "contract/server.rs"]
mod server;
#[path = "support/mod.rs"]
mod support;

use meshcert::cluster::decode::{self, Page};
use meshcert::mesh::Naming;
use meshcert::secret::{SecretRule, Selection};
use regex::Regex;
use support::daemon::Demo;
use support::real_api::RealApi;

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_api_answers_as_the_real_one() {
    let Some(real) = RealApi::start() else { return };
    let embedded = Demo::start(&["--scenario", "healthy", "--meshes", "1", "--api-only"]);
    let expected = calls::make_all(&server::Server::of(&real.kubeconfig).await).await;
    let answered = calls::make_all(&server::Server::of(&embedded.kubeconfig).await).await;
    assert!(expected.len() > 60, "{}", expected.len());
    let mut differences = String::new();
    for ((what, expected), (also, answered)) in expected.iter().zip(&answered) {
        assert_eq!(what, also);
        if expected != answered {
            differences += &format!("{what}\n  real:     {expected}\n  embedded: {answered}\n");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// The real one keeps versions for minutes; the embedded one lists the present one alone, and says so as the real one does of what it keeps no longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_past_version_is_not_listed_as_if_it_were_the_present() {
    let embedded = Demo::start(&["--scenario", "healthy", "--meshes", "1", "--api-only"]);
    let server = server::Server::of(&embedded.kubeconfig).await;
    let (code, body) = server.get("/api/v1/secrets?resourceVersion=1&resourceVersionMatch=Exact").await;
    assert_eq!((code, body["reason"].as_str()), (410, Some("Expired")));
    assert_eq!(server.get("/api/v1/secrets?resourceVersion=1&resourceVersionMatch=NotOlderThan").await.0, 200);
}

/// Pages are read in protobuf from what has it, and in JSON from what has not: both say the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_protobuf_says_what_it_says_in_json() {
    let Some(real) = RealApi::start() else { return };
    for number in 0..3 {
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "type": "example.org/odd",
            "metadata": {
                "name": format!("odd-{number}"), "labels": { "app": "x", "empty": "" },
                "annotations": { "meshcert.dev/paused": if number == 0 { "true" } else { "false" }, "other": "\u{fc}" },
            },
            // Bytes that are no text, none, the beginning of a longer number of bytes, and what is never read.
            "data": { "tls.crt": "AP+A", "empty": "", "ca.crt": "eHh4".repeat(100 * number + 1), "tls.key": "a2V5" },
        });
        real.kubectl_with(&secret.to_string(), &["create"]);
    }
    real.kubectl(&["create", "secret", "generic", "without-data", "--type=example.org/odd"]);
    let server = server::Server::of(&real.kubeconfig).await;
    let rule = SecretRule {
        secret_type: Some("example.org/odd".to_owned()),
        namespaces: vec![],
        match_labels: Default::default(),
        name: None,
        key: Regex::new(".*").unwrap(),
    };
    let rules = vec![rule];
    let selection = Selection { mesh_namespaces: None, naming: Naming::default(), rules };
    let mut pages = Vec::new();
    for accept in ["application/json", "application/vnd.kubernetes.protobuf, application/json"] {
        let bytes = server.bytes("/api/v1/namespaces/default/secrets?limit=3", accept).await;
        assert_eq!(bytes.starts_with(b"k8s\0"), accept.contains("protobuf"));
        pages.push(told(decode::page(&bytes, &selection).unwrap()));
    }
    assert!(pages[0].0.is_some(), "there is a second page");
    assert_eq!(pages[0].1.len(), 3);
    assert_eq!(pages[0], pages[1]);
}

/// A page as it can be compared.
fn told(page: Page) -> (Option<String>, Vec<String>) {
    let secrets = page.secrets.iter().map(|secret| {
        let entries: Vec<_> =
            secret.entries.iter().map(|(key, bytes)| format!("{key}: {:?}", bytes.as_deref())).collect();
        format!("{:?} {entries:?}", secret.meta)
    });
    (page.next, secrets.collect())
}
